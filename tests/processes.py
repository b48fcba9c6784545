"""Processes of their own: the fixture `processes` is this module.

Importing torch and what else takes seconds costs more than most of what tests have Python do. Their processes are
forked from one that has imported it, and nothing that reads the environment while it is imported: neither the Hub's
client nor what is built on it, and nothing of ours.
"""

import importlib
import multiprocessing
import os
import runpy
import site
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

LIBRARIES = "torch._dynamo pandas pyarrow.dataset scipy.stats sklearn.datasets matplotlib.figure jinja2 httpx2 requests"
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(LIBRARIES.split())
LONGEST_SECONDS = 300
LENGTHS_OF_CHECKS, QUICK = ("STEPS", "FAR_STEPS", "QUERIES"), "LENGTH_OF_SELF_CHECKS"  # of which the last is a variable
OWN_PATHS = {"", str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}


def run_alone(command: list, **settings) -> subprocess.CompletedProcess:
    """Runs a command that is not to find anything imported; `settings` are those of `subprocess.run`."""
    return subprocess.run(command, capture_output=True, text=True, **settings)


def run(
    command: Sequence,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    check: bool = False,
) -> subprocess.CompletedProcess:
    """Runs Python with words, and captures what it says; `check` is whether it has to end well."""
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder, name) for name in ("stdout", "stderr")]
        process = start(command, env=env, cwd=cwd, said=said)
        end(process)
        done = subprocess.CompletedProcess(command, process.exitcode, *(path.read_text() for path in said))
    assert done.returncode == 0 or not check, done.stderr
    return done


def start(
    command: Sequence,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    said: Sequence[str | Path] = (os.devnull, os.devnull),
) -> BaseProcess:
    """Starts Python with words; `said` are the files of what it writes to standard output and error."""
    python, *words = map(str, command)
    assert python == sys.executable
    environment, folder = dict(os.environ if env is None else env), str(cwd or os.getcwd())
    process = FORKS.Process(target=be_python, args=(words, environment, folder, [*map(str, said)]))
    process.start()
    return process


def end(process: BaseProcess, seconds: float = LONGEST_SECONDS) -> None:
    """Waits for the end of a process, and makes it where it does not come."""
    process.join(seconds)
    process.kill()
    process.join()


def be_python(words: list[str], environment: dict[str, str], folder: str, said: list[str]) -> None:
    """Does what Python does when it is started with words."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, path in enumerate(said, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = ["", *paths, *(path for path in sys.path if path not in OWN_PATHS)]
    sys.modules.pop("sitecustomize", None)
    site.execsitecustomize()
    sys.orig_argv = [sys.executable, *words]
    kind, *rest = words
    if QUICK in environment and kind != "-c":  # which may do without this package
        self_checks = importlib.import_module("genaf_hf.evaluation.self_checks")
        vars(self_checks).update(dict.fromkeys(LENGTHS_OF_CHECKS, int(environment[QUICK])))
    if kind == "-c":
        sys.argv = [kind, *rest[1:]]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(rest[0], "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(kind).parent)
        runpy.run_path(kind, run_name="__main__")


def start_and_kill(command: Sequence, sign: Path, **settings) -> None:
    """Starts a run and kills it as soon as a file is there; `settings` are those of `start`."""
    process = start(command, **settings)
    while not sign.exists():
        assert process.exitcode is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.join()


def run_on_two_processes(
    *words, ends: Sequence[int] = (0, 0), apart: float = LONGEST_SECONDS, **environment: str
) -> None:
    """Has two processes that know of each other run Python with words, and end so, at most so many seconds apart."""
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with tempfile.TemporaryDirectory() as folder:
        said, started = Path(folder, "said"), []
        for rank in map(str, range(2)):
            env = {**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank, **environment}
            started.append(start([sys.executable, *words], env=env, said=(said, said)))
        wait([each.sentinel for each in started], LONGEST_SECONDS)
        for each in started:
            end(each, apart)
        assert [each.exitcode for each in started] == [*ends], said.read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
