"""The accuracy that a model has to reach for an audit to end well."""

from dataclasses import replace

import pytest
from cards import make_report

from genaf_hf.errors import UserError
from genaf_hf.evaluation.gate import accuracy_under, check_gate, check_reached, name_of_worst
from genaf_hf.evaluation.measurement import ANSWERS, KINDS, Check, Rate, WorstCase
from genaf_hf.evaluation.report import RobustnessReport

ATTACKED = {"l4a": "public encoder", "l4a-adaptive": "model", "pgd": "model", "square": "model's answers"}


def test_the_worst_of_each_knowledge_has_a_name():
    assert [name_of_worst(knowledge) for knowledge in KINDS] == [
        "worst-perturbation-at-hand",
        "worst-public-encoder",
        "worst-answers",
        "worst-model",
    ]


@pytest.mark.parametrize("fail_under", [-0.1, 1.1, 60, float("nan"), float("inf"), "0.6", True])
def test_what_is_no_accuracy_is_refused(fail_under):
    with pytest.raises(UserError, match=f"fail_under is {fail_under}, expected an accuracy from 0 to 1"):
        check_gate(fail_under, "clean", ATTACKED)


def report_with_square(**changes) -> RobustnessReport:
    """Of one model, which is also attacked by who knows its answers alone."""
    report = make_report("hardened", **changes)
    square = replace(report.measurements[-1], attack="square", knowledge=ANSWERS, correct=6, fooled=2, changed=2)
    return replace(report, measurements=[*report.measurements, square])


@pytest.mark.parametrize(
    ("under", "attack", "correct"),
    [
        ("clean", "clean", 8),
        ("worst-public-encoder", "l4a", 7),
        ("worst-answers", "square", 6),
        ("worst-model", "pgd", 5),
        ("every-attack", "every attack", 4),
        ("l4a-adaptive", "l4a-adaptive", 6),
        ("pgd", "pgd", 5),
    ],
)
def test_whatever_is_measured_can_be_asked_for(under, attack, correct):
    check_gate(0, under, ATTACKED)
    check_gate(1, under, ATTACKED)
    report = report_with_square(worst_cases=[WorstCase("hardened", None, 4, 10)])
    found = accuracy_under(report, "hardened", under)
    assert (found.attack, found.accuracy) == (attack, Rate(correct, 10))


def test_what_is_not_measured_is_refused_with_what_is():
    with pytest.raises(UserError, match='under is "uapgd", expected one of what is measured: clean, worst-public-enc'):
        check_gate(0.5, "uapgd", ATTACKED)
    with pytest.raises(UserError, match='under is "worst-answers", expected'):
        check_gate(0.5, "worst-answers", {"pgd": "model"})
    check_gate(0.5, "worst-perturbation-at-hand", {**ATTACKED, "found": "perturbation at hand"})


@pytest.mark.parametrize(
    ("under", "kept", "told"),
    [
        ("clean", 0.8, r"under clean, less"),
        ("worst-public-encoder", 0.7, r"\(7/10\) of the images under worst-public-encoder \(l4a\), less"),
        ("worst-model", 0.5, r"under worst-model \(pgd\), less than fail_under asks for, 50.1%"),
        ("l4a-adaptive", 0.6, "under l4a-adaptive, less"),
        ("every-attack", 0.4, r"under every-attack \(every attack\), less"),
    ],
)
def test_a_model_that_keeps_less_is_refused(under, kept, told):
    report = make_report("hardened", worst_cases=[WorstCase("hardened", None, 4, 10)])
    check_reached(report, kept, under)
    with pytest.raises(UserError, match=f'^"hardened" is right about {100 * kept:.1f}% .*{told}'):
        check_reached(report, kept + 0.001, under)


def test_what_was_attacked_in_part_is_told_as_a_bound(caplog):
    report = make_report("hardened")
    tried = {"standing": 6, "attacked": 2}
    found = [
        replace(each, settings=each.settings | (tried if each.attack == "pgd" else {})) for each in report.measurements
    ]
    check_reached(replace(report, measurements=found), 0.7, "worst-public-encoder")
    assert not caplog.messages
    check_reached(replace(report, measurements=found), 0.5, "worst-model")
    [told] = caplog.messages
    assert told.endswith("under worst-model (pgd) at most: by pgd only 2 of 6 images left were attacked")


def test_every_model_has_to_reach_it():
    with pytest.raises(UserError, match=r'"undefended" is right about 20\.0%'):
        check_reached(make_report(), 0.7, "worst-public-encoder")


def test_what_is_unreliable_reaches_nothing_but_clean_accuracy_is_in_no_doubt():
    failed = make_report("hardened", checks=[Check("hardened", "gradients are not zero", False, {})])
    for report, reason in ((failed, "gradients are not zero"), (replace(failed, checks=[]), "none was made")):
        with pytest.raises(UserError, match=rf"unreliable by the self-checks \({reason}\)"):
            check_reached(report, 0.1, "worst-model")
        check_reached(report, 0.8, "clean")


def test_attackers_who_know_answers_alone_are_found():
    with pytest.raises(UserError, match=r"under worst-answers \(square\)"):
        check_reached(report_with_square(), 0.61, "worst-answers")
