"""Models of timm, and how they are published."""

from pathlib import Path

from torch import nn

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
