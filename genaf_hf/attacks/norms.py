"""Perturbations bounded in L-inf or L2: where they begin, how they ascend, and how they are kept within eps."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from genaf_hf.values.device import sent, with_doubles

Norm = Literal["linf", "l2"]
NORMS = get_args(Norm)


def draw_in_ball(delta: Tensor, eps: float, norm: str, generator: torch.Generator) -> Tensor:
    """Makes a perturbation (3, h, w) on the CPU a uniform point of the ball, in place."""
    if norm == "linf":
        return delta.uniform_(-eps, eps, generator=generator)
    delta.normal_(generator=generator)
    radius = torch.rand((), generator=generator) ** (1 / delta.numel())
    return delta.mul_(eps * radius / delta.norm())


def random_in_ball(images: Tensor, eps: float, norm: str, seeds: Sequence[int]) -> Tensor:
    """A point of the ball for each image, uniform, drawn from that image's seed alone: on every device the same."""
    generator = torch.Generator()
    noise = torch.empty(images.shape, dtype=images.dtype)  # drawn in the order of memory
    for row, seed in zip(noise, seeds, strict=True):
        draw_in_ball(row, eps, norm, generator.manual_seed(seed))
    return sent(noise, images.device)


def steepest_ascent(gradients: Tensor, norm: str) -> Tensor:
    """The directions of unit length that ascend fastest, one for each of (n, 3, h, w)."""
    if norm == "linf":
        return gradients.sign()
    return gradients / per_image_l2(gradients).clamp(min=torch.finfo(gradients.dtype).tiny)


def into_ball(deltas: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest of at most `eps` to each of (n, 3, h, w)."""
    if norm == "linf":
        return deltas.clamp(-eps, eps)
    return deltas * (eps / per_image_l2(deltas).clamp(min=eps))


def lengths(deltas: Tensor, norm: str) -> Tensor:
    """How long each of (n, 3, h, w) is, (n,), in float64."""
    rows = with_doubles(deltas.flatten(1)).double()
    return rows.norm(dim=1) if norm == "l2" else rows.abs().amax(dim=1)


def per_image_l2(values: Tensor) -> Tensor:
    """L2 norm of each image, shape (n, 1, 1, 1), summed in float64: of large images float32 loses their last digits."""
    norms = torch.linalg.vector_norm(with_doubles(values.flatten(1)), dim=1, dtype=torch.float64)
    return norms.to(values).view(-1, 1, 1, 1)
