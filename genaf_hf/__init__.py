"""Gen-AF for Hugging Face: vision encoders hardened against downstream-agnostic adversarial examples."""

from genaf_hf.attacks import ATTACKS, UniversalPatch, UniversalPerturbation, l4a, pgd, register_attack
from genaf_hf.data import load_images, with_pixel_values
from genaf_hf.encoders import load_encoder
from genaf_hf.evaluation import evaluate_robustness
from genaf_hf.genaf_config import GenAFConfig
from genaf_hf.genaf_trainer import GenAFTrainer
from genaf_hf.genetic_regularization import genetic_regularization
from genaf_hf.layers import layer_robustness, most_redundant
from genaf_hf.pixel_model import PixelModel
from genaf_hf.report import RobustnessReport

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
