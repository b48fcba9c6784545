"""Random views of images, drawn for each image by a seed of its own."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.values.device import sent

DRAWS = 14  # random numbers of a view
ASPECT_RATIO = (3 / 4, 4 / 3)
BLUR_SIGMA = (0.1, 2.0)  # pixels
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """A random view of each image: crop, flip, color jitter, grayscale, blur and solarization, in this order.

    Those of SimCLR (Chen et al., ICML 2020, https://arxiv.org/abs/2002.05709, appendix A) and of DINO (Caron et al.,
    ICCV 2021, https://arxiv.org/abs/2104.14294), with two differences: the jitter's parts have a fixed order, and hue
    is turned about the gray axis instead of in HSV.

    Attributes:
        size: height and width of the view, in pixels.
        scale: smallest and largest share of the area that is cropped.
        flip: whether every second view is mirrored, which not all classes bear (digits).
        brightness, contrast, saturation: a view's factor is uniform in [1 - value, 1 + value], from 0 on.
        hue: largest turn, as a share of the color circle.
        jitter: probability of the four above.
        grayscale, blur, solarize: probabilities.
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    jitter: float = 0.8
    grayscale: float = 0.0
    blur: float = 0.0
    solarize: float = 0.0

    @property
    def settings(self) -> dict:
        """Size and scale, and what differs from the defaults."""
        defaults = {each.name: each.default for each in fields(self) if each.name != "scale"}
        return {name: value for name, value in asdict(self).items() if value != defaults.get(name)}

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Views (n, 3, size, size) in [0, 1].

        Args:
            images: (n, 3, h, w) in [0, 1].
            numbers: (n, `DRAWS`), uniform in [0, 1): they alone decide what a view is.
        """
        numbers = numbers.to(images)
        area, ratio, left, top, flip, jitter, bright, contrast, saturation, hue, gray, blur, sigma, solarize = numbers.T
        views = crop(images, area, ratio, left, top, size=self.size, scale=self.scale)
        if self.flip:
            views = where(flip < 0.5, views.flip(-1), views)
        if self.brightness or self.contrast or self.saturation or self.hue:
            factors = (
                factor(strength, number)
                for strength, number in (
                    (self.brightness, bright),
                    (self.contrast, contrast),
                    (self.saturation, saturation),
                )
            )
            jittered = color_jitter(views, *factors, turn=self.hue * (2 * hue - 1))
            views = where(jitter < self.jitter, jittered, views)
        if self.grayscale:
            views = where(gray < self.grayscale, luma(views).expand_as(views), views)
        if self.blur:
            low, high = BLUR_SIGMA
            views = where(blur < self.blur, gaussian_blur(views, low + (high - low) * sigma), views)
        if self.solarize:
            views = where(solarize < self.solarize, torch.where(views < 0.5, views, 1 - views), views)
        return views


def uniform_numbers(seed: int, epoch: int, indices: Sequence[int], views: int) -> Tensor:
    """What `views` augmentations draw for some images in an epoch, (n, views, `DRAWS`), whatever batch they are in."""
    rows = [np.random.default_rng((seed, epoch, index)).random((views, DRAWS), dtype=np.float32) for index in indices]
    return torch.from_numpy(np.stack(rows))


def factor(strength: float, numbers: Tensor) -> Tensor:
    """What a color is multiplied by, by a number in [0, 1): below 0 it would become its complement."""
    least = max(0.0, 1 - strength)
    return least + (1 + strength - least) * numbers


def where(chosen: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    """Rows of one batch of images where `chosen` (n,), else those of another."""
    return torch.where(chosen.view(-1, 1, 1, 1), then, otherwise)


def crop(
    images: Tensor, area: Tensor, ratio: Tensor, left: Tensor, top: Tensor, *, size: int, scale: tuple[float, float]
) -> Tensor:
    """Random resized crops, interpolated bilinearly: Szegedy et al., CVPR 2015 (https://arxiv.org/abs/1409.4842), 6.

    A box that is longer than the image is cut to it.

    Args:
        images: (n, c, h, w).
        area, ratio, left, top: (n,) in [0, 1), that the box is made of.
        size: height and width of the result.
        scale: smallest and largest share of the area.
    """
    low, high = (math.log(bound) for bound in ASPECT_RATIO)
    share, ratio = scale[0] + (scale[1] - scale[0]) * area, torch.exp(low + (high - low) * ratio)
    width, height = (share * ratio).sqrt().clamp(max=1), (share / ratio).sqrt().clamp(max=1)
    boxes = images.new_zeros(len(images), 2, 3)  # from the view's coordinates to the image's, both in [-1, 1]
    boxes[:, 0, 0], boxes[:, 1, 1] = width, height
    boxes[:, 0, 2], boxes[:, 1, 2] = (1 - width) * (2 * left - 1), (1 - height) * (2 * top - 1)
    grid = F.affine_grid(boxes, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False).clamp(0, 1)


def constant(numbers: Sequence, like: Tensor) -> Tensor:
    """Numbers as a tensor of the kind of another one, on its device, which the CPU does not wait for."""
    return sent(torch.tensor(numbers, dtype=like.dtype), like.device)


def luma(images: Tensor) -> Tensor:
    """Brightness as it is seen, (n, 1, h, w)."""
    return (images * constant(LUMA, images).view(3, 1, 1)).sum(1, keepdim=True)


def color_jitter(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, *, turn: Tensor) -> Tensor:
    """Scales brightness, contrast and saturation by factors (n,) and turns the hue by shares of the circle (n,)."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation))
    images = (images * brightness).clamp(0, 1)
    mean = luma(images).mean((2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp(0, 1)
    gray = luma(images)
    images = (gray + saturation * (images - gray)).clamp(0, 1)
    return torch.einsum("nij,njhw->nihw", hue_rotation(turn), images).clamp(0, 1)


def hue_rotation(turn: Tensor) -> Tensor:
    """Rotations of colors about the gray axis, (n, 3, 3), by shares of the circle (n,): Rodrigues' formula."""
    angle = (2 * math.pi * turn).view(-1, 1, 1)
    identity, axis = torch.eye(3, dtype=turn.dtype, device=turn.device), turn.new_full((3, 3), 1 / 3)
    cross = constant(((0.0, -1.0, 1.0), (1.0, 0.0, -1.0), (-1.0, 1.0, 0.0)), turn) / math.sqrt(3)
    return identity * angle.cos() + cross * angle.sin() + axis * (1 - angle.cos())


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blurs each image by its own sigma (n,), in pixels; the kernel is a tenth of the image wide, as in SimCLR."""
    radius = max(1, images.shape[-1] // 20)
    offsets = torch.arange(-radius, radius + 1).to(images)
    kernels = torch.softmax(-offsets.square() / (2 * sigma.square().unsqueeze(1)), 1)
    kernels = kernels.repeat_interleave(images.shape[1], 0).unsqueeze(1)
    flat = images.flatten(0, 1).unsqueeze(0)
    for kernel, padding in (
        (kernels.unsqueeze(2), (radius, radius, 0, 0)),
        (kernels.unsqueeze(3), (0, 0, radius, radius)),
    ):
        flat = F.conv2d(F.pad(flat, padding, mode="replicate"), kernel, groups=flat.shape[1])
    return flat.view_as(images).clamp(0, 1)
