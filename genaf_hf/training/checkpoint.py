"""Checkpoints that training can be resumed from."""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from genaf_hf.errors import UserError
from genaf_hf.models.weights import quiet_transformers
from genaf_hf.runs.journal import write_whole

logger = logging.getLogger(__name__)

BESIDE_MODEL = "beside_model.safetensors"  # what was trained beside the model, where there is any
LOG_HISTORY_FILE = "log_history.json"


def newest_complete_checkpoint(*folders: str | Path, world_size: int = 1) -> Path | None:
    """The checkpoint that was finished last among those in some folders; None without one.

    The Trainer writes a checkpoint file by file and `trainer_state.json` last (other processes their random states), so
    that a run killed meanwhile leaves a folder without a readable one.
    """
    checkpoints = [path for folder in folders for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    complete = [path for path in checkpoints if is_complete(path, world_size)]
    return max(complete, key=lambda path: (path / TRAINER_STATE_NAME).stat().st_mtime_ns, default=None)


def is_complete(checkpoint: Path, world_size: int = 1) -> bool:
    """Whether a checkpoint was written to the end by all processes, and no file of it was cut off since."""
    found = damage(checkpoint, world_size)
    if found is not None and (checkpoint / TRAINER_STATE_NAME).exists():  # else a run was killed while it wrote it
        logger.warning("%s is passed over: %s", checkpoint, found)
    return found is None


def damage(checkpoint: Path, world_size: int = 1) -> str | None:
    """What keeps a run of so many processes from going on from a checkpoint, in words; None where nothing does."""
    try:
        state = read_state(checkpoint)
    except (OSError, RecursionError, TypeError, ValueError):
        return f"{TRAINER_STATE_NAME} is missing or cut off"
    if BESIDE_MODEL in state.stateful_callbacks and not (checkpoint / BESIDE_MODEL).exists():
        return f"{BESIDE_MODEL} is missing or cut off"
    random_states = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    for name in (OPTIMIZER_NAME, SCHEDULER_NAME, *random_states):
        if not is_zipfile(checkpoint / name):  # its table of contents is at the end
            return f"{name} is missing or cut off"
    weights = sorted(checkpoint.glob("*.safetensors"))
    cut_off = [path.name for path in weights if not is_whole_safetensors(path)]
    return f"{cut_off[0] if cut_off else 'model.safetensors'} is missing or cut off" if cut_off or not weights else None


def is_whole_safetensors(path: Path) -> bool:
    """Whether a file of tensors has the length that its header says."""
    try:
        with safe_open(path, framework="pt"):
            return True
    except (OSError, SafetensorError):
        return False


def finished_stage(checkpoint: str | Path) -> list[dict] | None:
    """What a stage of training logged, if this is its last checkpoint and it came to its end; None if not."""
    path = Path(checkpoint) / LOG_HISTORY_FILE
    return json.loads(path.read_text()) if path.exists() else None


def write_finished_stage(checkpoint: str | Path, history: list[dict]) -> None:
    """Writes down beside the last checkpoint of a stage that it came to its end, and what it logged."""
    write_whole(Path(checkpoint) / LOG_HISTORY_FILE, json.dumps(history, indent=2))


def forget_finished_stage(checkpoint: str | Path) -> None:
    """Removes what an earlier training left in the folder of a checkpoint that is written anew."""
    (Path(checkpoint) / LOG_HISTORY_FILE).unlink(missing_ok=True)


def read_state(checkpoint: str | Path) -> TrainerState:
    """The Trainer's state at a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))


def check_length(checkpoint: Path, steps: int) -> None:
    """Refuses a training of another length that came to its end, or is past the asked one: nothing would be trained.

    Args:
        checkpoint: its last one.
        steps: of the training that is asked for.

    Raises:
        UserError: names both lengths.
    """
    if (before := read_state(checkpoint).max_steps) != steps:
        raise UserError(
            f"{checkpoint} is of a training of {before} steps, but one of {steps} is asked for: begin it in "
            "another output_dir, or ask for as many."
        )


def come_along(checkpoint: Path) -> None:
    """Lets a checkpoint whose folder was moved know the best weights where they lie now: beside it."""
    state = read_state(checkpoint)
    best = checkpoint.parent / Path(state.best_model_checkpoint or "").name
    if state.best_model_checkpoint not in (None, str(best)) and best.is_dir():
        state.best_model_checkpoint = str(best)
        write_whole(checkpoint / TRAINER_STATE_NAME, json.dumps(asdict(state), indent=2, sort_keys=True) + "\n")


def load_weights(model: PreTrainedModel, checkpoint: str | Path) -> None:
    """Loads every weight of a saved model into `model`.

    `save_pretrained` may write other names than the model has in memory, so the names are translated by
    `from_pretrained`; the Trainer's own loading skips what it does not recognise.

    Raises:
        UserError: when the checkpoint is broken, lacks a weight or has one too many.
    """
    try:
        with quiet_transformers():
            saved, loading = type(model).from_pretrained(
                checkpoint, config=model.config, dtype=model.dtype, output_loading_info=True
            )
    except (OSError, SafetensorError) as error:
        raise UserError(f"The checkpoint {checkpoint} cannot be read: {error}.") from error
    wrong = {kind: sorted(map(str, loading[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise UserError(f"The checkpoint {checkpoint} does not fit the model: {wrong}.")
    model.load_state_dict(saved.state_dict(), strict=True)


def check_disk_space(folder: str | Path, model: nn.Module) -> None:
    """Refuses a folder that cannot take one checkpoint: the weights and two moments for each.

    Raises:
        UserError: names the space that is there and that is needed.
    """
    needed = 3 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 2**20:.0f} MiB free, one checkpoint needs about {needed / 2**20:.0f} MiB: free some "
            "space or choose another output_dir."
        )
