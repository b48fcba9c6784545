"""What the cards of models say of their robustness, as values; every text in them is somebody else's."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelInfo
from huggingface_hub.repocard_data import model_index_to_eval_results

from genaf_hf.errors import UserError
from genaf_hf.evaluation.measurement import CLEAN, EVERY_ATTACK
from genaf_hf.sharing.eval_results import CLEAN_METRIC, ROBUST_METRIC
from genaf_hf.sharing.existing_card import names_hardened_encoder
from genaf_hf.values.markup import one_line

MOST_RESULTS = 200  # of one card; a report has one for each attack
LONGEST_TEXT = 200
LARGEST_NUMBER = 10**9


def text(value: object) -> str:
    """One printable line of any value; nothing for None."""
    line = "" if value is None else one_line(value)
    return line if len(line) <= LONGEST_TEXT else f"{line[:LONGEST_TEXT]}…"


def number(value: object) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= LARGEST_NUMBER and math.isfinite(value) else None


def whole(value: object) -> int | None:
    """A whole number; None for anything else."""
    return value if number(value) is not None and isinstance(value, int) else None


# What an accuracy was measured under, and what was found, by the names that a card has for it.
CONDITIONS: dict[str, Callable[[object], Any]] = {
    "attack": text,
    "norm": text,
    "eps": number,
    "area": number,
    "steps": whole,
    "seed": whole,
    "surrogate": text,
    "standing": whole,
    "attacked": whole,
}
FOUND: dict[str, Callable[[object], Any]] = {
    "knowledge": text,
    "correct": whole,
    "count": whole,
    "reliable": lambda value: value is True,
    "model_class": text,
}


@dataclass(frozen=True)
class Entry:
    """One accuracy of one model, clean or under one attack.

    Attributes:
        model: its id on the Hub.
        commit: of the card that was read.
        last_modified: when the repository was, as an ISO 8601 date.
        base_model: the public encoder, as the Hub knows it.
        model_class: of `transformers`.
        kind: `"classifier"`, or `"encoder"` for one that was hardened without labels, of which a linear probe is meant.
        dataset: id or name.
        config, split, revision: of the dataset.
        attack: its name, `"clean"` for none, `"every attack"` for what all of the report leave.
        knowledge: what the attacker knew.
        norm, eps, area, steps, seed, surrogate: of the attack; eps in pixel units, area a patch's share of the image.
        standing, attacked: images that other attacks had left for this one, and how many of them it tried.
        accuracy: as claimed.
        correct: correctly classified images.
        count: all images.
        interval: 95 % Wilson interval of `correct` and `count`.
        claimed_interval: the one that the card says.
        reliable: whether the card says that the model passed all self-checks of its report.
        report: path of the report in the model's repository.
        report_sha256: as claimed.
        report_checked: whether the report was read, has this hash, and holds this accuracy.
        chance: accuracy of guessing, by the report; None where it was not read or does not know the classes.
        failed_checks: names of the self-checks that the model failed, by the report, or that none was made.
        worst: whether no other attack of attackers who know the same leaves less of this model on these images.
        problems: what is wrong, as sentences. A model that has one is on no Pareto front.
        notes: what else is to be known.
    """

    model: str
    commit: str
    last_modified: str
    base_model: str
    model_class: str
    dataset: str
    config: str
    split: str
    revision: str
    attack: str
    knowledge: str
    norm: str
    eps: float | None
    steps: int | None
    seed: int | None
    surrogate: str
    accuracy: float
    correct: int | None
    count: int | None
    reliable: bool
    report: str
    report_sha256: str
    kind: str = "classifier"
    area: float | None = None
    standing: int | None = None
    attacked: int | None = None
    interval: tuple[float, float] | None = None
    claimed_interval: tuple[float, float] | None = None
    report_checked: bool = False
    chance: float | None = None
    failed_checks: tuple[str, ...] = ()
    worst: bool = False
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        return self.attack == CLEAN

    @property
    def is_of_all(self) -> bool:
        """Whether it is what all attacks of the report leave, each image under its worst."""
        return self.attack == EVERY_ATTACK

    @property
    def images(self) -> tuple[str, ...]:
        """What a clean and a robust accuracy of a model have to have in common."""
        return self.dataset, self.config, self.split, self.revision

    @property
    def conditions(self) -> tuple:
        """All that tells two results of one model apart, beside what was found."""
        return *self.images, *(getattr(self, name) for name in CONDITIONS)

    @property
    def measured(self) -> tuple:
        """All that a report says too."""
        return *self.conditions, *(getattr(self, name) for name in FOUND)

    @property
    def is_partial(self) -> bool:
        """Whether an attack on the images that others had left tried some of them only."""
        return (self.attacked or 0) < (self.standing or 0)


@dataclass(frozen=True)
class LeftOut:
    """What could not become an entry, and why."""

    model: str
    reason: str


@dataclass(frozen=True)
class Leaderboard:
    """Entries of many models.

    Attributes:
        source: where they come from, in words.
        endpoint: address of the Hub.
        collected: when, as an ISO 8601 date.
        models: how many were found.
        entries: one per result.
        left_out: results and models without one.
        hardened_encoders: ids of the encoders hardened without labels among these models and what they come from.
    """

    source: str
    endpoint: str
    collected: str
    models: int
    entries: list[Entry]
    left_out: list[LeftOut] = field(default_factory=list)
    hardened_encoders: list[str] = field(default_factory=list)


def read_card(info: ModelInfo) -> tuple[list[Entry], list[LeftOut]]:
    """The entries of a model by its `model-index`, each result for itself."""
    entries, left_out = [], []
    results = list(split_results(info.model_index))
    if not results:
        left_out.append(LeftOut(info.id, "its card has no results"))
    if len(results) > MOST_RESULTS:
        reason = f"its card has {len(results)} results, of which the first {MOST_RESULTS} were read"
        left_out.append(LeftOut(info.id, reason))
    for result in results[:MOST_RESULTS]:
        try:
            [parsed] = model_index_to_eval_results([{"name": info.id, "results": [result]}])[1]
            entries.append(to_entry(info, parsed))
        except (AttributeError, KeyError, TypeError) as error:
            left_out.append(LeftOut(info.id, f"a result that is not of the Hub's form: {text(repr(error))}"))
        except ValueError as error:
            left_out.append(LeftOut(info.id, str(error)))
    return entries, left_out


def split_results(model_index: object):
    """The results of a card, one metric in each."""
    for model in model_index if isinstance(model_index, list) else []:
        results = model.get("results") if isinstance(model, dict) else None
        for result in results if isinstance(results, list) else [results]:
            metrics = result.get("metrics") if isinstance(result, dict) else None
            if isinstance(metrics, list):
                yield from ({**result, "metrics": [metric]} for metric in metrics)
            else:
                yield result


def to_entry(info: ModelInfo, result: EvalResult) -> Entry:
    """A result as an entry that nothing was checked of.

    Raises:
        UserError: when no row can be made of it.
    """
    if result.metric_type not in (CLEAN_METRIC, ROBUST_METRIC):
        raise UserError(f'a result of another metric, "{text(result.metric_type)}"')
    known = result.metric_args if isinstance(result.metric_args, dict) else {}
    values = {name: read(known.get(name)) for name, read in (CONDITIONS | FOUND).items()}
    attack = values["attack"]
    if not attack or (attack == CLEAN) != (result.metric_type == CLEAN_METRIC):
        raise UserError(f'a result of the metric "{result.metric_type}" under the attack "{attack}"')
    accuracy = number(result.metric_value)
    if accuracy is None:
        raise UserError(f'an accuracy under "{attack}" of "{text(result.metric_value)}"')
    interval = known.get("interval")
    interval = tuple(map(number, interval)) if isinstance(interval, list) and len(interval) == 2 else (None, None)
    return Entry(
        model=info.id,
        commit=text(info.sha),
        last_modified=info.last_modified.isoformat() if info.last_modified else "",
        base_model=base_model(info),
        kind="encoder" if names_hardened_encoder(info.tags) else "classifier",
        dataset=text(result.dataset_name),
        config=text(result.dataset_config),
        split=text(result.dataset_split),
        revision=text(result.dataset_revision),
        accuracy=accuracy,
        claimed_interval=None if None in interval else interval,
        report=text(known.get("report")),
        report_sha256=text(known.get("report_sha256")),
        **values,
    )


def base_model(info: ModelInfo) -> str:
    """By the Hub's own tag, so that no card needs to be parsed."""
    tags = [tag.removeprefix("base_model:") for tag in info.tags or [] if tag.startswith("base_model:")]
    return text(next((tag for tag in tags if ":" not in tag), ""))
