"""The names that others have for the attacks of a report."""

import re
from dataclasses import replace

import pytest
from cards import make_record, make_report

from genaf_hf.evaluation.measurement import ANSWERS, KINDS, PERTURBATION
from genaf_hf.sharing.evidence import evidence, sources
from genaf_hf.sharing.model_card import findings, model_card


def told(report, hardened=True) -> dict[str, str]:
    """Attacks by id."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in evidence(
        report, "hardened", hardened=hardened).splitlines()[2:]]  # fmt: skip
    return {row[1].replace("\\", ""): row[3].replace("\\", "") for row in rows}


def knowing(knowledge: str, attack: str):
    """A report of one attack by attackers who know this."""
    clean, *_, pgd = make_report("hardened").measurements
    return make_report("hardened", measurements=[clean, replace(pgd, attack=attack, knowledge=knowledge)])


def test_every_source_has_an_edition_an_address_and_known_knowledge():
    for each in sources():
        assert each["edition"]
        assert each["source"].startswith("https://")
        assert {kind for entry in each["entries"] for kind in entry.get("knows", ())} <= {*KINDS}
    ids = [entry["id"] for each in sources() for entry in each["entries"]]
    assert len(ids) == len({*ids})
    assert {"NISTAML.022", "NISTAML.025", "AML.T0015", "AML.T0043", "ML01:2023", "CWE-1039", "Article 15(5)"} <= {*ids}


def test_attacks_stand_beside_the_names_that_others_have_for_them():
    assert told(make_report()) == {
        **dict.fromkeys(("NISTAML.022", "AML.T0015", "AML.T0043", "ML01:2023", "CWE-1039", "Article 15(5)"), "all"),
        **dict.fromkeys(("11.1.3", "11.1.4"), "all"),
        "NISTAML.025": "l4a",
        "AML.T0043.000": "l4a-adaptive, pgd",
        "AML.T0043.002": "l4a",
    }
    assert told(make_report(), hardened=False).keys() == told(make_report()).keys() - {"11.1.4"}


@pytest.mark.parametrize(("knowledge", "technique"), [(ANSWERS, "AML.T0043.001"), (PERTURBATION, "AML.T0043.002")])
def test_attackers_without_the_model_are_black_boxes(knowledge, technique):
    found = told(knowing(knowledge, "square"))
    assert found[technique] == found["NISTAML.025"] == "all"
    assert "AML.T0043.000" not in found
    assert "AML.T0043.000" not in told(knowing("something else", "own"))


def test_cards_say_evidence_and_never_that_a_model_complies():
    for text in (
        model_card(make_report(), make_record(), model_name="a/b").text,
        findings(make_report(), model_name="a/b", folder="audit"),
    ):
        assert re.search("^##+ What this is evidence for$", text, re.MULTILINE)
        assert re.search("complian|complies|conform|certified", text) is None
    bare = make_report("hardened", measurements=make_report("hardened").measurements[:1])
    assert "What this is evidence for" not in model_card(bare, model_name="a/b").text
    assert evidence(bare, "hardened", hardened=True) == ""
