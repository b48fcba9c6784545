"""Encoders hardened without labels: what comes out, what is measured, and what is refused or said."""

import copy
import json
import logging
import re
import shlex
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cards import blocks, make_report
from conftest import CLASSES, SIDE, TINY_VIT, colored_images
from datasets import ClassLabel
from huggingface_hub import ModelCard, ModelInfo
from huggingface_hub.repocard_data import eval_results_to_model_index
from PIL import Image
from public_encoders import PROCESSOR
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ViTImageProcessor,
    pipeline,
)

from genaf_hf import GenAFConfig, PixelModel, RobustnessReport, UniversalPerturbation, load_encoder, with_pixel_values
from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.cli.harden_encoder import TYPES, main
from genaf_hf.data import ImageSet
from genaf_hf.errors import UserError
from genaf_hf.evaluation import drift
from genaf_hf.evaluation.probing import probed
from genaf_hf.leaderboard import check
from genaf_hf.leaderboard.check import Report
from genaf_hf.leaderboard.entries import read_card
from genaf_hf.models.bare_encoder import load_bare_encoder
from genaf_hf.pipelines.harden import HardeningArguments, harden, tell_of_gain
from genaf_hf.pipelines.harden_encoder import EncoderArguments, harden_encoder, load_encoder_images
from genaf_hf.runs.journal import Journal
from genaf_hf.sharing.publishing import why_unreliable
from genaf_hf.sharing.record import TrainingRecord

pytestmark = [pytest.mark.slow(reason="hardens encoders"), pytest.mark.usefixtures("quick_checks")]

QUICK = {
    "defence": "anchor",
    "defence_settings": {"live": 2, "bank": ["l4a"], "bank_steps": 2},
    "per_device_train_batch_size": 8,
    "max_steps": 6,
    "learning_rate": 3e-3,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
FEW = {"steps": 2}
BANK = ("live-1", "live-2", "l4a", "live-patch")


def settings(folder: Path, **changes) -> GenAFConfig:
    return GenAFConfig(output_dir=str(folder), **{**QUICK, **changes})


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> Path:
    """One folder of images without class folders."""
    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(colored_images(30, 0)["image"]):
        image.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def hardened(encoders, unlabelled, tmp_path_factory) -> tuple[Path, list]:
    """An encoder that was hardened on it, and how far its features moved."""
    folder = tmp_path_factory.mktemp("runs") / "hardened"
    arguments = EncoderArguments(encoders["dino"], str(unlabelled), attacks="l4a,feature-pgd", attack_settings=FEW)
    drifts, reports = harden_encoder(arguments, settings(folder))
    assert reports == {}
    return folder, drifts


def test_what_comes_out_is_an_encoder_of_the_same_class_and_shape(hardened, encoders):
    folder, _ = hardened
    before, after = AutoModel.from_pretrained(encoders["dino"]), AutoModel.from_pretrained(folder)
    assert type(after) is type(before)
    assert {name: each.shape for name, each in after.state_dict().items()} == {
        name: each.shape for name, each in before.state_dict().items()
    }
    changed = {name for name, each in after.state_dict().items() if not torch.equal(each, before.state_dict()[name])}
    assert {name.split(".")[0] for name in changed} == {"embeddings", "layers", "layernorm"}  # and not the pooler
    new_head = AutoModelForImageClassification.from_pretrained(folder, num_labels=7)
    torch.testing.assert_close(new_head.vit.state_dict()["layernorm.weight"], after.state_dict()["layernorm.weight"])
    extract = pipeline("image-feature-extraction", model=str(folder))
    image = Image.new("RGB", (20, 20), "red")
    inputs = ViTImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(extract(image)), after.eval()(**inputs).last_hidden_state)
    for name in BANK:
        assert UniversalPerturbation.from_pretrained(folder / "training_perturbations" / name).encoder == "dino"


def test_without_labels_the_drift_of_features_is_measured(hardened, encoders, unlabelled):
    folder, drifts = hardened
    assert json.loads((folder / "drift.json").read_text()) == [vars(each) for each in drifts]
    names = ["clean", "l4a", "l4a-adaptive", "feature-pgd"]
    assert [(each.model, each.attack) for each in drifts] == [
        (model, name) for model in ("undefended", "hardened") for name in names
    ]
    assert (drifts[0].distance, drifts[0].count) == (0, 3)
    assert drifts[0].cosine == pytest.approx(1)
    test = [Image.open(unlabelled / f"{number}.png") for number in held_out(unlabelled)]
    public, own = (PixelModel(*load_encoder(str(place), CLASSES)).eval() for place in (encoders["dino"], folder))
    images = torch.stack([torch.as_tensor(public.processor(each)["pixel_values"][0]) for each in test])
    goal, found = (model.features(model.to_images(images)).detach() for model in (public, own))
    clean = drifts[4]
    assert clean.distance == pytest.approx(((found - goal).norm(dim=1) / goal.norm(dim=1)).square().mean().item())
    assert clean.cosine == pytest.approx(F.cosine_similarity(found, goal).mean().item())
    assert not (folder / "report.json").exists()


def held_out(folder: Path) -> list[int]:
    """Numbers of the images that were held out."""
    data = load_encoder_images(EncoderArguments("encoder", str(folder)), None)
    return [int(Path(image["path"]).stem) for image in data["test"]["image"]]


def test_unlabelled_images_to_report_are_those_that_are_named_or_lie_in_their_folder(unlabelled, tmp_path):
    def sizes(**settings):
        data = load_encoder_images(EncoderArguments("encoder", str(tmp_path), **settings), None)
        return {split: len(images) for split, images in data.items()}

    def fill(split: str, *numbers: int):
        (tmp_path / split).mkdir()
        for number in numbers:
            shutil.copy(unlabelled / f"{number}.png", tmp_path / split)

    fill("train", *range(7))
    fill("test", 7, 8, 9)
    assert held_out(tmp_path) == [7, 8, 9]
    assert sizes(max_train_samples=3, max_eval_samples=2) == {"train": 3, "test": 2}
    fill("gold", 10, 11)
    assert sizes(test_split="gold") == {"train": 7, "test": 2}
    with pytest.raises(UserError, match='There is no split "silver"'):
        sizes(test_split="silver")


def test_unlabelled_images_are_drawn_from_a_stream_too(unlabelled, monkeypatch):
    monkeypatch.setattr("genaf_hf.data.streaming.SHUFFLED_AT_ONCE", 5)
    arguments = EncoderArguments("encoder", str(unlabelled), streaming=True, max_train_samples=12, max_eval_samples=3)
    data = load_encoder_images(arguments, None)
    drawn = {split: {Path(each["path"]).name for each in images["image"]} for split, images in data.items()}
    assert {split: len(names) for split, names in drawn.items()} == {"train": 12, "test": 3}
    assert not drawn["train"] & drawn["test"]
    assert drawn["train"] | drawn["test"] < {path.name for path in unlabelled.iterdir()}


def test_the_card_names_what_was_hardened_and_says_it_to_the_hub(hardened, encoders):
    folder, _ = hardened
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert {"genaf", "hardened-encoder"} <= {*card.data.tags}
    assert card.data.eval_results is None
    texts = "`ViTModel`", "last_hidden_state[:, 0]", ", ".join(BANK), "does not withstand", "| l4a ", "are lower bounds"
    for text in texts:
        assert text in card.text, text
    assert "Robust accuracies" not in card.text
    record = TrainingRecord.load(folder / "training.json")
    assert record.data["splits"] == {"train": 27, "test": 3}
    arguments, config = parse_arguments(TYPES, None, shlex.split(record.command)[2:])
    assert (arguments.attacks, config.defence, config.learning_rate) == ("l4a,feature-pgd", "anchor", 3e-3)
    assert (folder / "drift.png").stat().st_size > 10_000


def test_a_fine_tune_is_shown_its_perturbations_as_the_page_says(hardened):
    folder, _ = hardened
    page = (Path(__file__).parents[1] / "docs/encoders.md").read_text(encoding="utf-8")
    [code] = blocks(page, "python")
    names = {}
    code = code.replace("user/dinov2-small-hardened", str(folder))
    code = code.replace('snapshot_download(name, allow_patterns="training_perturbations/*")', "name")
    exec(compile(code, "docs/encoders.md", "exec"), names)
    torch.manual_seed(0)
    model = PixelModel(names["model"], names["processor"])
    images = torch.full((300, 3, SIDE, SIDE), 0.5)
    batch = names["collate"]([{"pixel_values": each, "labels": 1} for each in model.to_pixel_values(images)])
    moved = model.to_images(batch["pixel_values"]) - images
    known = {name: UniversalPerturbation.from_pretrained(folder / "training_perturbations" / name) for name in BANK}
    patch = known.pop("live-patch")
    shares = [(moved - each.delta).abs().amax((1, 2, 3)).lt(1e-5).float().mean() for each in known.values()]
    shares.append((moved.abs().amax(1) > 1e-5).float().sum((1, 2)).eq(patch.delta[0].numel()).float().mean())
    assert shares == [pytest.approx(1 / 8, abs=0.06)] * 4
    assert moved.abs().amax((1, 2, 3)).lt(1e-5).float().mean() == pytest.approx(1 / 2, abs=0.06)
    assert model(batch["pixel_values"]).shape == (300, 2)
    assert model.class_names == ["cat", "dog"]


def test_with_labels_a_probe_of_the_features_is_attacked(dataset, encoders, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    dataset.save_to_disk(tmp_path / "colours")
    folder, quick = tmp_path / "run", {"steps": 2}
    arguments = EncoderArguments(
        encoders["dino"], str(tmp_path / "colours"), attacks="l4a,uapgd,upgd,pgd", attack_settings=quick
    )
    drifts, reports = harden_encoder(arguments, settings(folder))
    [report] = reports.values()
    assert "Labels are not trained on: they are for the report" in caplog.text
    assert report.attacks == ["clean", "l4a", "l4a-adaptive", "uapgd", "uapgd-adaptive", "upgd", "pgd"]
    assert list(report.models) == ["undefended", "hardened"]
    assert [each.attack for each in drifts[6:]] == report.attacks[:6]  # pgd is on labels, not on features
    assert report.measurement("hardened", "clean").neighbors_correct is not None
    assert RobustnessReport.load(folder / "report.json").sha256 == report.sha256
    assert report.dataset["content"] == ImageSet("", dataset).measured["content"]
    own = PixelModel(*load_encoder(str(folder), CLASSES)).eval()
    train, test = (with_pixel_values(dataset[split], own.processor)[:] for split in ("train", "test"))
    probe = LinearProbe(own, own.to_images(train["pixel_values"]), train["labels"])
    right = probe(own.to_images(test["pixel_values"])).argmax(1) == test["labels"]
    assert report.measurement("hardened", "clean").correct == right.sum()
    results = ModelCard.load(folder / "README.md").data.eval_results
    assert [each.metric_args["attack"] for each in results] == [*report.attacks, "every attack"]
    assert (folder / "overview.png").exists()
    assert (folder / "gallery.png").exists()


def test_each_task_that_it_is_probed_on_has_a_report_and_its_results_on_the_card(
    dataset, encoders, unlabelled, tmp_path
):
    two = dataset.filter(lambda label: label < 2, input_columns="label")
    two = two.cast_column("label", ClassLabel(names=CLASSES[:2]))
    for name, images in {"three": dataset, "two": two}.items():
        images.save_to_disk(tmp_path / name)
    tasks = [str(tmp_path / "three"), str(tmp_path / "two")]
    folder = tmp_path / "run"
    arguments = EncoderArguments(
        encoders["resnet"], str(unlabelled), probe_datasets=tasks, attacks="l4a,pgd", attack_settings=FEW
    )
    drifts, reports = harden_encoder(arguments, settings(folder))
    assert [each.attack for each in drifts[3:]] == ["clean", "l4a", "l4a-adaptive"]  # no labels, and so no pgd
    assert list(reports) == ["tasks/three/report.json", "tasks/two/report.json"]
    own = PixelModel(*load_encoder(str(folder), CLASSES)).eval()
    for (place, report), images in zip(reports.items(), (dataset, two), strict=True):
        train, test = (with_pixel_values(images[split], own.processor)[:] for split in ("train", "test"))
        probe = LinearProbe(own, own.to_images(train["pixel_values"]), train["labels"])
        right = probe(own.to_images(test["pixel_values"])).argmax(1) == test["labels"]
        assert report.measurement("hardened", "clean").correct == right.sum()
        assert report.attacks == ["clean", "l4a", "l4a-adaptive", "pgd"]
        assert RobustnessReport.load(folder / place).sha256 == report.sha256
    card = ModelCard.load(folder / "README.md")
    index = eval_results_to_model_index("run", card.data.eval_results)
    entries, left_out = read_card(
        ModelInfo(id="someone/run", sha="c" * 40, tags=card.data.tags, **{"model-index": index})
    )
    assert left_out == []
    assert Counter(each.dataset for each in entries) == {"three": 5, "two": 5}
    cited = {("someone/run", place): Report((folder / place).read_bytes()) for place in reports}
    assert [each.problems for each in check(entries, cited)] == [()] * 10
    for text in (
        "### three\n\nFitted on 48 labelled images.",
        "### two\n\nFitted on 32 labelled",
        "**On two: Only 12 ",
    ):
        assert text in card.text, text
    assert "--probe_datasets three two" in TrainingRecord.load(folder / "training.json").command
    assert why_unreliable(folder) is None
    replace(reports["tasks/two/report.json"], checks=[]).save(folder / "tasks/two/report.json")
    assert why_unreliable(folder) == "its report has no self-check of it"


def test_a_probe_is_a_head_that_answers_as_it_does(vit):
    model, images = PixelModel(*vit).eval(), torch.rand(12, 3, SIDE, SIDE)
    labels = torch.tensor([0, 2] * 6)
    found = probed(model, images, labels, 3)(images)
    expected = LinearProbe(model, images, labels)(images)
    torch.testing.assert_close(found[:, [0, 2]], expected, rtol=1e-4, atol=1e-4)
    assert (found.argmax(1) != 1).all()  # of which there was no image
    assert torch.equal(model(images), PixelModel(*vit)(images))


def test_an_interrupted_run_goes_on_to_the_same_encoder(encoders, unlabelled, tmp_path, monkeypatch):
    arguments = EncoderArguments(encoders["dino"], str(unlabelled), attacks="l4a", attack_settings=FEW)
    every = {"save_strategy": "steps", "save_steps": 2}
    harden_encoder(arguments, settings(tmp_path / "whole", **every))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("genaf_hf.pipelines.harden_encoder.measure_drift", interrupted)
        with pytest.raises(KeyboardInterrupt):
            harden_encoder(arguments, settings(tmp_path / "run", **every))
    shutil.rmtree(tmp_path / "run/unfinished_run/adversarial_finetune/checkpoint-6")
    with pytest.raises(UserError, match=r"unfinished run with other settings \(clean_share was 0.5 and is 0.7\)"):
        harden_encoder(arguments, settings(tmp_path / "run", clean_share=0.7, **every))
    harden_encoder(arguments, settings(tmp_path / "run", **every))
    for name in ("model.safetensors", "drift.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "run/unfinished_run").exists()


def test_what_was_measured_of_a_drift_is_measured_once(encoders, dataset, tmp_path, monkeypatch):
    public, processor = load_encoder(encoders["dino"], CLASSES)
    other = PixelModel(copy.deepcopy(public), processor).eval()
    with torch.no_grad():
        next(other.model.parameters()).add_(0.1)
    models, journal = {"one": PixelModel(public, processor).eval(), "other": other}, Journal(tmp_path)
    pixels, calls, measure = with_pixel_values(dataset["test"], processor), [], drift.one_drift
    monkeypatch.setattr(
        drift, "one_drift", lambda name, *given, **more: calls.append(name) or measure(name, *given, **more)
    )
    found = drift.measure_drift(models, models["one"], pixels, [], journal=journal)
    assert drift.measure_drift(models, models["one"], pixels, [], journal=journal) == found
    assert calls == ["one", "other"]
    assert (found[0].distance == 0) != (found[1].distance == 0)
    with torch.no_grad():
        next(other.model.parameters()).add_(0.1)
    assert drift.measure_drift(models, models["one"], pixels, [], journal=journal)[1] != found[1]
    assert calls == ["one", "other", "other"]


def test_in_bfloat16_the_weights_and_what_is_measured_stay_in_float32(hardened, encoders, unlabelled, tmp_path):
    images = ["--dataset_name", str(unlabelled), "--attacks", "l4a,feature-pgd", "--attack_settings", json.dumps(FEW)]
    training = {**QUICK, "defence_settings": json.dumps(QUICK["defence_settings"]), "bf16": True}
    flags = [word for name, value in training.items() for word in (f"--{name}", str(value))]
    main(["--model_name_or_path", encoders["dino"], *images, *flags, "--output_dir", str(tmp_path / "run")])
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", hardened[0]))
    begun = load_file(Path(encoders["dino"]) / "model.safetensors")
    assert {each.dtype for each in found.values()} == {torch.float32}
    difference, way = (
        torch.cat([(each - others[name]).flatten() for name, each in expected.items()]).norm()
        for others in (found, begun)
    )
    assert 0 < difference < 0.75 * way
    drifts = json.loads((tmp_path / "run/drift.json").read_text())
    assert [each["distance"] for each in drifts[:4]] == [each.distance for each in hardened[1][:4]]
    assert drifts[4]["distance"] == pytest.approx(hardened[1][4].distance, rel=0.5)  # signs of steps flip


# ---- what is refused, and what is said ----


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"defence": "universal"}, "defence is universal, which reads labels, but an encoder is hardened without"),
        ({"defence": "none"}, "defence is none, which reads labels"),
        (
            {"eval_strategy": "epoch"},
            "eval_strategy or load_best_model_at_end is given, but an encoder is hardened without",
        ),
        ({"adapt_epochs": 1.0}, "adapt_epochs or adapt_max_steps is given, but an encoder has no head"),
        ({"attacks": "l4a,pgd"}, "attacks has pgd, which needs labels, but the images have none"),
        ({"streaming": True, "max_train_samples": 20}, "is streamed but max_eval_samples is None"),
        ({"dataset_name": "nothing-here"}, "nothing-here"),
        ({"model_name_or_path": "nobody/nothing"}, '"nobody/nothing" is neither a local folder'),
        ({"probe_datasets": ["digits", "digits"]}, "probe_datasets is digits, digits, of which two have one name"),
        ({"probe_datasets": ["my photos", "my-photos"]}, "my photos, my-photos, of which two have one name"),
        ({"defence_settings": {"live": 9, "bank": []}}, r"live is 9, but an update is of 8 image\(s\)"),
        ({"pooling": "middle"}, 'pooling is "middle", expected one of cls, mean, pooler'),
        (
            {"probe_datasets": ["digits"], "attacks": "upgd", "attack_settings": {"target": 10}},
            "target is 10, expected one of the model's 10 classes",
        ),
    ],
)
def test_what_cannot_be_hardened_is_refused_before_any_work(encoders, unlabelled, tmp_path, changes, sentence):
    of_training = {name: value for name, value in changes.items() if hasattr(GenAFConfig, name)}
    asked = {"model_name_or_path": encoders["dino"], "dataset_name": str(unlabelled), "attack_settings": FEW}
    asked |= {name: value for name, value in changes.items() if name not in of_training}
    of_training = {**QUICK, **of_training}
    if of_training["defence"] != "anchor":
        del of_training["defence_settings"]
    with pytest.raises(UserError, match=sentence) as refusal:
        harden_encoder(EncoderArguments(**asked), GenAFConfig(output_dir=str(tmp_path / "run"), **of_training))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [0, 1])
def test_no_image_and_one_image_are_refused(encoders, tmp_path, count):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing")
    for image in colored_images(1, 0)["image"][:count]:
        image.save(folder / "one.png")
    sentence = ["it holds no image that can be read", r"has 1 image\(s\), expected at least 4"][count]
    with pytest.raises(UserError, match=sentence):
        harden_encoder(EncoderArguments(encoders["dino"], str(folder)), settings(tmp_path / "run"))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [(torch.nan, "holds NaN or infinite values in vit"), (1e30, "Features of the ViTModel are not finite")],
)
def test_features_that_are_no_numbers_are_refused(encoders, unlabelled, tmp_path, value, sentence):
    shutil.copytree(encoders["dino"], tmp_path / "broken")
    weights = load_file(tmp_path / "broken/model.safetensors")
    weights["layernorm.weight"][0] = value
    save_file(weights, tmp_path / "broken/model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=sentence):
        harden_encoder(EncoderArguments(str(tmp_path / "broken"), str(unlabelled)), settings(tmp_path / "run"))


class StoppedError(Exception):
    """Ends a run when everything was said that comes before its training."""


def said(monkeypatch, caplog, arguments, config) -> str:
    """What is said before a training."""

    def stop(*_, **__):
        raise StoppedError

    monkeypatch.setattr("genaf_hf.pipelines.harden_encoder.train", stop)
    caplog.set_level(logging.INFO)
    with pytest.raises(StoppedError):
        harden_encoder(arguments, config)
    return caplog.text


def test_a_head_is_dropped_and_small_images_are_enlarged_which_is_said(
    encoders, unlabelled, tmp_path, monkeypatch, caplog
):
    shutil.copytree(encoders["resnet"], tmp_path / "resnet")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "resnet")
    arguments = EncoderArguments(str(tmp_path / "resnet"), str(unlabelled), attacks="l4a", attack_settings=FEW)
    found = said(monkeypatch, caplog, arguments, settings(tmp_path / "run"))
    assert "is a classifier, a ResNetForImageClassification: its head is dropped" in found
    assert "smaller than the encoder's, such as 8 x 8 pixels where it takes 16 x 16" in found
    assert "The images are taken without labels, which are only for the report" in found
    assert "ResNetForImageClassification reads, outputs.pooler_output.flatten(1) of a ResNetModel" in found


def test_two_heads_are_dropped_which_is_said(unlabelled, tmp_path, monkeypatch, caplog):
    DeiTForImageClassificationWithTeacher(DeiTConfig(**TINY_VIT, num_labels=3)).save_pretrained(tmp_path / "deit")
    PROCESSOR.save_pretrained(tmp_path / "deit")
    arguments = EncoderArguments(str(tmp_path / "deit"), str(unlabelled), attacks="l4a", attack_settings=FEW)
    found = said(monkeypatch, caplog, arguments, settings(tmp_path / "run"))
    assert "is a classifier, a DeiTForImageClassificationWithTeacher: its head is dropped" in found


def test_a_classifier_of_our_own_class_loses_head_and_labels(encoders, unlabelled, tmp_path, monkeypatch, caplog):
    model, processor = load_encoder(encoders["dino"], ["blue", "green", "red"], head="mlp", pooling="mean")
    for each in (model, processor):
        each.save_pretrained(tmp_path / "own")
    arguments = EncoderArguments(str(tmp_path / "own"), str(unlabelled), attacks="l4a", attack_settings=FEW)
    found = said(monkeypatch, caplog, arguments, settings(tmp_path / "run"))
    assert "is a classifier, a EncoderForImageClassification: its head is dropped" in found
    fresh, _ = load_encoder(str(tmp_path / "own"), ["a", "b"], head="mlp", pooling="mean")
    bare = load_bare_encoder(fresh, str(tmp_path / "own"), (8, 8))
    assert bare.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert torch.equal(bare.encoder.layernorm.weight, model.encoder.layernorm.weight)
    shapes = {name: each.shape for name, each in bare.named_parameters() if name.startswith("classifier")}
    assert [shape[0] for shape in shapes.values()][-1] == 2


def test_settings_of_the_attacks_that_images_without_labels_have_are_taken(
    encoders, unlabelled, tmp_path, monkeypatch, caplog
):
    arguments = EncoderArguments(encoders["dino"], str(unlabelled), attack_settings={"feature-pgd": {"steps": 7}})
    assert "The images are taken without labels" in said(monkeypatch, caplog, arguments, settings(tmp_path / "run"))
    arguments = replace(arguments, attack_settings={"upgd": {"steps": 7}})
    with pytest.raises(UserError, match="upgd"):
        harden_encoder(arguments, settings(tmp_path / "run"))


def test_an_encoder_that_is_hardened_already_is_known(hardened, unlabelled, tmp_path, monkeypatch, caplog):
    arguments = EncoderArguments(str(hardened[0]), str(unlabelled), attacks="l4a", attack_settings=FEW)
    found = said(monkeypatch, caplog, arguments, settings(tmp_path / "run"))
    assert f'"{hardened[0]}" is hardened already, as its card says' in found
    caplog.clear()
    config = settings(tmp_path / "classifier", defence="universal", defence_settings=None)
    with pytest.raises(UserError, match="has images but no class folders"):
        harden(HardeningArguments(str(hardened[0]), str(unlabelled), attacks="l4a"), config)
    assert f'"{hardened[0]}" is an encoder that is hardened already' in caplog.text


def test_an_encoder_made_from_it_says_so_and_what_of_its_features_is_hardened(hardened, unlabelled, tmp_path):
    arguments = EncoderArguments(str(hardened[0]), str(unlabelled), attacks="l4a", attack_settings=FEW, pooling="mean")
    harden_encoder(arguments, settings(tmp_path / "twice", max_steps=1))
    assert TrainingRecord.load(tmp_path / "twice/training.json").base_model["hardened"] is True
    card = (tmp_path / "twice/README.md").read_text()
    assert "It was hardened before, as its card says." in card
    assert "twice --pooling mean --defence linear-probe" in card
    assert 'load_encoder("twice", ["cat", "dog"], pooling="mean")' in card
    assert "AutoModelForImageClassification" not in card
    assert ATTACKS["l4a"].citation in card


def test_images_of_a_task_that_the_encoder_is_hardened_on_are_said(encoders, dataset, tmp_path, monkeypatch, caplog):
    dataset.save_to_disk(tmp_path / "task")
    (tmp_path / "images").mkdir()
    for number, image in enumerate([*dataset["test"]["image"], *colored_images(30, 0)["image"]]):
        image.save(tmp_path / f"images/{number:02}.png")
    task, few = str(tmp_path / "task"), {"attacks": "l4a", "attack_settings": FEW}
    arguments = EncoderArguments(encoders["dino"], str(tmp_path / "images"), probe_datasets=[task], **few)
    found = said(monkeypatch, caplog, arguments, settings(tmp_path / "run"))
    [told] = re.findall(rf'(\d+) of 18 test images of "{task}" are among the images to train on too', found)
    assert int(told) > 9  # the others were held out


def test_a_classifier_made_from_it_says_so_and_what_was_gained_once_more(hardened, dataset, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    dataset.save_to_disk(tmp_path / "colours")
    arguments = HardeningArguments(str(hardened[0]), str(tmp_path / "colours"), attacks="l4a", attack_settings=FEW)
    harden(arguments, settings(tmp_path / "classifier", defence="universal"))
    record = TrainingRecord.load(tmp_path / "classifier/training.json")
    assert record.base_model["hardened"] is True
    assert "It was hardened before, as its card says." in (tmp_path / "classifier/README.md").read_text()
    [gain] = [words for words in caplog.messages if words.startswith("What the defence universal gains")]
    assert f'over a plain fine-tune of "{hardened[0]}", which was hardened before: clean ' in gain


def test_what_a_hardening_gains_over_a_plain_fine_tune_of_a_hardened_encoder_is_said(caplog):
    caplog.set_level(logging.INFO)
    tell_of_gain(make_report(), "someone/hardened", "universal")
    gains = "clean 90.0% to 80.0%, l4a 20.0% to 70.0%, pgd 0.0% to 50.0%"
    before = 'gains over a plain fine-tune of "someone/hardened", which was hardened before'
    assert caplog.messages == [f"What the defence universal {before}: {gains}"]
