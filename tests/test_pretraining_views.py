"""Augmentations: what they do is told by hand-made images."""

from dataclasses import replace

import pytest
import torch

from genaf_hf.pretraining.augmentation import (
    DRAWS,
    Augmentation,
    color_jitter,
    crop,
    gaussian_blur,
    hue_rotation,
    luma,
    uniform_numbers,
)

EVERYTHING = Augmentation(
    12, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5, grayscale=0.5, blur=0.5, solarize=0.5
)
NOTHING = Augmentation(8, scale=(1.0, 1.0), flip=False)
HALF = torch.full((1,), 0.5)  # of every range the middle: no change
ZERO = torch.zeros(1)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def numbers(count: int, epoch: int = 0, seed: int = 0) -> torch.Tensor:
    return uniform_numbers(seed, epoch, range(count), 1)[:, 0]


def drawn(**chosen: float) -> torch.Tensor:
    """The numbers of one view, 0.5 but for some."""
    names = ["area", "ratio", "left", "top", "flip", "jitter", "brightness", "contrast", "saturation", "hue"]
    names += ["gray", "blur", "sigma", "solarize"]
    assert len(names) == DRAWS
    return torch.tensor([[chosen.get(name, 0.5) for name in names]])


def test_views_are_images_of_the_size_that_was_asked_for(images):
    for epoch in range(20):
        views = EVERYTHING(images, numbers(6, epoch))
        assert views.shape == (6, 3, 12, 12)
        assert 0 <= views.min() < views.max() <= 1


def test_a_view_depends_on_seed_epoch_and_index_and_not_on_the_batch(images):
    views = EVERYTHING(images, numbers(6))
    torch.testing.assert_close(EVERYTHING(images, numbers(6)), views, rtol=0, atol=0)
    alone = EVERYTHING(images[4:5], uniform_numbers(0, 0, [4], 1)[:, 0])
    torch.testing.assert_close(alone, views[4:5], rtol=0, atol=1e-6)
    for other in (numbers(6, epoch=1), numbers(6, seed=1)):
        assert not torch.allclose(EVERYTHING(images, other), views, atol=0.05)
    assert len(uniform_numbers(0, 0, range(100), 2).flatten(0, 1).unique(dim=0)) == 200


def test_a_crop_of_the_whole_image_is_the_image(images):
    torch.testing.assert_close(NOTHING(images, drawn().expand(6, -1)), images, rtol=0, atol=1e-6)


def test_a_crop_shows_the_part_that_was_drawn():
    columns = (torch.arange(8) / 8).expand(1, 3, 8, 8)
    quarter = {"size": 4, "scale": (0.25, 0.25)}
    left = crop(columns, ZERO, HALF, ZERO, HALF, **quarter)
    torch.testing.assert_close(left, columns[..., :4, :4], rtol=0, atol=1e-6)
    right = crop(columns, ZERO, HALF, ZERO + 1, HALF, **quarter)
    torch.testing.assert_close(right, columns[..., :4, 4:], rtol=0, atol=1e-6)
    top = crop(columns.mT, ZERO, HALF, HALF, ZERO, **quarter)
    torch.testing.assert_close(top, columns.mT[..., :4, :4], rtol=0, atol=1e-6)


def test_half_of_the_views_are_mirrored_unless_flips_are_off(images):
    flipping = Augmentation(8, scale=(1.0, 1.0))
    torch.testing.assert_close(flipping(images[:1], drawn(flip=0.49)), images[:1].flip(-1), rtol=0, atol=1e-6)
    torch.testing.assert_close(flipping(images[:1], drawn(flip=0.51)), images[:1], rtol=0, atol=1e-6)
    torch.testing.assert_close(NOTHING(images[:1], drawn(flip=0.49)), images[:1], rtol=0, atol=1e-6)


def test_solarization_inverts_the_bright_half(images):
    solarized = Augmentation(8, scale=(1.0, 1.0), flip=False, solarize=1.0)(images[:1], drawn())
    torch.testing.assert_close(solarized, torch.minimum(images[:1], 1 - images[:1]), rtol=0, atol=1e-6)


def test_color_jitter_scales_brightness_contrast_and_saturation():
    image = torch.tensor([0.2, 0.4, 0.3]).view(1, 3, 1, 1).repeat(1, 1, 2, 2)
    image[..., 0] += 0.2
    one = torch.ones(1)
    torch.testing.assert_close(color_jitter(image, 1.5 * one, one, one, turn=ZERO), 1.5 * image)
    mean = 0.299 * 0.3 + 0.587 * 0.5 + 0.114 * 0.4
    torch.testing.assert_close(color_jitter(image, one, 0.5 * one, one, turn=ZERO), mean + 0.5 * (image - mean))
    torch.testing.assert_close(color_jitter(image, one, one, ZERO, turn=ZERO), luma(image).expand_as(image))


def test_a_strong_jitter_takes_colors_away_and_never_to_their_complements():
    strong, red = replace(NOTHING, saturation=1.6, jitter=1.0), torch.tensor([0.9, 0.3, 0.3]).view(1, 3, 1, 1)
    image = red.expand(1, 3, 8, 8)
    torch.testing.assert_close(strong(image, drawn(saturation=0.0)), luma(image).expand_as(image))
    strongest = strong(image, drawn(saturation=0.75))
    torch.testing.assert_close(strongest, (luma(image) + 1.95 * (image - luma(image))).clamp(0, 1))


def test_a_third_of_the_color_circle_turns_red_into_green_and_gray_stays():
    red, green = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    [turn] = hue_rotation(torch.tensor([1 / 3]))
    torch.testing.assert_close(turn @ red, green, rtol=0, atol=1e-6)
    torch.testing.assert_close(turn @ torch.ones(3), torch.ones(3))
    assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-6)


def test_blur_spreads_a_point_by_the_gaussian_and_keeps_its_mass():
    point = torch.zeros(2, 3, 41, 41)
    point[..., 20, 20] = 1
    weak, strong = gaussian_blur(point, torch.tensor([0.1, 1.0]))
    torch.testing.assert_close(weak, point[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(strong.sum((1, 2)), torch.ones(3))
    torch.testing.assert_close(strong[:, 20, 21] / strong[:, 20, 20], torch.full((3,), -0.5).exp())
    torch.testing.assert_close(strong, strong.mT)


def test_grayscale_leaves_one_brightness(images):
    gray = Augmentation(8, scale=(1.0, 1.0), flip=False, grayscale=1.0)(images[:1], drawn())
    torch.testing.assert_close(gray, luma(images[:1]).expand(1, 3, 8, 8), rtol=0, atol=1e-6)
