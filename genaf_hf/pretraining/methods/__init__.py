"""Methods of pre-training, one paper a file: views, settings, model and loss. Whatever file lies here is registered.

The default of `genaf-hf pretrain --method NAME` is `cli/configs/pretrain_digits_NAME.yaml`.
"""

from importlib import import_module
from pkgutil import iter_modules

from genaf_hf.pretraining.methods.registry import METHODS, Method, Settings, register_method

for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")

__all__ = ["METHODS", "Method", "Settings", "register_method"]
