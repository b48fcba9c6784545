"""Defences: an adversary and an objective, named together, one paper a file. Whatever file lies here is registered."""

from importlib import import_module
from pkgutil import iter_modules

from genaf_hf.training.defences.registry import DEFENCES, Defence, KnownDefence, register_defence

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")

__all__ = ["DEFENCES", "Defence", "KnownDefence", "register_defence"]
