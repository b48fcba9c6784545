"""Pre-trains tiny encoders, also in two processes: python -m torch.distributed.run ... tests/pretrain_tiny.py FOLDER"""

import sys
from dataclasses import replace
from pathlib import Path

import torch
from conftest import SIDE, TINY_VIT, colored_images
from torch import distributed
from transformers import ResNetConfig, ViTConfig, ViTImageProcessor, ViTMAEConfig, set_seed

from genaf_hf.pretraining import METHODS, Augmentation, DINOSettings, SimCLRSettings, pretrain_encoder
from genaf_hf.pretraining.arguments import PretrainingConfig

PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
VIEW = Augmentation(SIDE, scale=(0.5, 1.0), brightness=0.4, blur=0.5)
LOCAL = Augmentation(4, scale=(0.2, 0.5))
DECODER = {
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}
TINY_DINO = DINOSettings(hidden_size=16, bottleneck_size=8, prototypes=12, teacher_momentum=0.9)
TINY_SIMCLR = SimCLRSettings(hidden_size=16, output_size=8)
TINY = {  # configuration, views and settings by method
    "mae": (ViTMAEConfig(**TINY_VIT, **DECODER), [VIEW]),
    "dino": (ViTConfig(**TINY_VIT), [VIEW, VIEW, LOCAL, LOCAL], TINY_DINO),
    "simclr": (ViTConfig(**TINY_VIT), [VIEW, VIEW], TINY_SIMCLR),
    "supervised": (ViTConfig(**TINY_VIT), [VIEW]),
}


RESNET = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
DISTRIBUTED = {  # whose gradients depend on the global batch, or whose draws on the images of all processes
    "dino": TINY["dino"],
    "simclr": TINY["simclr"],
    "mae": TINY["mae"],
    "dino-batch-norm": (*TINY["dino"][:2], replace(TINY_DINO, batch_norm=True)),
    "dino-resnet": (RESNET, *TINY["dino"][1:]),
    "simclr-resnet": (RESNET, *TINY["simclr"][1:]),
    "supervised-resnet": (RESNET, [VIEW]),
}


def tiny_config(folder: Path, **changes) -> PretrainingConfig:
    settings = {
        "output_dir": str(folder),
        "max_steps": 4,
        "learning_rate": 3e-3,
        "warmup_steps": 0,
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return PretrainingConfig(**{**settings, **changes})


def pretrain_tiny(name: str, folder: Path, **changes) -> Path:
    """A tiny encoder after some steps on 24 colored images, in an epoch of which there are three.

    Args:
        name: of a method, or of what is in `DISTRIBUTED`.
        folder: for the encoder.
        changes: of the configuration of the training.
    """
    set_seed(0)
    config, *others = (DISTRIBUTED | TINY)[name]
    method, args = METHODS[name.split("-")[0]], tiny_config(folder, **changes)
    return pretrain_encoder(method, colored_images(24, 0), config, PROCESSOR, args, *others)


def train_distributed(folder: Path, batch_size: int) -> None:
    """Encoders by several processes or by one. Without moments, rounding stays rounding."""
    for name in DISTRIBUTED:
        pretrain_tiny(name, folder / name, per_device_train_batch_size=batch_size, optim="sgd", learning_rate=0.1)


if __name__ == "__main__":
    train_distributed(Path(sys.argv[1]), batch_size=4)
    assert distributed.get_world_size() == 2
    assert not torch.cuda.is_available()
