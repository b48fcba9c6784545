"""What a long piece of work has found so far, so that nothing is done twice when it is killed."""

import json
import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from genaf_hf.errors import first_line

logger = logging.getLogger(__name__)

LONGEST = 150  # letters; file systems take 255 bytes, and a letter that is quoted is up to twelve


class Journal:
    """Results as JSON files in a folder, one per step, each written whole or not at all.

    Under `accelerate launch` the main process reads and writes, and every process gets the same.

    Args:
        folder: where the files are; None remembers nothing.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = folder and Path(folder)

    def once(self, step: str, compute: Callable[[], object], of: str = ""):
        """The result of a step: read if it was computed before, else computed and written down.

        Args:
            step: its name, any text; the file's is made of it.
            compute: gives what JSON can hold, the same on every process.
            of: a digest of what it is computed from; what was computed from something else is not believed.
        """
        if self.folder is None:
            return compute()
        path = self.folder / file_name(step)
        [found] = broadcast_object_list([read_step(path, of) if path.exists() else None])
        if found is None:
            found = {"result": compute(), "of": of}
            if PartialState().is_main_process:
                write_whole(path, json.dumps(found))
        return found["result"]


def file_name(step: str) -> str:
    """The file's of a step: its name as far as any file system takes it, and a digest of it where that is not all."""
    name = quote(step, safe="")
    return f"{name}.json" if len(name) <= LONGEST else f"{name[:LONGEST]}-{sha256(step.encode()).hexdigest()[:16]}.json"


def read_step(path: Path, of: str) -> dict | None:
    """What was written down of a step; None where its file cannot be read, as one that was cut off by a crash.

    Also where it was computed from something else.
    """
    try:
        found = json.loads(path.read_text())
        if found.get("of", "") == of:
            return {"result": found["result"]}
        logger.warning("%s was found of another model, other images or another attack: it is computed anew.", path)
        return None
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        logger.warning("%s cannot be read (%s): what it held is computed anew.", path, first_line(error))
        return None


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all, also where several processes write it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{uuid4().hex}.draft")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
