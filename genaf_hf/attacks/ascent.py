"""How one perturbation for all images is raised, step by step, whatever the objective."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Any, TypeVar

import torch
from torch import Tensor

from genaf_hf.attacks.norms import Norm, draw_in_ball, into_ball, steepest_ascent
from genaf_hf.attacks.patch import GRAY
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import (
    SEEDS,
    check_attack_settings,
    check_batch_size,
    check_max_images,
    check_restarts,
    gradient_of,
)
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.runs.progress import progress
from genaf_hf.values.device import sent
from genaf_hf.values.provenance import model_source, public_name

EPS = 10 / 255  # where nothing else is said
PARTS = 50  # of eps, of which a step is one
JUDGED_BATCHES = 32  # by which the best of several perturbations is told

Objective = Callable[..., Tensor]  # of the perturbation (3, h, w) and of what is drawn for a step, a scalar
Step = Callable[[Tensor], None]  # moves the perturbation, by its gradient
Crafted = TypeVar("Crafted")


def raised(
    encoders: Sequence[PixelModel],
    needed: Sequence[Tensor],
    make_objective: Callable[..., Objective],
    told: tuple[str, str],
    ascent: "Ascent",
    side: int | None = None,
    *,
    eps: float = EPS,
    norm: Norm = "linf",
    steps: int = 500,
    step_size: float | None = None,
    restarts: int = 1,
    init: str | None = None,
    max_images: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
    **of_stepping,
) -> UniversalPerturbation:
    """The perturbation that raises an objective on each of some encoders, from a uniform random start.

    Args:
        encoders: what the objective reads; left as they were.
        needed: images (n, 3, h, w) and labels (n,), as far as the attack needs them.
        make_objective: called with each encoder and what is needed when the settings are checked.
        told: name of the attack, and the objective in words.
        ascent: how.
        side: of a patch, which is raised as a perturbation of gray; None for a perturbation of the images.
        eps: radius of the ball in pixel units.
        norm: `"linf"` or `"l2"`.
        steps: number of steps, each on a fresh random batch.
        step_size: in pixel units, default one of the `parts` of eps.
        restarts: from so many starts; of their perturbations the one with the highest objective is kept, by the mean
            over the same random batches, of several encoders relative to what is usual on each.
        init: perturbation or patch that the first start is at, moved into the ball: folder or Hub id.
        max_images: so many of the images at most, drawn at random.
        batch_size: images per step.
        seed: of the uniform starts, of the batches, and of the images that are drawn.
        data: a name for the images, kept in the provenance.
        of_stepping: settings of `stepping`.

    Raises:
        UserError: for a setting outside its range, or an encoder without finite values or gradients.
    """
    step_size = ascent.step_size(eps) if step_size is None else step_size
    check_universal_settings(eps=eps, norm=norm, steps=steps, step_size=step_size, batch_size=batch_size)
    check_restarts(restarts)
    needed, data = some_of(needed, max_images, seed, data)
    objectives = [make_objective(encoder, *needed) for encoder in encoders]
    device = encoders[0].device
    size = needed[0].shape[1:] if needed else (3, *encoders[0].image_size)
    size = size if side is None else (size[0], side, side)
    begun = [] if init is None else [into_ball(given(init, size, patch=side is not None)[None], eps, norm)[0]]

    def crafted(restart: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + restart * SEEDS)
        delta = draw_in_ball(torch.empty(size), eps, norm, generator)
        delta = (begun[restart] if restart < len(begun) else delta).to(device).requires_grad_()
        drawn = islice(ascent.batches(encoders[0], needed, batch_size, generator), steps)
        step = ascent.stepping(delta, ascent.lengths(step_size, steps), norm, **of_stepping)
        finite, moved = (torch.full((), truth, device=device) for truth in (True, False))
        for number, batch in enumerate(progress(drawn, "Crafting", total=steps)):
            values = [objective(delta, *batch) for objective in objectives]
            gradient = joint_gradient(values, delta)
            finite &= all_finite(*values, gradient)
            moved |= gradient.any()
            if number == 0:  # later ones are not looked at: it would have the CPU wait for an accelerator
                check_finite(finite)
            step(gradient)
            delta.data.copy_(into_ball(delta.data[None], eps, norm)[0])
        check_finite(finite)
        check_moved(moved)
        return delta.detach()

    def reached(delta: Tensor) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        drawn = islice(ascent.batches(encoders[0], needed, batch_size, generator), JUDGED_BATCHES)
        with torch.no_grad():
            values = [[objective(delta, *batch).item() for objective in objectives] for batch in drawn]
        return [sum(each) for each in zip(*values, strict=True)]

    with all_evaluating(encoders):
        best = best_of(restarts, crafted, reached)
    attack, words = told[0], told[1] + from_on(init)
    known = provenance(encoders, objective=words, steps=steps, step_size=step_size, seed=seed, data=data)
    return UniversalPerturbation(best, attack, eps, norm=norm, **known)


def joint_gradient(values: Sequence[Tensor], delta: Tensor) -> Tensor:
    """The gradient of a value; of several values the mean of their gradients, each divided by its L1 norm."""
    gradients = [gradient_of(value, delta) for value in values]
    if len(gradients) == 1:
        return gradients[0]
    return torch.stack([each / each.abs().sum().clamp(min=1e-12) for each in gradients]).mean(dim=0)


def best_of(restarts: int, craft: Callable[[int], Crafted], reached: Callable[[Crafted], list[float]]) -> Crafted:
    """What is crafted from several starts, by their numbers, and reaches the highest, see `highest`."""
    found = [craft(restart) for restart in range(restarts)]
    return found[highest([reached(each) for each in found])] if restarts > 1 else found[0]


def highest(values: Sequence[Sequence[float]]) -> int:
    """Which row of values is the highest in the mean, each relative to the usual size of its column."""
    table = torch.tensor(values, dtype=torch.float64)
    return int((table / table.abs().mean(dim=0).clamp(min=1e-12)).mean(dim=1).argmax())


def steepest_steps(delta: Tensor, lengths: Iterator[float], norm: str) -> Step:
    """Steps of a perturbation along its gradient: in L-inf by the sign, each pixel as far as any other."""

    def step(gradient: Tensor) -> None:
        delta.data += next(lengths) * steepest_ascent(gradient[None], norm)[0]

    return step


def constant(step_size: float, steps: int) -> Iterator[float]:
    """The same length for each of `steps` steps."""
    return repeat(step_size, steps)


def falling(step_size: float, steps: int) -> Iterator[float]:
    """Lengths that fall from `step_size` to nothing along a cosine."""
    return (step_size * (1 + math.cos(math.pi * number / steps)) / 2 for number in range(steps))


def random_batches(
    encoder: PixelModel, tensors: Sequence[Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches of rows drawn at random, the same ones of each tensor, on the encoder's device; empty of none."""
    while tensors:
        rows = torch.randint(len(tensors[0]), (batch_size,), generator=generator)
        yield tuple(sent(tensor[sent(rows, tensor.device)], encoder.device) for tensor in tensors)
    yield from repeat(())


@dataclass(frozen=True)
class Ascent:
    """How an objective is raised step by step; attributes as the arguments of `universal_attack`."""

    batches: Callable[..., Iterator[tuple[Tensor, ...]]] = random_batches
    stepping: Callable[..., Step] = steepest_steps
    lengths: Callable[[float, int], Iterator[float]] = constant
    parts: int = PARTS

    def step_size(self, eps: float, **others) -> float:
        """The one that is not given; `others` are settings that it does not depend on."""
        return eps / self.parts


def some_of(
    tensors: Sequence[Tensor], most: int | None, seed: int, data: str | None
) -> tuple[Sequence[Tensor], str | None]:
    """At most so many rows, drawn at random, none twice, the same ones of each tensor; and the words for them.

    Raises:
        UserError: when that is none.
    """
    check_max_images(most)
    if most is None or most >= len(tensors[0]):
        return tensors, data
    rows = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(seed))[:most]
    return [tensor[rows.to(tensor.device)] for tensor in tensors], data and f"{most} of {data}"


def given(name: str, size: Sequence[int], *, patch: bool = False) -> Tensor:
    """A perturbation (3, h, w) that is to be begun at, of the images or of the gray of a patch.

    Raises:
        UserError: when there is none of this name, or of another size or kind.
    """
    found = UniversalPerturbation.from_pretrained(name)
    kinds = {False: "a perturbation", True: "a patch"}
    if found.delta.shape != torch.Size(size) or found.partial != patch:
        raise UserError(
            f"init is {name}, {kinds[found.partial]} of shape {tuple(found.delta.shape)}, expected {kinds[patch]} of "
            f"{tuple(size)}{'' if patch else ' as the images are'}."
        )
    return found.delta.float() - (GRAY if patch else 0)


def from_on(init: str | None) -> str:
    """The words for a perturbation that was begun at."""
    return "" if init is None else f", from {public_name(init)} on"


@contextmanager
def all_evaluating(encoders: Sequence[PixelModel]) -> Iterator[None]:
    """Each encoder in eval mode."""
    with ExitStack() as stack:
        for encoder in encoders:
            stack.enter_context(evaluating(encoder))
        yield


def all_finite(*values: Tensor) -> Tensor:
    """Whether all values are, as a tensor of no dimension."""
    return torch.stack([each.isfinite().all() for each in values]).all()


def check_finite(finite: Tensor) -> None:
    """Refuses an attack that went by values that are not finite, such as its objective.

    Raises:
        UserError: when they were not: the attack would be noise, and its target would look robust.
    """
    if not finite:
        raise UserError(
            "An attack cannot be crafted: what the encoder makes of the images, or the gradient of it, is not finite. "
            "Check its weights for NaN, and load it in float32."
        )


def check_moved(moved: Tensor) -> None:
    """Refuses what is left of an attack that never had a gradient: noise; the `UserError` says so."""
    if not moved:
        raise UserError(
            "An attack cannot be crafted: the gradient of its objective is 0, so that it would be noise. The encoder "
            "does not answer to its images; choose another layer, or check its weights."
        )


def provenance(encoders: Sequence[PixelModel], **known) -> dict[str, Any]:
    """What is known of how a perturbation was crafted, and of the encoders that it was crafted on."""
    sources = [model_source(encoder.model.config) for encoder in encoders]
    names, revisions = (", ".join(filter(None, each)) or None for each in zip(*sources, strict=True))
    return {"encoder": names, "encoder_revision": revisions, **known}


def check_universal_settings(*, eps: float, steps: int, step_size: float, batch_size: int, norm: str = "linf") -> None:
    """Refuses settings that no universal attack can run with; the `UserError` names what was found."""
    check_attack_settings(eps=eps, steps=steps, step_size=step_size, norm=norm)
    check_batch_size(batch_size)
