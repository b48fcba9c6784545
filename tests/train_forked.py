"""Trains by every defence on two and on four processes, all forked from one: python tests/train_forked.py FOLDER"""

import sys
from collections.abc import Mapping
from pathlib import Path

import own_defence
import torch
from accelerate import debug_launcher
from one_step import batch_norm_model

from genaf_hf.training.defences import DEFENCES as REGISTERED

DEFENCES = {name: own_defence.DEFENCES.get(name, {"defence": name}) for name in REGISTERED}
FULL = {"per_device_train_batch_size": 8}
ON_TWO = {
    "half": {"per_device_train_batch_size": 4},
    "quarter": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
}
# With BatchNorm, whose statistics are of all processes' images.
SHORT = {"make_model": batch_norm_model, "max_steps": 2}
FOURTH = {**SHORT, "per_device_train_batch_size": 2}
UNEVEN = {**FOURTH, "images": 13}  # of which the second batch has 5


def train(folder: Path, trainings: Mapping[str, dict]) -> None:
    """What a process trained, by name."""
    own_defence.register()
    found = {name: own_defence.trained(folder / "run", **settings) for name, settings in trainings.items()}
    torch.save(found, folder / f"{torch.distributed.get_world_size()}-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    two = {
        f"{name} {batch}": {**settings, **sizes}
        for name, settings in own_defence.DEFENCES.items()
        for batch, sizes in ON_TWO.items()
    }
    four = {name: {**settings, **FOURTH} for name, settings in DEFENCES.items()}
    for count, trainings in ((2, two), (4, {**four, "uneven": {**DEFENCES["universal"], **UNEVEN}})):
        debug_launcher(train, (Path(sys.argv[1]), trainings), num_processes=count)
