"""The CPU gives an accelerator its work ahead: no step of a training or an attack has it wait for a value.

What waits are operations that make a Python value, or a shape, of a tensor's values. They are counted on the CPU, where
they are the same; a longer run has no more of them than a short one.
"""

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from accelerate.utils import send_to_device
from conftest import SIDE, colored_images
from pretrain_tiny import tiny_config
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from train_tiny import PROCESSOR, tiny_model, tiny_trainer
from transformers import ResNetConfig, ResNetForImageClassification

from genaf_hf import ATTACKS, PixelModel
from genaf_hf.pretraining import Augmentation
from genaf_hf.pretraining.view_trainer import ViewTrainer
from genaf_hf.training.checked_batches import CheckedBatches
from genaf_hf.training.defences import DEFENCES

aten = torch.ops.aten
WAITS = {
    *(aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero),
    *(aten._unique2, aten.unique_dim, aten.repeat_interleave),
}
BY_MASK = {aten.index, aten.index_put, aten.index_put_}
# Those go by what they find, rows that are queried no more and boundaries that are crossed.
GO_BY_VALUES = {"square", "uap", "autoattack"}


class Waits(TorchDispatchMode):
    """Collects the operations for which the CPU would wait."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        packet = function.overloadpacket
        masks = args[1] if packet in BY_MASK else []
        if packet in WAITS or any(mask is not None and mask.dtype in (torch.bool, torch.uint8) for mask in masks):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def tiny_resnet() -> ResNetForImageClassification:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    return ResNetForImageClassification(ResNetConfig(**sizes, num_labels=3))


def waits(run: Callable[[], object]) -> list[str]:
    with Waits() as mode:
        run()
    return mode.found


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Leaves out what is on the CPU wherever the model is: batches while they are made, and the steps of Adam."""

    def unseen(function: Callable) -> Callable:
        def call(*args):
            with _disable_current_modes():
                return function(*args)

        return call

    monkeypatch.setattr(CheckedBatches, "__call__", unseen(CheckedBatches.__call__))
    adam = import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_get_value", unseen(adam._get_value))


@pytest.mark.slow(reason="trains")
@pytest.mark.parametrize("defence", [name for name in DEFENCES if name != "none"])
def test_no_step_of_a_training_waits(tmp_path, defence):
    def train(steps: int) -> Callable[[], object]:
        settings = {"defence": defence, "max_steps": steps, "logging_strategy": "no"}
        if "eps" in DEFENCES[defence].defaults:
            settings["eps"] = 0.1
        model = tiny_resnet() if defence == "twins" else None  # which is for those with BatchNorm
        trainer = tiny_trainer(tmp_path, images=40, model=model, **settings)
        trainer.begin_adversary()
        return trainer.adversarial_finetune

    assert waits(train(4)) == waits(train(2))


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in GO_BY_VALUES])
def test_no_step_of_an_attack_waits(name):
    model = PixelModel(tiny_model(), PROCESSOR)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(6, 3, SIDE, SIDE, generator=generator), torch.arange(6) % 3
    attack = ATTACKS[name]
    if "steps" not in attack.setting_names:
        pytest.skip("has one step")
    given = [{"images": images, "labels": labels}[need] for need in attack.needs[1:]]

    # Random places of a patch are drawn on the CPU, and PGD asks in a report, not in a training, which images stand.
    settings = {"place": "fixed", "keep_best": False}
    settings = {name: value for name, value in settings.items() if name in attack.setting_names}

    def run(steps: int) -> Callable[[], object]:
        return lambda: attack.configure(steps=steps, **settings)(model, *given)

    waits(run(1))  # which finds the names of the layers
    assert waits(run(5)) == waits(run(2))


def test_no_view_of_a_pretraining_waits(tmp_path):
    """On the device "meta" a tensor has no values that could be waited for."""
    probabilities = dict.fromkeys(("brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize"), 0.4)
    view = Augmentation(SIDE, **probabilities)
    trainer = ViewTrainer(tiny_model(), tiny_config(tmp_path), colored_images(6, 0), PROCESSOR, [view], labels=True)
    [batch] = trainer.get_train_dataloader()
    [seen] = trainer.views(send_to_device(batch, "meta"))
    assert seen.shape == batch["pixel_values"].shape
