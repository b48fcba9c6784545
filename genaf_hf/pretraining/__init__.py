"""Public encoders made here: by a masked autoencoder, DINO, SimCLR and labels, as ordinary Hub checkpoints."""

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.encoder import pretrain_encoder
from genaf_hf.pretraining.methods import METHODS
from genaf_hf.pretraining.methods.dino import DINOSettings
from genaf_hf.pretraining.methods.simclr import SimCLRSettings

__all__ = ["METHODS", "Augmentation", "DINOSettings", "SimCLRSettings", "pretrain_encoder"]
