"""N-FGSM (de Jorge et al., NeurIPS 2022, https://arxiv.org/abs/2202.01181)."""

from collections.abc import Sequence

from torch import Tensor, nn

from genaf_hf.attacks.losses import LossFunction
from genaf_hf.attacks.norms import random_in_ball
from genaf_hf.attacks.pgd import check_attack_settings, gradient_of, loss_of
from genaf_hf.attacks.registry import register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import evaluating
from genaf_hf.values.numbers import is_number

CITATION = """@inproceedings{dejorge2022nfgsm,
  title = {Make Some Noise: Reliable and Efficient Single-Step Adversarial Training},
  author = {de Jorge, Pau and Bibi, Adel and Volpi, Riccardo and Sanyal, Amartya and Torr, Philip H. S. and
            Rogez, Gr{\\'e}gory and Dokania, Puneet K.},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
  url = {https://arxiv.org/abs/2202.01181}
}"""


@register_attack("model", "images", "labels", eps=8 / 255, within_eps=True, citation=CITATION)
def n_fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    noise: float = 2.0,
    step: float = 1.0,
    within_eps: bool = False,
    seeds: Sequence[int] | None = None,
    loss: LossFunction | str = "cross-entropy",
) -> Tensor:
    """Adversarial images by one sign step of step * eps from uniform noise of noise * eps, as made for training.

    The paper does not clip to the ball of radius `eps`, so that images end up to (noise + step) * eps away.

    Args:
        noise: radius of the noise in units of `eps`.
        step: length of the step in units of `eps`.
        within_eps: clip to the ball in the end, which an attack has to that is to be compared with others.
        model, images, labels, eps, seeds, loss: as for `pgd`, L-inf.

    Returns:
        (n, 3, h, w) in [0, 1].

    Raises:
        UserError: for a setting or an image outside its range.
    """
    check_n_fgsm_settings(eps=eps, noise=noise, step=step)
    seeds = range(len(images)) if seeds is None else seeds
    noisy = (images + random_in_ball(images, noise * eps, "linf", seeds)).clamp(0, 1).requires_grad_()
    with evaluating(model):
        gradient = gradient_of(loss_of(model, labels, loss)(noisy), noisy)
    adversarial = noisy.detach() + step * eps * gradient.sign()
    if within_eps:
        adversarial = adversarial.clamp(images - eps, images + eps)
    return adversarial.clamp(0, 1)


def check_n_fgsm_settings(*, eps: float, noise: float, step: float) -> None:
    """Refuses settings that it cannot run with; the `UserError` names the setting, its value and what was expected."""
    check_attack_settings(eps=eps, steps=1, step_size=eps)
    for name, value, example in (("noise", noise, 2), ("step", step, 1)):
        if not is_number(value) or value <= 0:
            raise UserError(f"{name} is {value}, expected a positive multiple of eps, for example {example}.")
