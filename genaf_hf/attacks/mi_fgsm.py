"""MI-FGSM (Dong et al., CVPR 2018, https://arxiv.org/abs/1710.06081)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genaf_hf.attacks.losses import LossFunction
from genaf_hf.attacks.pgd import check_attack_settings, gradient_of, loss_of
from genaf_hf.attacks.registry import register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import evaluating

CITATION = """@inproceedings{dong2018mifgsm,
  title = {Boosting Adversarial Attacks With Momentum},
  author = {Dong, Yinpeng and Liao, Fangzhou and Pang, Tianyu and Su, Hang and Zhu, Jun and Hu, Xiaolin and
            Li, Jianguo},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2018},
  url = {https://arxiv.org/abs/1710.06081}
}"""


def step_size_of(eps: float, steps: int, **others) -> float:
    """The paper's: with it the steps reach the edge of the ball, and no more; `others` do not matter."""
    return eps / max(steps, 1)


@register_attack(
    *("model", "images", "labels"), eps=8 / 255, steps=10, derived={"step_size": step_size_of}, citation=CITATION
)
def mi_fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float | None = None,
    decay: float = 1.0,
    seeds: Sequence[int] | None = None,
    loss: LossFunction | str = "cross-entropy",
) -> Tensor:
    """Adversarial images by sign steps along accumulated gradients: g <- decay * g + gradient / ||gradient||_1.

    Args:
        step_size: in pixel units, default eps / steps.
        decay: of the accumulated gradient; with 0 these are the steps of PGD from the images themselves.
        seeds: not used, nothing is random.
        model, images, labels, eps, steps, loss: as for `pgd`, L-inf.

    Returns:
        (n, 3, h, w) in [0, 1], at most `eps` away from `images`.

    Raises:
        UserError: for a setting or an image outside its range.
    """
    step_size = step_size_of(eps, steps) if step_size is None else step_size
    check_attack_settings(eps=eps, steps=steps, step_size=step_size)
    if not 0 <= decay < float("inf"):
        raise UserError(f"decay is {decay}, expected 0 or more, for example 1.")
    adversarial = images
    lower, upper = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    accumulated, objective = torch.zeros_like(images), loss_of(model, labels, loss)
    with evaluating(model):
        for _ in range(steps):
            adversarial = adversarial.detach().requires_grad_()
            gradient = gradient_of(objective(adversarial), adversarial)
            length = gradient.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
            accumulated = decay * accumulated + gradient / length
            adversarial = (adversarial.detach() + step_size * accumulated.sign()).clamp(lower, upper)
    return adversarial
