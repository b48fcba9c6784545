"""Models of timm, and how they are published.

timm imports torchvision, whose wheel for GPUs cannot be loaded beside a torch that is built for the CPU. timm needs
nothing of its operators, but they have to be known: `pytest -p timm_models` sees to this before anything is imported.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

if find_spec("torchvision") and torch.version.cuda is None and not version("torchvision").endswith("+cpu"):
    OPERATORS = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

try:
    import timm
except ModuleNotFoundError:
    timm = None


def of_timm(architecture: str, side: int, **model_args) -> nn.Module:
    """A model for five classes, which tells that its images have so many pixels a side."""
    model = timm.create_model(architecture, num_classes=5, **model_args)
    model.pretrained_cfg["input_size"], model.model_args = (3, side, side), model_args
    return model


def publish(model: nn.Module, folder: Path) -> None:
    """Writes what timm would push to the Hub."""
    timm.models.save_for_hf(model, folder, model_args=model.model_args, safe_serialization=True)
