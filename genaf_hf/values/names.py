"""Names of other people's classes and files, as sentences, tables and pictures hold them."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

SHOWN_LETTERS, WRITTEN_LETTERS, TOLD_LETTERS = 24, 100, 1000  # of a name in a picture, a text and a refusal
NAMED_AT_ONCE = 5


def shortened(name: str, longest: int = SHOWN_LETTERS) -> str:
    """A name of one line, and of a length that leaves room for the rest."""
    cut = name if len(name) <= longest else f"{name[: longest - 3]}..."
    return "".join(letter if letter.isprintable() else " " for letter in cut)


def told(name: object) -> str:
    """A path, a type or a list of names as a refusal tells it: whole, unless it is absurd."""
    return shortened(str(name), TOLD_LETTERS)


def some_of(names: Sequence[str]) -> str:
    """The first few of many names, in quotation marks, and how many others there are."""
    said = ", ".join(f'"{shortened(name, WRITTEN_LETTERS)}"' for name in names[:NAMED_AT_ONCE])
    return f"{said} and {len(names) - NAMED_AT_ONCE} more" if len(names) > NAMED_AT_ONCE else said


def folder_like(path: Path, likeness: float = 0.6) -> Path | None:
    """The folder beside one that is not there whose name is the most like its own; None where none is like it.

    It is that of the home that a shell leaves unread within `--dataset_name=~/photos`, where that is there.
    """
    at_home = Path(os.path.expanduser(path))
    if at_home != path and at_home.is_dir():
        return at_home
    beside = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    found = get_close_matches(path.name, beside, 1, likeness)
    return path.parent / found[0] if found else None


def nearest(path: Path) -> str:
    """The folder beside one that is not there whose name is like its own, as the rest of a sentence about that."""
    if path.exists():
        return ""
    found = folder_like(path)
    return f' (did you mean "{found}"?)' if found else ""
