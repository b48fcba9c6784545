"""Fast gradient sign method (Goodfellow et al., ICLR 2015, https://arxiv.org/abs/1412.6572)."""

from collections.abc import Sequence

from torch import Tensor, nn

from genaf_hf.attacks.losses import LossFunction
from genaf_hf.attacks.norms import NORMS, Norm
from genaf_hf.attacks.pgd import pgd
from genaf_hf.attacks.registry import register_attack

CITATION = """@inproceedings{goodfellow2015fgsm,
  title = {Explaining and Harnessing Adversarial Examples},
  author = {Goodfellow, Ian J. and Shlens, Jonathon and Szegedy, Christian},
  booktitle = {International Conference on Learning Representations},
  year = {2015},
  url = {https://arxiv.org/abs/1412.6572}
}"""


@register_attack("model", "images", "labels", eps=8 / 255, norms=NORMS, citation=CITATION)
def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    seeds: Sequence[int] | None = None,
    loss: LossFunction | str = "cross-entropy",
) -> Tensor:
    """Adversarial images by one step of length `eps` from the images themselves.

    Args:
        seeds: not used, nothing is random.
        model, images, labels, eps, norm, loss: as for `pgd`.

    Returns:
        (n, 3, h, w) in [0, 1], at most `eps` away from `images`.

    Raises:
        UserError: for a setting or an image outside its range.
    """
    return pgd(model, images, labels, eps=eps, steps=1, step_size=eps, norm=norm, random_start=False, loss=loss)
