"""The benchmark of defences: what is there is not measured again, what was killed goes on, what differs stays apart."""

import json
import shutil

import pytest
from conftest import BENCHMARKS, benchmark_module

ROWS = ["none", 'mine:{"defence": "universal", "live": 1, "bank": ["l4a"], "bank_steps": 2, "learning_rate": 1e-3}']


@pytest.fixture(scope="module")
def defences():
    return benchmark_module("defences")


@pytest.fixture(scope="module")
def tables():
    return benchmark_module("defence_tables")


@pytest.fixture
def run(defences, encoders, dataset, tmp_path):
    """Runs the benchmark into a folder and gives the lines that it left there."""
    dataset.save_to_disk(tmp_path / "colours")

    def run(name: str, *changes: str) -> list[dict]:
        (tmp_path / name).mkdir(exist_ok=True)
        found = tmp_path / name / "found"
        given = [encoders["dino"], str(tmp_path / "colours"), "--rows", *ROWS, "--steps", "2", "--batch_size", "8"]
        given += ["--found", str(found), "--models", str(tmp_path / name / "models"), "--precision", "fp32"]
        given += ["--public", 'l4a:{"steps": 2}', "--far", "--adaptive", 'upgd:{"steps": 2}']
        given += ["--per_image", 'pgd:{"steps": 2}', "--image_attack_images", "6", *changes]
        defences.measure(defences.parsed_arguments(given))
        return defences.lines(found.with_suffix(".jsonl"))

    return run


def unwanted(*_):
    raise AssertionError("this was done before")


def without_time(lines: list[dict]) -> list[dict]:
    timed = ("seconds", "step_seconds", "fine_tune")
    return [{name: value for name, value in line.items() if name not in timed} for line in lines]


@pytest.mark.slow(reason="trains by two defences, and measures both")
def test_killed_and_started_again_it_finds_the_same(run, defences, monkeypatch, tmp_path):
    expected = run("whole")
    assert [(line["row"]["name"], line["row"]["defence"], line["seed"]) for line in expected] == [
        ("none", "none", 0),
        ("mine", "universal", 0),
    ]
    assert expected[1]["row"]["settings"]["live"] == 1
    assert expected[1]["row"]["settings"]["learning_rate"] == 1e-3
    assert [[*line["attacks"]["trained on"]] for line in expected] == [[], ["l4a", "live-1", "live-patch"]]
    for line in expected:
        counts = [line["clean"], *(each for kind in line["attacks"].values() for each in kind.values())]
        assert {count for _, count in counts} == {18, 6}
        assert [*line["along"]] == ["0", "0.25", "0.5", "0.75", "1", "1.25", "1.5", "1.75", "2"]
        assert line["seconds"] > line["step_seconds"] > 0
        assert line["fine_tune"] == {name: expected[0][name] for name in ("seconds", "step_seconds")}

    attacked = defences.attacked

    def killed(model, test, attacks, attacker, args, journal):
        if "mine" in journal.folder.name:
            raise KeyboardInterrupt
        return attacked(model, test, attacks, attacker, args, journal)

    with monkeypatch.context() as patch:
        patch.setattr(defences, "attacked", killed)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    [before] = defences.lines(tmp_path / "killed/found.jsonl")
    with monkeypatch.context() as patch:  # the model that was trained before is there
        patch.setattr(defences, "trained", unwanted)
        found = run("killed")
    assert found[0] == before
    assert without_time(found) == without_time(expected)
    assert json.dumps(expected[0]["setting"]) == json.dumps(found[1]["setting"])

    monkeypatch.setattr(defences, "attacked", unwanted)
    assert run("killed") == found
    table = (tmp_path / "killed/found.md").read_text()
    goals, _ = (line for line in table.splitlines() if line.startswith("## "))
    assert goals == "## What was to be reached"
    assert "| mine" in table
    assert (tmp_path / "killed/found.png").stat().st_size > 0


def test_rows_of_other_settings_stand_apart(defences, tables):
    def line(row, seed, steps, right):
        setting = {
            "title": "here",
            "training": {"steps": steps, "batch_size": 1, "train_images": 1, "precision": "fp32"},
        }
        setting |= {"attacker": "images", "test_images": 4, "image_attack_images": 4, "autoattack_images": 4}
        setting["attacks"] = {kind: {} for kind in defences.WANTED} | {"public": {"l4a": {}}}
        found = {kind: {} for kind in defences.WANTED} | {"public": {"l4a": [right, 4]}}
        times = {"seconds": 2.0 * right, "step_seconds": 1.0 * right}
        beside = {"seconds": 2.0 * seed, "step_seconds": 1.0 * seed}
        return {
            "setting": setting,
            "row": row,
            "seed": seed,
            "clean": [4, 4],
            "attacks": found,
            "unreliable": [],
            **times,
            "fine_tune": beside,
        }

    old, new, none = {"name": "a", "settings": 1}, {"name": "a", "settings": 2}, {"name": "none"}
    found = [line(none, 0, 5, 1), line(old, 0, 5, 2), line(new, 1, 5, 3), line(new, 2, 5, 4), line(old, 0, 6, 1)]
    sections = tables.sections_of(found)
    assert [{name: [each["seed"] for each in lines] for name, lines in rows.items()} for _, rows in sections] == [
        {"none": [0], "a": [1, 2]},
        {"a": [0]},
    ]
    (_, rows), _ = sections
    assert tables.ratio(rows["a"], "step_seconds") == 7 / 3  # (3 + 4) / (1 + 2)
    assert tables.cell([75.0, 100.0]) == "87.5 ± 158.8"
    assert tables.cell([50.0]) == "50.0"
    assert tables.cell([None]) == "-"


def test_what_was_not_reached_is_bold(tables):
    def line(seed, clean, l4a, patch, seconds):
        attacks = {"public": {"l4a": [l4a, 100], "advencoder-pat": [patch, 100]}}
        return {
            "seed": seed,
            "clean": [clean, 100],
            "attacks": attacks,
            "seconds": seconds,
            "fine_tune": {"seconds": 1.0},
        }

    told = {"title": "here", "training": {"dataset": "photos"}}
    rows = {
        "none": [line(0, 80, 10, 50, 1.0), line(1, 90, 10, 50, 1.0)],
        "universal": [line(0, 80, 75, 72, 2.0), line(1, 88, 85, 79, 2.5)],
        "universal-anchor": [line(1, 90, 88, 85, 2.0)],
    }
    without = {"title": "nothing by the default", "training": {"dataset": "digits"}}
    digits = {"title": "digits", "training": {"dataset": "digits"}}
    of_digits = {"none": rows["none"], "universal-n-fgsm": [line(1, 89, 85, 79, 2.0)]}
    sections = [(told, rows), (without, rows), (digits, of_digits)]
    heads, *found = tables.goals(sections)
    assert heads[2:] == [
        "clean, beside none (-0.5)",
        *("DAE, mean (-4)", "DAE, worst (-8)", "patch (-8)", "adaptive, worst (-15)", "time of all (2.2)"),
    ]
    assert found == [
        ["here", "universal", "**-1.0**", "-4.0", "-4.0", "**-8.5**", "-", "**2.25**"],
        ["here", "universal-anchor", "+0.0", "-2.0", "-2.0", "-5.0", "-", "2.00"],
        ["digits", "universal-n-fgsm", "-1.0", "-4.0", "-4.0", "**-10.0**", "-", "2.00"],
    ]


def test_the_table_is_of_what_was_measured(tables, tmp_path):
    shutil.copy(BENCHMARKS / "defences.jsonl", tmp_path)
    tables.write(tmp_path / "defences")
    assert (tmp_path / "defences.md").read_text() == (BENCHMARKS / "defences.md").read_text()
