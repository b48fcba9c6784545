"""Cards and reports as a leaderboard reads and checks them, from values and from a local Hub."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub_user import TOKEN, run_as_user, run_several
from huggingface_hub import ModelInfo
from huggingface_hub.repocard_data import eval_results_to_model_index
from local_hub import LocalHub

from genaf_hf.evaluation.measurement import Check, Measurement, Rate, WorstCase
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.leaderboard import Leaderboard, LeftOut, check, check_folder, write
from genaf_hf.leaderboard.check import Report
from genaf_hf.leaderboard.entries import MOST_RESULTS, read_card
from genaf_hf.leaderboard.page import FILES
from genaf_hf.sharing.eval_results import eval_results

RECIPE = Path(__file__).parents[1] / "recipes" / "leaderboard.py"
PGD = {"norm": "linf", "eps": 8 / 255, "steps": 20}
L4A = {"norm": "linf", "eps": 10 / 255, "steps": 500, "seed": 0, "encoder": "someone/encoder"}
PATCH = {"norm": "linf", "eps": 1.0, "steps": 100, "top": 0, "left": 0, "area": 0.0625}
COMMIT = "c" * 40


def measured(model, attack, knowledge, settings, correct, clean) -> Measurement:
    """Of 100 images, of which an attack fools or sets right no more than it must."""
    fooled = max(0, clean - correct)
    return Measurement(model, attack, knowledge, settings, correct, 100, clean, fooled, abs(clean - correct))


def make_report(clean=90, pgd=50, l4a=80, name="someone/colours", checks=()) -> RobustnessReport:
    undefended = {"clean": (95, "nothing", {}), "l4a": (30, "public encoder", L4A), "pgd": (5, "model", PGD)}
    hardened = {"clean": (clean, "nothing", {}), "l4a": (l4a, "public encoder", L4A), "pgd": (pgd, "model", PGD)}
    return RobustnessReport(
        dataset={"name": name, "config": None, "split": "test", "revision": "d" * 40, "count": 100},
        models={each: {"class": "ViTForImageClassification"} for each in ("undefended", "hardened")},
        measurements=[
            measured(model, attack, knowledge, settings, correct, found["clean"][0])
            for model, found in (("undefended", undefended), ("hardened", hardened))
            for attack, (correct, knowledge, settings) in found.items()
        ],
        seed=3,
        checks=list(checks),
    )


def model_index(report: RobustnessReport, model: str = "hardened") -> list[dict]:
    return json.loads(json.dumps(eval_results_to_model_index("model", eval_results(report, model))))


def model_index_at(report: RobustnessReport, path: str) -> list[dict]:
    """That of the hardened model, from a report in another place."""
    found = eval_results(report, "hardened", report_path=path)
    return json.loads(json.dumps(eval_results_to_model_index("model", found)))


def info(index, name: str = "someone/hardened") -> ModelInfo:
    return ModelInfo(id=name, sha=COMMIT, tags=["genaf", "base_model:someone/encoder"], **{"model-index": index})


def test_an_encoder_is_told_from_a_classifier_by_its_tag():
    found = info(model_index(make_report()))
    assert {each.kind for each in read_card(found)[0]} == {"classifier"}
    found.tags.append("hardened-encoder")
    assert {each.kind for each in read_card(found)[0]} == {"encoder"}


def metric(index: list[dict], attack: str) -> dict:
    """The result under an attack, to be changed."""
    return next(
        each for result in index[0]["results"] for each in result["metrics"] if each["args"]["attack"] == attack
    )


def problems(index: list[dict], report: RobustnessReport | None = None, content: bytes | None = None) -> dict:
    """What is wrong with each result of a card, by attack, beside its report."""
    entries, left_out = read_card(info(index))
    assert left_out == []
    reports = None
    if report is not None:
        found = Report(report.to_json().encode() if content is None else content)
        reports = {("someone/hardened", "report.json"): found}
    return {each.attack: list(each.problems) for each in check(entries, reports)}


# ---- reading ----


def test_an_entry_says_what_the_report_says():
    report = make_report()
    clean, l4a, pgd = check(*[read_card(info(model_index(report)))[0], {}])
    assert (clean.attack, clean.accuracy, clean.eps, clean.reliable) == ("clean", 0.9, None, True)
    assert (l4a.knowledge, l4a.surrogate, l4a.seed, l4a.steps) == ("public encoder", "someone/encoder", 0, 500)
    assert (pgd.norm, pgd.eps, pgd.steps, pgd.correct, pgd.count) == ("linf", 8 / 255, 20, 50, 100)
    assert pgd.interval == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert (pgd.model, pgd.commit, pgd.base_model) == ("someone/hardened", COMMIT, "someone/encoder")
    assert pgd.images == ("someone/colours", "", "test", "d" * 40)
    assert pgd.report_sha256 == report.sha256


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        (None, "has no results"),
        ([], "has no results"),
        ("<script>", "has no results"),
        ([{"name": "x"}], "not of the Hub's form"),
        ([{"name": "x", "results": [3]}], "not of the Hub's form"),
        ([{"name": "x", "results": [{"task": {}, "dataset": {}, "metrics": [{}]}]}], "KeyError"),
    ],
)
def test_cards_without_results_are_left_out_by_name(index, reason):
    entries, [left_out] = read_card(info(index))
    assert entries == []
    assert left_out.model == "someone/hardened"
    assert reason in left_out.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"value": "<b>90 %</b>"}, 'an accuracy under "pgd" of "<b>90 %</b>"'),
        ({"value": float("nan")}, "nan"),
        ({"value": True}, "True"),
        ({"value": 10**400}, "an accuracy"),
        ({"type": "f1"}, 'another metric, "f1"'),
        ({"args": None}, 'under the attack ""'),
        ({"args": {"attack": "clean"}}, 'under the attack "clean"'),
        ({"args": ["attack"]}, 'under the attack ""'),
    ],
)
def test_a_broken_result_is_left_out_and_the_others_stay(changes, reason):
    index = model_index(make_report())
    metric(index, "pgd").update(changes)
    entries, [left_out] = read_card(info(index))
    assert [each.attack for each in entries] == ["clean", "l4a"]
    assert reason in left_out.reason


def test_a_card_with_endless_results_is_cut():
    index = model_index(make_report())
    index[0]["results"] *= MOST_RESULTS
    entries, [left_out] = read_card(info(index))
    assert len(entries) == MOST_RESULTS
    assert f"{3 * MOST_RESULTS} results, of which the first {MOST_RESULTS}" in left_out.reason


def test_texts_are_one_printable_line():
    index = model_index(make_report())
    metric(index, "pgd")["args"].update(attack="a\n\u202eb\0" + "c" * 999, norm={"x": 1}, knowledge=["y"])
    [*_, entry] = read_card(info(index))[0]
    assert entry.attack == "a b" + "c" * 197 + "…"
    assert (entry.norm, entry.knowledge) == ("{'x': 1}", "['y']")


# ---- checks of the numbers ----


def test_an_honest_card_has_no_problems():
    report = make_report()
    assert problems(model_index(report)) == {"clean": [], "l4a": [], "pgd": []}
    assert problems(model_index(report), report) == {"clean": [], "l4a": [], "pgd": []}
    assert problems(model_index(report, "undefended"), report) == {"clean": [], "l4a": [], "pgd": []}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"value": 0.6}, ["the accuracy 0.6 is not 50/100"]),
        ({"value": 50.0}, ["an accuracy of 50 is not between 0 and 1", "the accuracy 50 is not 50/100"]),
        ({"interval": [0.45, 0.55]}, ["the interval is not the 95 % Wilson interval of the counts"]),
        ({"interval": "wide"}, ["the interval is not the 95 % Wilson interval of the counts"]),
        ({"count": 0}, ["50 correct images of 0 are no plausible counts"]),
        ({"count": 0, "correct": 0}, ["0 correct images of 0 are no plausible counts"]),
        ({"correct": 101}, ["101 correct images of 100 are no plausible counts"]),
        ({"correct": -1}, ["-1 correct images of 100 are no plausible counts"]),
        ({"count": 100.0}, ["50 correct images of None are no plausible counts"]),
        ({"count": 10**400}, ["50 correct images of None are no plausible counts"]),
        ({"eps": 0}, ["the attack has no eps above 0"]),
        ({"eps": float("inf")}, ["the attack has no eps above 0"]),
        ({"eps": None}, ["the attack has no eps above 0"]),
        ({"norm": None}, ["the attack has no norm"]),
        ({"report": "../../else"}, ["no report is cited by its path and SHA-256"]),
        ({"report": "/report.json"}, ["no report is cited by its path and SHA-256"]),
        ({"report_sha256": "0"}, ["no report is cited by its path and SHA-256"]),
    ],
)
def test_implausible_numbers_are_marked(changes, expected):
    index = model_index(make_report())
    changed = metric(index, "pgd")
    (changed if "value" in changes else changed["args"]).update(changes)
    assert problems(index) == {"clean": [], "l4a": [], "pgd": expected}


def test_more_robust_than_clean_is_absurd_beyond_chance():
    assert problems(model_index(make_report(clean=60, l4a=65)))["l4a"] == []
    assert problems(model_index(make_report(clean=60, l4a=95)))["l4a"] == ["the robust accuracy exceeds the clean one"]


def test_what_every_attack_leaves_is_believed_where_it_can_be():
    report = replace(make_report(), worst_cases=[WorstCase("hardened", None, 45, 100)])
    index = model_index(report)
    assert problems(index, report) == {"clean": [], "l4a": [], "pgd": [], "every attack": []}
    [entry] = [each for each in check(read_card(info(index))[0], {}) if each.is_of_all]
    assert (entry.accuracy, entry.knowledge, entry.eps, entry.worst) == (0.45, "any of these", None, False)
    metric(index, "every attack")["args"].update(correct=51, interval=[*Rate(51, 100).interval])
    metric(index, "every attack")["value"] = 0.51
    assert problems(index, report)["every attack"] == [
        "the accuracy under every attack exceeds that under one",
        "the report does not hold this result",
    ]


def test_a_result_said_twice_is_marked_both_times():
    index = model_index(make_report())
    index[0]["results"].append({**index[0]["results"][0], "metrics": [metric(index, "pgd")]})
    entries = check(read_card(info(index))[0], None)
    twice = ("the card has several results under these conditions",)
    assert [each.problems for each in entries if each.attack == "pgd"] == [twice, twice]
    assert [each.problems for each in entries if each.attack != "pgd"] == [(), ()]


def test_an_audit_beside_the_training_says_nothing_twice():
    index = model_index(make_report())
    others = model_index(make_report())[0]["results"]
    for result in others:
        for each in result["metrics"]:
            counts = {"count": 50, "correct": each["args"]["correct"] // 2, "report": "audit/report.json"}
            each["args"].update(counts, interval=list(Rate(counts["correct"], 50).interval))
            each["value"] = counts["correct"] / 50
    index[0]["results"] += others
    entries = check(read_card(info(index))[0], None)
    assert len(entries) == 2 * len(make_report().attacks)
    assert {each.problems for each in entries} == {()}


@pytest.mark.parametrize("changes", [{"count": 99, "correct": 50}, {"count": 1000, "correct": 500}])
def test_results_on_the_same_images_are_of_as_many(changes):
    index = model_index(make_report())
    changed = metric(index, "pgd")
    changed["args"].update(changes, interval=list(Rate(changes["correct"], changes["count"]).interval))
    changed["value"] = changes["correct"] / changes["count"]
    others = [f"it is of 100 images, another result on the same ones of {changes['count']}"]
    mine = [f"it is of {changes['count']} images, another result on the same ones of 100"]
    assert problems(index) == {"clean": others, "l4a": others, "pgd": mine}


def test_the_worst_of_each_knowledge_is_that_of_the_report():
    report = make_report()
    pgd = report.measurement("hardened", "pgd")
    fgsm = replace(pgd, attack="fgsm", correct=60, fooled=30, changed=30)
    report = replace(report, measurements=[*report.measurements, fgsm])
    entries = check(read_card(info(model_index(report)))[0], None)
    assert {each.attack for each in entries if each.worst} == {
        each.attack for each in report.verdict("hardened") if each.attack != "clean"
    }
    assert {each.attack for each in entries if each.worst} == {"l4a", "pgd"}


def test_an_attack_at_another_eps_is_no_repetition():
    index = model_index(make_report())
    other = json.loads(json.dumps(metric(index, "pgd")))
    other["args"]["eps"] = 4 / 255
    index[0]["results"].append({**index[0]["results"][0], "metrics": [other]})
    entries = check(read_card(info(index))[0], None)
    assert [each.eps for each in entries if each.attack == "pgd"] == [8 / 255, 4 / 255]
    assert {each.problems for each in entries} == {()}


def test_a_report_that_two_repositories_cite_is_noted_at_both():
    cards = [read_card(info(model_index(make_report()), name))[0] for name in ("a/first", "b/copy")]
    first, *_, copy = check([*cards[0], *cards[1]], None)
    assert first.notes == ("report not checked", "the same report is cited by b/copy")
    assert copy.notes == ("report not checked", "the same report is cited by a/first")
    assert copy.problems == ()


def test_a_failed_self_check_makes_attacks_unreliable():
    report = make_report(checks=[Check("hardened", "gradients are not zero", False, {"share": 0.5})])
    entries = check(read_card(info(model_index(report)))[0], None)
    assert [each.reliable for each in entries] == [True, False, False]


def test_chance_and_failed_checks_are_those_of_the_report():
    report = make_report(checks=[Check("hardened", "gradients are not zero", False, {"share": 0.5})])
    report = replace(report, models={name: {**each, "classes": 4} for name, each in report.models.items()})
    entries = read_card(info(model_index(report)))[0]
    reports = {("someone/hardened", "report.json"): Report(report.to_json().encode())}
    assert {(each.chance, each.failed_checks) for each in check(entries, reports)} == {
        (0.25, ("gradients are not zero",))
    }
    unchecked = replace(report, checks=report.checks[:0])
    reports = {("someone/hardened", "report.json"): Report(unchecked.to_json().encode())}
    found = check(read_card(info(model_index(unchecked)))[0], reports)
    assert [each.reliable for each in found] == [True, False, False]
    assert {each.failed_checks for each in found} == {("no self-check was made",)}
    gone = {("someone/hardened", "report.json"): Report(missing="gone")}
    unread = [*check(entries, None), *check(entries, gone)]
    assert {(each.chance, each.failed_checks) for each in unread} == {(None, ())}


# ---- checks beside the report ----


def test_a_card_agrees_with_its_report():
    report = make_report()
    assert problems(model_index(report), report) == {"clean": [], "l4a": [], "pgd": []}


def test_a_card_that_leaves_out_what_its_report_holds_says_less_than_there_is():
    report = make_report()
    index = model_index(report)
    for result in index[0]["results"]:
        result["metrics"] = [each for each in result["metrics"] if each["args"]["attack"] != "pgd"]
    told = "the card leaves out 1 of its report's results, such as that under pgd"
    assert problems(index, report) == {"clean": [told], "l4a": [told]}


def test_another_report_than_the_one_that_is_cited():
    found = problems(model_index(make_report()), make_report(pgd=49))
    assert found["pgd"] == ["the report has another SHA-256", "the report does not hold this result"]
    assert found["l4a"] == ["the report has another SHA-256"]


@pytest.mark.parametrize(
    ("attack", "name", "value"),
    [
        ("pgd", "eps", 16 / 255),
        ("pgd", "steps", 200),
        ("pgd", "norm", "l2"),
        ("pgd", "knowledge", "nothing"),
        ("l4a", "surrogate", "another/encoder"),
        ("l4a", "seed", 1),
        ("l4a", "model_class", "ResNetForImageClassification"),
    ],
)
def test_conditions_that_the_report_does_not_know(attack, name, value):
    report = make_report()
    index = model_index(report)
    metric(index, attack)["args"][name] = value
    assert problems(index, report)[attack] == ["the report does not hold this result"]


def with_attack(attack: str, settings: dict, correct: int) -> RobustnessReport:
    """A report with one more attack on the model itself, and what every attack leaves."""
    report = make_report()
    found = [*report.measurements, measured("hardened", attack, "model", settings, correct, 90)]
    return replace(report, measurements=found, worst_cases=[WorstCase("hardened", None, correct, 100)])


def test_patches_of_two_sizes_are_two_attacks():
    report = with_attack("adversarial-patch", PATCH, 40)
    index = model_index(report)
    assert [each.area for each in read_card(info(index))[0] if each.attack == "adversarial-patch"] == [0.0625]
    assert problems(index, report)["adversarial-patch"] == []
    metric(index, "adversarial-patch")["args"]["area"] = 0.25
    assert problems(index, report)["adversarial-patch"] == ["the report does not hold this result"]


@pytest.mark.parametrize(
    ("attacked", "told"), [(50, ()), (32, ("32 of the 50 images that other attacks had left were attacked",))]
)
def test_images_that_an_attack_did_not_try_are_told_of_it_and_of_every_attack(attacked, told):
    report = with_attack("autoattack", {"norm": "linf", "eps": 8 / 255, "standing": 50, "attacked": attacked}, 40)
    entries = check(
        read_card(info(model_index(report)))[0],
        {("someone/hardened", "report.json"): Report(report.to_json().encode())},
    )
    notes = {each.attack: each.notes for each in entries}
    assert notes == {"clean": (), "l4a": (), "pgd": (), "autoattack": told, "every attack": told}
    assert [each.problems for each in entries] == [()] * 5


@pytest.mark.parametrize("checks", [[Check("hardened", "gradients are not zero", False, {"share": 0.5})], []])
def test_what_the_report_holds_unreliable_is_not_believed_to_be_reliable(checks):
    report = make_report(checks=checks)
    index = model_index(report)
    metric(index, "pgd")["args"]["reliable"] = True
    assert problems(index, report) == {"clean": [], "l4a": [], "pgd": ["the report does not hold this result"]}


def test_the_best_of_two_models_is_no_model():
    report = make_report()
    index = model_index(report)
    metric(index, "clean").update(metric(model_index(report, "undefended"), "clean"))
    assert set(map(tuple, problems(index, report).values())) == {
        ("the report holds the results of this card for different models",)
    }


def test_the_best_of_two_models_is_no_model_in_whatever_order_its_results_stand():
    report, audited = make_report(), make_report(clean=91, pgd=40)
    reports = {
        ("someone/hardened", "report.json"): Report(report.to_json().encode()),
        ("someone/hardened", "audit/report.json"): Report(audited.to_json().encode()),
    }
    index = model_index(report)
    metric(index, "clean").update(metric(model_index(report, "undefended"), "clean"))
    own = read_card(info(index))[0]
    path = "audit/report.json"
    others = read_card(info(model_index_at(audited, path)))[0]
    entries = check([own[0], others[0], *own[1:], *others[1:]], reports)
    said = {each.problems for each in entries if each.report == "report.json"}
    assert said == {("the report holds the results of this card for different models",)}
    assert {each.problems for each in entries if each.report == path} == {()}


def test_a_result_is_held_against_the_clean_accuracy_of_its_own_report():
    """Here a later one is of the same images, but a model that is worse on them."""
    report, audited = make_report(clean=90, pgd=86), make_report(clean=50, pgd=40, l4a=45)
    entries = read_card(info(model_index(report)))[0]
    entries += read_card(info(model_index_at(audited, "audit/report.json")))[0]
    assert [each.problems for each in check(entries, None)] == [()] * len(entries)
    swapped = [replace(each, report="report.json") for each in entries[-3:]]
    assert any("exceeds the clean one" in said for each in check(entries[:3] + swapped, None) for said in each.problems)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\xff", b"[1]", b'{"schema_version": 1}', b"[" * 100_000),
        make_report().to_json().replace('"settings": {}', '"settings": 3').encode(),
        make_report().to_json().replace('"count": 100,', '"count": "many",').encode(),
    ],
)
def test_a_report_that_cannot_be_read(content):
    found = problems(model_index(make_report()), make_report(), content)
    assert {*found} == {"clean", "l4a", "pgd"}
    assert all(said[0].startswith("the report cannot be read: ") for said in found.values())


# ---- files ----


@pytest.fixture
def leaderboard() -> Leaderboard:
    entries = check(read_card(info(model_index(make_report())))[0], None)
    return Leaderboard("the tag genaf", "https://hub.example", "2026-01-01", 1, entries, [LeftOut("a/b", "broken")])


def test_json_and_csv_hold_every_entry(leaderboard, tmp_path):
    write(leaderboard, tmp_path / "board")
    assert {path.name for path in (tmp_path / "board").iterdir()} == set(FILES)
    written = json.loads((tmp_path / "board/leaderboard.json").read_text())
    assert [each["accuracy"] for each in written["entries"]] == [0.9, 0.8, 0.5]
    assert written["left_out"] == [{"model": "a/b", "reason": "broken"}]
    with (tmp_path / "board/leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["attack"], row["correct"], row["eps"]) for row in rows][2] == ("pgd", "50", str(8 / 255))
    head = (tmp_path / "board/README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(head)["sdk"] == "static"


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_no_cell_is_a_formula(leaderboard, tmp_path, start):
    entries = [replace(leaderboard.entries[2], attack=start, notes=(start,), problems=("fine", start))]
    write(replace(leaderboard, entries=entries), tmp_path)
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert (row["attack"], row["notes"], row["problems"]) == (f"'{start}", f"'{start}", f"fine; {start}")


def test_a_folder_of_something_else_is_left_alone(leaderboard, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"holds README.md, which is of no leaderboard; choose another output_dir"):
        write(leaderboard, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        check_folder(tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_leaderboard_is_written_over_an_earlier_one(leaderboard, tmp_path):
    (tmp_path / ".git").mkdir()
    write(leaderboard, tmp_path)
    write(replace(leaderboard, entries=[]), tmp_path)
    assert json.loads((tmp_path / "leaderboard.json").read_text())["entries"] == []
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        write(leaderboard, tmp_path)


# ---- from a Hub ----


def publish(
    hub: LocalHub,
    name: str,
    report: RobustnessReport,
    index=None,
    access="public",
    tags=("genaf",),
    base_model="someone/encoder",
    **files: bytes,
) -> None:
    """Puts a model with a card and a report onto a Hub."""
    head = {"tags": [*tags], "base_model": base_model, "model-index": index or model_index(report)}
    card = f"---\n{yaml.safe_dump(head)}---\n# Model\n".encode()
    hub.add("models", name, access).add_commit("main", {"README.md": card, "report.json": report.to_json().encode()})
    hub.repositories["models", name].files().update(files)


@pytest.fixture(scope="module")
def hub():
    with LocalHub({TOKEN: "someone"}) as hub:
        publish(hub, "someone/hardened", make_report())
        publish(hub, "someone/secret", make_report(), access="private")
        publish(hub, "other/gated", make_report(pgd=51), access="gated")
        forged = model_index(make_report(pgd=99))
        publish(hub, "other/forged", make_report(pgd=52), index=forged, base_model="other/encoder")
        nothing = [{"name": "x", "results": []}]
        publish(hub, "other/empty", make_report(), index=nothing, tags=["genaf", "hardened-encoder"])
        hub.add("models", "other/untagged")
        for encoder in ("other/encoder", "other/nobodys-encoder"):
            publish(hub, encoder, make_report(), index=nothing, tags=["hardened-encoder"])
        yield hub


def build(hub, place, *flags) -> dict:
    """The leaderboard that the recipe leaves."""
    done = run_as_user(hub, place, RECIPE, *flags, "--output_dir", "board")
    assert done.returncode == 0, done.stderr
    return json.loads((place / "board/leaderboard.json").read_text())


def requests(hub: LocalHub, pattern: str) -> list[str]:
    """What the Hub was asked for, without the queries."""
    return [where.split("?")[0] for where, _ in hub.uploads if re.match(pattern, where)]


@pytest.fixture(scope="module")
def board(hub, place) -> dict:
    return build(hub, place)


def test_models_with_the_tag_are_collected_as_anybody_sees_them(board, hub):
    assert board["endpoint"] == hub.endpoint
    assert {each["model"] for each in board["entries"]} == {"someone/hardened", "other/gated", "other/forged"}
    assert board["left_out"] == [{"model": "other/empty", "reason": "its card has no results"}]


def test_hardened_encoders_are_told_that_are_models_here_or_that_these_come_from(board):
    assert board["hardened_encoders"] == ["other/empty", "other/encoder"]


def test_what_the_report_confirms_is_said_to_be_checked(board, hub):
    found = [each for each in board["entries"] if each["model"] == "someone/hardened"]
    assert [(each["report_checked"], each["problems"]) for each in found] == [(True, [])] * 3
    assert {each["commit"] for each in found} == {hub.repositories["models", "someone/hardened"].commit()}
    assert {each["base_model"] for each in found} == {"someone/encoder"}


def test_what_the_report_denies_and_what_cannot_be_fetched_is_shown_and_marked(board):
    marks = {(each["model"], each["attack"]): each["problems"] for each in board["entries"]}
    assert "the report does not hold this result" in marks["other/forged", "pgd"]
    assert marks["other/gated", "pgd"][0].startswith("the report cannot be fetched: ")
    assert not any(each["report_checked"] for each in board["entries"] if each["model"] != "someone/hardened")


def test_ids_and_reports_cost_one_request_each_and_a_report_only_once(hub, place):
    hub.uploads.clear()
    ids = ["--models", "someone/hardened, other/forged"]
    unchecked = [*ids, "--no_verify_reports", "--output_dir", "unchecked"]
    checked = [*ids, "--output_dir", "checked"]
    assert run_several(hub, place, [[RECIPE, *flags] for flags in (unchecked, checked, checked)]) == [""] * 3
    boards = [json.loads((place / name / "leaderboard.json").read_text()) for name in ("unchecked", "checked")]
    assert [{each["model"] for each in board["entries"]} for board in boards] == [set(ids[1].split(", "))] * 2
    assert all("report not checked" in each["notes"] for each in boards[0]["entries"])
    models = [hub.repositories["models", name] for name in ids[1].split(", ")]
    one_each = [*(f"GET /api/models/{each.id}" for each in models), "GET /api/models"]  # and one of hardened encoders
    assert requests(hub, "GET /api/models") == one_each * 3
    fetched = {f"GET /{each.id}/resolve/{each.commit()}/report.json" for each in models}
    assert sorted(requests(hub, "GET /[so]")) == sorted(fetched)


@pytest.mark.hub
def test_thousands_of_models_cost_one_listing(place):
    count, kinds = 2001, [make_report(pgd=50 + kind) for kind in range(5)]
    with LocalHub({}) as hub:
        for kind, report in enumerate(kinds):
            publish(hub, f"many/{kind}", report)
            for number in range(kind + len(kinds), count, len(kinds)):
                same = hub.repositories["models", f"many/{kind}"].files()
                hub.add("models", f"many/{number}").add_commit("main", same)
        board = build(hub, place, "--no_verify_reports")
        assert len(board["entries"]) == 3 * count
        assert requests(hub, "GET /(api/models|many)") == ["GET /api/models"] * 4  # the last of encoders


def test_what_cannot_be_done_is_said_in_one_sentence(hub, place):
    (place / "taken").mkdir()
    (place / "taken/thesis.tex").write_text("mine")
    sentences = {
        'has the tag "unheard-of"': ["--filter", "unheard-of"],
        'There is no model "someone/nothing" on': ["--models", "someone/nothing"],
        'There is no model "not an id" on': ["--models", "not an id"],
        "--filtre": ["--filtre", "genaf"],
        "taken holds thesis.tex": ["--output_dir", "taken"],
    }
    said = run_several(hub, place, [[RECIPE, "--output_dir", "none", *flags] for flags in sentences.values()])
    for sentence, words in zip(sentences, said, strict=True):
        assert sentence in words
        assert "\n" not in words.strip()
    assert not (place / "none").exists()


def test_a_hub_that_cannot_be_reached_is_named(hub, place):
    nowhere = "http://127.0.0.1:9"
    runs = [[RECIPE, "--output_dir", "none", *flags] for flags in ([], ["--models", "someone/hardened"])]
    for words in run_several(hub, place, runs, HF_ENDPOINT=nowhere):
        assert words.strip().startswith(f"The Hub at {nowhere} cannot be read: ")
        assert "\n" not in words.strip()
