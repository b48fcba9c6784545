"""What an evaluation found, as a value that tables, pictures and cards read."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from scipy.integrate import trapezoid

from genaf_hf.errors import UserError, first_line
from genaf_hf.evaluation.measurement import (
    CLEAN,
    EVERY_ATTACK,
    KINDS,
    Check,
    Measurement,
    Rate,
    WorstCase,
    impossible_counts,
    impossible_settings,
    strength,
)
from genaf_hf.runs.journal import write_whole
from genaf_hf.values.markup import cell, markdown
from genaf_hf.values.numbers import eps_text, is_whole

if TYPE_CHECKING:  # which needs torch
    from genaf_hf.evaluation.answers import Answers

REPORT, ANSWERS = "report.json", "answers.parquet"  # files, the latter of the answers that the former counts
SCHEMA_VERSION = 4
COLUMNS = (
    *("model", "attack", "knowledge", "norm", "eps", "area", "steps", "correct", "count", "accuracy", "low", "high"),
    *("worst", "reliable", "attack_success_rate", "decline", "fooling_rate", "neighbors_correct", "noise_correct"),
    *("shuffled_correct", "beyond_noise", "standing", "attacked", "expected_robustness", "expected_up_to_eps"),
)
ANY_KNOWLEDGE = "any of these"  # in a table, of the worst case over all attacks
UNDEFENDED, HARDENED = "undefended", "hardened"  # names of models: that others are held against, and that is defended
ADAPTIVE = "-adaptive"  # ends the name of an attack on the public encoder that is crafted on the model itself


@dataclass(frozen=True)
class RobustnessReport:
    """Clean and attacked accuracies of one or more models on one set of images.

    Attributes:
        dataset: name, split, revision and number of the images, `count`, and how many are of the most frequent class,
            `largest_class`.
        models: for each model its source, revision, class and number of parameters; where its classes and those of the
            images have other names, how they were matched, `classes_matched`.
        measurements: one per model and attack.
        checks: of whether they can be trusted; a model that fails one, or has none, has *unreliable* robust accuracies.
        sweep: measurements of the same attacks at other eps, on a part of the images.
        worst_cases: for each model what all attacks of attackers of each knowledge leave, and all attacks.
        seed: of random starts; image i starts from seed + i.
        environment: versions of the packages, and the hardware.
        schema_version: of this format.
        answers: what was answered image by image, by model and attack, clean first; not in the file.
    """

    dataset: dict
    models: dict[str, dict]
    measurements: list[Measurement]
    seed: int
    checks: list[Check] = field(default_factory=list)
    sweep: list[Measurement] = field(default_factory=list)
    environment: dict = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    worst_cases: list[WorstCase] = field(default_factory=list)
    answers: Mapping[str, Mapping[str, "Answers"]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def attacks(self) -> list[str]:
        """Names of the attacks in the order in which they were run, `"clean"` first."""
        return list(dict.fromkeys(measurement.attack for measurement in self.measurements))

    @property
    def subject(self) -> str:
        """The model that a card is of: the last one."""
        return [*self.models][-1]

    @property
    def references(self) -> list[str]:
        """The models that it is set beside."""
        return [*self.models][:-1]

    @property
    def failed_checks(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def failed_by(self, model: str) -> list[Check]:
        """The checks that a model failed."""
        return [check for check in self.failed_checks if check.model == model]

    @property
    def chance(self) -> float | None:
        """Accuracy of always answering the most frequent class of the images; None where a report does not tell."""
        largest = self.dataset.get("largest_class")
        return largest and largest / self.dataset["count"]

    def chance_of(self, model: str) -> float | None:
        """Accuracy that a model reaches without looking: `chance`, or guessing, if that is more; None if unknown."""
        classes = self.models[model].get("classes")
        return max(filter(None, (self.chance, classes and 1 / classes)), default=None)

    def of(self, model: str) -> list[Measurement]:
        """What was found of a model, without an attack and under each."""
        return [each for each in self.measurements if each.model == model]

    def measurement(self, model: str, attack: str) -> Measurement:
        """What was found for one model under one attack.

        Raises:
            KeyError: when this was not measured.
        """
        for each in self.measurements:
            if (each.model, each.attack) == (model, attack):
                return each
        raise KeyError(f'the report has no "{attack}" for "{model}"')

    def worst_case(self, model: str, knowledge: str | None = None) -> WorstCase | None:
        """What all attacks of attackers of a knowledge leave a model, or all attacks; None where that is not known."""
        found = (each for each in self.worst_cases if (each.model, each.knowledge) == (model, knowledge))
        return next(found, None)

    def attacked(self, model: str) -> list[Measurement]:
        """What was found of a model under the attacks, where there were images."""
        return [each for each in self.of(model) if each.attack != CLEAN and each.count]

    def worst(self, model: str, knowledge: str) -> Measurement | None:
        """The attack by attackers of this knowledge that leaves a model the lowest accuracy; None where none ran."""
        found = (each for each in self.attacked(model) if each.knowledge == knowledge)
        return min(found, key=lambda each: each.accuracy.value, default=None)

    def verdict(self, model: str) -> list[Measurement]:
        """A model without an attack, and under the worst attack of attackers of each knowledge, from the least on."""
        clean = [each for each in self.of(model) if each.attack == CLEAN and each.count]
        return [*clean, *filter(None, (self.worst(model, knowledge) for knowledge in self.kinds(model)))]

    def kinds(self, model: str) -> list[str]:
        """What those know who attacked a model, from the least on, then what is told in words of a user's own."""
        found = dict.fromkeys(each.knowledge for each in self.attacked(model))
        return [*(kind for kind in KINDS if kind in found), *(kind for kind in found if kind not in KINDS)]

    def is_worst(self, measurement: Measurement | WorstCase) -> bool:
        """Whether it is of the worst attack of attackers who know the same."""
        return measurement == self.worst(measurement.model, measurement.knowledge or ANY_KNOWLEDGE)

    def is_reliable(self, measurement: Measurement | WorstCase) -> bool:
        """Whether the model passed every check; clean accuracy is not in doubt."""
        return measurement.attack == CLEAN or self.is_trusted(measurement.model)

    def is_trusted(self, model: str) -> bool:
        """Whether a model was checked, and passed every check."""
        found = [check.passed for check in self.checks if check.model == model]
        return bool(found) and all(found)

    def least_tried(self, measurement: Measurement | WorstCase) -> Measurement | None:
        """The attack behind an accuracy that tried fewest of the images that others had left it; None where none did
        so in part only.
        """
        found = [measurement] if isinstance(measurement, Measurement) else self.behind(measurement)
        partial = (each for each in found if each.partly)
        return min(partial, key=lambda each: each.settings["attacked"] - each.settings["standing"], default=None)

    def behind(self, case: WorstCase) -> list[Measurement]:
        """The attacks of which a case is each image's worst."""
        return [each for each in self.attacked(case.model) if case.knowledge in (None, each.knowledge)]

    def marks(self, measurement: Measurement | WorstCase) -> list[str]:
        """What a reader has to know beside an accuracy, for a table."""
        rivals = [each for each in self.measurements if each.knowledge == measurement.knowledge]
        several = len({each.attack for each in rivals}) > 1
        partial = self.least_tried(measurement)
        found = {
            "*worst*": several and self.is_worst(measurement),
            f"*{partial and partial.partly}*": partial is not None,
            "*no more than noise*": measurement.beyond_noise is False,
            "*unreliable*": not self.is_reliable(measurement),
        }
        return [mark for mark, holds in found.items() if holds]

    def table(self, text: Callable[[str], str] = str) -> str:
        """A Markdown table: a row per attack, a column per model, accuracies with 95 % interval and count.

        The worst of several attacks by attackers who know the same is marked, as what does no more than noise is; below
        them stands what several attacks leave when each image meets the worst of them.

        Args:
            text: what names pass through, to be escaped where the table is to be rendered.
        """
        rows = [["attack", "attacker knows", "norm", "eps", "steps", *map(text, self.models)]]
        for attack in self.attacks:
            found = [self.measurement(model, attack) for model in self.models]
            accuracies = [" ".join([str(each.accuracy), *self.marks(each)]) for each in found]
            rows.append([*map(text, (attack, found[0].knowledge, *strength(found[0]))), *accuracies])
        for knowledge in self.kinds_of_several():
            cases = filter(None, (self.worst_case(model, knowledge) for model in self.models))
            accuracies = [" ".join([str(each.accuracy), *self.marks(each)]) for each in cases]
            rows.append([EVERY_ATTACK, text(knowledge or ANY_KNOWLEDGE), "-", "-", "-", *accuracies])
        return markdown(rows)

    def kinds_of_several(self) -> list[str | None]:
        """What attackers of several attacks know, and None for all attacks, where what these leave is known."""
        kinds = Counter({each.attack: each.knowledge for each in self.measurements if each.attack != CLEAN}.values())
        several = [*(kind for kind, attacks in kinds.items() if attacks > 1), *[None] * (len(kinds) > 1)]
        return [kind for kind in several if all(self.worst_case(model, kind) for model in self.models)]

    def details(self, model: str, text: Callable[[str], str] = str) -> str:
        """A Markdown table of one model: a row per attack, a column per measure, with 95 % interval and count.

        What was not measured under any attack has no column.

        Args:
            model: its name in the report.
            text: as for `table`.
        """
        measures = ("attack success rate", "decline", "fooling rate", "under noise", "shuffled", "kNN accuracy")
        rows = [["attack", *measures, "expected robustness"]]
        for each in self.of(model):
            decline = "-" if each.decline is None else f"{each.decline:.1%}"
            attacked = [each.attack_success_rate, decline, each.fooling_rate]
            doubt = "" if self.is_reliable(each) else " *unreliable*"
            rates = ["-"] * 3 if each.attack == CLEAN else [f"{rate}{doubt}" for rate in attacked]
            area = self.expected_robustness(model, each.attack)
            expected = f"{area[0]:.1%} up to eps {eps_text(area[1])}{doubt}" if area else "-"
            controls = (each.noise_accuracy, each.shuffled_accuracy, each.neighbor_accuracy)
            rows.append([text(each.attack), *rates, *(str(rate or "-") for rate in controls), expected])
        measured = [len({*column[1:]} - {"-"}) > 0 for column in zip(*rows, strict=True)]
        return markdown([[*compress(row, measured)] for row in rows])

    def expected_robustness(self, model: str, attack: str) -> tuple[float, float] | None:
        """Mean accuracy under an attack whose eps is anything from 0 to the largest of the sweep alike, and that eps.

        It is the area under accuracy over eps by the trapezoidal rule, as a share of the whole; None without a sweep.
        """
        swept = [each for each in self.sweep if (each.model, each.attack) == (model, attack)]
        if not swept:
            return None
        points = sorted((each.settings["eps"], each.accuracy.value) for each in swept)
        eps, accuracies = zip((0.0, Rate(swept[0].clean_correct, swept[0].count).value), *points, strict=True)
        return float(trapezoid(accuracies, eps)) / eps[-1], eps[-1]

    def to_csv(self) -> str:
        """A row per model and attack with all that the tables tell, for spreadsheets, which run nothing of it."""
        lines = io.StringIO()
        table = csv.DictWriter(lines, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for each in self.measurements:
            table.writerow({name: cell(value) for name, value in self.columns(each).items()})
        for case in self.worst_cases:
            known = {"model": case.model, "attack": case.attack, "knowledge": case.knowledge or ANY_KNOWLEDGE}
            known |= rate_columns(case.accuracy) | {"reliable": self.is_reliable(case)}
            table.writerow({name: cell(value) for name, value in known.items()})
        return lines.getvalue()

    def columns(self, each: Measurement) -> dict:
        """A row of `to_csv`, without what was not measured."""
        settings = {name: each.settings.get(name) for name in ("norm", "eps", "area", "steps", "standing", "attacked")}
        rates = {name: getattr(each, name) for name in ("attack_success_rate", "fooling_rate")}
        area, largest = self.expected_robustness(each.model, each.attack) or (None, None)
        attacked = {
            **{name: rate.value for name, rate in rates.items() if rate.count},
            "decline": each.decline,
            "worst": self.is_worst(each),
            "noise_correct": each.noise_correct,
            "shuffled_correct": each.shuffled_correct,
            "beyond_noise": each.beyond_noise,
            "expected_robustness": area,
            "expected_up_to_eps": largest,
        }
        found = {
            **{name: getattr(each, name) for name in ("model", "attack", "knowledge")},
            **settings,
            **rate_columns(each.accuracy),
            **(attacked if each.attack != CLEAN else {}),
            "neighbors_correct": each.neighbors_correct,
            "reliable": self.is_reliable(each),
        }
        return {name: value for name, value in found.items() if value is not None}

    @property
    def sha256(self) -> str:
        """Of the file that `save` writes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        values = asdict(replace(self, answers={}))
        del values["answers"]
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RobustnessReport":
        """Reads what `to_json` wrote.

        Raises:
            UserError: when it is no report, or one of another version, or its numbers cannot be true together.
        """
        try:
            values = json.loads(text)
            if values["schema_version"] != SCHEMA_VERSION:
                raise UserError(
                    f"its schema_version is {values['schema_version']}, this version of genaf_hf reads "
                    f"{SCHEMA_VERSION}; make it again with the command that made it"
                )
            lists = {"measurements": Measurement, "sweep": Measurement, "checks": Check, "worst_cases": WorstCase}
            for name, kind in lists.items():
                values[name] = [kind(**each) for each in values[name]]
            report = cls(**values)
            contradiction = next(contradictions(report), None)
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise UserError(f"This is not a report that genaf_hf can read: {error}.") from error
        if contradiction:
            raise UserError(f"The numbers of this report cannot be true: {contradiction}.")
        return report

    def save(self, path: str | Path) -> None:
        write_whole(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "RobustnessReport":
        """Reads the file that `save` wrote, or the one of a folder.

        Raises:
            UserError: as `from_json`, or when the file cannot be read.
        """
        try:
            path = report_file(path)
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise UserError(f"There is no report {path}: genaf-hf audit makes one of any classifier.") from error
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The report {path} cannot be read: {first_line(error)}.") from error
        return cls.from_json(text)


def report_file(path: str | Path) -> Path:
    """The file of a report that is named by itself or by the folder that it lies in."""
    return Path(path, REPORT) if Path(path).is_dir() else Path(path)


def contradictions(report: RobustnessReport) -> Iterator[str]:
    """What of a report cannot be true, whoever wrote it."""
    count, largest = report.dataset.get("count"), report.dataset.get("largest_class")
    if count is not None and not (is_whole(count) and count > 0):
        yield f"the images are {count}"
    if largest is not None and not (is_whole(largest) and count and 0 < largest <= count):
        yield f"{largest} of {count} images are of the most frequent class"
    for check in report.checks:
        if check.model not in report.models or not isinstance(check.passed, bool):
            yield f'the check "{check.name}" of "{check.model}" is passed: {check.passed}'
    clean = {each.model: each for each in report.measurements if each.attack == CLEAN}
    for each in (*report.measurements, *report.sweep):
        where = f'under "{each.attack}" of "{each.model}"'
        yield from (f"{words} {where}" for words in (*impossible_counts(each), *impossible_settings(each)))
        if each.model not in report.models:
            yield f"there is no such model {where}"
    for each in report.measurements:
        alone = clean.get(each.model, each)
        where = f'under "{each.attack}" of "{each.model}"'
        if (each.clean_correct, each.count) != (alone.clean_correct, alone.count):
            yield f"{each.clean_correct} of {each.count} images are right when clean {where}, not {alone.accuracy}"
        if count not in (None, each.count):
            yield f"{each.count} of {count} images were measured {where}"
    for case in report.worst_cases:
        if not is_possible(report, case):
            yield f'{case.correct} of {case.count} images of "{case.model}" are right under every attack'


def is_possible(report: RobustnessReport, each: WorstCase) -> bool:
    """Whether the attacks, each with the images that it fools, can leave what is said that all of them do."""
    attacked = report.behind(each)
    known = {(other.clean_correct, other.count) for other in attacked}
    if not is_whole(each.correct) or len(known) != 1:
        return False
    [(clean, count)], fooled = known, [other.fooled for other in attacked]
    return each.count == count and clean - sum(fooled) <= each.correct <= clean - max(fooled) and each.correct >= 0


def rate_columns(rate: Rate) -> dict:
    """A rate in a row of `RobustnessReport.to_csv`."""
    low, high = rate.interval
    return {"correct": rate.part, "count": rate.count, "accuracy": rate.value, "low": low, "high": high}
