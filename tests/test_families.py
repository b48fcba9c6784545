"""Every family of encoders, from a tiny public checkpoint to a hardened model that a clean process loads."""

import copy
import json
import os
import sys
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from cards import blocks
from conftest import CLASSES, SIDE, colored_images
from encoder_families import FAMILIES, OURS, TIMM, Family
from huggingface_hub import ModelCard
from peft import PeftModel
from timm_models import publish, timm
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedModel,
)

from genaf_hf import (
    GenAFConfig,
    GenAFTrainer,
    PixelModel,
    evaluate_robustness,
    l4a,
    layer_robustness,
    load_encoder,
    pgd,
    with_pixel_values,
)
from genaf_hf.adapter_search import METHODS, Fitness, SearchSpace, merged_model
from genaf_hf.adapter_search.genome import HEAD_ONLY
from genaf_hf.adapter_search.search_space import ALL_LINEAR, HEAD_ALONE
from genaf_hf.attacks import ATTACKS
from genaf_hf.evaluation.threats import ImageThreat
from genaf_hf.models.bare_encoder import load_bare_encoder, name_of_features, take_weights
from genaf_hf.models.head import head_name, in_head
from genaf_hf.models.loading import load_classifier
from genaf_hf.models.pixel_model import evaluating
from genaf_hf.sharing.encoder_results import ways_to_load
from genaf_hf.sharing.model_card import filled, model_card
from genaf_hf.training.checkpoint import load_weights
from genaf_hf.training.layers import layer_weights

pytestmark = [
    pytest.mark.slow(reason="hardens, attacks and merges an encoder of each family"),
    pytest.mark.usefixtures("quick_checks"),
]


def needs(name: str) -> list[pytest.MarkDecorator]:
    """Skips, with the reason, a family of timm where that is not installed."""
    return [pytest.mark.skipif(timm is None, reason="timm is not installed")] if name in TIMM else []


NAMES = [pytest.param(name, marks=needs(name)) for name in FAMILIES]


def made(family: Family) -> PreTrainedModel:
    """A checkpoint none of whose weights is at its initial value, so that each one shows."""
    torch.manual_seed(0)
    model = family.make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.add_(torch.rand_like(buffer), alpha=0.1)
    return model


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A function that makes a family's public checkpoint, once: the original model and its folder."""

    @cache
    def make(name: str) -> tuple[PreTrainedModel, Path]:
        folder, family = tmp_path_factory.mktemp("public"), FAMILIES[name]
        original = made(family)
        if name in TIMM:
            publish(original, folder)
        else:
            original.save_pretrained(folder)
            family.processor.save_pretrained(folder)
        return original, folder

    return make


def loaded(folder: Path, name: str, **options):
    torch.manual_seed(1)
    return load_encoder(str(folder), CLASSES, **FAMILIES[name].options, **options)


SIZES = [(name, size) for name, family in FAMILIES.items() for size in dict.fromkeys((None, family.other_size))]


@pytest.mark.parametrize(("name", "size"), [pytest.param(*each, marks=needs(each[0])) for each in SIZES])
def test_features_are_those_of_the_original(name, size, public):
    original, folder = public(name)
    model, processor = loaded(folder, name, image_size=size)
    assert type(model).__name__ == FAMILIES[name].result
    pixel_model = PixelModel(model, processor).eval()
    assert size in (None, *pixel_model.image_size)
    images = torch.rand(3, 3, *pixel_model.image_size)
    with torch.no_grad():
        expected = FAMILIES[name].features(original, pixel_model.to_pixel_values(images))
        torch.testing.assert_close(pixel_model.features(images), expected, rtol=0, atol=1e-5)
    assert expected.std(dim=0).mean() > 1e-3, "the features do not tell images apart"


RESIZED = [(name, size) for name, size in SIZES if size is not None]


@pytest.mark.parametrize(("name", "size"), [pytest.param(*each, marks=needs(each[0])) for each in RESIZED])
def test_what_is_saved_at_another_size_comes_back(name, size, public, tmp_path):
    model, processor = loaded(public(name)[1], name, image_size=size)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    pixel_model = PixelModel(model, processor).eval()
    again = PixelModel(*load_classifier(str(tmp_path)))
    plain = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert pixel_model.image_size == again.image_size == (size, size)
    images = torch.rand(3, 3, size, size)
    with torch.no_grad():
        logits = pixel_model(images)
        torch.testing.assert_close(again(images), logits, rtol=0, atol=0)
        # Without channels_last, sums are taken in another order.
        torch.testing.assert_close(plain(again.to_pixel_values(images)).logits, logits, rtol=0, atol=1e-6)


OF_NO_OUTPUT = {"resnet, cifar stem"}  # a class of our own, whose output are logits


@pytest.mark.parametrize(("name", "size"), [pytest.param(*each, marks=needs(each[0])) for each in SIZES])
def test_a_hardened_encoder_is_of_the_class_of_the_public_one_with_the_weights_of_its_classifier(
    name, size, public, tmp_path
):
    original, folder = public(name)
    model, processor = loaded(folder, name, image_size=size)
    seen = PixelModel(model, processor).eval()
    bare = load_bare_encoder(model, str(folder), seen.image_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    take_weights(bare, model)
    images = torch.rand(2, 3, *seen.image_size)
    with torch.no_grad():
        expected, pixel_values = seen.features(images), seen.to_pixel_values(images)
        code = name_of_features(bare, pixel_values, expected)
        assert (code is None) == (name in OF_NO_OUTPUT)
        assert ("torch.cat" in str(code)) == name.startswith("dinov2")
    bare.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    if code is not None:
        ways = ways_to_load(tmp_path, code)
        _, reads = blocks(filled("load_encoder.md", model_name="it", **ways), "python")
        here = {"encoder": AutoModel.from_pretrained(tmp_path, **ways["options"]).eval(), "image": None}
        with torch.no_grad():
            exec(reads, here | {"processor": lambda *_, **__: {"pixel_values": pixel_values}}, here)
        torch.testing.assert_close(here["features"], expected, rtol=1e-3, atol=1e-4)
    again = AutoModel.from_pretrained(tmp_path)
    if name.startswith("dinov2"):  # which takes images of any size as it is
        assert again.config.image_size == original.config.image_size
        assert all(again.state_dict()[each].shape == tensor.shape for each, tensor in original.state_dict().items())
    own_class = MODEL_MAPPING[type(AutoConfig.from_pretrained(folder))]
    assert name.startswith("siglip2") or type(again) is own_class  # of which a tower is hardened
    with torch.no_grad():
        used = PixelModel(*loaded(tmp_path, name)).eval()
        found = used.features(images)
    assert used.image_size == seen.image_size
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for each, tensor in again.state_dict().items():
        assert not each.startswith("text_model") or torch.equal(tensor, original.state_dict()[each])


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2"])
def test_of_a_classifier_of_a_vision_tower_the_tower_alone_is_hardened(name, public, tmp_path):
    model, processor = loaded(public(name)[1], name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, _ = load_encoder(tmp_path, ["new", "task"])
    bare = load_bare_encoder(again, str(tmp_path), PixelModel(again, processor).image_size)
    assert not any("text" in each for each in bare.state_dict())  # weights that no checkpoint had
    take_weights(bare, again)
    torch.testing.assert_close(bare.state_dict(), model.vision_model.state_dict(), rtol=0, atol=0)


LOADING = """
import builtins, json, sys

import_here = builtins.__import__


def without(name, *others, **more):
    assert name.partition(".")[0] != "genaf_hf", "the card says that it is not needed"
    return import_here(name, *others, **more)


builtins.__import__ = without
import torch

found = {}
for folder, blocks in json.loads(sys.argv[1]).items():
    here = {"image": torch.zeros(3, 32, 32, dtype=torch.uint8)}
    for code in blocks:
        exec(code, here)
    features = here["features"].shape if "features" in here else []
    found[folder] = [type(here["encoder"]).__name__, "classifier" in here, [*features]]
print(json.dumps(found))
"""


def test_a_clean_process_loads_hardened_encoders_as_their_cards_say(processes, public, tmp_path):
    loads, expected = {}, {}
    for name, class_name, has_classifier in (
        ("vit", "ViTModel", True),
        ("mae", "ViTMAEModel", False),
        ("dinov2", "Dinov2Model", True),
        ("dinov3_vit", "DINOv3ViTModel", False),
        ("data2vec", "Data2VecVisionModel", True),
        ("clip", "CLIPModel", True),
        ("resnet, cifar stem", "ResNetModel", True),
    ):
        folder = tmp_path / name.replace(", ", "-")
        model, processor = loaded(public(name)[1], name)
        seen = PixelModel(model, processor).eval()
        bare = load_bare_encoder(model, str(public(name)[1]), seen.image_size)
        bare.save_pretrained(folder)
        processor.save_pretrained(folder)
        with torch.no_grad():
            pixel_values = seen.to_pixel_values(torch.rand(1, 3, *seen.image_size))
            features = seen.features(seen.to_images(pixel_values))
            code = name_of_features(bare, pixel_values, features)
        loads[str(folder)] = blocks(
            filled("load_encoder.md", model_name=str(folder), **ways_to_load(folder, code)), "python"
        )
        expected[str(folder)] = [class_name, has_classifier, [*features.shape] if code else []]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    answer = processes.run([sys.executable, "-c", LOADING, json.dumps(loads)], cwd=tmp_path, env=environment)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert json.loads(answer.stdout.splitlines()[-1]) == expected


# ---- the whole way ----


@pytest.fixture(scope="module")
def hardened(public, tmp_path_factory):
    """A function that hardens a family's encoder, once: its folder, and the logits of the hardened model."""

    @cache
    def make(name: str) -> tuple[Path, torch.Tensor]:
        folder = tmp_path_factory.mktemp("hardened") / "model"
        return folder, harden(name, public(name)[1], folder)

    return make


def two_steps(folder: Path) -> GenAFConfig:
    """Two steps of each stage, on the CPU."""
    return GenAFConfig(
        output_dir=str(folder),
        max_steps=2,
        adapt_max_steps=2,
        steps=1,
        assessment_samples=4,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        adapt_learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )


def harden(name: str, encoder: Path, folder: Path) -> torch.Tensor:
    """Two steps of both stages, a universal perturbation, an audit, a card; the saved model's logits on four images."""
    model, processor = loaded(encoder, name)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    train, test = with_pixel_values(colored_images(8, 0), processor), with_pixel_values(colored_images(6, 1), processor)
    trainer = GenAFTrainer(
        model=model, args=two_steps(folder.parent / "run"), train_dataset=train, processing_class=processor
    )
    assert trainer.train().global_step == 4
    moved = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    head = head_name(model)
    assert any(in_head(name, head) for name in moved)
    assert not all(in_head(name, head) for name in moved)
    assert set(trainer.redundant_layers) <= moved

    public_encoder = PixelModel(*loaded(encoder, name)).eval()
    images = public_encoder.to_images(train[:]["pixel_values"])
    attacks = {
        "l4a": l4a(public_encoder, images, eps=0.1, steps=3, batch_size=4),
        "pgd": partial(pgd, eps=0.1, steps=2, step_size=0.05),
    }
    assert attacks["l4a"].delta.abs().max() > 0
    report = evaluate_robustness({"hardened": PixelModel(model, processor)}, test, attacks, bank=train)
    assert [each.count for each in report.measurements] == [6, 6, 6]
    passed = {check.name: check.passed for check in report.checks}
    in_balls = [f"{name} stays in its ball and in [0, 1]" for name in attacks]
    assert [passed[name] for name in ("the output is deterministic", *in_balls)] == [True] * 3

    trainer.save_model(str(folder))
    model_card(report, model_name=str(folder)).save(folder / "README.md")
    with evaluating(model), torch.no_grad():
        return model(pixel_values=test[:4]["pixel_values"]).logits


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_is_hardened_attacked_and_loaded_again(name, public, hardened):
    folder, logits = hardened(name)
    assert str(public(name)[1]) not in (folder / "config.json").read_text()
    model, processor = load_classifier(str(folder))
    assert type(model).__name__ == FAMILIES[name].result
    assert [model.config.id2label[i] for i in range(3)] == CLASSES
    fresh, _ = loaded(public(name)[1], name)
    load_weights(fresh, folder)  # as a run that goes on does
    pixel_values = with_pixel_values(colored_images(6, 1), processor)[:4]["pixel_values"]
    for each in (model, fresh.eval()):
        with torch.no_grad():
            torch.testing.assert_close(each(pixel_values=pixel_values).logits, logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_was_measured_and_which_code_the_class_needs(name, hardened):
    card = ModelCard.load(hardened(name)[0] / "README.md")
    assert [each.metric_args["attack"] for each in card.data.eval_results] == ["clean", "l4a", "pgd", "every attack"]
    needs_code = FAMILIES[name].result == OURS
    assert ("the code of its own lies beside the weights" in card.text) == needs_code
    assert ("Nothing of `genaf_hf` is needed" in card.text) != needs_code
    assert ("but `timm` is." in card.text) == (name in TIMM and not needs_code)


@pytest.fixture(scope="module")
def adapted(public, tmp_path_factory):
    """A function that trains LoRA on all of a family's layers, once: folder and logits of the merged model."""

    @cache
    def make(name: str) -> tuple[Path, torch.Tensor]:
        folder = tmp_path_factory.mktemp("adapted") / "merged"
        return folder, search_and_merge(name, public(name)[1], folder)

    return make


def search_and_merge(name: str, public_encoder: Path, folder: Path) -> torch.Tensor:
    """The methods for an encoder, two steps of one, saved, loaded again and merged; the logits on four images."""
    encoder, processor = loaded(public_encoder, name)
    encoder.eval()
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    train, test = with_pixel_values(colored_images(8, 0), processor), with_pixel_values(colored_images(6, 1), processor)
    config = two_steps(folder.parent / "run")

    space = SearchSpace.of(encoder, config, test[:2]["pixel_values"])
    assert {*space.methods, HEAD_ONLY} == METHODS.keys() - FAMILIES[name].left_out
    known = space.known_configurations()
    assert list(known)[-2:] == [ALL_LINEAR, HEAD_ALONE]
    genome = space.genome(known[ALL_LINEAR])
    assert genome.ranks.keys() == space.targets.keys()

    adapter = folder.parent / "adapter"
    threat = ImageThreat("pgd", ATTACKS["pgd"].configure(eps=0.1, steps=1, step_size=0.05))
    score = Fitness(encoder, processor, train, test, config, threat)(genome, adapter)
    assert (score.clean.count, score.robust.count) == (6, 6)
    assert all(torch.equal(weight, before[name]) for name, weight in encoder.state_dict().items())
    pixel_values = test[:4]["pixel_values"]
    model = PeftModel.from_pretrained(copy.deepcopy(encoder), str(adapter))
    moved = [name for name, weight in model.named_parameters() if "lora_B" in name and weight.any()]
    assert len(moved) == len(space.targets), "some adapters did not learn"
    merged = merged_model(encoder, adapter)
    with torch.no_grad():
        logits = merged(pixel_values=pixel_values).logits
        torch.testing.assert_close(model(pixel_values=pixel_values).logits, logits, rtol=0, atol=1e-5)
        assert (encoder(pixel_values=pixel_values).logits - logits).abs().max() > 1e-4
    merged.save_pretrained(folder)
    processor.save_pretrained(folder)
    return logits


@pytest.mark.parametrize("name", NAMES)
def test_adapters_are_searched_for_trained_merged_and_loaded_again(name, public, adapted):
    folder, logits = adapted(name)
    assert str(public(name)[1]) not in (folder / "config.json").read_text()
    model, processor = load_classifier(str(folder))
    assert type(model).__name__ == FAMILIES[name].result
    with torch.no_grad():
        again = model(pixel_values=with_pixel_values(colored_images(6, 1), processor)[:4]["pixel_values"]).logits
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name.values[0] in TIMM])
def test_a_published_classifier_of_timm_is_loaded_as_it_is(name, public):
    original, folder = public(name)
    model, processor = load_classifier(str(folder))
    images = torch.rand(3, 3, *PixelModel(model, processor).image_size)
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=images).logits, original(images), rtol=0, atol=1e-6)


def test_weights_that_the_logits_do_not_depend_on_are_not_assessed(public):
    model = PixelModel(*loaded(public("siglip")[1], "siglip"))
    images, labels = torch.rand(3, 3, SIDE, SIDE), torch.arange(3)
    unread = [name for name in layer_weights(model.model) if name.startswith("vision_model.head.")]
    assert len(unread) == 3
    for method in ("first_order", "ascent"):
        assessed = layer_robustness(model, images, labels, method=method, steps=1)
        assert list(assessed) == [name for name in layer_weights(model.model) if name not in unread]


CLEAN_PROCESS = """
import json, sys
sys.modules["genaf_hf"] = None  # as where it is not installed
import torch
from datasets import load_from_disk

images, answers = [image.convert("RGB") for image in load_from_disk(sys.argv[1])["image"]], {}
for folder, code in json.loads(sys.argv[2]).items():
    exec(code)
    with torch.no_grad():
        answers[folder] = classify.model(**classify.image_processor(images, return_tensors="pt")).logits.tolist()
    best = [max(scores, key=lambda score: score["score"])["label"] for scores in classify(images)]
    assert best == [classify.model.config.id2label[torch.tensor(each).argmax().item()] for each in answers[folder]]
assert "peft" not in sys.modules
print(json.dumps(answers))
"""


def test_a_clean_process_without_this_package_loads_them_all_as_their_cards_say(processes, hardened, adapted, tmp_path):
    colored_images(6, 1).select(range(4)).save_to_disk(tmp_path / "images")
    expected, loads = {}, {}
    for name in (name for name in FAMILIES if name not in TIMM or timm):
        (folder, logits), (merged, merged_logits) = hardened(name), adapted(name)
        code, *_ = blocks(ModelCard.load(folder / "README.md").text, "python")
        expected |= {str(folder): (name, logits), str(merged): (f"{name}, merged", merged_logits)}
        loads |= {str(folder): code, str(merged): code.replace(str(folder), str(merged))}
    command = [sys.executable, "-c", CLEAN_PROCESS, str(tmp_path / "images"), json.dumps(loads)]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    answer = processes.run(command, cwd=tmp_path, env=environment)
    assert answer.returncode == 0, answer.stderr[-2000:]
    answers = json.loads(answer.stdout.splitlines()[-1])
    for folder, (name, logits) in expected.items():
        torch.testing.assert_close(torch.tensor(answers[folder]), logits, rtol=0, atol=1e-5, msg=name)
