"""Python as a user of a local Hub runs it, in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import processes
from local_hub import LocalHub

TOKEN = "hf_plantedSoThatItCanBeSearchedFor"
USER = "planted-user-of-this-machine"
HASTY = Path(__file__).parent / "hasty"

# Runs a script or a module for each list of words in JSON, and prints what each says where it ends with an error.
SEVERAL = """
import json, runpy, sys

said = []
for program, *words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    run = runpy.run_path if program.endswith(".py") else runpy.run_module
    try:
        run(program, run_name="__main__")
        said.append("")
    except SystemExit as end:
        said.append(end.code)
print("\\n" + json.dumps(said))
"""


def run_as_user(
    hub: LocalHub, place: Path, *command: str | Path, token: str | None = TOKEN, **environment: str
) -> subprocess.CompletedProcess:
    """Runs Python in a folder, from an empty home and cache below it. Waits are short; `place / "waits"` lists them."""
    home = Path(tempfile.mkdtemp(prefix="home-", dir=place))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home / "huggingface"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "MPLCONFIGDIR": matplotlib.get_cachedir(),
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join((str(HASTY), str(HASTY.parents[1]))),  # this checkout, wherever it is
        "WAITS": str(place / "waits"),
        **dict.fromkeys(("USER", "LOGNAME"), USER),
        **({"HF_TOKEN": token} if token else {}),
        **environment,
    }
    return processes.run([sys.executable, *command], env={**inherited, **settings}, cwd=place)


def run_several(hub: LocalHub, place: Path, runs: list[list], **environment: str) -> list[str]:
    """Runs scripts or modules with words in one process, and gives what each says where it ends with an error."""
    done = run_as_user(hub, place, "-c", SEVERAL, json.dumps(runs, default=str), **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
