"""Projected gradient descent (Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_hf.attacks.norms import NORMS, Norm, into_ball, random_in_ball, steepest_ascent
from genaf_hf.attacks.registry import register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import evaluating
from genaf_hf.values.device import are_trusted
from genaf_hf.values.numbers import is_number, is_whole, plain

SEEDS = 2**24  # between restarts; torch uses the lower 32 bits of a seed
CITATION = """@inproceedings{madry2018pgd,
  title = {Towards Deep Learning Models Resistant to Adversarial Attacks},
  author = {Madry, Aleksander and Makelov, Aleksandar and Schmidt, Ludwig and Tsipras, Dimitris and Vladu, Adrian},
  booktitle = {International Conference on Learning Representations},
  year = {2018},
  url = {https://arxiv.org/abs/1706.06083}
}"""


def default_step_size(eps: float, steps: int, **others) -> float:
    """The paper's: enough to reach the edge of the ball from anywhere in it, with steps to spare to move along it.

    Args:
        eps, steps: as for `pgd`.
        others: settings that it does not depend on.
    """
    return 2.5 * eps / max(steps, 1)


@register_attack(
    *("model", "images", "labels"),
    eps=8 / 255,
    steps=20,
    derived={"step_size": default_step_size},
    norms=NORMS,
    citation=CITATION,
)
def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float | None = None,
    norm: Norm = "linf",
    random_start: bool = True,
    restarts: int = 1,
    seeds: Sequence[int] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Tensor:
    """Adversarial images that raise the model's loss within a ball around `images`.

    Only gradients of the input are computed: parameters, their gradients, buffers, the model's mode and the caller's
    random state stay as they are.

    Args:
        model: images in [0, 1] to logits, a `PixelModel` as a rule. Attacked in eval mode.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids.
        eps: radius of the ball in pixel units, e.g. 8/255 for linf.
        steps: number of gradient steps.
        step_size: length of a step in the norm, in pixel units, default 2.5 * eps / steps.
        norm: `"linf"` or `"l2"`.
        random_start: begin at a uniformly drawn point of the ball instead of its centre.
        restarts: from so many random starts; for each image the misclassified result of the highest loss is kept, or
            where none is misclassified, the one of the highest loss.
        seeds: one per image, default 0 to n - 1. An image's start depends on its seed alone, not on the batch, the
            number of processes, or the images beside it.
        loss: what is raised, called as `loss(logits, labels)`.

    Returns:
        (n, 3, h, w) in [0, 1], at most `eps` away from `images`.

    Raises:
        UserError: for a setting or an image outside its range.
    """
    step_size = default_step_size(eps, steps) if step_size is None else step_size
    check_attack_settings(eps=eps, steps=steps, step_size=step_size, norm=norm)
    if restarts < 1 or (restarts > 1 and not random_start):
        raise UserError(f"restarts is {restarts}, expected a whole number, at least 1, and 1 without a random start.")
    seeds = range(len(images)) if seeds is None else seeds
    objective = loss_of(model, labels, loss)
    best = images
    with evaluating(model):
        for restart in range(restarts):
            start = images
            if random_start:
                start = images + random_in_ball(images, eps, norm, [seed + restart * SEEDS for seed in seeds])
            found = ascend_images(objective, images, start, eps=eps, steps=steps, step_size=step_size, norm=norm)
            if restarts == 1:
                return found
            wrong, losses = success(model, found, labels, loss)
            if restart == 0:
                best, best_wrong, best_losses = found, wrong, losses
            better = (wrong & ~best_wrong) | ((wrong == best_wrong) & (losses > best_losses))
            best = torch.where(better.view(-1, 1, 1, 1), found, best)
            best_wrong, best_losses = wrong | best_wrong, torch.where(better, losses, best_losses)
    return best


def ascend_images(
    objective: Callable[[Tensor], Tensor],
    images: Tensor,
    start: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    norm: str,
) -> Tensor:
    """Raises `objective(adversarial)` by projected steps of steepest ascent; `start` is projected first."""
    lower, upper = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    adversarial = project(start, images, eps, norm, lower, upper)
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        gradient = gradient_of(objective(adversarial), adversarial)
        adversarial = adversarial.detach() + step_size * steepest_ascent(gradient, norm)
        adversarial = project(adversarial, images, eps, norm, lower, upper)
    return adversarial


def loss_of(model: nn.Module, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The loss as a function of images.

    Raises:
        UserError: when the model gives no logits, or too few for the labels, or the loss is no number.
    """
    largest = 0 if are_trusted() else int(labels.amax())

    def objective(images: Tensor) -> Tensor:
        value = loss(checked_logits(model(images), largest), labels)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise UserError("The loss is no single number: take the mean or the sum over the images.")
        return value.squeeze()

    return objective


def checked_logits(logits: Tensor, largest: int) -> Tensor:
    """The logits themselves, (n, classes).

    Args:
        logits: what a model gave.
        largest: of the labels that it is attacked with.

    Raises:
        UserError: when these are no logits, or of fewer classes than the labels are.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"The model gives {found}, expected logits (n, classes): make a classifier of transformers a "
            "PixelModel(model, processor)."
        )
    if largest >= logits.shape[1] > 1:
        raise UserError(
            f"labels reach up to {largest}, but the model has {logits.shape[1]} classes, counted from 0: give the "
            "class ids of this model."
        )
    return logits


def gradient_of(value: Tensor, variable: Tensor) -> Tensor:
    """The gradient of a number by a tensor.

    Raises:
        UserError: when it does not depend on the tensor by anything that has a gradient.
    """
    (gradient,) = torch.autograd.grad(value, variable, allow_unused=True) if value.requires_grad else (None,)
    if gradient is None:
        raise UserError(
            "The model has no gradient by its images, as where it rounds them to integers or runs under torch.no_grad: "
            "only attacks that need none, such as square, can be run on it."
        )
    return gradient


def success(
    model: nn.Module, images: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """How far an attack got: which images are misclassified, and the loss of each."""
    with torch.no_grad():
        logits = model(images)
        losses = torch.stack([loss(row[None], label[None]) for row, label in zip(logits, labels, strict=True)])
    return logits.argmax(1) != labels, losses.nan_to_num(nan=-torch.inf)


def project(candidates: Tensor, images: Tensor, eps: float, norm: str, lower: Tensor, upper: Tensor) -> Tensor:
    """Moves candidates into the ball of radius `eps` around `images` and into [0, 1]; `lower`, `upper` bound both."""
    if norm == "l2":
        candidates = images + into_ball(candidates - images, eps, norm)
    return candidates.clamp(lower, upper)


def check_attack_settings(*, eps: float, steps: int, step_size: float, norm: str = "linf") -> None:
    """Refuses settings that no attack can run with.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    eps, steps, step_size = map(plain, (eps, steps, step_size))
    if norm not in NORMS:
        raise UserError(f'norm is "{norm}", expected one of {", ".join(NORMS)}.')
    if not isinstance(eps, int | float) or isinstance(eps, bool):
        raise UserError(f'eps is "{eps}", expected a number.')
    if norm == "linf" and not 0 < eps <= 1:
        raise UserError(f"eps is {eps}, expected a value in (0, 1]: it is in pixel units, for example 8/255.")
    if norm == "l2" and not 0 < eps < float("inf"):
        raise UserError(f"eps is {eps}, expected a positive length in pixel units, for example 0.5.")
    if not is_whole(steps) or steps < 1:
        raise UserError(f"steps is {steps}, expected a whole number, at least 1.")
    if not is_number(step_size) or step_size <= 0:
        raise UserError(f"step_size is {step_size}, expected a positive length in pixel units, for example eps / 4.")
