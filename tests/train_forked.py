"""Trains by every defence on two and on four processes, all forked from one: python tests/train_forked.py FOLDER"""

import sys
from collections.abc import Mapping
from pathlib import Path

import own_defence
import torch
from accelerate import debug_launcher
from conftest import CLASSES, TINY_VIT
from one_step import batch_norm_model
from recorder import CHECKPOINTING
from transformers import Dinov2Config, Dinov2ForImageClassification

from genaf_hf.training.defences import DEFENCES as REGISTERED

DEFENCES = {name: own_defence.DEFENCES.get(name, {"defence": name}) for name in REGISTERED}
FULL = {"per_device_train_batch_size": 8}
QUARTER = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
# With BatchNorm, whose statistics are of all processes' images.
SHORT = {"make_model": batch_norm_model, "max_steps": 2}
UNEVEN = {**SHORT, "per_device_train_batch_size": 2, "images": 13}  # of which the second batch has 5


def dinov2_model(dtype: torch.dtype) -> Dinov2ForImageClassification:
    """With a mask token, which no classifier reads."""
    torch.manual_seed(0)
    config = Dinov2Config(**{**TINY_VIT, "mlp_ratio": 2}, id2label=dict(enumerate(CLASSES)))
    return Dinov2ForImageClassification(config).to(dtype)


CHECKPOINTED = {"defence": "pgd-at", "make_model": dinov2_model, CHECKPOINTING: True, "max_steps": 3}


def by_every_defence(rows: int) -> dict[str, dict]:
    """Short trainings with batches of so many images on each process."""
    sizes = {**SHORT, "per_device_train_batch_size": rows}
    return {name: {**settings, **sizes} for name, settings in DEFENCES.items()}


def train(folder: Path, trainings: Mapping[str, dict]) -> None:
    """What a process trained, by name."""
    own_defence.register()
    found = {name: own_defence.trained(folder / "run", **settings) for name, settings in trainings.items()}
    torch.save(found, folder / f"{torch.distributed.get_world_size()}-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    accumulated = {f"{name} accumulated": {**each, **QUARTER} for name, each in own_defence.DEFENCES.items()}
    uneven = {"uneven": {**DEFENCES["universal"], **UNEVEN}}
    checkpointed = {"checkpointed": {**CHECKPOINTED, "per_device_train_batch_size": 4}}
    for count, trainings in ((2, by_every_defence(4) | accumulated | checkpointed), (4, by_every_defence(2) | uneven)):
        debug_launcher(train, (Path(sys.argv[1]), trainings), num_processes=count)
