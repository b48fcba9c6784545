"""L4A (Ban & Dong, NeurIPS 2022), beside what holds for every universal attack."""

import pytest
import torch
from small_attacks import EPS, images

from genaf_hf import PixelModel, l4a
from genaf_hf.attacks import l4a_fuse
from genaf_hf.attacks.l4a import gaussian_images

__all__ = ["images"]  # fixtures


def activation(encoder, images, delta, layer) -> float:
    with torch.no_grad():
        return encoder.eval().hidden_states((images + delta).clamp(0, 1))[layer].square().mean().item()


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_it_raises_activations_above_its_start_and_above_noise_of_the_same_size(family, layer, images, request):
    encoder = PixelModel(*request.getfixturevalue(family))
    crafted = l4a(encoder, images, eps=EPS, steps=40, layer=layer, seed=3)
    generator = torch.Generator().manual_seed(3)
    start = torch.empty(3, 8, 8).uniform_(-EPS, EPS, generator=generator)
    noises = [EPS * torch.randn(3, 8, 8, generator=generator).sign() for _ in range(10)]
    raised = activation(encoder, images, crafted.delta, layer)
    assert raised > activation(encoder, images, start, layer)
    assert raised > max(activation(encoder, images, noise, layer) for noise in noises)


def test_fewer_images_than_a_batch_are_enough(vit, images):
    assert l4a(PixelModel(*vit), images[:2], eps=EPS, steps=2, batch_size=16).delta.isfinite().all()


def test_the_provenance_says_how_it_was_crafted(vit, encoders, images):
    crafted = l4a(PixelModel(*vit), images, eps=EPS, steps=2, layer=1, seed=7, data="12 random images")
    assert crafted.provenance == {
        "attack": "l4a",
        "eps": EPS,
        "norm": "linf",
        "steps": 2,
        "step_size": EPS / 50,
        "seed": 7,
        "encoder": "dino",
        "encoder_revision": None,
        "data": "12 random images",
        "objective": "mean squared activation of hidden state 1",
        "resized_from": None,
    }


def test_a_step_size_below_0_is_refused(vit, images):
    with pytest.raises(ValueError, match=r"step_size is -0\.1,"):
        l4a(PixelModel(*vit), images, eps=EPS, steps=1, step_size=-0.1)


def test_gaussian_images_are_others_at_each_step_their_means_at_every_twentieth():
    drawn = gaussian_images((64, 3, 16, 16), torch.Generator().manual_seed(0))
    first = [next(drawn) for _ in range(20)]
    second = next(drawn)
    assert not torch.equal(first[1], first[0])
    moved = [(each.mean(dim=(2, 3)) - first[0].mean(dim=(2, 3))).abs().mean() for each in (first[19], second)]
    assert moved[0] < 0.01 < 0.03 < moved[1]
    means, deviations = second.mean(dim=(2, 3)), second.std(dim=(2, 3))
    assert 0.38 < means.min() < 0.42 < 0.58 < means.max() < 0.62
    assert 0.04 < deviations.min() < 0.06 < 0.09 < deviations.max() < 0.115


def test_fusing_with_weight_zero_is_the_plain_attack_on_the_first_layer(vit, images):
    encoder = PixelModel(*vit)
    fused = l4a_fuse(encoder, images, eps=EPS, steps=4, layers=(1, 2), weight=0.0)
    alone = l4a(encoder, images, eps=EPS, steps=4, layer=1)  # of another graph, whose sums may round otherwise
    torch.testing.assert_close(fused.delta, alone.delta, rtol=0, atol=1e-6)
