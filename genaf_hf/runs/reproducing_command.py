"""The command that does a run again."""

import json
import shlex
from collections.abc import Mapping

from genaf_hf.values.provenance import public_name


def reproducing_command(command: str, settings: Mapping, processes: int = 1, *, device: str = "cuda") -> str:
    """The command line that does a run again, on one line, a local path by its name alone.

    Args:
        command: of `genaf-hf`, e.g. `"harden"`.
        settings: values by flag, as JSON holds them; those that are None are left out.
        processes: how many shared the work.
        device: type of the device of each; on CPUs accelerate would start one process alone.
    """
    if processes == 1:
        launch = ["genaf-hf", command]
    elif device == "cpu":
        launch = ["torchrun", "--nproc_per_node", str(processes), "-m", "genaf_hf.cli", command]
    else:
        launch = ["accelerate", "launch", "--num_processes", str(processes), "-m", "genaf_hf.cli", command]
    flags = []
    for name, value in settings.items():
        if value is not None:
            words = value if isinstance(value, list) else [value]
            words = [public_name(each) if isinstance(each, str) else json.dumps(each) for each in words]
            flags += [f"--{name}", *words]
    return shlex.join(" ".join(word.split()) for word in launch + flags)
