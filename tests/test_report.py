import dataclasses
import json

import pytest

from genaf_hf.report import Measurement, RobustnessReport


def measurement(correct: int, count: int, model="hardened", attack="clean", **settings) -> Measurement:
    return Measurement(model, attack, "nothing" if attack == "clean" else "model", settings, correct, count)


@pytest.fixture
def report():
    return RobustnessReport(
        dataset={"name": "digits", "split": "test", "revision": None, "count": 10},
        models={"undefended": {"class": "ViT", "parameters": 7}, "hardened": {"class": "ViT", "parameters": 7}},
        measurements=[
            measurement(9, 10, "undefended"),
            measurement(1, 10, "undefended", "pgd", eps=8 / 255, steps=20, norm="linf"),
            measurement(8, 10, "hardened"),
            measurement(5, 10, "hardened", "pgd", eps=8 / 255, steps=20, norm="linf"),
        ],
        seed=3,
        environment={"torch": "2", "hardware": "CPU"},
    )


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (0, 1, 0.0, 0.7935),
    ],
)
def test_the_interval_is_wilsons(correct, count, low, high):
    # Textbook values; 81 of 263 is the example of Newcombe, Statistics in Medicine 17, 1998.
    assert measurement(correct, count).interval == pytest.approx((low, high), abs=5e-5)
    assert all(type(bound) is float for bound in measurement(correct, count).interval)


def test_a_measurement_reads_well():
    assert measurement(8, 10).accuracy == 0.8
    assert str(measurement(8, 10)) == "80.0% [49.0%, 94.3%] (8/10)"


def test_json_gives_the_report_back(report, tmp_path):
    assert RobustnessReport.from_json(report.to_json()) == report
    report.save(tmp_path / "report.json")
    assert RobustnessReport.load(str(tmp_path / "report.json")) == report
    assert json.loads((tmp_path / "report.json").read_text())["measurements"][3] == {
        "model": "hardened",
        "attack": "pgd",
        "knowledge": "model",
        "settings": {"eps": 8 / 255, "steps": 20, "norm": "linf"},
        "correct": 5,
        "count": 10,
    }


def test_names_outside_ascii_survive(report, tmp_path):
    named = dataclasses.replace(report, dataset={"name": "Ziffern für Späße"})
    named.save(tmp_path / "report.json")
    assert RobustnessReport.load(tmp_path / "report.json") == named


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_report_of_another_version_is_refused(report, version):
    values = {**json.loads(report.to_json()), "schema_version": version}
    with pytest.raises(ValueError, match=f"its schema_version is {version}, this version reads 1") as refusal:
        RobustnessReport.from_json(json.dumps(values))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"text"', "{}", '{"schema_version": 1}'])
def test_what_is_no_report_is_refused(text):
    with pytest.raises(ValueError, match="This is not a report of genaf_hf") as refusal:
        RobustnessReport.from_json(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change", [{"measurements": [{"model": "a"}]}, {"measurements": 3}, {"accuracy": 0.5}])
def test_a_report_with_other_fields_is_refused(report, change):
    with pytest.raises(ValueError, match="This is not a report of genaf_hf"):
        RobustnessReport.from_json(json.dumps({**json.loads(report.to_json()), **change}))


def test_a_truncated_report_is_refused(report):
    with pytest.raises(ValueError, match="This is not a report of genaf_hf"):
        RobustnessReport.from_json(report.to_json()[:-20])


def test_the_table_has_a_row_for_each_attack_and_a_column_for_each_model(report):
    lines = report.table().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["attack", "attacker knows", "norm", "eps", "steps", "undefended", "hardened"]
    assert set("".join(cells[1])) == {"-"}
    assert cells[2] == ["clean", "nothing", "-", "-", "-", "90.0% [59.6%, 98.2%] (9/10)", "80.0% [49.0%, 94.3%] (8/10)"]
    assert cells[3] == [
        "pgd",
        "model",
        "linf",
        "0.03137",
        "20",
        "10.0% [1.8%, 40.4%] (1/10)",
        "50.0% [23.7%, 76.3%] (5/10)",
    ]
    assert len(lines) == 4
    assert len({tuple(index for index, sign in enumerate(line) if sign == "|") for line in lines}) == 1


def test_attacks_come_in_the_order_in_which_they_were_run(report):
    assert report.attacks == ["clean", "pgd"]


def test_measurements_are_found_by_model_and_attack(report):
    assert report.measurement("hardened", "pgd").correct == 5
    with pytest.raises(KeyError, match='no "square" for "hardened"'):
        report.measurement("hardened", "square")
