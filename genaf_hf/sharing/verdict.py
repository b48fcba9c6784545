"""What a report comes to, in sentences that cards, logs and command lines share."""

from collections.abc import Collection, Sequence

from genaf_hf.evaluation.measurement import CLEAN, KINDS, PUBLIC_ENCODER, Measurement, WorstCase, reach
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.evaluation.threats import AT_HAND
from genaf_hf.values.markup import plain

FEW_IMAGES = 100  # of which an accuracy of one half has an interval of 20 points


def doubts(report: RobustnessReport) -> list[str]:
    """What a reader has to know before any accuracy of a report's subject, in sentences, the worst first."""
    found, subject = [], report.subject
    if failed := report.failed_by(subject):
        names = "; ".join(plain(each.name) for each in failed)
        found.append(f"The robust accuracies of this model are *unreliable*, it failed self-checks: {names}.")
    elif not any(each.model == subject for each in report.checks):
        found.append("Whether the robust accuracies of this model can be trusted was not checked.")
    clean = next((each for each in report.of(subject) if each.attack == CLEAN), None)
    level = report.chance_of(subject)
    if clean is not None and clean.count and level is not None:
        low, high = clean.accuracy.interval
        if high < level:
            found.append(
                f"It is right less often than guessing, which is right about {level:.1%}: are its classes in the order "
                "of the labels?"
            )
        elif low <= level:
            found.append(f"Its clean accuracy cannot be told from guessing, which is right about {level:.1%}.")
    count = max((each.count for each in report.of(subject)), default=0)
    if 0 < count < FEW_IMAGES:
        found.append(
            f"Only {count} images were measured: the intervals are wide, and differences within them say nothing."
        )
    return found


def verdict(report: RobustnessReport, alone: str | None = None) -> str:
    """One sentence: what the subject keeps, clean and under the worst attack of each kind, beside others and chance.

    An accuracy is followed by its interval, and in brackets by the attack and by what the others keep under the same.

    Args:
        report: what was measured.
        alone: a model that is told of without the others, in place of the subject.
    """
    subject, *references = [alone] if alone else [report.subject, *report.references]
    parts = []
    for each in report.verdict(subject):
        unknown = f"under the worst attack by whoever knows {plain(each.knowledge)}"
        words = "of clean images" if each.attack == CLEAN else KINDS.get(each.knowledge, unknown)
        beside = [] if each.attack == CLEAN else [strength(each)]
        others = [report.measurement(name, each.attack) for name in references]
        parts.append(part_of_verdict(report, [each, *others], words, beside))
    if None in report.kinds_of_several():
        cases = [report.worst_case(name) for name in (subject, *references)]
        parts.append(part_of_verdict(report, cases, "under every attack, each image under its worst", []))
    if not parts:
        return "Nothing was measured of this model."
    *first, last = parts
    found = f"{', '.join(first)}, and {last}" if first else last
    level = report.chance_of(subject)
    return f"This model is right about {found}{'' if level is None else f'; guessing is right about {level:.1%}'}."


def of_other_kinds(report: RobustnessReport, trained_on: Collection[str]) -> str | None:
    """One sentence: from the public encoder, which attacks the subject was trained on, and what the worst other leaves.

    Args:
        report: what was measured.
        trained_on: names of attacks.

    Returns:
        None where it was trained on none of those that were measured.
    """
    found = [each for each in report.of(report.subject) if each.knowledge == PUBLIC_ENCODER]
    known = [each for each in found if kind_of(each) in trained_on]
    if not known:
        return None
    names = ", ".join(plain(each.attack) for each in known)
    if len(known) == len(found):
        return f"All that was crafted on the public encoder ({names}) is of kinds that it was trained on."
    worst = min((each for each in found if each not in known), key=lambda each: each.accuracy.value)
    low, high = worst.accuracy.interval
    return (
        f"Of what was crafted on the public encoder {names} are of kinds that it was trained on; the worst of the "
        f"others ({strength(worst)}) leaves {kept(report, worst)} [{low:.1%}, {high:.1%}]."
    )


def kind_of(measurement: Measurement) -> str:
    """The attack that a measurement is of, or of a perturbation at hand the name that it has where it lies."""
    if measurement.attack.endswith(AT_HAND):
        return measurement.attack.removesuffix(AT_HAND)
    return measurement.settings.get("attack", measurement.attack).removesuffix(ADAPTIVE)


def part_of_verdict(
    report: RobustnessReport, found: Sequence[Measurement | WorstCase], words: str, beside: Sequence[str]
) -> str:
    """What the first of several models keeps, and of what; in brackets what is known beside, and what others keep."""
    subject, *others = found
    low, high = subject.accuracy.interval
    beside = [*beside, *(f"{plain(each.model)}: {kept(report, each)}" for each in others)]
    told = f"{kept(report, subject)} [{low:.1%}, {high:.1%}] {words}"
    return f"{told} ({'; '.join(beside)})" if beside else told


def kept(report: RobustnessReport, measurement: Measurement | WorstCase) -> str:
    """An accuracy, marked where it cannot be trusted."""
    return f"{measurement.accuracy.value:.1%}{'' if report.is_reliable(measurement) else ' *unreliable*'}"


def strength(measurement: Measurement) -> str:
    """An attack, how far it goes and what it has tried, e.g. `pgd, linf, eps 8/255`."""
    return ", ".join(map(plain, filter(None, (measurement.attack, reach(measurement.settings), measurement.partly))))
