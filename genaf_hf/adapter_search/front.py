"""The best trades of clean accuracy, robust accuracy and size that a search found."""

import copy
import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from peft import PeftModel
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from genaf_hf.adapter_search.arguments import FRONT_ROWS, FRONT_TABLE, FRONT_VALUES
from genaf_hf.adapter_search.genome import Genome
from genaf_hf.adapter_search.storage import slot
from genaf_hf.adapter_search.study import KNOWN, last_tries, was_trained
from genaf_hf.evaluation.evaluate import evaluate_threats
from genaf_hf.evaluation.measurement import CLEAN, Rate, strength
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import Threat
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.runs.journal import write_whole
from genaf_hf.sharing.layout import REPORT
from genaf_hf.values.markup import markdown

PGD = "pgd"


@dataclass(frozen=True)
class Member:
    """A genome that is reported: of the front, or a known configuration to compare with.

    Attributes:
        trial: its number in the study.
        slot: its place in the budget; another number where a killed worker had it first.
        genome: what it is.
        parameters: trainable ones, of adapters and head.
        on_front: whether no other genome was as good and in something better, on the validation images.
        known: its name, for a known configuration.
        parents: trials whose trained adapters it started from.
        clean: accuracy on the test images.
        robust: accuracy on them under the attack.
        attack: its name, norm, eps and steps.
    """

    trial: int
    slot: int
    genome: Genome
    parameters: int
    on_front: bool
    known: str | None
    parents: list[int]
    clean: Rate
    robust: Rate
    attack: str


def chosen_trials(study: Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
    """The front, smallest first and one trial for the same values, and other known configurations that were trained."""
    counted = {trial.number: trial for trial in last_tries(study) if trial.state == TrialState.COMPLETE}
    best = {tuple(trial.values): trial for trial in reversed(study.best_trials) if trial.number in counted}
    front = sorted(best.values(), key=lambda trial: (trial.values[2], trial.number))
    on_front = {trial.number for trial in front}
    known = [trial for trial in counted.values() if KNOWN in trial.user_attrs and was_trained(trial)]
    others = [trial for trial in known if trial.number not in on_front]
    return front, others


def merged_model(encoder: PreTrainedModel, adapter: str | Path) -> PreTrainedModel:
    """A plain classifier of its own, with a saved adapter merged into it."""
    return PeftModel.from_pretrained(copy.deepcopy(encoder), str(adapter)).merge_and_unload()


def evaluate_adapter(
    encoder: PreTrainedModel,
    processor,
    adapter: Path,
    test: Dataset,
    threat: Threat,
    *,
    batch_size: int,
    seed: int,
    dataset_info: dict,
) -> RobustnessReport:
    """Measures an adapter, merged, on all test images; `report.json` beside it remembers."""
    path, asked = adapter / REPORT, threat.settings(adapter.name)
    if not path.exists() or RobustnessReport.load(path).measurement(adapter.name, threat.name).settings != asked:
        report = evaluate_threats(
            {adapter.name: PixelModel(merged_model(encoder, adapter), processor).eval()},
            test,
            [threat],
            batch_size=batch_size,
            seed=seed,
            dataset_info=dataset_info,
        )
        write_whole(path, report.to_json())
    return RobustnessReport.load(path)


def member(trial: FrozenTrial, report: RobustnessReport, *, on_front: bool) -> Member:
    """What the report says of a trial's adapter."""
    (name,) = report.models
    attacked = report.measurement(name, PGD)
    norm, eps, steps = strength(attacked)
    return Member(
        trial=trial.number,
        slot=slot(trial),
        genome=Genome(**trial.user_attrs["genome"]),
        parameters=int(trial.values[2]),
        on_front=on_front,
        known=trial.user_attrs.get(KNOWN),
        parents=trial.user_attrs["parents"],
        clean=report.measurement(name, CLEAN).accuracy,
        robust=attacked.accuracy,
        attack=f"PGD, {norm}, eps {eps}, {steps} steps",
    )


def table(members: Sequence[Member]) -> str:
    """A Markdown table, with 95 % Wilson intervals and counts."""
    rows = [["trial", "configuration", "modules", "ranks", "parameters", "clean", members[0].attack, "front"]]
    for each in members:
        ranks = sorted(set(each.genome.ranks.values()))
        rows.append(
            [
                str(each.trial),
                each.known or each.genome.method,
                str(len(each.genome.ranks)),
                " ".join(map(str, ranks)) or "-",
                f"{each.parameters:,}",
                str(each.clean),
                str(each.robust),
                "yes" if each.on_front else "no",
            ]
        )
    return markdown(rows)


def write_front(folder: Path, members: Sequence[Member]) -> None:
    """The front as Markdown, CSV and JSON."""
    write_whole(folder / FRONT_TABLE, f"{table(members)}\n")
    write_whole(folder / FRONT_VALUES, json.dumps([asdict(each) for each in members], indent=2) + "\n")
    with (folder / FRONT_ROWS).open("w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, list(csv_row(members[0])))
        rows.writeheader()
        rows.writerows(map(csv_row, members))


def csv_row(each: Member) -> dict[str, object]:
    """A member's numbers by column."""
    row = {
        "trial": each.trial,
        "known": each.known,
        "on_front": each.on_front,
        "method": each.genome.method,
        "modules": len(each.genome.ranks),
        "parameters": each.parameters,
        "images": each.clean.count,
        "attack": each.attack,
    }
    for kind, rate in (("clean", each.clean), ("robust", each.robust)):
        low, high = rate.interval
        row |= {f"{kind}_correct": rate.part, f"{kind}_accuracy": rate.value, f"{kind}_low": low, f"{kind}_high": high}
    return row
