"""Defences: an adversary and an objective, named together, one paper a file. Whatever file lies here is registered.

An adversary that follows gradients has the same defaults in each, those of Gen-AF here, and eps is warmed up, so that
results can be compared; what a paper did, none with a warm-up, is said with its defence.
"""

from importlib import import_module
from pkgutil import iter_modules

from genaf_hf.training.defences.registry import DEFENCES, Defence, KnownDefence, register_defence

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")

__all__ = ["DEFENCES", "Defence", "KnownDefence", "register_defence"]
