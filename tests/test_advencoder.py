"""AdvEncoder (Zhou et al., ICCV 2023): its loss and its generator, by hand and as the authors have them."""

import math

import pytest
import torch
from small_attacks import EPS, images

from genaf_hf import PixelModel
from genaf_hf.attacks.advencoder import Generator, advencoder_per, high_pass, info_nce, seeded_generator

__all__ = ["images"]  # fixtures


def test_info_nce_by_hand():
    queries = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    keys = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    # cosines: (0.7071, 0), (0.7071, 1); over tau 0.1: (7.0711, 0), (7.0711, 10)
    expected = (math.log(1 + math.exp(-math.sqrt(50))) + math.log(1 + math.exp(math.sqrt(50) - 10))) / 2
    assert info_nce(queries, keys).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("side", "lowest"), [(16, 2), (17, 3), (64, 8)])
def test_high_pass_by_hand(side, lowest):
    positions = torch.arange(side) * 2 * math.pi / side
    slow, fast = torch.cos((lowest - 1) * positions), torch.cos(lowest * positions)
    image = (0.5 + slow + fast).expand(1, 3, side, side)
    torch.testing.assert_close(high_pass(image), fast.expand(1, 3, side, side), rtol=0, atol=1e-5)


def test_the_generator_is_the_authors_at_64_pixels():
    with torch.device("meta"):
        generator = Generator((64, 64))
    kernels = [tuple(layer.weight.shape) for layer in generator.layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert kernels == [(100, 1024, 4, 4), (1024, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 3, 4, 4)]
    assert generator().shape == (3, 64, 64)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (11, 11), (32, 32), (33, 20), (224, 224)])
def test_the_generator_makes_any_size(size):
    assert seeded_generator(size, 8, 0)().shape == (3, *size)


def test_the_generator_by_hand():
    generator = Generator((8, 8), width=1)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(1.0)
        generator.mix.weight.zero_()
        generator.mix.weight[0, :2, 1, 1] = torch.tensor([2.0, -1.0])
        generator.mix.bias.fill_(0.25)
        generator.noise[::2], generator.noise[1::2] = 1.0, -1.0
    # The first layer sums a noise to +-100 everywhere, normalised +-1 plus the bias 1: 2 and 0. The second sums four
    # of the first one's pixels, two at an edge, one in a corner: 8, 4 and 2, after tanh 2 tanh(.) - tanh(0) + 0.25.
    made = generator().detach()
    assert made.shape == (3, 8, 8)
    assert made[0, 3, 3].item() == pytest.approx(2 * math.tanh(8) + 0.25, abs=1e-4)
    assert made[1, 0, 3].item() == pytest.approx(2 * math.tanh(4) + 0.25, abs=1e-4)
    assert made[2, 7, 0].item() == pytest.approx(2 * math.tanh(2) + 0.25, abs=1e-4)


def test_batches_of_one_have_no_negatives(vit, images):
    with pytest.raises(ValueError, match="negatives"):
        advencoder_per(PixelModel(*vit), images, eps=EPS, steps=1, batch_size=1)
