"""Attacks on the public encoder that raise an objective over one perturbation for all images."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from inspect import Parameter, Signature, signature
from itertools import islice, repeat
from typing import Any

import torch
from torch import Tensor

from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import check_attack_settings, gradient_of
from genaf_hf.attacks.registry import attack_name, known_hints, register_attack
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.runs.progress import progress
from genaf_hf.values.device import sent
from genaf_hf.values.provenance import model_source

Objective = Callable[..., Tensor]  # of the perturbation (3, h, w) and of what is drawn for a step, a scalar
Step = Callable[[Tensor], None]  # moves the perturbation, by its gradient


def universal_attack(
    *needs: str,
    words: str,
    citation: str | None = None,
    batches: Callable[..., Iterator[tuple[Tensor, ...]]] | None = None,
    stepping: Callable[..., Step] | None = None,
    **defaults,
) -> Callable[[Callable[..., Objective]], Callable[..., UniversalPerturbation]]:
    """Adds an attack to `ATTACKS` that is told by its objective alone.

        @universal_attack("images", words="mean activation of hidden state {layer}")
        def my_attack(encoder, images, *, layer=1):
            return lambda delta, batch: encoder.hidden_states(attacked(batch, delta), up_to=layer)[-1].mean()

    The function is called once, with the encoder, what else the attack needs and the settings of its own. What it
    returns is raised from a uniform random start within the ball of radius `eps`, by steps along its gradient.

    Args:
        needs: beside the encoder: `"images"`, `"labels"` or nothing.
        words: the objective for the provenance, with settings of the function in braces.
        citation: of the paper, in BibTeX.
        batches: gives what the objective is called with at each step, default `random_batches`.
        stepping: makes the step of a perturbation, default `sign_steps`; what it takes by name are settings, too.
        defaults: settings, where they are others than those of `raised`, `stepping` and the function.

    Returns:
        The decorator. What it hands back is called with the encoder, what else it needs and, by name, the settings of
        the function, those of `stepping`, and `eps`, `steps`, `step_size`, `seed`, with images `batch_size` and `data`
        as for `raised`. It returns the perturbation.

    Raises:
        UserError: as `register_attack`.
    """
    batches, stepping = batches or random_batches, stepping or sign_steps
    without_images = {} if "images" in needs else {"batch_size": 1, "data": "none"}

    def register(function: Callable[..., Objective]) -> Callable[..., UniversalPerturbation]:
        parameters = [*signature(function).parameters.values()]
        positional, own = parameters[: 1 + len(needs)], parameters[1 + len(needs) :]
        settings = [
            each.replace(kind=Parameter.KEYWORD_ONLY, default=defaults.get(each.name, each.default))
            for each in (*by_name(raised), *by_name(stepping), *own)
            if each.name not in without_images
        ]
        attack, hints = attack_name(function), known_hints(stepping) | known_hints(raised) | known_hints(function)

        @wraps(function)
        def craft(encoder: PixelModel, *needed: Tensor, **given) -> UniversalPerturbation:
            found = {each.name: each.default for each in settings} | given | without_images
            chosen = {each.name: found.pop(each.name) for each in own}
            objective, told = partial(function, encoder, *needed, **chosen), (attack, words.format(**chosen))
            return raised(encoder, needed, objective, told, batches, stepping, **found)

        craft.__dict__["__signature__"], craft.__annotations__ = Signature([*positional, *settings]), hints
        return register_attack("encoder", *needs, derived={"step_size": share_of_eps}, citation=citation)(craft)

    return register


def by_name(function: Callable) -> list[Parameter]:
    """The parameters that a function takes by name only."""
    return [each for each in signature(function).parameters.values() if each.kind is Parameter.KEYWORD_ONLY]


def raised(
    encoder: PixelModel,
    needed: Sequence[Tensor],
    make_objective: Callable[[], Objective],
    told: tuple[str, str],
    batches: Callable,
    stepping: Callable,
    *,
    eps: float = 0.05,
    steps: int = 500,
    step_size: float | None = None,
    batch_size: int = 16,
    seed: int = 0,
    data: str | None = None,
    **of_stepping,
) -> UniversalPerturbation:
    """The perturbation that raises an objective, from a uniform random start.

    Args:
        encoder: what the objective reads; left as it was.
        needed: images (n, 3, h, w) and labels (n,), as far as the attack needs them.
        make_objective: called when the settings are checked.
        told: name of the attack, and the objective in words.
        batches, stepping: as for `universal_attack`.
        eps: radius of the L-inf ball in pixel units.
        steps: number of steps, each on a fresh random batch.
        step_size: in pixel units, default eps / 50.
        batch_size: images per step.
        seed: of the uniform start and of the batches.
        data: a name for the images, kept in the provenance.
        of_stepping: settings of `stepping`.

    Raises:
        UserError: for a setting outside its range, or an encoder without finite values or gradients.
    """
    step_size = share_of_eps(eps) if step_size is None else step_size
    check_universal_settings(eps=eps, steps=steps, step_size=step_size, batch_size=batch_size)
    objective = make_objective()
    generator = torch.Generator().manual_seed(seed)
    size = needed[0].shape[1:] if needed else (3, *encoder.image_size)
    delta = torch.empty(size).uniform_(-eps, eps, generator=generator).to(encoder.mean.device).requires_grad_()
    drawn = islice(batches(encoder, needed, batch_size, generator), steps)
    step = stepping(delta, step_size, **of_stepping)
    finite, moved = (torch.full((), truth, device=delta.device) for truth in (True, False))
    with evaluating(encoder):
        for number, batch in enumerate(progress(drawn, "Crafting", total=steps)):
            value = objective(delta, *batch)
            gradient = gradient_of(value, delta)
            finite &= all_finite(value, gradient)
            moved |= gradient.any()
            if number == 0:  # later ones are not looked at: it would have the CPU wait for an accelerator
                check_finite(finite)
            step(gradient)
            delta.data.clamp_(-eps, eps)
    check_finite(finite)
    check_moved(moved)
    attack, words = told
    known = provenance(encoder, objective=words, steps=steps, step_size=step_size, seed=seed, data=data)
    return UniversalPerturbation(delta.detach(), attack, eps, **known)


def sign_steps(delta: Tensor, step_size: float) -> Step:
    """Steps of a perturbation by the sign of its gradient, each pixel as far as any other."""

    def step(gradient: Tensor) -> None:
        delta.data += step_size * gradient.sign()

    return step


def share_of_eps(eps: float, **others) -> float:
    """The step size that is not given: a fiftieth of eps; `others` are settings that it does not depend on."""
    return eps / 50


def random_batches(
    encoder: PixelModel, tensors: Sequence[Tensor], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches of rows drawn at random, the same ones of each tensor, on the encoder's device; empty of none."""
    while tensors:
        rows = torch.randint(len(tensors[0]), (batch_size,), generator=generator)
        yield tuple(sent(tensor[sent(rows, tensor.device)], encoder.mean.device) for tensor in tensors)
    yield from repeat(())


def attacked(images: Tensor, delta: Tensor) -> Tensor:
    """Images with the perturbation, in [0, 1]."""
    return (images + delta).clamp(0, 1)


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
    """Refuses what is left of an attack that never had a gradient: noise.

    Raises:
        UserError: says so.
    """
    if not moved:
        raise UserError(
            "An attack cannot be crafted: the gradient of its objective is 0, so that it would be noise. The encoder "
            "does not answer to its images; choose another layer, or check its weights."
        )


def provenance(encoder: PixelModel, **known) -> dict[str, Any]:
    """What is known of how a perturbation was crafted, and of the encoder that it was crafted on."""
    source, revision = model_source(encoder.model.config)
    return {"encoder": source, "encoder_revision": revision, **known}


def check_universal_settings(*, eps: float, steps: int, step_size: float, batch_size: int) -> None:
    """Refuses settings that no universal attack can run with.

    Raises:
        UserError: names what was found.
    """
    check_attack_settings(eps=eps, steps=steps, step_size=step_size)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1.")
