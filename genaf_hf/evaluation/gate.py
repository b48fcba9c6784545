"""An accuracy that a model has to reach, for continuous integration."""

import logging
from collections.abc import Mapping

from genaf_hf.errors import UserError
from genaf_hf.evaluation.measurement import CLEAN, EVERY_ATTACK, Measurement, WorstCase
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.values.numbers import is_number

logger = logging.getLogger(__name__)

EVERY = EVERY_ATTACK.replace(" ", "-")


def name_of_worst(knowledge: str) -> str:
    """How the worst attack of attackers who know this is called, e.g. `"worst-public-encoder"` or `"worst-answers"`."""
    return "worst-" + knowledge.replace("model's ", "").replace(" ", "-")


def check_gate(fail_under: float | None, under: str, attacks: Mapping[str, str]) -> None:
    """Refuses, before anything is measured, what no accuracy can be held against.

    Args:
        fail_under: the least accuracy.
        under: an attack, `"clean"`, the worst of attackers who know the same, or `"every-attack"`.
        attacks: that will be measured, and what is known to those who attack by them.

    Raises:
        UserError: says what is expected.
    """
    if not is_number(fail_under) or not 0 <= fail_under <= 1:
        raise UserError(f"fail_under is {fail_under}, expected an accuracy from 0 to 1, such as 0.6.")
    known = [CLEAN, *dict.fromkeys(map(name_of_worst, attacks.values())), EVERY, *attacks]
    if under not in known:
        raise UserError(f'under is "{under}", expected one of what is measured: {", ".join(known)}.')


def check_reached(report: RobustnessReport, fail_under: float, under: str) -> None:
    """Refuses a report of which a model keeps less than it has to, or whose accuracies under attack are unreliable.

    Args:
        report, fail_under, under: as for `check_gate`.

    Raises:
        UserError: names the model, and what it keeps.
    """
    for model in report.models:
        found = accuracy_under(report, model, under)
        by = "" if found.attack == under else f" ({found.attack})"
        told = f'"{model}" is right about {found.accuracy} of the images under {under}{by}'
        if not report.is_reliable(found):
            failed = [check.name for check in report.failed_by(model)] or ["none was made"]
            raise UserError(f"{told}, but that is unreliable by the self-checks ({failed[0]}), whatever fail_under is.")
        if not found.accuracy.value >= fail_under:
            raise UserError(f"{told}, less than fail_under asks for, {fail_under:.1%}.")
        if partial := report.least_tried(found):
            logger.warning("%s at most: by %s only %s", told, partial.attack, partial.partly)


def accuracy_under(report: RobustnessReport, model: str, under: str) -> Measurement | WorstCase:
    """What a report holds by the name that `check_gate` takes."""
    worst = {name_of_worst(each.knowledge): each for each in report.verdict(model) if each.attack != CLEAN}
    every = report.worst_case(model) if under == EVERY else None
    return worst.get(under) or every or report.measurement(model, under)
