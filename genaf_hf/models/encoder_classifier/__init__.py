"""The one model class of our own, for what no class of `transformers` holds; known to the Auto classes once imported.

Its two modules import nothing else of ours, because `save_pretrained` copies them beside the weights, for those who
load with `trust_remote_code=True` and without this package.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from genaf_hf.models.encoder_classifier.configuration_encoder_classifier import EncoderClassifierConfig
from genaf_hf.models.encoder_classifier.modeling_encoder_classifier import EncoderForImageClassification

AutoConfig.register(EncoderClassifierConfig.model_type, EncoderClassifierConfig)
AutoModel.register(EncoderClassifierConfig, EncoderForImageClassification)
AutoModelForImageClassification.register(EncoderClassifierConfig, EncoderForImageClassification)
EncoderClassifierConfig.register_for_auto_class()
EncoderForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["EncoderClassifierConfig", "EncoderForImageClassification"]
