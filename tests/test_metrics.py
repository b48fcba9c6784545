import doctest
import json
import os
import runpy
import shutil
import sys
from math import isnan

import evaluate
import numpy as np
import pytest
import torch
from cards import blocks
from huggingface_hub import SpaceCard

from genaf_hf.evaluation.answers import Answers
from genaf_hf.evaluation.evaluate import measure
from genaf_hf.evaluation.measurement import Rate
from genaf_hf.evaluation.metrics import FOLDER, METRICS, load_metric

LABELS = [0, 1, 1, 2, 2, 0]
CLEAN = [0, 1, 0, 2, 1, 0]
ATTACKED = [1, 1, 1, 0, 1, 0]
NEVER_CONNECT = """
import socket

def refuse(*arguments, **settings):
    raise AssertionError("something wants to connect")

socket.socket.connect = socket.getaddrinfo = refuse
"""
ALONE = """
import json, sys

sys.modules["genaf_hf"] = None
import evaluate

inputs = {"predictions": [1, 1], "references": [0, 1]}
found = {}
for name in sys.argv[2:]:
    more = {"clean_predictions": [0, 1]} if name == "attack_success_rate" else {}
    found[name] = evaluate.load(f"{sys.argv[1]}/{name}").compute(**inputs, **more)
print(json.dumps(found))
"""
TOGETHER = """
import json, multiprocessing

from genaf_hf.evaluation.metrics import load_metric

def count(process):
    metrics = [load_metric("robust_accuracy") for _ in range(3)]
    barrier.wait()
    metrics += [load_metric("robust_accuracy") for _ in range(3)]
    for _ in range(4):
        for more, metric in enumerate(metrics, start=1):
            metric.add_batch(predictions=[7] * process + [8] * more, references=[7] * process + [9] * more)
    results = [metric.compute() for metric in metrics]
    return [[result["correct"], result["count"]] for result in results]

context = multiprocessing.get_context("fork")
barrier = context.Barrier(4)
with context.Pool(4) as pool:
    print(json.dumps(pool.map(count, range(4), chunksize=1)))
"""


def inputs_of(name, kind=list):
    given = {
        "robust_accuracy": {"predictions": ATTACKED, "references": LABELS},
        "attack_success_rate": {"predictions": ATTACKED, "references": LABELS, "clean_predictions": CLEAN},
        "fooling_rate": {"predictions": ATTACKED, "references": CLEAN},
    }
    return {key: kind(values) for key, values in given[name].items()}


def run(processes, script, *arguments, home, **environment):
    """What a script prints, with fresh caches and no way to connect."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment = {**kept, **environment, "HF_HOME": str(home)}
    command = [sys.executable, "-c", NEVER_CONNECT + script, *map(str, arguments)]
    finished = processes.run(command, env=environment, cwd=home)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
@pytest.mark.parametrize(
    ("name", "part", "count"),
    [
        ("robust_accuracy", ("correct", 3), 6),  # images 1, 2 and 5
        ("attack_success_rate", ("fooled", 2), 4),  # 0 and 3, of 0, 1, 3 and 5
        ("fooling_rate", ("changed", 3), 6),  # 0, 2 and 3
    ],
)
def test_values_by_hand(name, part, count, kind):
    found = load_metric(name).compute(**inputs_of(name, kind))
    assert found == {name: part[1] / count, part[0]: part[1], "count": count}
    assert [type(value) for value in found.values()] == [float, int, int]


def test_a_report_holds_what_they_count():
    clean, attacked = (Answers(LABELS, found, None, 0.0, True, [0.9] * len(LABELS)) for found in (CLEAN, ATTACKED))
    found = measure("model", clean, attacked)
    counted = {name: load_metric(name).compute(**inputs_of(name)) for name in METRICS}
    assert found.accuracy == Rate(counted["robust_accuracy"]["correct"], counted["robust_accuracy"]["count"])
    success = counted["attack_success_rate"]
    assert found.attack_success_rate == Rate(success["fooled"], success["count"])
    assert found.fooling_rate == Rate(counted["fooling_rate"]["changed"], counted["fooling_rate"]["count"])


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_batches_add_up(name, kind):
    metric, inputs = load_metric(name), inputs_of(name, kind)
    for rows in (slice(0, 1), slice(1, 5), slice(5, 6)):
        metric.add_batch(**{key: values[rows] for key, values in inputs.items()})
    whole = metric.compute()
    assert whole == load_metric(name).compute(**inputs)
    assert metric.compute(**inputs) == whole


@pytest.mark.parametrize("name", METRICS)
def test_without_images_the_rate_is_nan(name):
    found = load_metric(name).compute(**{key: [] for key in inputs_of(name)})
    assert isnan(found.pop(name))
    assert list(found.values()) == [0, 0]


def test_without_images_that_were_right_there_is_no_success_rate():
    found = load_metric("attack_success_rate").compute(predictions=[1], references=[0], clean_predictions=[2])
    assert isnan(found["attack_success_rate"])
    assert found["count"] == found["fooled"] == 0


@pytest.mark.parametrize("name", METRICS)
def test_other_lengths_are_refused_and_not_remembered(name):
    metric, inputs = load_metric(name), inputs_of(name)
    expected = metric.compute(**inputs)
    for key in list(inputs)[1:]:
        with pytest.raises(ValueError, match=rf"Mismatch in the number of predictions \(6\) and {key} \(5\)"):
            metric.compute(**{**inputs, key: inputs[key][:5]})
        assert metric.compute(**inputs) == expected


def test_clean_predictions_are_needed():
    with pytest.raises(ValueError, match=r"inputs are missing: \['clean_predictions'\]"):
        load_metric("attack_success_rate").compute(predictions=[0], references=[0])


def test_logits_are_refused():
    with pytest.raises(ValueError, match="don't match the expected format"):
        load_metric("robust_accuracy").compute(predictions=torch.rand(2, 3), references=[0, 1])


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='There is no metric "accuracy"; there are ') as refusal:
        load_metric("accuracy")
    assert all(name in str(refusal.value) for name in METRICS)


def test_loading_and_computing_leave_the_random_state():
    before = np.random.get_state()
    load_metric("fooling_rate").compute(**inputs_of("fooling_rate"))
    np.testing.assert_equal(np.random.get_state(), before)


def test_each_folder_works_offline_and_without_this_package(processes, tmp_path):
    for name in METRICS:
        shutil.copytree(FOLDER / name, tmp_path / "elsewhere" / name)
    flags = {"HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    found = run(processes, ALONE, tmp_path / "elsewhere", *METRICS, home=tmp_path, **flags)
    assert {name: found[name][name] for name in METRICS} == dict.fromkeys(METRICS, 0.5)


def test_processes_load_and_compute_at_the_same_time_on_their_own(processes, tmp_path):
    found = run(processes, TOGETHER, home=tmp_path)
    assert found == [[[4 * process, 4 * (process + index + 1)] for index in range(6)] for process in range(4)]
    assert not list(tmp_path.glob("metrics/**/*.arrow*"))


@pytest.mark.parametrize("name", METRICS)
def test_the_examples_of_the_card_and_of_the_help_run(name, monkeypatch):
    monkeypatch.chdir(FOLDER)
    [in_card] = blocks((FOLDER / name / "README.md").read_text(encoding="utf-8"), "python")
    for text in (in_card, load_metric(name).inputs_description):
        examples = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, name, None, None)
        assert sum(bool(example.want) for example in examples.examples) == 1
        assert doctest.DocTestRunner().run(examples).failed == 0


@pytest.mark.parametrize("name", METRICS)
def test_each_folder_is_a_space(name):
    files = {path.name for path in (FOLDER / name).iterdir() if path.is_file()}
    assert files == {"README.md", "app.py", "requirements.txt", f"{name}.py"}
    card = SpaceCard.load(FOLDER / name / "README.md").data
    assert (card.sdk, card.app_file) == ("gradio", "app.py")
    assert {"evaluate", "metric"} <= {*card.tags}
    metric = load_metric(name)
    assert metric.name == card.title.lower().replace(" ", "_") == name
    assert " ".join(metric.description.split()) == card.description
    assert metric.citation.strip() in (FOLDER / name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METRICS)
def test_the_widget_shows_its_own_metric(name, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr("evaluate.utils.launch_gradio_widget", shown.append)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / name / "app.py"))
    assert [metric.name for metric in shown] == [name]
