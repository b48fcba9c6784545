"""Builds the API reference from the docstrings.

    pip install -c constraints.txt '.[docs]' && python docs/reference.py

The pages are in docs/reference/ then, of which index.html is the first. A warning ends the build.
"""

import warnings
from pathlib import Path

import pdoc

MODULES = (  # a package stands for all in it, or for the names in its __all__
    "genaf_hf",
    "genaf_hf.adapter_search",
    "genaf_hf.attacks",
    "genaf_hf.audit",
    "genaf_hf.data",
    "genaf_hf.errors",
    "genaf_hf.evaluation",
    "genaf_hf.leaderboard",
    "genaf_hf.models",
    "genaf_hf.pipelines",
    "genaf_hf.pretraining",
    "genaf_hf.sharing",
    "genaf_hf.training",
)


def build(folder: Path) -> None:
    """Writes the pages into a folder.

    Raises:
        Warning: for a module that cannot be imported, or an annotation that cannot be read.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="pdoc")
        # In a checkout of what is installed.
        warnings.filterwarnings("ignore", "'genaf_hf' may refer to either", RuntimeWarning)
        pdoc.render.configure(docformat="google", show_source=False)
        pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    build(Path(__file__).parent / "reference")
