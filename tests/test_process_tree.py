"""How a command ends under its launchers, by real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from genaf_hf.cli import process_tree

# Without the package, whose import takes longer than all that is tested.
SCRIPT = f"""
import hashlib, importlib.util, os, subprocess, sys, time
spec = importlib.util.spec_from_file_location("process_tree", {process_tree.__file__!r})
tree = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tree)
with tree.ending_on_signals("Stopped: " + tree.command_line()):
    if "wait" in sys.argv:
        subprocess.Popen(["sleep", "300"])
        open(f"ready.{{os.environ.get('LOCAL_RANK', 0)}}", "w").close()
        while "busy" not in sys.argv:
            print("at work", flush=True)
            time.sleep(0.001)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # lets other threads run, but no signal handler
    if "lost" in sys.argv:
        print("lost" if tree.lost_processes() else "all here")
        sys.exit()
    tree.end_all("What is wrong.", 3)
"""
ACCELERATE = ["accelerate", "launch"]
TORCHRUN = ["torchrun", "--nproc_per_node", "2", "--master_port"]


@pytest.fixture
def start(processes, tmp_path):
    """A function that starts the script by a launcher, in a group of its own, and leaves nothing behind."""
    (tmp_path / "script.py").write_text(SCRIPT)
    started = []

    def start(launcher: list[str], *words: str, **environment: str) -> subprocess.Popen:
        port = [str(processes.free_port())] if launcher == TORCHRUN else []
        command = [launcher[0], *launcher[1:], *port, "script.py", *words]
        command[0] = str(Path(sys.executable).parent / command[0])
        with (tmp_path / "said").open("w") as said:
            started.append(
                subprocess.Popen(
                    command,
                    cwd=tmp_path,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **environment},
                )
            )
        return started[-1]

    yield start
    for run in started:
        for each in left(run.pid):
            each.kill()


def session_of(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None


def left(session: int) -> list[psutil.Process]:
    """Processes of a session that still run."""
    ended = psutil.STATUS_ZOMBIE
    alive = (each for each in psutil.process_iter(["status"]) if each.info["status"] != ended)
    return [each for each in alive if session_of(each) == session]


def wait_for(found, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", [["python"], ACCELERATE, TORCHRUN], ids=lambda words: words[0])
def test_the_sentence_is_the_last_thing_said_and_said_once(start, launcher, tmp_path):
    run = start(launcher)
    assert run.wait(120) != 0
    wait_for(lambda: not left(run.pid))
    said = (tmp_path / "said").read_text()
    assert said.endswith("\nWhat is wrong.\n")
    assert said.count("What is wrong.") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("launcher", "words", "end"),
    [
        (["python"], ["busy"], lambda run: run.send_signal(signal.SIGINT)),
        (["python"], [], lambda run: run.terminate()),
        (ACCELERATE, ["busy"], lambda run: os.killpg(run.pid, signal.SIGINT)),  # as a terminal does
        (ACCELERATE, [], lambda run: run.terminate()),
        (TORCHRUN, [], lambda run: os.killpg(run.pid, signal.SIGINT)),
        (TORCHRUN, [], lambda run: run.terminate()),
    ],
)
def test_what_is_stopped_says_what_goes_on_and_leaves_no_process(start, launcher, words, end, tmp_path):
    run = start(launcher, "wait", *words)
    ranks = 2 if launcher == TORCHRUN else 1
    wait_for(lambda: len(list(tmp_path.glob("ready.*"))) == ranks)
    end(run)
    assert run.wait(60) != 0
    wait_for(lambda: not left(run.pid), 60)
    said = (tmp_path / "said").read_text()
    assert said.count("Stopped: ") == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"Stopped: {' '.join(launcher)[:6]}")
    assert last.endswith(" ".join(["script.py", "wait", *words]))
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("launcher", "environment", "answer"),
    [
        ([*ACCELERATE, "--cpu", "--num_processes", "2"], {}, "lost"),
        ([*ACCELERATE, "--num_processes", "1"], {"MASTER_ADDR": "here", "MASTER_PORT": "1"}, "all here"),
        (["python"], {"MASTER_ADDR": "here", "MASTER_PORT": "1"}, "all here"),
    ],
)
def test_one_process_where_several_were_asked_for_is_seen(start, launcher, environment, answer, tmp_path):
    assert start(launcher, "lost", **environment, CUDA_VISIBLE_DEVICES="").wait(120) == 0
    assert (tmp_path / "said").read_text().strip().endswith(answer)
