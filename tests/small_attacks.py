"""Universal attacks at small settings: what the files of their tests import by name."""

import pytest
import torch

from genaf_hf import PixelModel
from genaf_hf.attacks import ATTACKS

EPS = 0.1
UNIVERSAL = [name for name, attack in ATTACKS.items() if attack.universal]
ON_ENCODER = [name for name in UNIVERSAL if ATTACKS[name].on_encoder]
PATCHES = ("advencoder-pat", "adversarial-patch")
BOUNDED = [name for name in UNIVERSAL if name not in PATCHES]


@pytest.fixture
def images():
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def labels():
    return torch.arange(12) % 3


def craft(name, encoder, images, labels, **settings):
    """An attack with small settings."""
    given = {"encoder": encoder, "model": encoder, "images": images, "labels": labels}
    attack = ATTACKS[name]
    small = {"steps": 3, **({} if name in PATCHES else {"eps": EPS})}
    small |= {"width": 16} if name.startswith("advencoder") else {}
    return attack.configure(**{**small, **settings})(*(given[each] for each in attack.needs))


class Linear(PixelModel):
    """Its features are the pixels."""

    def features(self, images):
        return images.flatten(1) + 0 * self.model.classifier.bias.sum()


class Brightness(PixelModel):
    """Linear in the mean of the pixels: class 1 rises with it, class 0 falls, class 2 is never told."""

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5, 0 * mean - 9], dim=1) + 0 * self.model.classifier.bias.sum()
