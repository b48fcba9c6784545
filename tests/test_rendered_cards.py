"""The rendered cards in model_cards/ are what their reports give, to the byte."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from genaf_hf.evaluation.measurement import EVERY_ATTACK
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.sharing.model_card import model_card, pictures_in
from genaf_hf.sharing.record import TrainingRecord

LINKED = "example.png"
EXAMPLES = Path(__file__).parents[1] / "model_cards"
MODELS = {"digits-vit-genaf": "digits-vit-genaf", "digits-audit": "digits-vit-genaf"}


def test_every_example_is_known():
    assert {folder.name for folder in EXAMPLES.iterdir()} == set(MODELS)


@pytest.mark.parametrize("example", MODELS)
def test_a_card_is_rendered_from_report_and_record_alone(example):
    folder = EXAMPLES / example
    record = TrainingRecord.load(folder / "training.json") if (folder / "training.json").exists() else None
    report = RobustnessReport.load(folder / "report.json")
    card = model_card(report, record, model_name=MODELS[example], pictures=pictures_in(folder))
    assert str(card) == (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", MODELS)
def test_a_card_shows_all_pictures_beside_it_and_no_others(example):
    text = (EXAMPLES / example / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert sorted(shown) == sorted(path.name for path in (EXAMPLES / example).glob("*.png") if path.name != LINKED)


@pytest.mark.parametrize("example", MODELS)
def test_the_metadata_cites_the_report_beside_the_card(example):
    report = RobustnessReport.load(EXAMPLES / example / "report.json")
    results = ModelCard.load(EXAMPLES / example / "README.md").data.eval_results
    subject = list(report.models)[-1]
    assert [each.metric_args["attack"] for each in results] == [*report.attacks, EVERY_ATTACK]
    for each in results:
        attack = each.metric_args["attack"]
        measured = report.worst_case(subject) if attack == EVERY_ATTACK else report.measurement(subject, attack)
        assert (each.metric_args["correct"], each.metric_args["count"]) == (measured.correct, measured.count)
        assert each.metric_args["report_sha256"] == report.sha256
