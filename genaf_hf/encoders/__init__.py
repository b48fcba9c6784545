"""Public encoders of every family as image classifiers."""

from genaf_hf.encoders.loading import load_classifier, load_configuration, load_encoder, parameter_count

__all__ = ["load_classifier", "load_configuration", "load_encoder", "parameter_count"]
