"""The processes that a command is made of, its launcher's included, and how all of them end at once."""

import os
import select
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import NoReturn

import psutil

LAUNCHERS = ("torchrun", "accelerate-launch", "torch.distributed.run", "accelerate.commands.launch")
INSTALLED = "genaf-hf"
SUBCOMMANDS = ("accelerate", "accelerate.commands.accelerate_cli")  # of which launch is one
PATIENCE = 10.0  # seconds that the first process has to say what all have found
TICK = 1.0  # seconds between two looks at the launcher


def find_launcher() -> psutil.Process | None:
    """The `accelerate launch` or torchrun that started this process; None where something else did."""
    try:
        parent = psutil.Process(os.getppid())
        return parent if launching_words(parent) else None
    except psutil.Error:
        return None


def launching_words(process: psutil.Process) -> list[str]:
    """A launcher's command line from its name on, without folders; nothing where the process is none."""
    words = process.cmdline()
    for index, word in enumerate(words[:4]):  # python [-m] launcher
        name = Path(word).name
        if name in LAUNCHERS or (name in SUBCOMMANDS and words[index + 1 : index + 2] == ["launch"]):
            return [name, *words[index + 1 :]]
    return []


def command_line() -> str:
    """What started this command, with its launcher."""
    launcher = find_launcher()
    if launcher is not None:
        return shlex.join(launching_words(launcher))
    if Path(sys.argv[0]).name == INSTALLED:
        return shlex.join([INSTALLED, *sys.argv[1:]])
    return shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])


def program() -> list[str]:
    """What a launcher is told to start for this command: a script, or a module."""
    names = {INSTALLED, "__main__.py"}  # the latter is what python -m runs
    return ["-m", "genaf_hf.cli"] if Path(sys.argv[0]).name in names else [sys.argv[0]]


def lost_processes() -> bool:
    """Whether accelerate was asked for several processes and started one, as it does where it finds no second GPU."""
    launcher = find_launcher()
    if launcher is None or "WORLD_SIZE" in os.environ:
        return False
    try:
        before = launcher.environ()
    except psutil.Error:
        return False
    # It tells the address of the first process to the others that it means to start.
    address = ("MASTER_ADDR", "MASTER_PORT")
    return "MASTER_PORT" in os.environ and any(os.environ.get(name) != before.get(name) for name in address)


def end_all(sentence: str, code: int) -> NoReturn:
    """Says a sentence as the last thing, and ends the process with all that it started and all its launcher did.

    A launcher that sees one of its processes fail adds its own traceback, and the others' orphans: it ends first, by a
    signal of which shells say nothing.
    """
    launcher, own = find_launcher(), psutil.Process()
    if sentence and not says():
        time.sleep(PATIENCE)
    elastic = "TORCHELASTIC_RUN_ID" in os.environ  # whose launcher takes SIGTERM as something to report
    try:
        ends = [(each, signal.SIGKILL) for each in (launcher or own).children(recursive=True) if each != own]
    except psutil.Error:
        ends = []
    if launcher:
        ends.insert(0, (launcher, signal.SIGKILL if elastic else signal.SIGTERM))
    for each, how in ends:
        try:
            each.send_signal(how)
        except psutil.Error:  # it ended by itself
            continue
    terminal, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(nowhere, output)  # other threads still work
    os.write(terminal, f"\n{sentence}\n".encode(errors="replace") if sentence else b"")
    os._exit(code)


def says() -> bool:
    """Whether this process is the one that speaks for all on its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def ending_on_signals(sentence: str) -> Iterator[None]:
    """Ends all with a sentence on Ctrl-C, on SIGTERM, and when the launcher is gone.

    A thread of its own does it at once: the main thread may be deep in a computation, and the launcher reports an
    interrupted process after a quarter of a second.
    """
    if current_thread() is not main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    ours = {each for each, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)}
    launcher = find_launcher()
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def ignored(number, frame) -> None:
        """Python's part of what the thread does."""

    def restore() -> None:
        signal.set_wakeup_fd(-1)
        for each in ours:
            if signal.getsignal(each) is ignored:
                signal.signal(each, before[each])

    def watch() -> None:
        while True:
            if select.select([reading], [], [], TICK)[0]:
                number = reading.recv(1)
                if not number:
                    return
                if number[0] in ours and signal.getsignal(number[0]) is ignored:
                    end_all(sentence, 128 + number[0])
            elif launcher and os.getppid() != launcher.pid:
                end_all(sentence if says() else "", 128 + signal.SIGTERM)

    for each in ours:
        signal.signal(each, ignored)
    signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    os.register_at_fork(after_in_child=restore)
    thread = Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        restore()
        writing.close()
        thread.join()
        reading.close()
