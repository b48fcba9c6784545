"""Universal patches: one square of pixels that covers a part of every image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genaf_hf.attacks.inputs import check_images, checked_seeds
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.errors import UserError


@dataclass(frozen=True, eq=False)
class UniversalPatch(UniversalPerturbation):
    """A patch that is pasted into every image, with the record of how it was crafted.

    Calling it attacks: `patch(images)`. It is saved, loaded and shared as a `UniversalPerturbation`.

    Attributes:
        delta: (3, k, k) pixels in [0, 1].
        eps: 1, what a pixel under the patch may change by.
        top, left: where the patch goes; both None for a random place in each image.

    Raises:
        UserError: when `delta` is not (3, k, k) in [0, 1], or the place is not in the image.
    """

    top: int | None = None
    left: int | None = None

    def __post_init__(self):
        self.check_shape()
        self.check_provenance()
        low, high = self.delta.amin().item(), self.delta.amax().item()
        if not (low >= 0 and high <= 1) or self.eps != 1:
            raise UserError(f"The patch spans [{low:.4g}, {high:.4g}], eps {self.eps}, expected [0, 1] and eps 1.")
        if (self.top is None) != (self.left is None) or (self.top is not None and min(self.top, self.left) < 0):
            raise UserError(f"The patch is at top {self.top}, left {self.left}; expected both from 0 on, or None.")

    def __call__(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Images (n, 3, h, w) in [0, 1] with the patch.

        Args:
            images: (n, 3, h, w) in [0, 1].
            seeds: one per image, default 0 to n - 1. A random place depends on the image's seed alone.

        Raises:
            UserError: when these are no such images, or the patch does not fit into them.
        """
        check_images(images)
        height, width = self.delta.shape[1:]
        top, left = self.top or 0, self.left or 0
        if images.shape[1] != self.delta.shape[0] or top + height > images.shape[-2] or left + width > images.shape[-1]:
            raise UserError(
                f"A patch of {height} x {width} pixels at top {top}, left {left} does not fit into images of shape "
                f"{tuple(images.shape)}."
            )
        if self.top is not None:
            return paste(images, self.delta, [(top, left)] * len(images))
        seeds = range(len(images)) if seeds is None else checked_seeds(seeds, len(images))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return paste(images, self.delta, random_corners(images, height, generators))


def paste(images: Tensor, patch: Tensor, corners: Sequence[tuple[int, int]]) -> Tensor:
    """Images (n, 3, h, w) with the patch (3, k, l) at each one's own (top, left)."""
    height, width = patch.shape[1:]
    covered = images.clone()
    for row, (top, left) in enumerate(corners):
        covered[row, :, top : top + height, left : left + width] = patch.to(images)
    return covered


def random_corners(images: Tensor, side: int, generators: Sequence[torch.Generator]) -> list[tuple[int, int]]:
    """A uniform (top, left) for each image at which a square patch lies inside, drawn from the image's generator."""

    def drawn(length: int, generator: torch.Generator) -> int:
        return int(torch.randint(length - side + 1, (), generator=generator))

    height, width = images.shape[-2:]
    return [(drawn(height, each), drawn(width, each)) for each in generators]
