"""Audits that were killed, and audits by two processes, find what one does."""

import json
import runpy
import shutil
import sys

import pytest
import torch
from audits import QUICK, RECIPE, arguments, counts, flags, images, model, whole

from genaf_hf import UniversalPerturbation
from genaf_hf.attacks import ATTACKS, register_attack
from genaf_hf.audit import audit
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.models.loading import load_classifier

__all__ = ["arguments", "images", "model", "whole"]  # fixtures
pytestmark = [
    pytest.mark.slow(reason="audits a model with all attacks"),
    pytest.mark.usefixtures("home", "quick_checks"),
]


@pytest.fixture
def mortal():
    """A registered attack on single images that dies when it is told to, and counts its images."""

    @register_attack("model", "images", eps=0.1)
    def mortal(model, images, *, eps, seeds):
        mortal.images += len(images)
        if mortal.images == mortal.dies_at:
            raise KeyboardInterrupt
        return (images + eps).clamp(0, 1)

    mortal.images, mortal.dies_at = 0, None
    yield mortal
    del ATTACKS["mortal"]


def test_nothing_is_measured_twice_and_nothing_is_mixed(arguments, mortal, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    settings = {"model_name_or_path": str(tmp_path / "model"), "batch_size": 6}
    make = lambda **changes: arguments(tmp_path / "out", "l4a,mortal,pgd", **{**settings, **changes})  # noqa: E731
    mortal.dies_at = 1 + 18 + 12  # tried out on one image, then all, then at a smaller eps
    with pytest.raises(KeyboardInterrupt):
        audit(make())
    for changes, sentence in (
        ({"eps": 0.14}, "mortal.eps was 0.15 and is 0.14, pgd."),
        ({"attack_settings": {"pgd": {"steps": 3}}}, "l4a.steps was 2 and is 500, pgd."),
    ):
        with pytest.raises(ValueError, match=f"unfinished run with other settings \\({sentence}"):
            audit(make(**changes))

    classifier, _ = load_classifier(model)
    with torch.no_grad():
        classifier.classifier.bias[0] += 1e-3
    classifier.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"other settings \(weights of the model was \w+ and is \w+\): choose another"):
        audit(make())
    shutil.copytree(model, tmp_path / "model", dirs_exist_ok=True)

    mortal.images, mortal.dies_at = 0, None
    resumed = audit(make())
    assert mortal.images == 1 + 18 + 18  # tried out, at two other eps
    assert resumed == audit(make())
    assert mortal.images == 1 + 18 + 18 + 1 + 3 * 18


def test_a_killed_audit_goes_on_to_the_same_report(processes, arguments, whole, place, tmp_path, monkeypatch, capsys):
    out = tmp_path / "whole"
    words = [str(RECIPE), *flags(arguments(out, attack_settings=json.dumps(QUICK)))]
    crafted = {path: path.stat().st_mtime_ns for path in (place / "home/genaf_hf").rglob("*.safetensors")}
    processes.start_and_kill([sys.executable, *words], out / "unfinished_run/evaluation/answers.model.pgd.json")
    assert not (out / "report.json").exists()
    shutil.copytree(out, tmp_path / "killed")

    monkeypatch.setattr("sys.argv", words)
    runpy.run_path(str(RECIPE), run_name="__main__")
    said = capsys.readouterr().out
    assert (out / "report.json").read_bytes() == (whole / "report.json").read_bytes()
    assert not (out / "unfinished_run").exists()
    report = RobustnessReport.load(out / "report.json")
    for part in (report.table(), report.details("model"), *map(str, report.checks)):
        assert part in said
    assert {path: path.stat().st_mtime_ns for path in (place / "home/genaf_hf").rglob("*.safetensors")} == crafted

    # What was written down is not asked again: an answer that was changed by hand is found in the report.
    shutil.copytree(tmp_path / "killed", out, dirs_exist_ok=True)
    path = out / "unfinished_run/evaluation/answers.model.pgd.json"
    step = json.loads(path.read_text())
    step["result"]["predictions"] = step["result"]["labels"]
    path.write_text(json.dumps(step))
    forged = audit(arguments(out, attack_settings=json.dumps(QUICK)))
    assert forged.measurement("model", "pgd").correct == 18 > report.measurement("model", "pgd").correct


def test_two_processes_count_what_one_does(processes, arguments, place, tmp_path):
    """Of 13 images one process has 7, the other 6."""
    one = audit(arguments(tmp_path / "one", limit=13))
    given = arguments(tmp_path / "two", attack_settings=json.dumps(QUICK), limit=13)
    command = ["-m", "genaf_hf.cli", "audit", *flags(given)]
    processes.run_on_two_processes(*command, HF_HOME=str(tmp_path / "home"))
    two = RobustnessReport.load(tmp_path / "two/report.json")
    assert counts(two) == counts(one)
    assert [(each.name, each.passed) for each in two.checks] == [(each.name, each.passed) for each in one.checks]
    assert (one.environment["processes"], two.environment["processes"]) == (1, 2)
    for name in ("l4a", "advencoder-pat-adaptive"):
        deltas = [
            UniversalPerturbation.from_pretrained(tmp_path / out / "perturbations" / name).delta
            for out in ("one", "two")
        ]
        torch.testing.assert_close(*deltas, rtol=0, atol=1e-6)
