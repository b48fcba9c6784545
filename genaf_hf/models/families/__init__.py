"""Families of encoders about which something is odd, one file each. Whatever file lies here is registered.

They are known by torch alone: what they say of a configuration or a model of `transformers` are names and functions.
"""

from importlib import import_module
from pkgutil import iter_modules

from genaf_hf.models.families.family import FAMILIES, Family, encoder_part, family_in, family_of

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")

__all__ = ["FAMILIES", "Family", "encoder_part", "family_in", "family_of"]
