"""Fast feature fool (Mopuri et al., BMVC 2017)."""

import math

import pytest
import torch
from small_attacks import EPS

from genaf_hf import PixelModel
from genaf_hf.attacks import ATTACKS, fff
from genaf_hf.attacks.fff import log_energy


def test_fast_feature_fool_needs_no_data(vit):
    crafted = fff(PixelModel(*vit), eps=EPS, steps=3)
    assert ATTACKS["fff"].needs == ("encoder",)
    assert crafted.delta.shape == (3, 8, 8)
    assert crafted.data == "none"


def test_its_objective_by_hand():
    states = (torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    assert log_energy(states).item() == pytest.approx(math.log(5 / 2) + math.log(2 / 2))
