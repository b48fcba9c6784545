"""Public encoders made here: by a masked autoencoder, DINO, SimCLR and labels, as ordinary Hub checkpoints."""

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.dino import DINOSettings, pretrain_dino
from genaf_hf.pretraining.mae import pretrain_mae
from genaf_hf.pretraining.simclr import SimCLRSettings, pretrain_simclr
from genaf_hf.pretraining.supervised import pretrain_supervised

__all__ = [
    "Augmentation",
    "DINOSettings",
    "SimCLRSettings",
    "pretrain_dino",
    "pretrain_mae",
    "pretrain_simclr",
    "pretrain_supervised",
]
