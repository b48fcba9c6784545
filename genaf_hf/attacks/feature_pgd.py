"""PGD in feature space, without labels (as in Kim et al., NeurIPS 2020, https://arxiv.org/abs/2006.07589)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genaf_hf.attacks.norms import NORMS, Norm, random_in_ball
from genaf_hf.attacks.pgd import ascend_images, check_attack_settings, default_step_size
from genaf_hf.attacks.registry import register_attack
from genaf_hf.models.pixel_model import PixelModel, evaluating

CITATION = """@inproceedings{kim2020rocl,
  title = {Adversarial Self-Supervised Contrastive Learning},
  author = {Kim, Minseon and Tack, Jihoon and Hwang, Sung Ju},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  url = {https://arxiv.org/abs/2006.07589}
}"""


@register_attack(
    *("model", "images"),
    eps=8 / 255,
    steps=20,
    derived={"step_size": default_step_size},
    norms=NORMS,
    citation=CITATION,
)
def feature_pgd(
    model: PixelModel,
    images: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float | None = None,
    norm: Norm = "linf",
    seeds: Sequence[int] | None = None,
) -> Tensor:
    """Adversarial images whose features are far from the clean ones: maximises ||f(x') - f(x)||^2 from a random start.

    Args:
        model: its features are attacked, its head is not used.
        images, eps, steps, step_size, norm, seeds: as for `pgd`.

    Returns:
        (n, 3, h, w) in [0, 1], at most `eps` away from `images`.

    Raises:
        UserError: for a setting or an image outside its range.
    """
    step_size = default_step_size(eps, steps) if step_size is None else step_size
    check_attack_settings(eps=eps, steps=steps, step_size=step_size, norm=norm)
    start = images + random_in_ball(images, eps, norm, range(len(images)) if seeds is None else seeds)
    with evaluating(model):
        with torch.no_grad():
            clean = model.features(images)

        def objective(adversarial: Tensor) -> Tensor:
            return (model.features(adversarial) - clean).square().sum()

        return ascend_images(objective, images, start, eps=eps, steps=steps, step_size=step_size, norm=norm)
