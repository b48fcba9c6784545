"""Public encoders of every family as image classifiers."""

from genaf_hf.encoders.loading import in_head, load_classifier, load_configuration, load_encoder, parameter_count

__all__ = ["in_head", "load_classifier", "load_configuration", "load_encoder", "parameter_count"]
