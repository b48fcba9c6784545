"""The one model class of our own, known to the Auto classes of `transformers` as soon as these are there."""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

AUTO_CLASSES = "transformers.models.auto.modeling_auto"


class RegisteringFinder(MetaPathFinder):
    """Has the Auto classes know ours once they are imported, by whomever."""

    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        if fullname != AUTO_CLASSES:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module) -> None:
            execute(module)
            register()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]  # of this loader alone
        return spec


def register() -> None:
    """Registers ours, which its import does."""
    import_module("genaf_hf.models.encoder_classifier")


def register_in_time() -> None:
    """Registers ours now where `transformers` is there, else when it is: importing it takes half a second."""
    if AUTO_CLASSES in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, RegisteringFinder())
