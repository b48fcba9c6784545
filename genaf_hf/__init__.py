"""Gen-AF for Hugging Face: vision encoders hardened against downstream-agnostic adversarial examples.

The public names are imported when they are first used, so that `import genaf_hf` costs less than `import torch`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from genaf_hf.models.auto_classes import register_in_time

if TYPE_CHECKING:
    from genaf_hf.attacks import ATTACKS, UniversalPatch, UniversalPerturbation, l4a, pgd, register_attack
    from genaf_hf.data import load_images, with_pixel_values
    from genaf_hf.evaluation.evaluate import evaluate_robustness
    from genaf_hf.evaluation.report import RobustnessReport
    from genaf_hf.models.loading import load_encoder
    from genaf_hf.models.pixel_model import PixelModel
    from genaf_hf.training.config import GenAFConfig
    from genaf_hf.training.genetic_regularization import genetic_regularization
    from genaf_hf.training.layers import layer_robustness, most_redundant
    from genaf_hf.training.trainer import GenAFTrainer

__version__ = "0.1.0"

__all__ = [
    "ATTACKS",
    "GenAFConfig",
    "GenAFTrainer",
    "PixelModel",
    "RobustnessReport",
    "UniversalPatch",
    "UniversalPerturbation",
    "evaluate_robustness",
    "genetic_regularization",
    "l4a",
    "layer_robustness",
    "load_encoder",
    "load_images",
    "most_redundant",
    "pgd",
    "register_attack",
    "with_pixel_values",
]

MODULES = {  # that the names are from
    "ATTACKS": "attacks",
    "GenAFConfig": "training.config",
    "GenAFTrainer": "training.trainer",
    "PixelModel": "models.pixel_model",
    "RobustnessReport": "evaluation.report",
    "UniversalPatch": "attacks",
    "UniversalPerturbation": "attacks",
    "evaluate_robustness": "evaluation.evaluate",
    "genetic_regularization": "training.genetic_regularization",
    "l4a": "attacks",
    "layer_robustness": "training.layers",
    "load_encoder": "models.loading",
    "load_images": "data",
    "most_redundant": "training.layers",
    "pgd": "attacks",
    "register_attack": "attacks",
    "with_pixel_values": "data",
}

register_in_time()


def __getattr__(name: str):
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
