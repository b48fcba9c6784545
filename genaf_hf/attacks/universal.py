"""What the universal attacks on an encoder share: random batches, and sign-gradient ascent of one perturbation."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.attacks.pgd import check_attack_settings, gradient_of
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.runs.progress import progress
from genaf_hf.values.provenance import model_source


def ascend_perturbation(
    encoder: PixelModel,
    objective: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable,
    delta: Tensor,
    *,
    eps: float,
    steps: int,
    step_size: float,
    momentum: float = 0.0,
) -> Tensor:
    """Raises `objective(delta, batch)` by sign-gradient steps, one batch each, in the L-inf ball of radius `eps`.

    Args:
        encoder: what the objective reads; in eval mode meanwhile, and left as it was.
        objective: of the perturbation and a batch, a scalar.
        batches: at least as many as there are steps.
        delta: (3, h, w) to start from.
        eps, steps, step_size: as for `l4a`.
        momentum: decay of the accumulated gradient, each one divided by its L1 norm; 0 for none.

    Returns:
        (3, h, w), at most `eps`.

    Raises:
        UserError: when the objective or its gradient is not finite, or the gradient 0 at every step.
    """
    velocity = torch.zeros_like(delta)
    moved = False
    with evaluating(encoder):
        for batch in progress(islice(batches, steps), "Crafting", total=steps):
            delta.requires_grad_()
            value = finite(objective(delta, batch))
            gradient = gradient_of(value, delta)
            moved |= bool(finite(gradient).any())
            velocity = momentum * velocity + gradient / gradient.abs().sum().clamp(min=1e-12) if momentum else gradient
            delta = (delta.detach() + step_size * velocity.sign()).clamp(-eps, eps)
    check_moved(moved)
    return delta.detach()


def finite(values: Tensor) -> Tensor:
    """Values that an attack goes by, such as its objective.

    Raises:
        UserError: when one of them is not finite: the attack would be noise, and its target would look robust.
    """
    if not values.isfinite().all():
        raise UserError(
            "An attack cannot be crafted: what the encoder makes of the images, or the gradient of it, is not finite. "
            "Check its weights for NaN, and load it in float32."
        )
    return values


def check_moved(moved: bool) -> None:
    """Refuses what is left of an attack that never had a gradient: noise.

    Raises:
        UserError: says so.
    """
    if not moved:
        raise UserError(
            "An attack cannot be crafted: the gradient of its objective is 0, so that it would be noise. The encoder "
            "does not answer to its images; choose another layer, or check its weights."
        )


def attacked(images: Tensor, delta: Tensor) -> Tensor:
    """Images with the perturbation, in [0, 1]."""
    return (images + delta).clamp(0, 1)


def random_start(encoder: PixelModel, shape: tuple[int, ...], eps: float, generator: torch.Generator) -> Tensor:
    """A uniform point of the L-inf ball, on the encoder's device."""
    return torch.empty(shape).uniform_(-eps, eps, generator=generator).to(encoder.mean.device)


def random_batches(
    encoder: PixelModel, tensors: tuple[Tensor, ...], batch_size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, ...]]:
    """Endless batches of rows drawn at random, the same ones of each tensor, on the encoder's device."""
    while True:
        rows = torch.randint(len(tensors[0]), (batch_size,), generator=generator)
        yield tuple(tensor[rows.to(tensor.device)].to(encoder.mean.device) for tensor in tensors)


def raise_objective(
    encoder: PixelModel,
    images: Tensor,
    objective: Callable[[Tensor, Tensor], Tensor],
    *,
    attack: str,
    words: str,
    eps: float,
    steps: int,
    step_size: float | None,
    batch_size: int,
    seed: int,
    data: str | None,
) -> UniversalPerturbation:
    """The perturbation that raises `objective(delta, images)` over random batches, from a uniform random start.

    Raises:
        UserError: for a setting or an image outside its range, or an encoder without finite values or gradients.
    """
    step_size = universal_step_size(eps, step_size)
    check_universal_settings(eps=eps, steps=steps, step_size=step_size, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    delta = random_start(encoder, images.shape[1:], eps, generator)
    batches = (batch for (batch,) in random_batches(encoder, (images,), batch_size, generator))
    delta = ascend_perturbation(encoder, objective, batches, delta, eps=eps, steps=steps, step_size=step_size)
    return crafted(encoder, delta, attack, words, eps=eps, steps=steps, step_size=step_size, seed=seed, data=data)


def crafted(encoder: PixelModel, delta: Tensor, attack: str, objective: str, **settings) -> UniversalPerturbation:
    """A perturbation with its provenance."""
    source, revision = model_source(encoder.model.config)
    return UniversalPerturbation(
        delta=delta, attack=attack, encoder=source, encoder_revision=revision, objective=objective, **settings
    )


def universal_step_size(eps: float, step_size: float | None = None, **others) -> float:
    """The one that was given, or eps / 50; `others` are settings that it does not depend on."""
    return eps / 50 if step_size is None else step_size


def check_universal_settings(*, eps: float, steps: int, step_size: float, batch_size: int) -> None:
    """Refuses settings that no universal attack can run with.

    Raises:
        UserError: names what was found.
    """
    check_attack_settings(eps=eps, steps=steps, step_size=step_size)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1.")
