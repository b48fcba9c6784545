"""The folder of what serves only to go on with a run that was killed."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from genaf_hf.errors import UserError, first_line
from genaf_hf.runs.journal import write_whole
from genaf_hf.runs.output_folder import check_free

logger = logging.getLogger(__name__)

UNFINISHED_RUN = "unfinished_run"
ENDED = "ended_run"
SETTINGS = "settings.json"
NAMED = 6  # settings at most
# Where things are written and how that is told; nothing of what is learnt.
BOOKKEEPING = (
    *("output_dir", "run_name", "report_to", "project", "trackio_", "disable_tqdm", "logging_", "log_"),
    *("save_total_limit", "save_on_each_node", "resume_from_checkpoint", "restore_callback_states", "push_to_hub"),
    *("hub_", "use_cpu", "local_rank", "dataloader_num_workers", "per_device_eval_batch_size"),
)
# Changes of these leave a run what it is.
HARMLESS = (
    *(name for name in BOOKKEEPING if name != "output_dir"),
    *("save_", "eval_accumulation_steps"),
    *("dataloader_pin_memory", "dataloader_prefetch_factor", "dataloader_persistent_workers"),
)


def begin_or_resume(output_dir: str | Path, settings: dict, results: Sequence[str] = ()) -> bool:
    """Finds an unfinished run with these settings in the output folder, or begins a new one there.

    Args:
        output_dir: made if it is not there.
        settings: everything that the run's result depends on, as JSON gives it back.
        results: names of what a run writes there in the end; none of them may be there when it begins.

    Returns:
        Whether there is one to be gone on with.

    Raises:
        UserError: as `check_unfinished_run`.
    """
    resume = find_unfinished_run(output_dir, settings, results)
    folder = Path(output_dir) / UNFINISHED_RUN
    if resume:
        logger.info("Going on with the unfinished run in %s", output_dir)
    elif PartialState().is_main_process:
        for left_over in (folder, folder.with_name(ENDED)):
            shutil.rmtree(left_over, ignore_errors=True)
        write_whole(folder / SETTINGS, json.dumps(settings, indent=2))
    PartialState().wait_for_everyone()
    return resume


def check_unfinished_run(output_dir: str | Path, settings: dict, results: Sequence[str] = ()) -> bool:
    """Whether the output folder holds an unfinished run with these settings.

    Args:
        output_dir, settings, results: as for `begin_or_resume`, which finds the same if nobody else begins meanwhile.

    Raises:
        UserError: when it holds one with other settings, names them; when another run works there, or has written its
            results there; or when it is no folder.
    """
    check_free(output_dir)
    return find_unfinished_run(output_dir, settings, results)


def find_unfinished_run(output_dir: str | Path, settings: dict, results: Sequence[str]) -> bool:
    """Whether there is a run to go on with in a folder that no other run works in.

    Raises:
        UserError: as `check_unfinished_run`.
    """
    if Path(output_dir).exists() and not Path(output_dir).is_dir():
        raise UserError(f"{output_dir} is a file, expected a folder or a new name.")
    folder = Path(output_dir) / UNFINISHED_RUN
    [before, refusal] = broadcast_object_list(read_settings(folder) if PartialState().is_main_process else [None] * 2)
    if refusal is not None:
        raise UserError(refusal)
    if before is None:
        if found := [name for name in results if (Path(output_dir) / name).exists()]:
            raise UserError(
                f"{output_dir} holds what a finished run left, or somebody else ({', '.join(found)}): nothing is "
                "overwritten, so choose another output_dir, or delete that one to run anew."
            )
        return False
    compared = [name for name in settings if not name.startswith(HARMLESS)]
    if changed := [name for name in compared if before.get(name) != settings[name]]:
        details = ", ".join(f"{name} was {before.get(name)} and is {settings[name]}" for name in changed[:NAMED])
        details += f", and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
        raise UserError(
            f"{output_dir} holds an unfinished run with other settings ({details}): choose another output_dir, "
            f"or delete {folder} to start anew."
        )
    return True


def read_settings(folder: Path) -> tuple[dict | None, str | None]:
    """The settings of the unfinished run in a folder, None without one; and why they cannot be read."""
    path = folder / SETTINGS
    if not path.exists():
        return None, None
    try:
        found = json.loads(path.read_text())
        if isinstance(found, dict):
            return found, None
        reason = f"it holds a {type(found).__name__}"
    except (OSError, RecursionError, ValueError) as error:
        reason = first_line(error)
    return None, (
        f"{path} cannot be read ({reason}), so that nobody knows with which settings that run began: choose another "
        f"output_dir, or delete {folder} to start anew."
    )


def end_run(output_dir: str | Path) -> None:
    """Removes what served only to resume; for the main process."""
    folder = Path(output_dir) / UNFINISHED_RUN
    folder.rename(folder.with_name(ENDED))  # at once: a run that is killed meanwhile has ended
    shutil.rmtree(folder.with_name(ENDED))
