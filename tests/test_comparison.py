"""What changed from one report to another, by hand, from textbooks and from files."""

from dataclasses import replace

import pytest
from cards import PGD, make_report

from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import Answers, save_answers
from genaf_hf.evaluation.comparison import Change, compare, compare_files, joined
from genaf_hf.evaluation.measurement import Measurement, Rate
from genaf_hf.evaluation.report import RobustnessReport

COUNT = 100


def report_of(right: dict[str, list[int]], model: str = "mine", content: str | None = "0123456789abcdef"):
    """A report, with answers, of a model that is right about the images of these numbers under each attack."""
    answers = {name: Answers([0] * COUNT, [int(i not in rows) for i in range(COUNT)], None, 0, True, [0.9] * COUNT)
               for name, rows in right.items()}  # fmt: skip
    clean = set(right["clean"])
    found = [
        Measurement(
            model,
            name,
            "nothing" if name == "clean" else "model",
            {} if name == "clean" else {**PGD, "attack": name, "seed": 3},
            len(rows),
            COUNT,
            len(clean),
            fooled=len(clean - set(rows)),
            changed=len(clean ^ set(rows)),
        )
        for name, rows in right.items()
    ]
    whose = make_report("hardened")
    dataset = {**whose.dataset, "count": COUNT, **({"content": content} if content else {})}
    return replace(
        whose,
        dataset=dataset,
        models={model: {"class": "ViTForImageClassification"}},
        measurements=found,
        checks=[],
        answers={model: answers},
    )


def leave(report, folder):
    """The folder of an audit that left its answers."""
    folder.mkdir()
    report.save(folder / "report.json")
    save_answers(report.answers, folder / "answers.parquet", report_sha256=report.sha256)
    return folder


# ---- numbers ----


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    # By hand: 2 * (1 + 8) / 2**8; 2 * (1 + 10 + 45) / 2**10; one sign; nothing; and half of all.
    [(1, 7, 18 / 256), (2, 8, 112 / 1024), (6, 0, 2 / 64), (0, 0, 1), (5, 5, 1)],
)
def test_the_paired_test_is_mcnemars_exact_one(lost, won, p):
    assert Change("pgd", "model", Rate(50, 100), Rate(50 - lost + won, 100), lost, won).p_value == pytest.approx(p)


def test_the_interval_of_a_difference_is_newcombes():
    # 56/70 against 48/80, the first example of his Table II, by method 10.
    change = Change("pgd", "model", before=Rate(48, 80), now=Rate(56, 70))
    assert change.interval == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert (change.p_value, change.sure, change.verdict) == (None, True, "better")
    back = Change("pgd", "model", before=Rate(56, 70), now=Rate(48, 80))
    assert back.interval == pytest.approx((-0.3339, -0.0524), abs=5e-5)
    assert back.verdict == "worse"
    assert Change("pgd", "model", Rate(50, 100), Rate(55, 100)).verdict == "-"


# ---- reports ----

ALL = [*range(COUNT)]
OLD = {"clean": ALL[:90], "pgd": ALL[:60], "fgsm": ALL[:70]}
NEW = {"clean": ALL[:90], "pgd": ALL[:52], "fgsm": [*ALL[10:70], *ALL[70:82]]}


def test_images_are_compared_one_by_one_where_both_audits_left_their_answers(tmp_path):
    folders = [leave(report_of(each), tmp_path / name) for name, each in (("old", OLD), ("new", NEW))]
    found = compare_files(folders[0], folders[1] / "report.json")
    assert found.paired
    told = {each.attack: (each.lost, each.won, each.verdict) for each in found.changes}
    # pgd loses 8 more, which two unpaired accuracies of 100 images would not tell; fgsm loses 10 and wins 12.
    assert told == {
        "clean": (0, 0, "-"),
        "pgd": (8, 0, "worse"),
        "fgsm": (10, 12, "-"),
        "worst (pgd)": (8, 0, "worse"),
    }
    assert "worse under pgd, worst (pgd), each row by itself" in str(found)
    assert "| pgd         | model          | 60.0% [50.2%, 69.1%] (60/100) |" in found.table()


@pytest.mark.parametrize("missing", ["answers", "content"])
def test_else_by_intervals_alone_and_it_says_so(tmp_path, missing):
    content = None if missing == "content" else "0123456789abcdef"
    folders = [leave(report_of(each, content=content), tmp_path / name) for name, each in (("old", OLD), ("new", NEW))]
    if missing == "answers":
        (folders[0] / "answers.parquet").unlink()
    found = compare_files(*folders)
    assert not found.paired
    assert [each.verdict for each in found.changes] == ["-"] * 4
    assert "by intervals alone, as there is no answers.parquet beside both" in str(found)
    assert "No difference that chance does not explain" in str(found)


def test_attacks_from_another_public_encoder_are_not_run_alike_but_those_on_the_model_are():
    def on(encoder: str):
        report = report_of({"clean": ALL, "pgd": ALL[:50], "l4a": ALL[:40]})
        knowledge = {"l4a": "public encoder", "pgd": "model", "clean": "nothing"}
        told = [
            replace(each, knowledge=knowledge[each.attack], settings={**each.settings, "encoder": encoder})
            for each in report.measurements
        ]
        return replace(report, measurements=told)

    found = compare(on("one"), on("other"))
    assert [each.attack for each in found.changes][:2] == ["clean", "pgd"]
    assert found.left_out == ["l4a (other settings)"]


def test_what_was_not_run_alike_is_left_out():
    new = report_of({**NEW, "square": ALL[:50]})
    longer = [
        replace(each, settings={**each.settings, "steps": 100, "seed": 9}) if each.attack == "pgd" else each
        for each in new.measurements
    ]
    found = compare(report_of({**OLD, "mi-fgsm": ALL[:3]}), replace(new, measurements=longer))
    assert [each.attack for each in found.changes] == ["clean", "fgsm"]
    assert found.left_out == ["pgd (other settings)", "mi-fgsm (only before)", "square (only now)"]
    with pytest.raises(UserError, match="no attack in common"):
        compare(report_of({"clean": ALL, "pgd": ALL}), report_of({"clean": ALL, "fgsm": ALL}))


def test_another_seed_or_encoder_is_the_same_attack():
    other = [
        replace(each, settings={**each.settings, "seed": 9, "encoder": "b"}) for each in report_of(OLD).measurements
    ]
    assert len(compare(report_of(OLD), replace(report_of(NEW), measurements=other)).changes) == 4


def test_models_of_one_name_are_compared_else_the_last_ones():
    both = make_report()
    assert compare(both, both).models == ("hardened", "hardened")
    assert compare(both, both).left_out == ["undefended (a model of both, too)"]
    assert compare(both, make_report("undefended")).left_out == []
    assert compare(both, make_report("undefended")).models == ("undefended", "undefended")
    assert compare(report_of(OLD, "a"), report_of(NEW, "b")).models == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"content": "f" * 16}, "content 0123456789abcdef and ffffffffffffffff"),
        ({"content": None, "name": "others"}, "name someone/colours and others"),
        ({"content": None, "split": "train"}, "split test and train"),
        ({"content": None, "count": 99}, "count 100 and 99"),
    ],
)
def test_reports_of_other_images_are_refused(changes, told, tmp_path):
    old, new = report_of(OLD), report_of(NEW)
    old.save(tmp_path / "old.json")
    new = replace(new, dataset={**new.dataset, **changes}, measurements=[] if "count" in changes else new.measurements)
    new.save(tmp_path / "new.json")
    with pytest.raises(UserError, match=told):
        compare_files(tmp_path / "old.json", tmp_path / "new.json")


def test_answers_of_another_report_are_refused(tmp_path):
    folders = [leave(report_of(each), tmp_path / name) for name, each in (("old", OLD), ("new", NEW))]
    replace(report_of(NEW), seed=8).save(folders[1] / "report.json")
    with pytest.raises(UserError, match="is not of the report beside it"):
        compare_files(*folders)
    with pytest.raises(UserError, match=r"There is no report .*nowhere: genaf-hf audit makes one"):
        compare_files(folders[0], tmp_path / "nowhere")


def test_the_command_prints_it(tmp_path, monkeypatch, capsys):
    from genaf_hf.cli.main import main

    folders = [leave(report_of(each), tmp_path / name) for name, each in (("old", OLD), ("new", NEW))]
    monkeypatch.setattr("sys.argv", ["genaf-hf", "compare", *map(str, folders)])
    main()
    assert "worse under pgd" in capsys.readouterr().out


def test_reports_of_the_same_images_are_joined_into_one_table():
    old, new = report_of(OLD, "a"), report_of(NEW, "b")
    both = joined([old, new])
    assert [*both.models] == ["a", "b"]
    assert both.measurements == [*old.measurements, *new.measurements]
    assert [line.count("|") for line in both.table().splitlines()] == [8] * 5
    assert RobustnessReport.from_json(both.to_json()) == both
    assert both.answers.keys() == {"a", "b"}
    plain = joined([report_of(OLD, "undefended"), new])
    assert [check.name for check in plain.checks] == ["clean accuracy is not far below the undefended model's"]
    with pytest.raises(UserError, match="of other images"):
        joined([old, report_of(NEW, "b", content="f" * 16)])
