"""Gen-AF for Hugging Face: vision encoders hardened against downstream-agnostic adversarial examples."""

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
