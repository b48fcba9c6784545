"""Each method learns in a few seconds: a linear probe reads more of the digits than from random weights."""

import pytest
import torch
from datasets import DatasetDict
from pretrain_tiny import DECODER, PROCESSOR, tiny_config
from transformers import AutoModelForImageClassification, ViTConfig, ViTMAEConfig, set_seed

from genaf_hf import PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.pretraining import METHODS, Augmentation, DINOSettings, SimCLRSettings, pretrain_encoder

pytestmark = pytest.mark.slow(reason="pre-trains until a probe sees it")

SMALL = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.2,
}
FINER = {**SMALL, "patch_size": 2, "num_hidden_layers": 2, "initializer_range": 0.15}
DECODER_OF_FINER = {**DECODER, "decoder_hidden_size": 32, "decoder_intermediate_size": 64, "mask_ratio": 0.6}
VIEW = Augmentation(8, scale=(0.4, 1.0), flip=False)
LARGE_VIEW = Augmentation(8, scale=(0.7, 1.0), flip=False)
DINO = DINOSettings(hidden_size=128, bottleneck_size=64, prototypes=512, teacher_momentum=0.98)
SIMCLR = SimCLRSettings(temperature=0.2, hidden_size=64, output_size=32)


SMALL_RUNS = {  # steps, learning rate, configuration, views and settings by method
    "mae": (300, 5e-3, ViTMAEConfig(**FINER, **DECODER_OF_FINER), [LARGE_VIEW]),
    "dino": (600, 1e-3, ViTConfig(**SMALL), [VIEW, VIEW], DINO),
    "simclr": (450, 5e-3, ViTConfig(**SMALL), [VIEW, VIEW], SIMCLR),
    "supervised": (150, 5e-3, ViTConfig(**SMALL), [VIEW]),
}


@pytest.fixture(scope="module")
def digits() -> DatasetDict:
    return load_images("digits")


def read_by_probe(model, digits: DatasetDict) -> int:
    """Test images, of 500, that a linear probe on a model's features gets right."""
    encoder = PixelModel(model.eval(), PROCESSOR)
    train, test = (with_pixel_values(digits[split], PROCESSOR)[:] for split in ("train", "test"))
    probe = LinearProbe(encoder, encoder.to_images(train["pixel_values"]), train["labels"])
    with torch.no_grad():
        predictions = probe(encoder.to_images(test["pixel_values"])).argmax(1)
    return int((predictions == test["labels"]).sum())


@pytest.mark.parametrize("method", SMALL_RUNS)
def test_a_probe_reads_more_from_a_trained_encoder_than_from_random_weights(method, digits, tmp_path):
    steps, learning_rate, config, *others = SMALL_RUNS[method]
    training = {"max_steps": steps, "learning_rate": learning_rate, "warmup_steps": 0.1, "max_grad_norm": 3.0}
    set_seed(0)
    args = tiny_config(tmp_path / "encoder", per_device_train_batch_size=64, **training)
    folder = pretrain_encoder(METHODS[method], digits["train"], config, PROCESSOR, args, *others)
    model, _ = load_encoder(str(folder), digits["train"].features["label"].names)
    set_seed(0)
    random = AutoModelForImageClassification.from_config(model.config)
    assert read_by_probe(model, digits) > read_by_probe(random, digits) + 15
