"""Running statistics that models of transformers would take from their last batch alone."""

import pytest
import torch
from conftest import SIDE
from torch import nn
from train_tiny import tiny_trainer
from transformers import (
    AutoModelForImageClassification,
    EfficientNetConfig,
    MobileNetV1Config,
    MobileNetV2Config,
)

from genaf_hf.models.batch_norm import average_over_batches, batch_norms


def test_statistics_are_averages_over_batches():
    norm = nn.BatchNorm1d(1, momentum=0.9997)
    model = nn.Sequential(norm, nn.BatchNorm1d(1, momentum=0.3), nn.BatchNorm1d(1, momentum=None))
    average_over_batches(model)
    assert [each.momentum for each in model] == [0.1, 0.3, None]
    for mean in (10.0, 20.0):
        norm(torch.tensor([[mean - 1], [mean + 1]]))
    assert norm.running_mean.item() == pytest.approx(0.9 * (0.1 * 10) + 0.1 * 20)


@pytest.mark.parametrize(
    "config",
    [
        MobileNetV1Config(image_size=SIDE, depth_multiplier=0.25),
        MobileNetV2Config(image_size=SIDE, depth_multiplier=0.1, min_depth=4, depth_divisible_by=4),
        EfficientNetConfig(image_size=SIDE, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128),
    ],
    ids=lambda config: config.model_type,
)
def test_a_training_averages_them_where_the_family_does_not(tmp_path, config):
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config)
    assert max(each.momentum for each in batch_norms(model).values()) > 0.9
    trainer = tiny_trainer(tmp_path, model=model)
    assert {each.momentum for each in batch_norms(trainer.model).values()} == {0.1}
