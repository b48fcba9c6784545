"""Patches that are crafted, on the encoder and on the model."""

import pytest
import torch
from small_attacks import Brightness, images, labels

from genaf_hf import PixelModel
from genaf_hf.attacks import UniversalPatch, advencoder_pat, adversarial_patch
from genaf_hf.attacks.advencoder import info_nce
from genaf_hf.errors import UserError

__all__ = ["images", "labels"]  # fixtures


@pytest.mark.parametrize("place", ["fixed", "random"])
def test_the_patch_pulls_the_features_apart_more_than_a_random_one(place, vit, images):
    encoder = PixelModel(*vit).eval()
    patch = advencoder_pat(encoder, images, area=0.2, place=place, steps=60, width=16, learning_rate=5e-3)
    assert patch.delta.shape == (3, 4, 4)
    assert (patch.top, patch.left) == ((4, 4) if place == "fixed" else (None, None))
    generator = torch.Generator().manual_seed(0)

    def apart(delta):
        other = UniversalPatch(delta=delta, attack="random", eps=1.0, top=patch.top, left=patch.left)
        return info_nce(encoder.features(images), encoder.features(other(images))).item()

    assert apart(patch.delta) > max(apart(torch.rand(3, 4, 4, generator=generator)) for _ in range(10))


def test_the_patch_covers_three_percent_of_64_pixels(resnet):
    images = torch.rand(2, 3, 64, 64)
    assert advencoder_pat(PixelModel(*resnet), images, steps=1, width=8).delta.shape == (3, 11, 11)


@pytest.mark.parametrize("area", [0, -1, 1e-4, 1.5, float("nan")])
def test_a_patch_that_does_not_fit_is_refused(vit, images, area):
    with pytest.raises(ValueError, match="area is"):
        advencoder_pat(PixelModel(*vit), images, area=area, steps=1)


@pytest.mark.parametrize(("target", "color"), [(None, 1.0), (1, 1.0), (0, 0.0)])
def test_a_patch_on_a_linear_model_is_the_closed_form(target, color, vit, images):
    patch = adversarial_patch(Brightness(*vit), images, torch.zeros(12).long(), area=0.25, target=target, steps=101)
    assert torch.equal(patch.delta, torch.full((3, 4, 4), color))
    assert (patch.top, patch.shape, patch.step_size) == (None, "square", 0.01)
    assert patch.objective == "cross-entropy of the model" + ("" if target is None else f", lowered at class {target}")


def test_a_patch_is_crafted_in_the_shape_and_the_moves_that_it_attacks_in(vit, images):
    settings = {"area": 0.3, "shape": "round", "degrees": 90.0, "smallest": 0.5, "place": "fixed"}
    for attack, needed in ((advencoder_pat, (images,)), (adversarial_patch, (images, torch.zeros(12).long()))):
        small = {"width": 8} if attack is advencoder_pat else {}
        found = attack(Brightness(*vit), *needed, steps=3, **settings, **small)
        assert (found.shape, found.degrees, found.smallest, found.top) == ("round", 90.0, 0.5, 3)
        assert found.delta.shape == (3, 5, 5)
        assert (found(images)[:, :, :3] == images[:, :, :3]).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"degrees": 181.0}, "degrees is 181.0, expected 0 to 180"),
        ({"smallest": 0.0}, "smallest is 0.0, expected a share of the patch's side from 0.1 to 1"),
        ({"shape": "oval"}, 'shape is "oval", expected one of square, round'),
        ({"area": 0.9, "shape": "round"}, "area is 0.9, a patch of 9 pixels a side in images of 8 x 8"),
        ({"target": 3}, "target is 3, expected one of the model's 3 classes from 0 on"),
    ],
)
def test_a_patch_that_cannot_be_is_refused(settings, sentence, vit, images, labels):
    with pytest.raises(UserError, match=sentence):
        adversarial_patch(PixelModel(*vit), images, labels, steps=1, **settings)


def test_an_unknown_place_is_refused(vit, images):
    with pytest.raises(ValueError, match='place is "left", expected one of random, fixed'):
        advencoder_pat(PixelModel(*vit), images, place="left", steps=1)
