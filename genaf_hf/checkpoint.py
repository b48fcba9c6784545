"""Checkpoints that training can be resumed from."""

import json
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from genaf_hf.encoders import quiet_transformers


def newest_complete_checkpoint(folder: str | Path, world_size: int = 1) -> Path | None:
    """The checkpoint with the most steps among those written to the end; None without one.

    The Trainer writes a checkpoint file by file and `trainer_state.json` last (other processes their random states), so
    that a run killed meanwhile leaves a folder without a readable one.
    """
    candidates = [
        path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()
    ]
    for path in sorted(candidates, key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        if is_complete(path, world_size):
            return path
    return None


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
        ValueError: when the checkpoint is broken, lacks a weight or has one too many.
    """
    try:
        with quiet_transformers():
            saved, loading = type(model).from_pretrained(
                checkpoint, config=model.config, dtype=model.dtype, output_loading_info=True
            )
    except (OSError, SafetensorError) as error:
        raise ValueError(f"The checkpoint {checkpoint} cannot be read: {error}.") from error
    wrong = {kind: sorted(map(str, loading[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        raise ValueError(f"The checkpoint {checkpoint} does not fit the model: {wrong}.")
    model.load_state_dict(saved.state_dict(), strict=True)
