"""What changed from one report to another: of which accuracies chance is no explanation."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy.stats import binomtest

from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import right_answers
from genaf_hf.evaluation.measurement import CLEAN, PUBLIC_ENCODER, Measurement, Rate
from genaf_hf.evaluation.report import ANSWERS, RobustnessReport, report_file
from genaf_hf.evaluation.self_checks import beside_undefended
from genaf_hf.values.markup import markdown

SIGNIFICANCE = 0.05
# What may differ between attacks that are the same.
WHERE_FROM = {"data", "seed", "standing", "attacked"}
OF_ENCODER = {"encoder", "encoder_revision"}  # of an attack on the model itself that model, which is another one now

Right = Mapping[tuple[str, str], list[bool]]


@dataclass(frozen=True)
class Change:
    """An accuracy before and now.

    Attributes:
        attack: its name; of the worst before and now both, where these differ.
        knowledge: of the attackers.
        before, now: the accuracies.
        lost, won: images that were right before alone, and that are now alone; None where the images' own answers are
            not known.
    """

    attack: str
    knowledge: str
    before: Rate
    now: Rate
    lost: int | None = None
    won: int | None = None

    @property
    def p_value(self) -> float | None:
        """Of McNemar's exact test, two-sided; None where it cannot be made.

        McNemar, Psychometrika 12, 1947.
        """
        if self.lost is None or self.won is None:
            return None
        return float(binomtest(self.lost, self.lost + self.won).pvalue) if self.lost + self.won else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference of two accuracies on whatever images, from their Wilson intervals.

        Newcombe, Statistics in Medicine 17, 1998, p. 873, method 10.
        """
        (low, high), (other_low, other_high) = self.now.interval, self.before.interval
        now, before = self.now.value, self.before.value
        return (
            now - before - math.hypot(now - low, other_high - before),
            now - before + math.hypot(high - now, before - other_low),
        )

    @property
    def sure(self) -> bool:
        """Whether chance is no explanation."""
        if self.p_value is not None:
            return self.p_value < SIGNIFICANCE
        low, high = self.interval
        return low > 0 or high < 0

    @property
    def verdict(self) -> str:
        return ("better" if self.now.value > self.before.value else "worse") if self.sure else "-"


@dataclass(frozen=True)
class Comparison:
    """Two reports of the same images beside each other.

    Attributes:
        models: the model before, and now.
        changes: by attack that was run alike, then the worst of those of each knowledge where all were.
        left_out: attacks that cannot be compared, and other models of both, in words.
        paired: whether it is known which images are right, in both.
    """

    models: tuple[str, str]
    changes: list[Change]
    left_out: list[str]
    paired: bool

    def table(self) -> str:
        """A Markdown table: a row per change."""
        last = ["lost / won", "p"] if self.paired else ["difference"]
        rows = [["attack", "attacker knows", "before", "now", *last, ""]]
        for each in self.changes:
            low, high = each.interval
            told = (
                [f"{each.lost} / {each.won}", f"{each.p_value:.2g}"]
                if self.paired
                else [f"{each.now.value - each.before.value:+.1%} [{low:+.1%}, {high:+.1%}]"]
            )
            rows.append([each.attack, each.knowledge, str(each.before), str(each.now), *told, each.verdict])
        return markdown(rows)

    def __str__(self) -> str:
        how = (
            "image by image: lost were right before alone, won are right now alone, p is of McNemar's exact test"
            if self.paired
            else f"by intervals alone, as there is no {ANSWERS} beside both (genaf-hf audit --answers leaves one for "
            "each model, of several in its own folder): a difference within its interval may still be one"
        )
        sure = {word: [each.attack for each in self.changes if each.verdict == word] for word in ("worse", "better")}
        told = "; ".join(f"{word} under {', '.join(attacks)}" for word, attacks in sure.items() if attacks)
        return "\n\n".join(
            [
                f"{self.models[0]} before, {self.models[1]} now, on the same images, {how}.",
                self.table(),
                *([f"Not compared: {'; '.join(self.left_out)}."] if self.left_out else []),
                f"{told or 'No difference that chance does not explain'}, each row by itself at a level of 5 %.",
            ]
        )


def compare_files(old: str | Path, new: str | Path) -> Comparison:
    """Compares two reports, each a file or the folder of one, image by image where their answers lie beside them.

    Raises:
        UserError: when one cannot be read, they are of other images, or have no attack in common.
    """
    files = [report_file(each) for each in (old, new)]
    reports = before, now = RobustnessReport.load(files[0]), RobustnessReport.load(files[1])
    check_same_images(before, now)
    answers = [file.with_name(ANSWERS) for file in files]
    if not all(file.exists() for file in answers) or not all(each.dataset.get("content") for each in reports):
        return compare(before, now)
    found = [right_answers(file, report_sha256=each.sha256) for file, each in zip(answers, reports, strict=True)]
    return compare(before, now, right=(found[0], found[1]))


def check_same_images(old: RobustnessReport, new: RobustnessReport) -> None:
    """Refuses reports of other images; the `UserError` tells what differs."""
    by_content = old.dataset.get("content") and new.dataset.get("content")
    names = ("content", "count") if by_content else ("name", "config", "split", "revision", "count")
    for name in names:
        before, now = (each.dataset.get(name) for each in (old, new))
        if before != now:
            raise UserError(
                f"The reports are of other images ({name} {before} and {now}): compare reports of the same dataset, "
                "split and limit."
            )


def joined(reports: Sequence[RobustnessReport]) -> RobustnessReport:
    """One report of the models of several, which are of the same images and attacks.

    Raises:
        UserError: when they are of other images.
    """
    first, *others = reports
    for other in others:
        check_same_images(first, other)
    measurements = [each for report in reports for each in report.measurements]
    return replace(
        first,
        models={name: known for report in reports for name, known in report.models.items()},
        measurements=measurements,
        checks=[*(each for report in reports for each in report.checks), *beside_undefended(measurements)],
        sweep=[each for report in reports for each in report.sweep],
        worst_cases=[each for report in reports for each in report.worst_cases],
        answers={name: found for report in reports for name, found in report.answers.items()},
    )


def compare(old: RobustnessReport, new: RobustnessReport, right: tuple[Right, Right] | None = None) -> Comparison:
    """What changed of the last model of each report; of one that both name, where there is one.

    Args:
        old, new: of the same images.
        right: which images each is right about, by model and attack, in the same order; None where not known.

    Raises:
        UserError: when they have nothing in common.
    """
    common = [name for name in new.models if name in old.models]
    models = (common[-1], common[-1]) if common else (old.subject, new.subject)
    before, now = (
        {each.attack: each for each in report.of(model)} for report, model in zip((old, new), models, strict=True)
    )

    def change(name: str, one: Measurement, other: Measurement) -> Change:
        if right is None:
            return Change(name, other.knowledge, one.accuracy, other.accuracy)
        pairs = list(zip(right[0][models[0], one.attack], right[1][models[1], other.attack], strict=True))
        lost, won = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        return Change(name, other.knowledge, one.accuracy, other.accuracy, lost, won)

    alike = [name for name in now if name in before and conditions(before[name]) == conditions(now[name])]
    if not [name for name in alike if name != CLEAN]:
        raise UserError("The reports have no attack in common that was run alike: audit both with the same attacks.")
    changes = [change(name, before[name], now[name]) for name in alike]
    for knowledge in dict.fromkeys(each.knowledge for each in now.values() if each.attack != CLEAN):
        of_kind = [[name for name, each in found.items() if each.knowledge == knowledge] for found in (before, now)]
        one, other = old.worst(models[0], knowledge), new.worst(models[1], knowledge)
        if len(of_kind[1]) > 1 and {*of_kind[0]} == {*of_kind[1]} <= {*alike} and one and other:
            names = dict.fromkeys((one.attack, other.attack))
            changes.append(change(f"worst ({', then '.join(names)})", one, other))
    others = [f"{name} (a model of both, too)" for name in common[:-1]]
    return Comparison(models, changes, [*left_out(before, now, alike), *others], right is not None)


def left_out(before: Mapping[str, Measurement], now: Mapping[str, Measurement], alike: list[str]) -> list[str]:
    """Which attacks are not compared, and why."""

    def words(name: str) -> str:
        return "only before" if name not in now else "only now" if name not in before else "other settings"

    return [f"{name} ({words(name)})" for name in dict.fromkeys((*before, *now)) if name not in alike]


def conditions(measurement: Measurement) -> dict:
    """What has to be the same for two measurements to be compared."""
    others = WHERE_FROM if measurement.knowledge == PUBLIC_ENCODER else WHERE_FROM | OF_ENCODER
    return {name: value for name, value in measurement.settings.items() if name not in others}
