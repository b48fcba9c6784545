"""Supervised pre-training: cross-entropy on labels."""

from transformers import AutoModelForImageClassification, PreTrainedConfig

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.methods.registry import Settings, register_method
from genaf_hf.pretraining.view_trainer import ViewTrainer


@register_method(title="cross-entropy on the labels", views=(Augmentation(224),), labelled=True)
def supervised(config: PreTrainedConfig, settings: Settings, *others) -> ViewTrainer:
    """A classifier, which is kept with its head."""
    return ViewTrainer(AutoModelForImageClassification.from_config(config), *others, labels=True)
