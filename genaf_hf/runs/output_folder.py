"""The folder that a run writes into: apart from what it reads, for one run at a time, and on a disk with room."""

import errno
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from genaf_hf.errors import UserError, first_line

LOCK = "run.lock"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_FOR_SAFETENSORS = re.compile(rf"os error ({'|'.join(map(str, FULL))})\)")
FULL_FOR_TORCH = re.compile("PytorchStreamWriter failed writing|inline_container.*unexpected pos")


def check_apart(output_dir: str | Path, sources: Mapping[str, str]) -> None:
    """Refuses an output folder that is, holds, or lies in a local folder that is read.

    Args:
        output_dir: need not be there.
        sources: Hub id or local folder, by what it is, e.g. `{"dataset": "photos"}`; empty for what has no name.

    Raises:
        UserError: names both.
    """
    ours = Path(output_dir).resolve()
    for what, name in sources.items():
        theirs = Path(name).resolve()
        if not name or not Path(name).exists():
            continue
        if not (ours == theirs or ours in theirs.parents or theirs in ours.parents):
            continue
        relation = "is" if ours == theirs else "holds" if ours in theirs.parents else "lies in"
        raise UserError(
            f"The output_dir {output_dir} {relation} the folder of the {what}, {name}, which it would change: choose "
            "another output_dir."
        )


def check_writable(output_dir: Path) -> None:
    """Refuses an output folder that cannot be made, or not be written into; nothing of the trial is left.

    Raises:
        UserError: says why.
    """
    there = next(each for each in (output_dir, *output_dir.absolute().parents) if each.exists())
    refusal = None
    if PartialState().is_main_process:
        try:
            with TemporaryDirectory(dir=there):
                pass
        except OSError as error:
            refusal = not_writable(output_dir, error)
    refuse_everywhere(refusal)


def refuse_everywhere(refusal: str | None) -> None:
    """Raises on every process what the main one found to refuse, a `UserError`; nothing for None."""
    [refusal] = broadcast_object_list([refusal])
    if refusal is not None:
        raise UserError(refusal)


def not_writable(output_dir: Path, error: OSError) -> str:
    """What is said of an output folder that cannot be written into."""
    return f"{output_dir} cannot be written to ({first_line(error)}): choose another output_dir."


@contextmanager
def room_in(output_dir: str | Path) -> Iterator[None]:
    """Says in one sentence where the disk is full.

    Raises:
        UserError: instead of what the packages raise that write files.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if (reason := why_full(error)) is None:
            raise
        raise UserError(
            f"{output_dir} takes no more files ({reason}): free some space there, and the same command goes on where "
            "the run was."
        ) from error


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Holds a lock, which is a file in a folder that is made.

    The operating system gives it free when the process ends, however it ends. Of one launch, the main process holds it
    for all.

    Args:
        path: of the file.
        wait: until it is free; it is left there then, for others wait for it too.

    Raises:
        UserError: when somebody else holds it, or it cannot be written.
    """
    lock, refusal = FileLock(path), None
    if PartialState().is_main_process:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=wait)
        except Timeout:
            refusal = f"Another run is working in {path.parent}: wait until it has ended, or choose another output_dir."
        except OSError as error:
            refusal = not_writable(path.parent, error)
    refuse_everywhere(refusal)
    try:
        yield
    finally:
        if PartialState().is_main_process:
            if not wait:
                path.unlink(missing_ok=True)  # before it is given free, or it could be somebody else's
            lock.release()


def why_full(error: BaseException | None) -> str | None:
    """What says, in an error or what it came from, that a file could not be written to its end; None where nothing."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return os.strerror(error.errno)
        if isinstance(error, SafetensorError) and (found := FULL_FOR_SAFETENSORS.search(str(error))):
            return os.strerror(int(found[1]))
        if isinstance(error, RuntimeError) and FULL_FOR_TORCH.search(str(error)):
            return "a checkpoint could not be written to its end"  # torch does not say why
        error = error.__cause__ or error.__context__
    return None
