"""CLIP, and its vision tower published alone."""

from genaf_hf.models.families.family import FAMILIES, Family

FAMILIES.add("clip", Family(pooling="mean"))
FAMILIES.add("clip_vision_model", Family(classifier="clip"))
