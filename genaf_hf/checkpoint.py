"""Checkpoints that training can be resumed from."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from genaf_hf.encoders.weights import quiet_transformers
from genaf_hf.errors import UserError


def newest_complete_checkpoint(*folders: str | Path, world_size: int = 1) -> Path | None:
    """The checkpoint that was finished last among those in some folders; None without one.

    The Trainer writes a checkpoint file by file and `trainer_state.json` last (other processes their random states), so
    that a run killed meanwhile leaves a folder without a readable one.
    """
    checkpoints = [path for folder in folders for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    complete = [path for path in checkpoints if is_complete(path, world_size)]
    return max(complete, key=lambda path: (path / TRAINER_STATE_NAME).stat().st_mtime_ns, default=None)


def is_complete(checkpoint: Path, world_size: int = 1) -> bool:
    """Whether a checkpoint was written to the end by all processes."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    random_states = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    return all((checkpoint / name).exists() for name in random_states)


def read_state(checkpoint: str | Path) -> TrainerState:
    """The Trainer's state at a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))


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
