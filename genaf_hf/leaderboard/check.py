"""Whether results can be believed: each for itself, beside the others, and beside the report that it cites."""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from genaf_hf.evaluation.measurement import Rate
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.leaderboard.entries import CONDITIONS, FOUND, Entry, text
from genaf_hf.sharing.eval_results import conditions, dataset_name, published

TOLERANCE = 1e-4  # cards round
UNCHECKED = "no self-check was made"


@dataclass(frozen=True)
class Report:
    """The file that a card cites: its content, or else why there is none."""

    content: bytes = b""
    missing: str = ""


def check(entries: Iterable[Entry], reports: dict[tuple[str, str], Report] | None) -> list[Entry]:
    """The entries with all that is wrong with them.

    Args:
        entries: in the order of their models.
        reports: by model and path; None when none is to be checked.
    """
    checked = [with_notes(replace(each, interval=interval(each)), notes_of(each)) for each in entries]
    checked = above_clean(other_counts(repeated([with_problems(each, problems_of(each)) for each in checked])))
    checked = worst_of_each(above_one(checked))
    if reports is None:
        checked = [with_notes(each, ["report not checked"]) for each in checked]
    else:
        groups = defaultdict(list)
        for i, each in enumerate(checked):
            groups[each.model, each.report].append(i)
        for key, places in groups.items():
            found = beside_report([checked[i] for i in places], reports.get(key))
            for i, each in zip(places, found, strict=True):
                checked[i] = each
    return cited_twice(checked)


def with_problems(entry: Entry, problems: Iterable[str], **changes) -> Entry:
    return replace(entry, problems=(*entry.problems, *problems), **changes)


def with_notes(entry: Entry, notes: Iterable[str]) -> Entry:
    return replace(entry, notes=(*entry.notes, *notes))


# ---- each for itself ----


def has_counts(entry: Entry) -> bool:
    return entry.correct is not None and entry.count is not None and 0 <= entry.correct <= entry.count > 0


def interval(entry: Entry) -> tuple[float, float] | None:
    return Rate(entry.correct, entry.count).interval if has_counts(entry) else None


def problems_of(entry: Entry) -> Iterable[str]:
    """What is wrong with an entry that nothing else has to be known for; its interval is that of its counts."""
    if not 0 <= entry.accuracy <= 1:
        yield f"an accuracy of {entry.accuracy:g} is not between 0 and 1"
    if not has_counts(entry):
        yield f"{entry.correct} correct images of {entry.count} are no plausible counts"
    else:
        if abs(entry.correct / entry.count - entry.accuracy) > TOLERANCE:
            yield f"the accuracy {entry.accuracy:g} is not {entry.correct}/{entry.count}"
        claimed = entry.claimed_interval or (math.inf, math.inf)
        if any(abs(bound - other) > TOLERANCE for bound, other in zip(entry.interval, claimed, strict=True)):
            yield "the interval is not the 95 % Wilson interval of the counts"
    is_one = not (entry.is_clean or entry.is_of_all)
    if is_one and (entry.eps is None or entry.eps <= 0):
        yield "the attack has no eps above 0"
    if is_one and not entry.norm:
        yield "the attack has no norm"
    if not is_path(entry.report) or not re.fullmatch("[0-9a-f]{64}", entry.report_sha256):
        yield "no report is cited by its path and SHA-256"


def notes_of(entry: Entry) -> Iterable[str]:
    """What else is to be known of an entry by itself."""
    if entry.is_partial:
        yield f"{entry.attacked} of the {entry.standing} images that other attacks had left were attacked"


def is_path(path: str) -> bool:
    """Whether this can be a file's path in a repository."""
    return bool(path) and "\\" not in path and not {"", ".", ".."} & set(path.split("/"))


# ---- beside the others ----


def repeated(entries: list[Entry]) -> list[Entry]:
    """Marks what one card says twice of one report."""
    keys = [(each.model, each.conditions, each.report) for each in entries]
    times, twice = Counter(keys), "the card has several results under these conditions"
    return [with_problems(each, [twice] * (times[key] > 1)) for each, key in zip(entries, keys, strict=True)]


def other_counts(entries: list[Entry]) -> list[Entry]:
    """Marks results of one report on the same images that are not of as many images."""
    counts = defaultdict(set)
    for each in filter(has_counts, entries):
        counts[each.model, each.images, each.report].add(each.count)

    def problems(entry: Entry) -> list[str]:
        known = counts[entry.model, entry.images, entry.report] if has_counts(entry) else {entry.count}
        others = sorted(known - {entry.count})
        return [f"it is of {entry.count} images, another result on the same ones of {others[0]}"] if others else []

    return [with_problems(each, problems(each)) for each in entries]


def worst_of_each(entries: list[Entry]) -> list[Entry]:
    """Marks, of the attacks of attackers who know the same, the one that leaves a model least of the same images."""
    worst: dict[tuple, int] = {}
    for i, each in enumerate(entries):
        key = (each.model, each.images, each.knowledge)
        if not (each.is_clean or each.is_of_all) and (key not in worst or each.accuracy < entries[worst[key]].accuracy):
            worst[key] = i
    chosen = set(worst.values())
    return [replace(each, worst=i in chosen) for i, each in enumerate(entries)]


def above_clean(entries: list[Entry]) -> list[Entry]:
    """Marks robust accuracies that exceed the clean one of the same report by more than chance explains."""
    clean = {(each.model, each.images, each.report): each.interval for each in entries if each.is_clean}

    def absurd(entry: Entry) -> bool:
        known = clean.get((entry.model, entry.images, entry.report))
        return not entry.is_clean and bool(known and entry.interval) and entry.interval[0] > known[1]

    higher = "the robust accuracy exceeds the clean one"
    return [with_problems(each, [higher] * absurd(each)) for each in entries]


def above_one(entries: list[Entry]) -> list[Entry]:
    """Marks what all attacks of a report leave of a model where it is more than one of them leaves."""
    least: dict[tuple, float] = {}
    for each in entries:
        if not each.is_of_all:
            key = (each.model, each.images, each.report)
            least[key] = min(each.accuracy, least.get(key, math.inf))

    def absurd(entry: Entry) -> bool:
        known = least.get((entry.model, entry.images, entry.report), math.inf)
        return entry.is_of_all and entry.accuracy > known + TOLERANCE

    higher = "the accuracy under every attack exceeds that under one"
    return [with_problems(each, [higher] * absurd(each)) for each in entries]


def cited_twice(entries: list[Entry]) -> list[Entry]:
    """Notes where models of several repositories cite the same report; which of them made it cannot be told."""
    citing = defaultdict(dict)
    for each in entries:
        citing[each.report_sha256][each.model] = None

    def notes(entry: Entry) -> list[str]:
        others = [model for model in citing[entry.report_sha256] if model != entry.model]
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        return [f"the same report is cited by {others[0]}{more}"] if entry.report_sha256 and others else []

    return [with_notes(each, notes(each)) for each in entries]


# ---- beside the report ----


def beside_report(entries: list[Entry], report: Report | None) -> list[Entry]:
    """Compares the entries of one model with the report that they cite; all have to be of one model of the report."""
    if report is None:
        return entries
    if report.missing:
        return [with_problems(each, [f"the report cannot be fetched: {report.missing}"]) for each in entries]
    digest = hashlib.sha256(report.content).hexdigest()
    try:
        read = RobustnessReport.from_json(report.content.decode())
        held, known = results_of(read), {name: known_of(read, name) for name in read.models}
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        return [with_problems(each, [f"the report cannot be read: {text(error)}"]) for each in entries]
    says = [held.get(each.measured, set()) for each in entries]
    model = min(set.intersection(*filter(None, says)) if any(says) else (), default=None)
    of_model = [text(each.attack) for each in published(read) if each.model == model and each.count]
    shown = {each.attack for each in entries}
    left_out = [attack for attack in of_model if attack not in shown]

    def problems(entry: Entry, models: set[str]) -> Iterable[str]:
        if entry.report_sha256 != digest:
            yield "the report has another SHA-256"
        if not models:
            yield "the report does not hold this result"
        elif model is None:
            yield "the report holds the results of this card for different models"
        if left_out:
            yield f"the card leaves out {len(left_out)} of its report's results, such as that under {left_out[0]}"

    found = [list(problems(*each)) for each in zip(entries, says, strict=True)]
    told = known.get(model, {})
    return [
        with_problems(each, problems, report_checked=not problems, **({} if problems else told))
        for each, problems in zip(entries, found, strict=True)
    ]


def known_of(report: RobustnessReport, model: str) -> dict:
    """What a report knows of a model beside its results, as fields of an entry."""
    chance = report.chance_of(model)
    failed = [text(each.name) for each in report.failed_by(model)]
    if not failed and not report.is_trusted(model):
        failed = [UNCHECKED]
    return {"chance": chance if chance and 0 < chance <= 1 else None, "failed_checks": tuple(failed)}


def results_of(report: RobustnessReport) -> dict[tuple, set[str]]:
    """The models of a report by what an entry of theirs would have as `measured`."""
    held = defaultdict(set)
    images = [text(dataset_name(report)), *(text(report.dataset.get(name)) for name in ("config", "split", "revision"))]
    for each in published(report):
        known = conditions(report, each) | {"model_class": report.models[each.model]["class"]}
        found = [read(known.get(name)) for name, read in (CONDITIONS | FOUND).items()]
        held[(*images, *found)].add(each.model)
    return held
