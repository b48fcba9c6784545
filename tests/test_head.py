"""Which part of a model is its classification head."""

from types import SimpleNamespace

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn
from train_tiny import tiny_model

from genaf_hf.models.head import HEAD, find_head, head_name, head_of, in_head


def test_the_head_is_told_from_the_encoder():
    model = tiny_model()
    assert head_of(model) is model.classifier
    assert head_name(model) == HEAD
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=[HEAD]))
    assert head_name(adapted) == "base_model.model.classifier"
    assert in_head("base_model.model.classifier.modules_to_save.default.bias", head_name(adapted))
    assert in_head("classifier", HEAD)
    assert not in_head("vit.layers.0.mlp.fc1.weight", HEAD)
    assert not in_head("vit.classifier.weight", HEAD)
    assert not in_head("classifiers.weight", HEAD)


def test_a_model_without_a_head_is_refused():
    assert find_head(nn.Linear(3, 4)) is None
    with pytest.raises(ValueError, match='A Linear has no head by the name "classifier", expected a classifier'):
        head_name(nn.Linear(3, 4))


def timm_wrapped(head: nn.Module) -> nn.Module:
    """A classifier that is made as the wrapper of `transformers` is, around a model with this head."""
    inner = nn.Module()
    inner.head, inner.get_classifier = head, lambda: head
    outer = nn.Module()
    outer.timm_model, outer.config = inner, SimpleNamespace(model_type="timm_wrapper")
    return outer


def test_a_list_of_heads_is_no_head():
    pooling = nn.Module()
    pooling.classifier = nn.ModuleList([nn.AdaptiveAvgPool2d(1), nn.Flatten()])  # as that of HGNetV2 is
    assert find_head(pooling) is None
    assert find_head(timm_wrapped(nn.ModuleList([nn.Linear(2, 3)]))) is None
    assert find_head(timm_wrapped(nn.Linear(2, 3))) is not None
