"""The folder of what serves only to go on with a run that was killed."""

import json
import logging
import shutil
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from genaf_hf.errors import UserError
from genaf_hf.journal import write_whole

logger = logging.getLogger(__name__)

UNFINISHED_RUN = "unfinished_run"
SETTINGS = "settings.json"


def begin_or_resume(output_dir: str | Path, settings: dict) -> bool:
    """Finds an unfinished run with these settings in the output folder, or begins a new one there.

    Args:
        output_dir: made if it is not there.
        settings: everything that the run's result depends on, as JSON gives it back.

    Returns:
        Whether there is one to be gone on with.

    Raises:
        UserError: as `check_unfinished_run`.
    """
    resume = check_unfinished_run(output_dir, settings)
    folder = Path(output_dir) / UNFINISHED_RUN
    if resume:
        logger.info("Going on with the unfinished run in %s", output_dir)
    elif PartialState().is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(folder / SETTINGS, json.dumps(settings, indent=2))
    PartialState().wait_for_everyone()
    return resume


def check_unfinished_run(output_dir: str | Path, settings: dict) -> bool:
    """Whether the output folder holds an unfinished run with these settings.

    Raises:
        UserError: when it holds one with other settings, names them; or when it is no folder.
    """
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UserError(f"{output_dir} is a file, expected a folder or a new name.")
    path = Path(output_dir) / UNFINISHED_RUN / SETTINGS
    [before] = broadcast_object_list([json.loads(path.read_text()) if path.exists() else None])
    if before is None:
        return False
    if changed := [name for name in settings if before.get(name) != settings[name]]:
        details = ", ".join(f"{name} was {before.get(name)} and is {settings[name]}" for name in changed)
        raise UserError(
            f"{output_dir} holds an unfinished run with other settings ({details}): choose another output_dir, "
            f"or delete {path.parent} to start anew."
        )
    return True


def end_run(output_dir: str | Path) -> None:
    """Removes what served only to resume; for the main process."""
    shutil.rmtree(Path(output_dir) / UNFINISHED_RUN)
