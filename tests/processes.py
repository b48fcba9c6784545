"""Processes of their own: the fixture `processes` is this module."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


def run(command: list, **settings) -> subprocess.CompletedProcess:
    """Runs a command; `settings` are those of `subprocess.run`."""
    return subprocess.run(command, capture_output=True, text=True, **settings)


def start_and_kill(command: list, sign: Path, **settings) -> None:
    """Starts a run and kills it as soon as a file is there; `settings` are those of `Popen`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **settings)
    while not sign.exists():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def run_on_two_processes(*command, fails: bool = False, **environment: str) -> subprocess.CompletedProcess:
    """Runs a script or a module, and its arguments, by two processes that know of each other, and ends well or not."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = run(
        [*launcher, "--master_port", str(free_port()), *command],
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
