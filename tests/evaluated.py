"""A classifier and attacks that evaluations are of."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from genaf_hf import PixelModel, UniversalPerturbation, pgd

PGD = {"eps": 0.1, "steps": 3, "step_size": 0.05}


@pytest.fixture
def model(vit, pixels):
    """A classifier that is right about most images, and wrong about some."""
    model, batch = PixelModel(*vit), pixels["train"][:]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    F.cross_entropy(model.model(pixel_values=batch["pixel_values"]).logits, batch["labels"]).backward()
    optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def perturbation(seed: int, eps: float = 0.2) -> UniversalPerturbation:
    delta = torch.empty(3, 8, 8).uniform_(-eps, eps, generator=torch.Generator().manual_seed(seed))
    return UniversalPerturbation(delta=delta, attack="l4a", eps=eps, steps=7, step_size=0.1, seed=seed)


@pytest.fixture
def attacks():
    return {"universal": perturbation(0), "pgd": partial(pgd, **PGD)}
