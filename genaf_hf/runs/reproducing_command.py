"""The command that does a run again."""

import json
import shlex
from collections.abc import Mapping

from genaf_hf.values.provenance import public_name


def reproducing_command(script: str, settings: Mapping, processes: int = 1, *, device: str = "cuda") -> str:
    """The command that runs a recipe with these settings, on one line, a local path by its name alone.

    Args:
        script: the recipe, e.g. `"recipes/genaf_vit.py"`.
        settings: values by flag, as JSON holds them; those that are None are left out.
        processes: how many shared the work.
        device: type of the device of each; on CPUs accelerate would start one process alone.
    """
    launch = ["accelerate", "launch", "--num_processes", str(processes), script]  # else one for each GPU
    if device == "cpu" and processes > 1:
        launch = ["torchrun", "--nproc_per_node", str(processes), script]
    flags = []
    for name, value in settings.items():
        if value is not None:
            words = [public_name(value) if isinstance(value, str) else json.dumps(value)]
            flags += [f"--{name}", *(map(str, value) if isinstance(value, list) else words)]
    return shlex.join(" ".join(word.split()) for word in launch + flags)
