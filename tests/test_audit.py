"""What an audit leaves and tells, and what it keeps apart."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from audits import QUICK, arguments, counts, images, model, report, whole
from conftest import CLASSES, SIDE, colored_images
from datasets import ClassLabel, DatasetDict, NamedSplit, concatenate_datasets
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from genaf_hf import PixelModel, UniversalPerturbation, load_encoder, with_pixel_values
from genaf_hf.attacks import ATTACKS, UniversalPatch
from genaf_hf.audit import audit
from genaf_hf.cli.main import main
from genaf_hf.data import image_digests, load_images, stratified_subset
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import answer, right_answers
from genaf_hf.evaluation.given_attacks import threats_from
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.models.loading import load_classifier
from genaf_hf.pipelines.audit import audit as audit_of_values
from genaf_hf.pipelines.audit import audit_again, public_encoder_of
from genaf_hf.pipelines.audit_arguments import AuditArguments
from genaf_hf.pipelines.trained_images import CHOICES, images_of_record
from genaf_hf.sharing.layout import published_in
from genaf_hf.sharing.record import TrainingRecord

__all__ = ["arguments", "images", "model", "report", "whole"]  # fixtures
pytestmark = [
    pytest.mark.slow(reason="audits a model with all attacks"),
    pytest.mark.usefixtures("home", "quick_checks"),
]


# ---- what it leaves ----


def test_it_leaves_a_report_pictures_and_perturbations(whole):
    found = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    universal = ("l4a", "l4a-adaptive", "advencoder-pat", "advencoder-pat-adaptive")
    assert found == {
        *("report.json", "report.csv", "answers.parquet", "README.md", "accuracy_by_eps.png", "gallery.png"),
        *(f"perturbations/{name}/perturbation.safetensors" for name in universal),
    }
    for picture in ("accuracy_by_eps.png", "gallery.png"):
        assert (whole / picture).stat().st_size > 10_000


def test_the_answers_are_those_that_the_report_counts(whole, report):
    right = right_answers(whole / "answers.parquet", report_sha256=report.sha256)
    assert {key: sum(images) for key, images in right.items()} == {
        (each.model, each.attack): each.correct for each in report.measurements
    }
    everything = sum(map(all, zip(*right.values(), strict=True)))
    assert report.worst_case("model").correct == everything <= min(each.correct for each in report.measurements)
    table = pq.read_table(whole / "answers.parquet").to_pydict()
    assert table["image"] == [*range(18)] * len(right)
    assert all(1 / 3 <= confidence <= 1 for confidence in table["confidence"])
    with pytest.raises(UserError, match="is not of the report beside it"):
        right_answers(whole / "answers.parquet", report_sha256="0" * 64)
    with pytest.raises(UserError, match="holds no answers that genaf_hf can read"):
        right_answers(whole / "report.json", report_sha256=report.sha256)


def test_an_audit_ends_with_an_error_where_a_model_keeps_too_little(model, images, tmp_path, monkeypatch, capsys):
    words = ["--model_name_or_path", model, "--dataset_name", images, "--output_dir", str(tmp_path / "gate")]
    words += ["--attacks", "pgd", "--attack_settings", '{"steps": 2}', "--eps", "0.15", "--sweep", "2", "--limit", "6"]
    UniversalPerturbation(torch.zeros(3, 8, 8), "l4a", eps=0.1).save_pretrained(tmp_path / "ready/given")
    given = ["--perturbations", str(tmp_path / "ready"), "--under", "given"]
    for more, refusal in (
        (
            ["--fail-under", "0.5", *given],
            'under is "given", expected .*worst-perturbation-at-hand, .*given-at-hand',
        ),
        (["--fail-under", "1.5"], "fail_under is 1.5, expected an accuracy from 0 to 1"),
        (["--fail-under", "0.5"], 'under is "worst-public-encoder", expected one of what is measured: clean, worst-mo'),
        (["--fail-under", "1", "--under", "worst-model"], r'"model" is right about .* under worst-model \(pgd\)'),
    ):
        monkeypatch.setattr("sys.argv", ["genaf-hf", "audit", *words, *more])
        with pytest.raises(SystemExit, match=refusal) as end:
            main()
        assert end.value.code.strip().count("\n") == 0
        assert (tmp_path / "gate/report.json").exists() == ("worst-model" in more)
    assert "| pgd " in capsys.readouterr().out


def test_several_models_stand_in_one_table_and_the_public_encoder_is_attacked_once(model, images, tmp_path):
    from genaf_hf.evaluation.perturbation_cache import CACHE

    shutil.copytree(model, tmp_path / "twin")
    weights = load_file(tmp_path / "twin/model.safetensors")
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, tmp_path / "twin/model.safetensors")
    both = AuditArguments(
        model_name_or_path=f"{model}, {tmp_path / 'twin'}",
        dataset_name=images,
        attacks="l4a",
        attack_settings={"steps": 3},
        sweep=[],
        limit=6,
        output_dir=str(tmp_path / "both"),
    )
    before = {*CACHE.glob("*")}
    report = audit(both)
    assert len({*CACHE.glob("*")} - before) == 3  # once on the encoder, and on each model
    assert report == RobustnessReport.load(tmp_path / "both/report.json")
    assert [*report.models] == ["model", "twin"]
    assert [report.table().splitlines()[0].split("|")[i].strip() for i in (6, 7)] == ["model", "twin"]
    for name in report.models:
        alone = RobustnessReport.load(tmp_path / "both" / name / "report.json")
        assert alone.measurements == [each for each in report.measurements if each.model == name]
        assert (tmp_path / "both" / name / "README.md").exists()
    with pytest.raises(UserError, match="nothing is overwritten"):
        audit(both)
    for changes in ({"model_name_or_path": f"{model},{model}/"}, {"model_revision": "main"}):
        with pytest.raises(UserError, match="several need different names, and no model_revision"):
            audit(replace(both, output_dir=str(tmp_path / "other"), **changes))
    shutil.copytree(tmp_path / "twin", tmp_path / "third")
    (tmp_path / "third" / "README.md").unlink()
    third = replace(both, output_dir=str(tmp_path / "other"), model_name_or_path=f"{model},{tmp_path / 'third'}")
    with pytest.raises(UserError, match=r'The card of ".*third" .*name the public encoder with --encoder'):
        audit(third)
    assert not (tmp_path / "other").exists()  # before the first one was attacked
    with pytest.raises(UserError, match='"nobody/nothing" is neither'):
        audit(replace(both, output_dir=str(tmp_path / "other"), model_name_or_path=f"{model},nobody/nothing"))
    assert not (tmp_path / "other").exists()


def test_the_report_says_who_knew_what_and_with_which_settings(report, images):
    assert [(each.attack, each.knowledge) for each in report.measurements] == [
        ("clean", "nothing"),
        ("l4a", "public encoder"),
        ("l4a-adaptive", "model"),
        ("advencoder-pat", "public encoder"),
        ("advencoder-pat-adaptive", "model"),
        ("pgd", "model"),
        ("square", "model's answers"),
    ]
    settings = {each.attack: each.settings for each in report.measurements}
    shown = {name: (each["norm"], each["eps"], each["steps"]) for name, each in settings.items() if name != "clean"}
    assert shown == {
        **dict.fromkeys(("l4a", "l4a-adaptive"), ("linf", 0.3, 2)),
        **dict.fromkeys(("advencoder-pat", "advencoder-pat-adaptive"), ("linf", 1, 1)),
        "pgd": ("linf", 0.15, 2),
        "square": ("linf", 0.15, 5),
    }
    assert {name: each["encoder"] for name, each in settings.items() if "encoder" in each} == {
        **dict.fromkeys(("l4a", "advencoder-pat"), "dino"),
        **dict.fromkeys(("l4a-adaptive", "advencoder-pat-adaptive"), "model"),
    }
    assert settings["l4a"]["data"] == "48 images of colours, split train, without labels"
    split = {"name": "colours", "config": None, "revision": None, "split": "test"}
    content = report.dataset["content"]
    assert len(content) == 16
    assert report.dataset == {**split, "content": content, "count": 18, "largest_class": 6}
    assert report.models["model"]["source"] == "model"
    assert report.models["model"]["classes"] == 3


def test_counts_are_those_of_its_perturbations_and_attacks(report, whole, model, dataset):
    classifier = PixelModel(*load_classifier(model))
    pixels = with_pixel_values(dataset["test"], classifier.processor)
    attacks = {"clean": None}
    for name in ("l4a", "l4a-adaptive", "advencoder-pat", "advencoder-pat-adaptive"):
        attacks[name] = UniversalPerturbation.from_pretrained(whole / "perturbations" / name)
    for name in ("pgd", "square"):
        attacks[name] = ATTACKS[name].configure(eps=0.15, **QUICK[name])
    threats = threats_from({name: each for name, each in attacks.items() if each}, {"m": classifier})
    found = {"clean": answer(classifier, pixels), **{e.name: answer(classifier, pixels, e.on("m")) for e in threats}}
    correct = {name: sum(each.right) for name, each in found.items()}
    assert {each.attack: each.correct for each in report.measurements} == correct
    assert correct["pgd"] < correct["clean"]
    assert isinstance(attacks["advencoder-pat"], UniversalPatch)


def test_perturbations_are_crafted_on_the_encoder_and_on_the_model(whole, model, dataset, encoders):
    on = {
        "l4a": PixelModel(*load_encoder(encoders["dino"], CLASSES)).eval(),
        "l4a-adaptive": PixelModel(*load_classifier(model)),
    }
    for name, encoder in on.items():
        images = encoder.to_images(with_pixel_values(dataset["train"], encoder.processor)[:]["pixel_values"])
        expected = ATTACKS["l4a"].configure(eps=0.3, steps=2)(encoder, images).delta
        found = UniversalPerturbation.from_pretrained(whole / "perturbations" / name).delta
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        on[name] = found
    assert not torch.equal(on["l4a"], on["l4a-adaptive"])


def test_the_sweep_has_every_factor_of_every_attack_with_an_eps(report):
    found = {}
    for each in report.sweep:
        found.setdefault(each.attack, []).append(each.settings["eps"])
    assert found == {
        "l4a": [0.3, 0.15, 0.6],
        "l4a-adaptive": [0.3, 0.15, 0.6],
        "pgd": [0.15, 0.075, 0.3],
    }
    assert {each.count for each in report.sweep} == {18}
    by_eps = sorted((each.settings["eps"], each.correct) for each in report.sweep if each.attack == "pgd")
    assert [correct for _, correct in by_eps] == sorted((correct for _, correct in by_eps), reverse=True)


def test_it_is_checked(report):
    per_image = [each for each in report.measurements[1:] if "encoder" not in each.settings]
    adaptive = [each for each in report.measurements if each.attack.endswith("-adaptive")]
    iterated = [each for each in per_image if each.attack == "pgd"]
    assert len(report.checks) == 2 + 2 * 6 + len(per_image) + len(adaptive) + 5 + len(iterated)


def test_nothing_tells_a_path(whole, place, encoders):
    for path in (each for each in whole.rglob("*") if each.is_file()):
        for secret in (str(place), encoders["dino"], str(Path.home())):
            assert secret.encode() not in path.read_bytes(), f"{path} tells {secret}"


def test_its_card_tells_what_is_in_the_report(whole, report):
    card = ModelCard.load(whole / "README.md")
    assert [(each.metric_args["attack"], each.metric_args["correct"]) for each in card.data.eval_results] == [
        (each.attack, each.correct) for each in (*report.measurements, report.worst_case("model"))
    ]
    for part in (report.table(), report.details("model")):
        assert part in card.text
    assert "  - advencoder-pat: patch, 10% of the image, crafted on dino; data: 48 images of" in card.text
    assert all(f"({name})" in card.text for name in ("accuracy_by_eps.png", "gallery.png"))


def test_findings_go_into_the_card_of_a_local_model(arguments, model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    card = tmp_path / "model/README.md"
    people = card.read_text()
    given = {"model_name_or_path": str(tmp_path / "model"), "sweep": [], "update_card": True}
    for eps in (0.15, 0.01):
        report = audit(arguments(tmp_path / "out", "pgd", **given, eps=eps))
        text = card.read_text()
        assert all(line in text for line in people.splitlines(keepends=True))
        assert report.table() in text
        assert text.count("## Adversarial robustness") == 1
        found = ModelCard.load(card).data.eval_results
        assert [each.metric_args.get("eps") for each in found] == [None, eps]
        assert [each.metric_args["correct"] for each in found] == [each.correct for each in report.measurements]
        for name in ("report.json", "gallery.png"):
            assert (tmp_path / "model/audit" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    linked = {*re.findall(r"\]\((audit/[^)]+)\)", card.read_text())}
    assert {"audit/report.json", "audit/gallery.png"} == linked
    assert linked < {*published_in(tmp_path / "model")}
    assert str(tmp_path) not in card.read_text().replace(people, "")


def test_a_second_audit_leaves_no_perturbation_of_the_first(arguments, tmp_path):
    audit(arguments(tmp_path / "out", "l4a", sweep=[]))
    assert (tmp_path / "out/perturbations/l4a").exists()
    audit(arguments(tmp_path / "out", "fgsm", sweep=[]))
    assert not (tmp_path / "out/perturbations").exists()


def test_the_folder_of_the_model_is_not_where_an_audit_goes(arguments, model):
    with pytest.raises(UserError, match=r"is the folder of the model: choose another one, for example .*/audit"):
        audit(arguments(Path(model), "fgsm"))


def test_what_is_no_pixel_model_is_refused(vit, dataset):
    with pytest.raises(UserError, match="The model is a ViTForImageClassification, expected the name of one, or Pixel"):
        audit_of_values(vit[0], dataset, {"fgsm": ATTACKS["fgsm"].configure()})


@pytest.mark.parametrize(
    ("card", "changes", "sentence"),
    [
        (b"---\ntags: [a\n---\n", {}, "cannot be updated, its metadata is no YAML: while parsing a flow sequence"),
        (b"\xff\xfe", {}, "cannot be read: 'utf-8' codec can't decode"),
        (b"", {"model_revision": "main"}, 'model_revision is "main", but the card is that of the newest commit'),
        (b"", {"create_pr": True}, "create_pr is given, but no card on the Hub is updated"),
    ],
)
def test_a_card_that_cannot_be_updated_is_refused_before_any_work(arguments, model, tmp_path, card, changes, sentence):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model/README.md").write_bytes(card)
    given = {"model_name_or_path": str(tmp_path / "model"), "update_card": True, **changes}
    with pytest.raises(ValueError, match=re.escape(sentence)) as refusal:
        audit(arguments(tmp_path / "out", "pgd", **given))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "model/README.md").read_bytes() == card


# ---- what it keeps apart ----


def test_images_are_split_as_the_model_s_record_says_or_refused(arguments, model, place, tmp_path):
    trained, audited = tmp_path / "photos", tmp_path / "elsewhere"
    for folder in (trained, audited):
        colored_images(60, 3).save_to_disk(folder)
    shutil.copytree(model, tmp_path / "model")
    data = load_images(str(trained), held_out_share=0.05)
    digests = {split: image_digests(data[split]) for split in ("train", "test")}
    choices = {**dict.fromkeys(CHOICES), "held_out_share": 0.05}
    record = TrainingRecord({}, {"name": "photos", "config": None, **images_of_record(digests, choices)})
    record.save(tmp_path / "model/training.json")
    given = {"model_name_or_path": str(tmp_path / "model"), "sweep": []}
    report = audit(arguments(tmp_path / "out", "fgsm", dataset_name=str(trained), **given))
    assert (report.dataset["split"], report.dataset["count"]) == ("test[5% held out of train by seed 0]", 3)
    seen = len({*digests["train"]} & {*image_digests(load_images(str(audited))["test"])})
    assert seen > 0
    with pytest.raises(UserError, match=rf'^{seen} of 6 test images are among those that "model" was trained on'):
        audit(arguments(tmp_path / "other", "fgsm", dataset_name=str(audited), **given))
    assert not (tmp_path / "other").exists()


def test_images_that_were_drawn_from_a_stream_are_drawn_again(arguments, model, tmp_path):
    for number, image in enumerate(colored_images(60, 3)):
        (folder := tmp_path / "photos" / CLASSES[image["label"]]).mkdir(parents=True, exist_ok=True)
        image["image"].save(folder / f"{number}.png")
    shutil.copytree(model, tmp_path / "model")
    choices = {"streaming": True, "max_train_samples": 20, "max_eval_samples": 6}
    data = load_images(str(tmp_path / "photos"), **choices)
    digests = {split: image_digests(data[split]) for split in ("train", "test")}
    told = images_of_record(digests, {**dict.fromkeys(CHOICES), **choices})
    TrainingRecord({}, {"name": "photos", "config": None, **told}).save(tmp_path / "model/training.json")
    given = {"model_name_or_path": str(tmp_path / "model"), "dataset_name": str(tmp_path / "photos"), "sweep": []}
    for limit in (None, 4):
        report = audit(arguments(tmp_path / f"out{limit}", "fgsm", limit=limit, **given))
        assert report.dataset["count"] == (limit or 6)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["README.md"], r"holds what is of no finished run \(README.md\): nothing is overwritten"),
        (["README.md", "config.json"], r"holds what is of no finished run \(README.md, config.json\)"),
        (["report.json"], r"holds what is of no finished run \(report.json\)"),
    ],
)
def test_nothing_of_others_is_overwritten(arguments, tmp_path, files, sentence):
    (tmp_path / "out").mkdir()
    for name in files:
        (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(UserError, match=sentence):
        audit(arguments(tmp_path / "out", "fgsm"))
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == dict.fromkeys(files, "mine")


def test_the_audit_of_another_model_is_not_overwritten(arguments, model, whole, tmp_path, caplog):
    shutil.copytree(whole, tmp_path / "whole")
    shutil.copytree(model, tmp_path / "another")
    before = (tmp_path / "whole/report.json").read_bytes()
    with pytest.raises(UserError, match=r"holds a finished run \(README.md, report.json, .* or delete that one"):
        audit(arguments(tmp_path / "whole", "fgsm", model_name_or_path=str(tmp_path / "another")))
    assert (tmp_path / "whole/report.json").read_bytes() == before
    assert "will be replaced" not in caplog.text
    audit(arguments(tmp_path / "whole", "fgsm", sweep=[]))
    assert f'{tmp_path / "whole"} of an audit of a model named "model" will be replaced; elsewhere' in caplog.text
    assert RobustnessReport.load(tmp_path / "whole/report.json").attacks == ["clean", "fgsm"]


# ---- what it is given ----


def test_the_encoder_can_be_named(arguments, encoders, tmp_path):
    report = audit(arguments(tmp_path / "out", "l4a,fff", encoder=encoders["mae"], sweep=[]))
    assert {report.measurement("model", name).settings["encoder"] for name in ("l4a", "fff")} == {"mae"}
    assert report.measurement("model", "fff").settings["data"] == "none"
    assert report.sweep == []
    assert not (tmp_path / "out/accuracy_by_eps.png").exists()


def test_several_encoders_can_be_named_and_are_attacked_at_once(arguments, encoders, tmp_path):
    names = f"{encoders['mae']}, {encoders['dino']}"
    report = audit(arguments(tmp_path / "out", "l4a", encoder=names, sweep=[]))
    assert report.measurement("model", "l4a").settings["encoder"] == "mae, dino"
    assert report.measurement("model", "l4a-adaptive").settings["encoder"] == "model"
    with pytest.raises(UserError, match="encoder_revision is main, but there are 2 encoders: leave it out"):
        audit(arguments(tmp_path / "other", "l4a", encoder=names, encoder_revision="main"))


def test_attacks_on_the_model_alone_need_no_encoder(arguments, model, tmp_path):
    shutil.copytree(model, tmp_path / "model", ignore=shutil.ignore_patterns("README.md"))
    report = audit(arguments(tmp_path / "out", "fgsm", model_name_or_path=str(tmp_path / "model"), sweep=[]))
    assert report.attacks == ["clean", "fgsm"]


def test_eps_of_one_attack_and_another_norm(arguments, tmp_path):
    settings = {"pgd": {"norm": "l2", "eps": 4, "steps": 2}, "l4a": {"eps": 0.4, "steps": 1, "seed": 5}}
    report = audit(arguments(tmp_path / "out", "l4a,pgd", attack_settings=json.dumps(settings), sweep=[4]))
    assert [(each.attack, each.settings["eps"]) for each in report.sweep] == [
        *(("l4a", 0.4), ("l4a-adaptive", 0.4), ("pgd", 4)),
        *(("l4a", 1.0), ("l4a-adaptive", 1.0), ("pgd", 16)),
    ]
    assert report.measurement("model", "pgd").settings["norm"] == "l2"
    assert report.measurement("model", "l4a").settings["seed"] == 5
    assert report.measurement("model", "l4a-adaptive").settings["seed"] == 5


def test_by_values_it_finds_what_flags_find_and_writes_nothing(report, model, dataset, encoders, monkeypatch, tmp_path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    classifier, encoder = PixelModel(*load_classifier(model)), PixelModel(*load_encoder(encoders["dino"], CLASSES))
    classifier.model.config.name_or_path = encoders["dino"]  # as where it was made of that in this process
    attacks = [ATTACKS[name].configure(eps=eps, **QUICK[name]) for name, eps in (("l4a", 0.3), ("pgd", 0.15))]
    found = audit_of_values(classifier, dataset, [*attacks, "fgsm"], encoder=encoder)
    assert found.attacks == ["clean", "l4a", "l4a-adaptive", "pgd", "fgsm"]
    assert found.measurement("model", "fgsm").settings["eps"] == 8 / 255
    for name in ("clean", "l4a", "l4a-adaptive", "pgd"):
        ours, theirs = (each.measurement("model", name) for each in (found, report))
        assert (ours.correct, ours.fooled, ours.changed) == (theirs.correct, theirs.fooled, theirs.changed)
    assert not list((tmp_path / "here").iterdir())


def test_it_can_be_run_again_from_its_report_alone(report, model, images, tmp_path):
    report.save(tmp_path / "report.json")
    again = audit_again(tmp_path, model=Path(model), dataset=Path(images))
    assert again.measurements == report.measurements
    assert again.dataset == report.dataset


def test_parts_of_one_split_are_told_apart(model, dataset):
    whole = concatenate_datasets([dataset["train"]], split=NamedSplit("train"))
    given = DatasetDict(train=whole.select(range(24)), test=whole.select(range(24, 48)))
    found = audit_of_values(PixelModel(*load_classifier(model)), given, [ATTACKS["fgsm"]])
    assert found.dataset["split"] == "test"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ([("a/b", "1"), ("a/b", "1")], {"encoder": "a/b", "encoder_revision": "1"}),
        ([("a-folder", None)], {}),
        ([("a/b, c/d", None)], {}),
        ([("a/b, a-folder", "1")], {}),
        ([("a/b", "1"), ("a/b", "2")], {}),
        ([], {}),
    ],
)
def test_the_encoder_that_a_report_tells_is_attacked_again_where_it_is_on_the_hub(report, told, expected):
    measured = [each for each in report.measurements if "encoder" not in each.settings]
    [one] = [each for each in report.measurements if each.attack == "l4a"]
    for i, (name, revision) in enumerate(told):
        settings = {**one.settings, "encoder": name, "encoder_revision": revision}
        measured.append(replace(one, attack=f"l4a-{i}", settings=settings))
    assert public_encoder_of(replace(report, measurements=measured, worst_cases=[])) == expected


def test_images_without_a_name_have_none_in_the_report(model, encoders, dataset):
    encoder = PixelModel(*load_encoder(encoders["dino"], CLASSES))
    attack = ATTACKS["l4a"].configure(eps=0.3, **QUICK["l4a"])
    found = audit_of_values(PixelModel(*load_classifier(model)), dataset, [attack], encoder=encoder)
    assert found.measurement("model", "l4a").settings["data"] == "48 images, split train, without labels"
    again = audit_again(found, model=PixelModel(*load_classifier(model)), dataset=dataset, encoder=encoder)
    assert again.measurements == found.measurements


def test_a_format_of_the_user_s_own_is_for_other_models(model, dataset):
    classifier = PixelModel(*load_classifier(model))
    expected = audit_of_values(classifier, dataset, [ATTACKS["fgsm"]]).measurements
    transformed = DatasetDict({name: each.with_transform(lambda rows: {"x": rows}) for name, each in dataset.items()})
    for given in (dataset.with_format("torch"), dataset.with_format("numpy"), transformed):
        assert audit_of_values(classifier, given, [ATTACKS["fgsm"]]).measurements == expected


def with_test_labels(labels, names) -> DatasetDict:
    """Images whose test split has these labels."""
    test = colored_images(len(labels), 1).remove_columns("label")
    return DatasetDict(
        train=colored_images(6, 0), test=test.add_column("label", labels, feature=ClassLabel(names=names))
    )


NOTHING = UniversalPerturbation(torch.zeros(3, SIDE, SIDE), "x", 0.1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"dataset": {"train": []}}, "expected a name, or a DatasetDict with the splits train and test"),
        (
            {
                "dataset": DatasetDict(
                    train=colored_images(6, 0), test=colored_images(6, 1).rename_column("image", "img")
                )
            },
            r"The split test has the columns img, label, expected image, and label as a ClassLabel",
        ),
        ({"attacks": [0.1]}, r"attacks are \[0.1\], expected such as"),
        ({"attacks": ["pgd", ATTACKS["pgd"].configure()]}, "expected different ones"),
        ({"attacks": []}, r"attacks are \[\], expected such as"),
        (
            {"dataset": with_test_labels([0] * 6, CLASSES[::-1])},
            "The label column of test has the classes .*, that of train .*: expected the same in the same order",
        ),
        ({"dataset": with_test_labels([0, 1, 2, 0, 1, -1], CLASSES)}, "The split test has labels -1, expected 0 to 2"),
        ({"dataset": with_test_labels([0, 1, 2, 0, 1, None], CLASSES)}, "The split test has labels None, expected 0"),
        ({"attacks": {"clean": ATTACKS["pgd"]}}, 'An attack is called "clean", which means no attack'),
        ({"attacks": {"every attack": ATTACKS["pgd"]}}, 'is called "every attack", which means all of them at once'),
        (
            {"attacks": {"x-at-hand": ATTACKS["pgd"]}, "perturbations": {"x": NOTHING}},
            'Two attacks are called "x-at-hand"',
        ),
        ({"attacks": ["l4a"]}, "The model is none by a name, whose card tells its public encoder"),
        ({"seed": 2**63}, "seed is 9223372036854775808, expected a whole number of at most 62 bits"),
    ],
)
def test_values_that_are_none_are_refused(vit, dataset, given, sentence):
    with pytest.raises(UserError, match=sentence):
        audit_of_values(PixelModel(*vit), **{"dataset": dataset, "attacks": ["fgsm"], **given})


def test_a_limit_is_a_stratified_subset(arguments, dataset, model, tmp_path):
    report = audit(arguments(tmp_path / "out", "pgd", limit=7, sweep=[]))
    subset = stratified_subset(dataset["test"], 7, seed=0)
    assert sorted(subset["label"].count(label) for label in range(3)) == [2, 2, 3]
    classifier = PixelModel(*load_classifier(model))
    found = answer(classifier, with_pixel_values(subset, classifier.processor))
    clean = report.measurement("model", "clean")
    assert (clean.count, clean.correct) == (7, sum(map(int.__eq__, found.predictions, found.labels)))
    assert report.dataset["count"] == 7


@pytest.mark.parametrize("names", [["blue", "red", "green"], ["Blue ", "RED", "green"]])
def test_classes_are_found_by_name(arguments, report, dataset, names, tmp_path):
    ids = [names.index(name) for name in sorted(names, key=lambda name: CLASSES.index(name.strip().lower()))]
    DatasetDict(
        {
            split: part.remove_columns("label").add_column(
                "label", [ids[label] for label in part["label"]], feature=ClassLabel(names=names)
            )
            for split, part in dataset.items()
        }
    ).save_to_disk(tmp_path / "colours")
    mapped = audit(arguments(tmp_path / "out", dataset_name=str(tmp_path / "colours")))
    assert counts(mapped) == counts(report)


def test_classes_without_names_are_taken_in_order(arguments, report, model, tmp_path, caplog):
    classifier, processor = load_classifier(model)
    classifier.config.id2label = {i: f"LABEL_{i}" for i in range(3)}
    for part in (classifier, processor):
        part.save_pretrained(tmp_path / "model")
    shutil.copy(f"{model}/README.md", tmp_path / "model")
    found = audit(arguments(tmp_path / "out", model_name_or_path=str(tmp_path / "model")))
    assert counts(found) == counts(report)
    assumed = "The model does not name its classes: they are taken in the order of the dataset's."
    assert assumed in caplog.text
    assert RobustnessReport.load(tmp_path / "out/report.json").models["model"]["classes_matched"] == assumed
    assert "classes_matched" not in report.models["model"]
    assert f"a right answer rests on this: {assumed}" in (tmp_path / "out/README.md").read_text(encoding="utf-8")


# ---- odd names ----


def test_an_audit_of_classes_with_odd_names(arguments, model, tmp_path):
    names = ["$a_$", '"> <script>', "*b* | c"]
    classifier, processor = load_classifier(model)
    classifier.config.id2label = dict(enumerate(names))
    for part in (classifier, processor):
        part.save_pretrained(tmp_path / "model")
    data = DatasetDict({split: colored_images(18, seed) for seed, split in enumerate(("train", "validation", "test"))})
    data.cast_column("label", ClassLabel(names=names)).save_to_disk(tmp_path / "odd | names")
    given = {"model_name_or_path": str(tmp_path / "model"), "dataset_name": str(tmp_path / "odd | names")}
    report = audit(arguments(tmp_path / "out", "pgd,square", **given))
    assert report.dataset["name"] == "odd | names"
    for picture in ("accuracy_by_eps.png", "gallery.png"):
        assert (tmp_path / "out" / picture).stat().st_size > 10_000
