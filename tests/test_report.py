import csv
import dataclasses
import hashlib
import io
import json
import math

import pytest

from genaf_hf.errors import UserError
from genaf_hf.evaluation.measurement import Check, Measurement, Rate, WorstCase
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.values.numbers import eps_text

PGD = {"eps": 8 / 255, "steps": 20, "norm": "linf"}


def measurement(correct: int, count: int, model="hardened", attack="clean", clean_correct=None, **found) -> Measurement:
    knowledge, settings = ("nothing", {}) if attack == "clean" else ("model", PGD)
    return Measurement(
        model, attack, knowledge, settings, correct, count, correct if clean_correct is None else clean_correct, **found
    )


@pytest.fixture
def report():
    return RobustnessReport(
        dataset={"name": "digits", "split": "test", "revision": None, "count": 10},
        models={
            "undefended": {"class": "ViT", "parameters": 7, "classes": 3},
            "hardened": {"class": "ViT", "parameters": 7, "classes": 3},
        },
        measurements=[
            measurement(9, 10, "undefended"),
            measurement(1, 10, "undefended", "pgd", 9, fooled=9, changed=10, neighbors_correct=2),
            measurement(8, 10, "hardened", neighbors_correct=7),
            measurement(5, 10, "hardened", "pgd", 8, fooled=4, changed=6, neighbors_correct=0),
        ],
        checks=[
            Check("undefended", "gradients are not zero", True, {"images without a gradient": 0}),
            Check("hardened", "gradients are not zero", True, {"images without a gradient": 0}),
        ],
        sweep=[measurement(4, 5, "hardened", "pgd", 5, fooled=1, changed=1)],
        seed=3,
        environment={"torch": "2", "hardware": "CPU"},
    )


@pytest.fixture
def masked(report):
    """The same, of a hardened model whose gradients are masked."""
    failed = Check("hardened", "gradients are not zero", False, {"images without a gradient": 10})
    return dataclasses.replace(report, checks=[report.checks[0], failed])


def cells(table: str) -> list[list[str]]:
    """Of the rows of a Markdown table, without the rule below its head."""
    head, rule, *body = table.splitlines()
    assert set(rule) == {"-", "|"}
    assert len({tuple(index for index, sign in enumerate(line) if sign == "|") for line in (head, rule, *body)}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *body)]


# ---- numbers ----


@pytest.mark.parametrize(
    ("part", "count", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (5, 10, 0.2366, 0.7634),
        (81, 263, 0.2553, 0.3662),
        (0, 1, 0.0, 0.7935),
        (0, 0, 0.0, 1.0),
    ],
)
def test_the_interval_is_wilsons(part, count, low, high):
    # Textbook values; 81 of 263 is the example of Newcombe, Statistics in Medicine 17, 1998.
    assert Rate(part, count).interval == pytest.approx((low, high), abs=5e-5)
    assert all(type(bound) is float for bound in Rate(part, count).interval)


def test_a_rate_reads_well():
    assert Rate(8, 10).value == 0.8
    assert str(Rate(8, 10)) == "80.0% [49.0%, 94.3%] (8/10)"
    assert math.isnan(Rate(0, 0).value)
    assert str(Rate(0, 0)) == "- (0/0)"


def test_what_an_attack_did_in_numbers():
    # Of 10 images 8 were right; 4 of these are wrong now and 1 of the others right, so that 5 are; 6 answers changed.
    found = measurement(5, 10, attack="pgd", clean_correct=8, fooled=4, changed=6, neighbors_correct=3)
    assert found.accuracy == Rate(5, 10)
    assert found.attack_success_rate == Rate(4, 8)
    assert found.decline == 3 / 8
    assert found.fooling_rate == Rate(6, 10)
    assert found.neighbor_accuracy == Rate(3, 10)


def test_a_decline_is_below_0_where_an_attack_helps_and_no_image_is_no_rate():
    assert measurement(9, 10, attack="pgd", clean_correct=8, fooled=1, changed=3).decline == -1 / 8
    assert measurement(0, 10, attack="pgd").decline is None
    assert measurement(0, 10, attack="pgd").attack_success_rate == Rate(0, 0)
    assert measurement(8, 10).neighbor_accuracy is None


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (0.0313725, "8/255"), (1 / 255, "1/255"), (254 / 255, "254/255"), (0.03, "0.03"), (1.0, "1"),
     (0.5, "0.5"), (4, "4"), (1e-4, "0.0001"), (0.31, "0.31")],
)  # fmt: skip
def test_eps_is_written_as_the_field_does(eps, text):
    assert eps_text(eps) == text


# ---- JSON ----


def test_json_gives_the_report_back(report, tmp_path):
    assert RobustnessReport.from_json(report.to_json()) == report
    report.save(tmp_path / "report.json")
    assert RobustnessReport.load(str(tmp_path / "report.json")) == report
    assert report.sha256 == hashlib.sha256((tmp_path / "report.json").read_bytes()).hexdigest()
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["schema_version"] == 4
    assert values["measurements"][3] == {
        "model": "hardened",
        "attack": "pgd",
        "knowledge": "model",
        "settings": {"eps": 8 / 255, "steps": 20, "norm": "linf"},
        "correct": 5,
        "count": 10,
        "clean_correct": 8,
        "fooled": 4,
        "changed": 6,
        "neighbors_correct": 0,
        "noise_correct": None,
        "beyond_noise": None,
        "shuffled_correct": None,
    }
    assert values["checks"][0] == {
        "model": "undefended",
        "name": "gradients are not zero",
        "passed": True,
        "numbers": {"images without a gradient": 0},
    }
    assert [each["count"] for each in values["sweep"]] == [5]


def test_names_outside_ascii_survive(report, tmp_path):
    named = dataclasses.replace(report, dataset={"name": "Ziffern für Späße"})
    named.save(tmp_path / "report.json")
    assert RobustnessReport.load(tmp_path / "report.json") == named


@pytest.mark.parametrize("version", [0, 3, 5, "4", None])
def test_a_report_of_another_version_is_refused(report, version):
    values = {**json.loads(report.to_json()), "schema_version": version}
    sentence = f"its schema_version is {version}, this version of genaf_hf reads 4"
    with pytest.raises(ValueError, match=sentence) as refusal:
        RobustnessReport.from_json(json.dumps(values))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"text"', "{}", '{"schema_version": 4}', "[" * 100_000 + "]" * 100_000]
)
def test_what_is_no_report_is_refused(text):
    with pytest.raises(ValueError, match="This is not a report that genaf_hf can read") as refusal:
        RobustnessReport.from_json(text)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "change",
    [
        {"measurements": [{"model": "a"}]},
        {"measurements": 3},
        {"sweep": [{"model": "a"}]},
        {"checks": [{"passed": True}]},
        {"accuracy": 0.5},
    ],
)
def test_a_report_with_other_fields_is_refused(report, change):
    with pytest.raises(ValueError, match="This is not a report that genaf_hf can read"):
        RobustnessReport.from_json(json.dumps({**json.loads(report.to_json()), **change}))


def test_a_truncated_report_is_refused(report):
    with pytest.raises(ValueError, match="This is not a report that genaf_hf can read"):
        RobustnessReport.from_json(report.to_json()[:-20])


# ---- tables ----


def test_the_table_has_a_row_for_each_attack_and_a_column_for_each_model(report):
    assert cells(report.table()) == [
        ["attack", "attacker knows", "norm", "eps", "steps", "undefended", "hardened"],
        ["clean", "nothing", "-", "-", "-", "90.0% [59.6%, 98.2%] (9/10)", "80.0% [49.0%, 94.3%] (8/10)"],
        ["pgd", "model", "linf", "8/255", "20", "10.0% [1.8%, 40.4%] (1/10)", "50.0% [23.7%, 76.3%] (5/10)"],
    ]


def test_details_have_a_row_for_each_attack_and_a_column_for_each_measure(report):
    assert cells(report.details("hardened")) == [
        ["attack", "attack success rate", "decline", "fooling rate", "kNN accuracy", "expected robustness"],
        ["clean", "-", "-", "-", "70.0% [39.7%, 89.2%] (7/10)", "-"],
        [
            "pgd",
            "50.0% [21.5%, 78.5%] (4/8)",
            "37.5%",
            "60.0% [31.3%, 83.2%] (6/10)",
            "0.0% [0.0%, 27.8%] (0/10)",
            "90.0% up to eps 8/255",
        ],
    ]
    assert cells(report.details("undefended"))[1] == ["clean", "-", "-", "-", "-"]
    controls = {"neighbors_correct": None, "noise_correct": 6, "shuffled_correct": 5}
    bare = [dataclasses.replace(each, **controls) for each in report.measurements[2:]]
    assert [row[4:] for row in cells(dataclasses.replace(report, measurements=bare, sweep=[]).details("hardened"))] == [
        ["under noise", "shuffled"],
        *[["60.0% [31.3%, 83.2%] (6/10)", "50.0% [23.7%, 76.3%] (5/10)"]] * 2,
    ]


def test_the_worst_of_those_who_know_the_same_is_named_and_what_is_no_better_than_noise_marked(report):
    other = measurement(6, 10, "hardened", "square", 8, fooled=3, changed=5, noise_correct=6, beyond_noise=False)
    shown = dataclasses.replace(report, measurements=[*report.measurements[2:], other], models={"hardened": {}})
    assert shown.worst("hardened", "model").attack == "pgd"
    assert shown.worst("hardened", "public encoder") is None
    assert shown.verdict("hardened") == [shown.measurement("hardened", name) for name in ("clean", "pgd")]
    marks = {row[0]: row[5].partition(") ")[2] for row in cells(shown.table())[1:]}
    assert marks == {"clean": "", "pgd": "*worst*", "square": "*no more than noise*"}


@pytest.fixture
def thorough(report):
    """The same under square too: of the 8 images that hardened is right about, pgd fools 4 and square 3 others."""
    return dataclasses.replace(
        report,
        models={"hardened": report.models["hardened"]},
        measurements=[
            *report.measurements[2:],
            dataclasses.replace(
                measurement(6, 10, "hardened", "square", 8, fooled=3, changed=5), knowledge="model's answers"
            ),
        ],
        checks=report.checks[1:],
        sweep=[
            dataclasses.replace(each, settings={**PGD, "eps": eps})
            for eps, each in (
                (0.2, measurement(0, 5, "hardened", "pgd", 5, fooled=5, changed=5)),
                (0.1, measurement(3, 5, "hardened", "pgd", 5, fooled=2, changed=2)),
            )
        ],
        worst_cases=[
            WorstCase("hardened", "model", 4, 10),
            WorstCase("hardened", "model's answers", 5, 10),
            WorstCase("hardened", None, 1, 10),
        ],
    )


def test_the_table_ends_with_what_every_attack_together_leaves(thorough):
    *_, last = cells(thorough.table())
    assert last == ["every attack", "any of these", "-", "-", "-", "10.0% [1.8%, 40.4%] (1/10)"]
    assert len(cells(thorough.table())) == 5
    same = dataclasses.replace(thorough.measurements[2], knowledge="model")
    alone = dataclasses.replace(
        thorough, measurements=[*thorough.measurements[:2], same], worst_cases=[WorstCase("hardened", "model", 1, 10)]
    )
    assert cells(alone.table())[-1][:2] == ["every attack", "model"]
    assert cells(dataclasses.replace(alone, worst_cases=[]).table())[-1][0] == "square"


def test_json_gives_the_worst_cases_back(thorough):
    assert RobustnessReport.from_json(thorough.to_json()) == thorough
    assert thorough.worst_case("hardened", "model").accuracy == Rate(4, 10)
    assert thorough.worst_case("hardened").correct == 1
    assert thorough.worst_case("undefended") is None


@pytest.mark.parametrize(
    "case",
    [("hardened", "model", 5, 10), ("hardened", "model", 3, 10), ("hardened", None, 5, 10), ("hardened", None, 0, 10),
     ("hardened", None, 1, 11), ("hardened", None, True, 10), ("another", None, 1, 10), ("hardened", "nothing", 1, 10)],
)  # fmt: skip
def test_what_all_attacks_cannot_leave_is_refused(thorough, case):
    forged = dataclasses.replace(thorough, worst_cases=[WorstCase(*case)])
    with pytest.raises(UserError, match=f'{case[2]} of {case[3]} images of "{case[0]}" are right under every attack'):
        RobustnessReport.from_json(forged.to_json())


def test_expected_robustness_is_the_area_under_accuracy_over_eps(thorough):
    # 5, 3 and 0 of 5 images at eps 0, 0.1 and 0.2: (1 + 0.6) / 2 * 0.1 + (0.6 + 0) / 2 * 0.1, of 0.2.
    area, largest = thorough.expected_robustness("hardened", "pgd")
    assert (area, largest) == (pytest.approx(0.55), 0.2)
    assert thorough.expected_robustness("hardened", "square") is None
    column = {row[0]: row[-1] for row in cells(thorough.details("hardened"))}
    assert column == {"attack": "expected robustness", "clean": "-", "pgd": "55.0% up to eps 51/255", "square": "-"}


def test_a_spreadsheet_has_a_row_for_each_attack_and_runs_nothing(thorough):
    named = dataclasses.replace(
        thorough,
        models={"=1+1": {}},
        measurements=[dataclasses.replace(each, model="=1+1") for each in thorough.measurements],
        worst_cases=[dataclasses.replace(each, model="=1+1") for each in thorough.worst_cases],
    )
    clean, pgd, square, *every = csv.DictReader(io.StringIO(named.to_csv()))
    assert {each["model"] for each in (clean, pgd, square, *every)} == {"'=1+1"}
    assert (pgd["attack"], pgd["knowledge"], pgd["norm"], pgd["steps"]) == ("pgd", "model", "linf", "20")
    assert (float(pgd["eps"]), float(pgd["accuracy"])) == (8 / 255, 0.5)
    assert [float(pgd[name]) for name in ("low", "high")] == pytest.approx([0.2366, 0.7634], abs=5e-5)
    assert (pgd["correct"], pgd["count"], pgd["neighbors_correct"], pgd["reliable"]) == ("5", "10", "0", "False")
    assert (clean["attack_success_rate"], clean["worst"], clean["reliable"]) == ("", "", "True")
    assert [(each["attack"], each["knowledge"], each["correct"]) for each in every] == [
        ("every attack", "model", "4"),
        ("every attack", "model's answers", "5"),
        ("every attack", "any of these", "1"),
    ]


def test_names_in_tables_can_be_escaped(report):
    assert cells(report.table(str.upper))[2][:2] == ["PGD", "MODEL"]
    assert cells(report.details("hardened", str.upper))[2][0] == "PGD"


def test_attacks_come_in_the_order_in_which_they_were_run(report):
    assert report.attacks == ["clean", "pgd"]


def test_measurements_are_found_by_model_and_attack(report):
    assert report.measurement("hardened", "pgd").correct == 5
    with pytest.raises(KeyError, match='no "square" for "hardened"'):
        report.measurement("hardened", "square")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"correct": 11}, "correct is 11 of 10 images"),
        ({"correct": -1}, "correct is -1 of 10 images"),
        ({"correct": 5.0}, "correct is 5.0 of 10 images"),
        ({"correct": True}, "correct is True of 10 images"),
        ({"fooled": 9}, "fooled|images are right"),
        ({"correct": 3}, "3 images are right and 4 of 8 right ones were fooled"),
        ({"correct": 7}, "7 images are right and 4 of 8 right ones were fooled"),
        ({"changed": 4}, "4 predictions changed, 4 images were fooled and 1 set right"),
        ({"changed": 7}, "7 predictions changed"),
        ({"neighbors_correct": 12}, "neighbors_correct is 12"),
        ({"noise_correct": 12}, "noise_correct is 12"),
        ({"clean_correct": 9, "fooled": 4, "correct": 5, "changed": 5}, "9 of 10 images are right when clean"),
        ({"count": 11}, "of 11 images"),
        ({"settings": {"norm": "linf", "eps": 8}}, "eps is 8 in the norm linf"),
        ({"settings": {"norm": "linf", "eps": float("nan")}}, "eps is nan"),
        ({"settings": {"norm": "linf", "eps": True}}, "eps is True"),
        ({"settings": {"norm": "linf", "eps": 0.1, "steps": 0}}, "steps is 0"),
        ({"settings": {"norm": "linf", "eps": 0.1, "step_size": float("inf")}}, "step_size is inf"),
        ({"model": "another"}, "there is no such model"),
    ],
)
def test_numbers_that_cannot_be_true_are_refused(report, change, sentence):
    values = json.loads(report.to_json())
    values["measurements"][3] |= change
    with pytest.raises(UserError, match=sentence):
        RobustnessReport.from_json(json.dumps(values))


@pytest.mark.parametrize("dataset", [{"count": 0}, {"count": 10, "largest_class": 11}, {"count": 12}])
def test_numbers_of_images_that_cannot_be_true_are_refused(report, dataset):
    values = {**json.loads(report.to_json()), "dataset": dataset}
    with pytest.raises(UserError, match="cannot be true"):
        RobustnessReport.from_json(json.dumps(values))


def test_without_a_check_nothing_is_trusted(report):
    assert report.is_trusted("hardened")
    bare = dataclasses.replace(report, checks=report.checks[:1])
    assert bare.is_trusted("undefended")
    assert not bare.is_trusted("hardened")
    assert not bare.is_reliable(bare.measurement("hardened", "pgd"))


def test_the_chance_level(report):
    assert report.chance is None
    assert dataclasses.replace(report, dataset={"count": 10, "largest_class": 4}).chance == 0.4


# ---- checks ----


def test_a_check_reads_well(masked):
    assert [str(each) for each in masked.checks] == [
        "passed: gradients are not zero (images without a gradient 0)",
        "FAILED: gradients are not zero (images without a gradient 10)",
    ]


def test_a_model_that_fails_a_check_is_unreliable_but_for_its_clean_accuracy(report, masked):
    assert report.failed_checks == []
    assert all(report.is_reliable(each) for each in report.measurements)
    assert masked.failed_checks == [masked.checks[1]]
    assert [each.accuracy for each in masked.measurements if not masked.is_reliable(each)] == [Rate(5, 10)]
    assert [row[5:] for row in cells(masked.table())[1:]] == [
        ["90.0% [59.6%, 98.2%] (9/10)", "80.0% [49.0%, 94.3%] (8/10)"],
        ["10.0% [1.8%, 40.4%] (1/10)", "50.0% [23.7%, 76.3%] (5/10) *unreliable*"],
    ]


def test_a_report_that_is_not_there_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"There is no report .*none\.json: genaf-hf audit makes one of any"):
        RobustnessReport.load(tmp_path / "none.json")
    with pytest.raises(UserError, match=r"There is no report .*report\.json: genaf-hf audit makes one of any"):
        RobustnessReport.load(tmp_path)
    (tmp_path / "report.json").mkdir()
    with pytest.raises(UserError, match=r"The report .* cannot be read: "):
        RobustnessReport.load(tmp_path)
