"""The command `genaf-hf`, and the one place where errors become sentences. Help is said without importing torch."""

import ctypes
import io
import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from genaf_hf.cli.help_pages import COMMANDS, HELP, module_of, read_page
from genaf_hf.cli.process_tree import command_line, end_all, ending_on_signals, find_launcher, lost_processes, program
from genaf_hf.errors import UserError

HELP_ALL, DEBUG = {"--help-all", "--help_all"}, "--debug"
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # in malloc.h
SECRET = re.compile(r"token|://[^/\s]*@")


def main(command: str | None = None, **settings) -> None:
    """Runs the command line.

    Args:
        command: a name of `COMMANDS`, default the first word; recipes name theirs.
        settings: for the command's own `main`.
    """
    words = [word for word in sys.argv[1:] if word != DEBUG]
    run(lambda: dispatch(command, words, settings), debug=DEBUG in sys.argv[1:])


def dispatch(command: str | None, words: list[str], settings: dict) -> None:
    """Does what the words ask for.

    Raises:
        UserError: for an unknown command, and what the command itself refuses.
    """
    if command is None:
        command = words.pop(0) if words else "--help"
    if command in HELP:
        say(read_page("genaf-hf"))
    elif command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, 1) or [f"one of {', '.join(COMMANDS)}"]
        raise UserError(f'There is no command "{command}", expected {near[0]}; genaf-hf --help tells what each does.')
    elif HELP & {*words} and not (command == "harden" and names_a_model(words)):
        say(read_page(command))
    elif HELP_ALL & {*words}:
        parser = module_of(command).parser()
        parser.prog = f"genaf-hf {command}"
        parser.print_help()
    else:
        module_of(command).main(words, **settings)


def say(page: str) -> None:
    """Prints a page to whoever reads it, also where that is `head`."""
    try:
        print(page, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end


def names_a_model(words: list[str]) -> bool:
    """Whether help can tell of the defaults that a model gets."""
    return any(word.startswith(("--model_name", "--model-name")) for word in words)


def run(work: Callable[[], None], *, debug: bool = False) -> None:
    """Runs a command, whose end is one sentence where its user can mend what is wrong, or has stopped it.

    Other exceptions are faults of ours and keep their traceback. Under a launcher, which would add one of its own to
    every end but a good one, the sentence is the last thing said too.

    Args:
        work: reads the command line, works, and prints the result.
        debug: whether the sentence has its traceback before it.
    """
    if not hasattr(os, "fork"):
        sys.exit("genaf_hf runs on Linux and macOS; on Windows use it within WSL.")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # whose encoding may lack letters of names, as in files of Windows
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    keep_large_buffers()
    command = command_line()
    stopped = "Stopped; the same command goes on" + ("." if SECRET.search(command) else f": {command}")
    with ending_on_signals(stopped):
        try:
            check_processes()
            work()
        except UserError as error:
            if debug:
                traceback.print_exc()
            end(f"\n{error}")
        except KeyboardInterrupt:
            end(f"\n{stopped}")
        except SystemExit as ended:
            if ended.code not in (None, 0):
                end(ended.code)
            raise


def keep_large_buffers() -> None:
    """Has glibc keep memory that is given back, up to 2 GiB, where every tensor of over 32 MiB is a new mapping else.

    The system clears its pages anew at each step, which takes half of a CPU's time with batches of photographs. Other C
    libraries are left as they are.
    """
    if hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(MMAP_THRESHOLD, 2**30)
        library.mallopt(TRIM_THRESHOLD, 2**31 - 1)


def end(code: str | int) -> NoReturn:
    """Ends the process as `sys.exit` does, and its launcher with it."""
    if find_launcher() is None:
        sys.exit(code)
    sys.stdout.flush()
    logging.shutdown()
    end_all(*((code.strip(), 1) if isinstance(code, str) else ("", code)))


def check_processes() -> None:
    """Refuses to work alone where several processes were asked for; the `UserError` says how to get them."""
    if lost_processes():
        given = any(word.startswith(("--use_cpu", "--use-cpu")) for word in sys.argv)
        trains = "audit" not in (Path(sys.argv[0]).stem, *sys.argv[1:2])  # else there is no such flag
        cpu = ["--use_cpu"] if trains and not given else []
        words = ["..."] if SECRET.search(shlex.join(sys.argv)) else sys.argv[1:]
        command = shlex.join(["torchrun", "--nproc_per_node", "2", *program(), *words, *cpu])
        raise UserError(
            "accelerate launch was asked for several processes but started one, as it finds no second GPU: leave out "
            f"--num_processes, or have two on the CPU by {command}"
        )
