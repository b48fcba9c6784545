"""Folders of public encoders and classifiers: fixtures that a file of tests imports by name."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, SIDE
from torch import nn
from transformers import ViTImageProcessor

from genaf_hf import load_encoder

PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.fixture
def changed(encoders, tmp_path):
    """A copy of the DINO-style encoder's folder, to be damaged."""
    return Path(shutil.copytree(encoders["dino"], tmp_path / "changed"))


@pytest.fixture
def classifier(encoders, tmp_path):
    """The folder of a saved classifier of the three classes, and its weights."""
    torch.manual_seed(1)
    model, processor = load_encoder(encoders["dino"], CLASSES)
    nn.init.normal_(model.classifier.bias)
    model.save_pretrained(tmp_path / "classifier")
    processor.save_pretrained(tmp_path / "classifier")
    return str(tmp_path / "classifier"), model.state_dict()


def refusal(name, labels=CLASSES, **options) -> str:
    """The one sentence by which loading an encoder refuses it."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        load_encoder(str(name), labels, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)
