"""Projected gradient descent (Madry et al., ICLR 2018, https://arxiv.org/abs/1706.06083)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from genaf_hf.attacks.losses import TARGETED_DLR, LossFunction, likeliest_wrong, loss_function, targeted_dlr
from genaf_hf.attacks.norms import NORMS, Norm, into_ball, random_in_ball, steepest_ascent
from genaf_hf.attacks.registry import register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import evaluating
from genaf_hf.values.device import are_trusted
from genaf_hf.values.numbers import is_number, is_whole, plain

SEEDS = 2**24  # between restarts; torch uses the lower 32 bits of a seed
MOST_RESTARTS = 100
SCALE_BITS = 9  # an image's gradient by its logits is below 2**10, far from what overflows in float16
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
    keep_best=True,
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
    keep_best: bool = False,
    seeds: Sequence[int] | None = None,
    loss: LossFunction | str = "cross-entropy",
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
        restarts: from so many random starts; an image that is misclassified is left as it was found, and only the
            others begin again.
        keep_best: an image is left at the first step at which it is misclassified, and only the others go on, so that
            none becomes right again. The model is asked once more, about those that are left.
        seeds: one per image, default 0 to n - 1. An image's start depends on its seed alone, not on the batch, the
            number of processes, or the images beside it.
        loss: what is raised: `"cross-entropy"`; `"dlr"`, the difference of logits ratio; `"targeted-dlr"`, the same
            towards the likeliest wrong class, and with each restart towards the next one; or what is called as
            `loss(logits, labels)`.

    Returns:
        (n, 3, h, w) in [0, 1], at most `eps` away from `images`.

    Raises:
        UserError: for a setting or an image outside its range.
    """
    step_size = default_step_size(eps, steps) if step_size is None else step_size
    check_attack_settings(eps=eps, steps=steps, step_size=step_size, norm=norm)
    check_restarts(restarts)
    if restarts > 1 and not random_start:
        raise UserError(f"restarts is {restarts}, expected 1 without a random start: all would be the same.")
    rows = torch.arange(len(images), device=images.device)
    seeds = range(len(images)) if seeds is None else seeds
    best = images.clone()
    with evaluating(model):
        wrong_classes = ranked_classes(model, images, labels) if loss == TARGETED_DLR else None
        for restart in range(restarts):
            part, of_part = images[rows], labels[rows]
            start, watched = part, Watched(model, part, of_part)
            if random_start:
                drawn = seeds if restart == 0 else [seeds[row] + restart * SEEDS for row in rows.tolist()]
                start = part + random_in_ball(part, eps, norm, drawn)
            if wrong_classes is not None:
                loss = partial(targeted_dlr, targets=wrong_classes[rows, restart % wrong_classes.shape[1]])
            objective = loss_of(watched if keep_best else model, of_part, loss)
            found = ascend_images(objective, part, start, eps=eps, steps=steps, step_size=step_size, norm=norm)
            if restarts == 1 and not keep_best:
                return found
            with torch.no_grad():
                watched(found)
            best[rows] = torch.where(watched.fooled.view(-1, 1, 1, 1), watched.best, found)
            if restart + 1 == restarts or watched.fooled.all():
                break
            rows = rows[~watched.fooled]
    return best


class Watched:
    """A model, called as such with images that move, that asks about each only until it is misclassified.

    From then on its logits stay what they were: it has no gradient, and whoever climbs leaves it where it is.

    Args:
        model: images to logits (n, classes).
        images: (n, 3, h, w) that others are made from.
        labels: (n,) class ids.

    Attributes:
        best: (n, 3, h, w) each image as it was misclassified; where it was not, as it was given.
        fooled: (n,) whether one was.
    """

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor):
        self.model, self.labels = model, labels
        self.best, self.fooled = images, torch.zeros_like(labels, dtype=torch.bool)
        self.logits: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        rows = (~self.fooled).nonzero().squeeze(1)
        if self.logits is None:
            logits = checked_logits(self.model(images), -1)
        elif len(rows) > 0:
            logits = self.logits.index_copy(0, rows, checked_logits(self.model(images.index_select(0, rows)), -1))
        else:
            logits = self.logits + 0 * images.sum()  # who climbs finds a gradient of 0
        self.logits = logits.detach()
        newly = (self.logits.argmax(1) != self.labels) & ~self.fooled
        self.best = torch.where(newly.view(-1, 1, 1, 1), images.detach(), self.best)
        self.fooled = self.fooled | newly
        return logits


def ranked_classes(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """All wrong classes of each image, the likeliest of the model first, (n, classes - 1)."""
    with torch.no_grad():
        return likeliest_wrong(checked_logits(model(images), int(labels.amax())), labels)


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


def loss_of(model: Callable[[Tensor], Tensor], labels: Tensor, loss: LossFunction | str) -> Callable[[Tensor], Tensor]:
    """The loss as a function of images.

    Raises:
        UserError: when the model gives no logits, or too few for the labels, or the loss is no number.
    """
    largest, loss = 0 if are_trusted() else int(labels.amax()), loss_function(loss)

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

    On its way it is so many times as large: where a model computes in float16 that of a mean over many images, of which
    most are right, would vanish. By a power of two no bit changes elsewhere.

    Raises:
        UserError: when it does not depend on the tensor by anything that has a gradient.
    """
    times = 2.0 ** (SCALE_BITS + len(variable).bit_length())
    (gradient,) = torch.autograd.grad(times * value, variable, allow_unused=True) if value.requires_grad else (None,)
    if gradient is None:
        raise UserError(
            "The model has no gradient by its images, as where it rounds them to integers or runs under torch.no_grad: "
            "only attacks that need none, such as square, can be run on it."
        )
    return gradient / times


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
    if norm == "linf":
        check_linf("eps", eps)
    if norm == "l2" and not 0 < eps < float("inf"):
        raise UserError(f"eps is {eps}, expected a positive length in pixel units, for example 0.5.")
    if not is_whole(steps) or steps < 1:
        raise UserError(f"steps is {steps}, expected a whole number, at least 1.")
    if not is_number(step_size) or step_size <= 0:
        raise UserError(f"step_size is {step_size}, expected a positive length in pixel units, for example eps / 4.")


def check_linf(name: str, eps: float) -> None:
    """Refuses what is no radius of a ball in L-inf; the `UserError` names the setting."""
    if not is_number(eps) or not 0 < eps <= 1:
        raise UserError(f"{name} is {eps}, expected a value in (0, 1]: it is in pixel units, for example 8/255.")


def check_restarts(restarts: int) -> None:
    """Refuses a number of starts that cannot be spent, or of which some would be the same.

    Raises:
        UserError: names what was found.
    """
    if not 1 <= restarts <= MOST_RESTARTS:
        raise UserError(
            f"restarts is {restarts}, expected 1 to {MOST_RESTARTS}: each one takes as long as the attack without."
        )


def check_max_images(max_images: int | None) -> None:
    """Refuses a number of images at most that is none; the `UserError` names what was found."""
    if max_images is not None and max_images < 1:
        raise UserError(f"max_images is {max_images}, expected at least 1, or None for all.")


def check_batch_size(batch_size: int) -> None:
    """Refuses a number of images at a time that is none; the `UserError` names what was found."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1.")
