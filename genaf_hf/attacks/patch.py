"""Universal patches: one patch of pixels that covers a part of every image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.attacks.inputs import check_images, checked_seeds
from genaf_hf.attacks.perturbation import UniversalPerturbation
from genaf_hf.errors import UserError
from genaf_hf.values.device import sent

Shape = Literal["square", "round"]
Place = Literal["random", "fixed"]
GRAY = 0.5  # that the pixels of a patch are at most as far from


@dataclass(frozen=True)
class Pasting:
    """How a patch gets into images.

    Attributes:
        corner: row and column of its upper left corner; None for a random place in each image.
        shape: `"square"`, or `"round"`, the disc in the square.
        degrees: it is turned by up to so many, either way, at random in each image; what leaves the square is cut.
        smallest: it is shrunk at random in each image, to this share of its side at least.

    Raises:
        UserError: when a patch cannot be turned or shrunk so.
    """

    corner: tuple[int, int] | None = None
    shape: str = "square"
    degrees: float = 0.0
    smallest: float = 1.0

    def __post_init__(self):
        if not 0 <= self.degrees <= 180:
            raise UserError(f"degrees is {self.degrees}, expected 0 to 180, by which a patch is turned at most.")
        if not 0.1 <= self.smallest <= 1:
            raise UserError(f"smallest is {self.smallest}, expected a share of the patch's side from 0.1 to 1.")

    def __call__(self, images: Tensor, patch: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Images (n, 3, h, w) with a patch (3, k, k); what is random in an image is drawn from its generator."""
        side = patch.shape[-1]
        corners, turns = [], []
        for generator in generators:
            corners.append(self.corner or random_corner(images.shape[-2:], side, generator))
            if self.moves:
                turns.append(torch.rand(2, generator=generator))
        if self.shape == "square" and not self.moves:
            return paste(images, patch, torch.tensor(corners))
        mask = self.mask(side).to(images)
        with_mask = torch.cat([patch.to(images) * mask, mask[None]]).expand(len(images), 4, side, side)
        if self.moves:
            with_mask = turned(with_mask, *self.drawn(torch.stack(turns)))
        covered = images.clone()
        for row, (top, left) in enumerate(corners):
            place, weight = covered[row, :, top : top + side, left : left + side], with_mask[row, 3]
            pixels = (with_mask[row, :3] / weight.clamp(min=0.5)).clamp(0, 1)  # at its edge, which was made smooth
            place.copy_(torch.where(weight > 0.5, pixels, place))
        return covered

    @property
    def moves(self) -> bool:
        """Whether it is turned or shrunk."""
        return bool(self.degrees) or self.smallest < 1

    def mask(self, side: int) -> Tensor:
        """1 where the patch is and 0 elsewhere, (side, side)."""
        if self.shape == "square":
            return torch.ones(side, side)
        steps = torch.arange(side) - (side - 1) / 2
        return (steps[:, None].square() + steps.square() <= (side / 2) ** 2).float()

    def drawn(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Angles in radians and scales (n,) from uniform numbers (n, 2)."""
        angles = (2 * uniform[:, 0] - 1) * math.radians(self.degrees)
        return angles, self.smallest + (1 - self.smallest) * uniform[:, 1]


def share_of_square(shape: str) -> float:
    """The share of its square that a patch covers."""
    return math.pi / 4 if shape == "round" else 1.0


def side_of(area: float, shape: str, pixels: int) -> int:
    """Side in pixels of a patch that covers a share of images of so many pixels."""
    return round((area / share_of_square(shape) * pixels) ** 0.5)


def pasting(
    size: Sequence[int], *, area: float, place: str, shape: str, degrees: float, smallest: float
) -> tuple[Pasting, int]:
    """How a patch gets into images of a height and width, and its side in pixels.

    Args:
        area: share of the image that it covers.
        place: `"random"`, another for each image, or `"fixed"`, the lower right corner.
        shape, degrees, smallest: as in `Pasting`.

    Raises:
        UserError: for a patch of no pixel or larger than the images, and as `Pasting`.
    """
    height, width = size
    side = side_of(area, shape, height * width) if 0 < area <= 1 else 0
    if not 1 <= side <= min(height, width):
        raise UserError(
            f"area is {area}, a patch of {side} pixels a side in images of {height} x {width}; expected a share in "
            "(0, 1] that is at least a pixel and fits."
        )
    corner = (height - side, width - side) if place == "fixed" else None
    return Pasting(corner, shape, degrees, smallest), side


@dataclass(frozen=True, eq=False)
class UniversalPatch(UniversalPerturbation):
    """A patch that is pasted into every image, with the record of how it was crafted.

    Calling it attacks: `patch(images)`. It is saved, loaded and shared as a `UniversalPerturbation`.

    Attributes:
        delta: (3, k, k) pixels in [0, 1].
        eps: 1, what a pixel under the patch may change by.
        top, left: where the patch goes; both None for a random place in each image.
        shape, degrees, smallest: as in `Pasting`.
        area: share of the image that it covers, where that is known.

    Raises:
        UserError: when `delta` is not (3, k, k) in [0, 1], or the place is not in the image, and as `Pasting`.
    """

    top: int | None = None
    left: int | None = None
    shape: Shape = "square"
    degrees: float = 0.0
    smallest: float = 1.0
    area: float | None = None

    def __post_init__(self):
        self.check_shape()
        if self.delta.shape[1] != self.delta.shape[2]:
            raise UserError(f"The patch is of shape {tuple(self.delta.shape)}, expected a square one, (3, k, k).")
        self.check_provenance()
        low, high = self.delta.amin().item(), self.delta.amax().item()
        if not (low >= 0 and high <= 1) or self.eps != 1:
            raise UserError(f"The patch spans [{low:.4g}, {high:.4g}], eps {self.eps}, expected [0, 1] and eps 1.")
        if (self.top is None) != (self.left is None) or (self.top is not None and min(self.top, self.left) < 0):
            raise UserError(f"The patch is at top {self.top}, left {self.left}; expected both from 0 on, or None.")
        Pasting(None, self.shape, self.degrees, self.smallest)

    @property
    def partial(self) -> bool:
        return True

    def on_images_of(self, height: int, width: int) -> "UniversalPatch":
        """The same, with the share that it covers of such images: as it was said, where that is so but for rounding."""
        side, pixels = self.delta.shape[1], height * width
        if self.area is not None and side_of(self.area, self.shape, pixels) == side:
            return self
        return replace(self, area=share_of_square(self.shape) * side**2 / pixels)

    @property
    def pasting(self) -> Pasting:
        """How it gets into images."""
        corner = None if self.top is None or self.left is None else (self.top, self.left)
        return Pasting(corner, self.shape, self.degrees, self.smallest)

    def __call__(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Images (n, 3, h, w) in [0, 1] with the patch.

        Args:
            images: (n, 3, h, w) in [0, 1].
            seeds: one per image, default 0 to n - 1. What is random in an image depends on its seed alone.

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
        seeds = range(len(images)) if seeds is None else checked_seeds(seeds, len(images))
        return self.pasting(images, self.delta, [torch.Generator().manual_seed(seed) for seed in seeds])


def of_pasting(pixels: Tensor, attack: str, pasted: Pasting, **known) -> UniversalPatch:
    """A patch (3, k, k) that gets into images as it was crafted to; `known` is of its provenance."""
    top, left = pasted.corner or (None, None)
    moves: dict[str, Any] = {"shape": pasted.shape, "degrees": pasted.degrees, "smallest": pasted.smallest}
    return UniversalPatch(pixels, attack, 1.0, top=top, left=left, **moves, **known)


def paste(images: Tensor, patch: Tensor, corners: Tensor) -> Tensor:
    """Images (n, 3, h, w) with the patch (3, k, l) at each one's own (top, left), whole numbers (n, 2)."""
    device, corners = images.device, sent(corners, images.device)
    channels, height, width = (torch.arange(length, device=device) for length in patch.shape)
    rows, columns = corners[:, :1] + height, corners[:, 1:] + width
    each = torch.arange(len(images), device=device)[:, None, None, None]
    place = each, channels[:, None, None], rows[:, None, :, None], columns[:, None, None]
    return images.index_put(place, patch.to(images))


def random_corner(size: Sequence[int], side: int, generator: torch.Generator) -> tuple[int, int]:
    """A uniform (top, left) at which a square patch lies inside an image of a height and width."""
    top, left = (int(torch.randint(length - side + 1, (), generator=generator)) for length in size)
    return top, left


def turned(patches: Tensor, angles: Tensor, scales: Tensor) -> Tensor:
    """Patches (n, c, k, k), each turned by an angle in radians and shrunk by a scale (n,); 0 where none is."""
    cosines, sines = angles.cos() / scales, angles.sin() / scales
    rows = [torch.stack([cosines, -sines, 0 * angles], dim=1), torch.stack([sines, cosines, 0 * angles], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(patches), list(patches.shape), align_corners=False)
    return F.grid_sample(patches, grid, align_corners=False)
