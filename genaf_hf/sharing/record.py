"""How a model was trained, as a value that cards and pictures read."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from genaf_hf.errors import UserError
from genaf_hf.runs.journal import write_whole
from genaf_hf.runs.run import HARMLESS
from genaf_hf.values.markup import markdown
from genaf_hf.values.names import WRITTEN_LETTERS, shortened
from genaf_hf.values.provenance import public_name

STANDARD_FINETUNE, LINEAR_PROBE = "standard_finetune", "linear_probe"  # stages that harden nothing by themselves
ADVERSARIAL_FINETUNE, OF_ADAPTER, ADAPT = "adversarial_finetune", "adversarial_finetune_of_adapter", "adapt"
TRAINING_EPS = 4 / 255  # of a training that names no other: a record leaves out what is a default


@dataclass(frozen=True)
class TrainingRecord:
    """What a training run was given and what it logged.

    Attributes:
        base_model: `name` and `revision` of the public encoder, and the `license` that its card names; `hardened` where
            that says that it was hardened before. What has a revision is on the Hub.
        data: `name`, `config` and `revision` of the images, `splits` (images by split), `class_names`, and where they
            were counted, `class_counts` (by split, the images of each class id); where they were hashed, what
            `genaf_hf.pipelines.trained_images` reads, and how many test images were trained on as well
            (`tested_and_trained_on`).
        hyperparameters: those that differ from the defaults.
        defaults: the others that have a value.
        history: what the Trainer logged, each entry with its `stage` if it is of one.
        layers: what `layer_robustness.json` holds; None where no layers were assessed.
        example: the `label` of the image beside the model, and the model's `answer` with its `probability`.
        defence: `name`, `title`, `citation` and `settings` of what it was trained by, which of the logged terms are
            `losses` and `penalties`, and what it was trained on: names of `attacks` on single images, and of the
            `perturbations` that lie beside the model; None where the record tells of no training.
        command: that does the run again.
    """

    base_model: dict
    data: dict = field(default_factory=dict)
    hyperparameters: dict = field(default_factory=dict)
    defaults: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    layers: dict | None = None
    example: dict | None = None
    defence: dict | None = None
    command: str | None = None

    @property
    def stages(self) -> dict[str, dict]:
        """Steps, epochs and, where the log tells, seconds of each stage; if it was interrupted, since it went on."""
        found = {}
        for entry in (each for each in self.history if "stage" in each):  # an evaluation by hand is of no stage
            stage = found.setdefault(entry["stage"], {})
            stage["steps"] = max(stage.get("steps", 0), entry.get("step", 0))
            stage["epochs"] = max(stage.get("epochs", 0.0), entry.get("epoch", 0.0))
            if "train_runtime" in entry:
                stage["seconds"] = entry["train_runtime"]
        return found

    def save(self, path: str | Path) -> None:
        """Writes it as JSON."""
        write_whole(Path(path), json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "TrainingRecord":
        """Reads what `save` wrote.

        Raises:
            UserError: when it is no training record.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (RecursionError, TypeError, ValueError) as error:
            raise UserError(f"{path} is not a training record that genaf_hf can read: {error}.") from error


def trained_on(record: TrainingRecord | None) -> set[str]:
    """Names of the attacks that a model was trained on, and of the perturbations that lie beside it."""
    told = record.defence if record and record.defence else {"attacks": (), "settings": {}, "perturbations": ()}
    return {*told["attacks"], *told["settings"].get("bank", ()), *told["perturbations"]}


def is_hardened(record: TrainingRecord | None) -> bool:
    """Whether a model is known to be trained by a defence, and not audited alone, or fine-tuned on clean images."""
    return record is not None and not record.stages.keys().isdisjoint((ADVERSARIAL_FINETUNE, OF_ADAPTER))


def balance_table(data: Mapping, text: Callable[[str], str] = str) -> str:
    """A Markdown table of the images: a row per split, with its smallest and its largest class.

    Args:
        data: of a `TrainingRecord`, with `class_counts`.
        text: what names pass through, to be escaped where the table is to be rendered.
    """
    names = data["class_names"]
    rows = [["split", "images", "classes", "smallest class", "largest class"]]
    for split, counts in data["class_counts"].items():
        extremes = [(names[counts.index(count)], count) for count in (min(counts), max(counts))]
        present = sum(count > 0 for count in counts)
        shown = [f"{text(shortened(name, WRITTEN_LETTERS))} ({count})" for name, count in extremes]
        rows.append([text(split), str(sum(counts)), str(present), *shown])
    return markdown(rows)


def settings_of_training(args: TrainingArguments) -> dict[str, Any]:
    """The `hyperparameters` and the `defaults` of a record."""
    changed = changed_settings(args)
    others = {name: value for name, value in all_settings(args).items() if name not in changed and value is not None}
    return {"hyperparameters": changed, "defaults": others}


def all_settings(args: TrainingArguments) -> dict:
    """The settings that a training's result depends on, as JSON holds them."""
    found = json.loads(json.dumps(args.to_dict()))
    if args.max_steps > 0:  # which overrules it
        found.pop("num_train_epochs", None)
    return {
        name: public_name(value) if isinstance(value, str) else "inf" if value == math.inf else value
        for name, value in found.items()
        if not name.startswith(HARMLESS)
    }


def changed_settings(args: TrainingArguments) -> dict:
    """The settings of a training that differ from their defaults, as JSON holds them."""
    kept = {"use_configured_state": True}  # else new arguments reset the state of the accelerator that a trainer has
    default = type(args)(output_dir=".", use_cpu=args.use_cpu, accelerator_config=kept)
    defaults, found = (all_settings(each) for each in (default, args))
    changed = {name: value for name, value in found.items() if value not in (defaults[name], None)}
    if changed.keys() & {"eps", "steps"}:  # from which the default step size follows
        changed["step_size"] = found["step_size"]
    return changed
