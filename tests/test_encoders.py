"""Public encoders as classifiers: which weights they have, what is read of them, and what is saved."""

import copy
import json
import logging
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, SIDE, TINY_VIT
from public_encoders import PROCESSOR, TEXT, changed, classifier, refusal
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    BeitConfig,
    ConvNextConfig,
    Dinov2Config,
    Dinov2ForImageClassification,
    IJepaConfig,
    ResNetForImageClassification,
    Siglip2Config,
    Siglip2ForImageClassification,
    Siglip2ImageProcessor,
    SwinConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEForPreTraining,
    ViTModel,
)

from genaf_hf import PixelModel, l4a, load_encoder, pgd
from genaf_hf.models.encoder_classifier import EncoderForImageClassification
from genaf_hf.models.families import encoder_part
from genaf_hf.models.head import HEAD, in_head
from genaf_hf.models.loading import load_classifier
from genaf_hf.models.weights import parameter_count
from genaf_hf.pipelines.harden import HardeningArguments, harden

__all__ = ["changed", "classifier"]  # fixtures


@pytest.fixture
def new_weights(caplog):
    """A function that tells the weights that the log says are new."""
    caplog.set_level(logging.INFO, "genaf_hf.models.loading")

    def read() -> str:
        [message] = [record.getMessage() for record in caplog.records if record.name == "genaf_hf.models.loading"]
        return message.split(": ")[1]

    return read


def tensors(named) -> Counter:
    """Tensors whatever their names: files have older names than models in memory."""
    return Counter((tuple(tensor.shape), tensor.contiguous().numpy().tobytes()) for tensor in named)


def test_a_masked_autoencoder_becomes_a_plain_vit_with_exactly_its_weights(encoders, new_weights):
    model, processor = load_encoder(encoders["mae"], CLASSES)
    assert type(model) is ViTForImageClassification
    assert type(processor) is type(PROCESSOR)
    assert new_weights() == "classifier.bias, classifier.weight"

    file = load_file(Path(encoders["mae"], "model.safetensors"))
    assert tensors(model.vit.state_dict().values()) == tensors(
        tensor for name, tensor in file.items() if not name.startswith("decoder.")
    )
    autoencoder = ViTMAEForPreTraining.from_pretrained(encoders["mae"])
    for name, value in autoencoder.vit.state_dict().items():
        assert torch.equal(model.vit.state_dict()[name], value), name


def test_the_configuration_of_a_masked_autoencoder_is_clean(encoders, tmp_path):
    model, _ = load_encoder(encoders["mae"], CLASSES)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "vit"
    assert config["architectures"] == ["ViTForImageClassification"]
    assert config["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert config["label2id"] == {"red": 0, "green": 1, "blue": 2}
    assert {name: config[name] for name in TINY_VIT} == TINY_VIT
    assert not [name for name in config if "decoder" in name or name in ("mask_ratio", "norm_pix_loss")]


def test_a_dino_style_encoder_keeps_exactly_its_weights(encoders, new_weights):
    model, _ = load_encoder(encoders["dino"], CLASSES)
    assert type(model) is ViTForImageClassification
    assert new_weights() == "classifier.bias, classifier.weight"
    original = ViTModel.from_pretrained(encoders["dino"], add_pooling_layer=False).state_dict()
    assert model.vit.state_dict().keys() == original.keys()
    for name, value in original.items():
        assert torch.equal(model.vit.state_dict()[name], value), name


def test_a_resnet_keeps_everything_but_its_head(encoders, new_weights):
    model, _ = load_encoder(encoders["resnet"], CLASSES)
    assert type(model) is ResNetForImageClassification
    assert new_weights() == "classifier.1.bias, classifier.1.weight"
    assert model.classifier[1].weight.shape == (3, 16)
    original = ResNetForImageClassification.from_pretrained(encoders["resnet"]).resnet.state_dict()
    for name, value in original.items():
        assert torch.equal(model.resnet.state_dict()[name], value), name


def test_a_head_for_the_same_labels_is_kept(classifier, new_weights):
    folder, weights = classifier
    model, _ = load_encoder(folder, CLASSES)
    assert new_weights() == "none, its head fits the labels"
    for name, value in weights.items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize("labels", [["red", "blue", "green"], ["cat", "dog", "bird"], ["red", "green"]])
def test_a_head_for_other_labels_is_new(classifier, new_weights, labels):
    folder, weights = classifier
    model, _ = load_encoder(folder, labels)
    assert new_weights() == "classifier.bias, classifier.weight"
    assert model.config.id2label == dict(enumerate(labels))
    assert model.classifier.weight.shape == (len(labels), 16)
    assert not torch.equal(model.classifier.weight, weights["classifier.weight"][: len(labels)])
    assert model.classifier.bias.eq(0).all()
    for name, value in weights.items():
        assert in_head(name, HEAD) or torch.equal(model.state_dict()[name], value), name


def test_a_new_head_depends_on_the_seed_alone(encoders):
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(load_encoder(encoders["mae"], CLASSES)[0].classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_an_encoder_in_half_precision_is_loaded_in_single(tmp_path):
    ViTModel(ViTConfig(**TINY_VIT)).bfloat16().save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    model, _ = load_encoder(str(tmp_path), CLASSES)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_a_hub_encoder_is_known_by_its_name_and_commit(encoders, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(encoders["mae"], repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    model, processor = load_encoder("someone/tiny", CLASSES)
    provenance = l4a(PixelModel(model, processor), torch.rand(2, 3, SIDE, SIDE), eps=0.1, steps=1).provenance
    assert (provenance["encoder"], provenance["encoder_revision"]) == ("someone/tiny", commit)
    model.save_pretrained(tmp_path / "saved")
    assert commit not in (tmp_path / "saved" / "config.json").read_text()


def test_loading_leaves_the_verbosity_of_transformers_alone(encoders):
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    load_encoder(encoders["mae"], CLASSES)
    with pytest.raises(ValueError, match="nothing"):
        load_encoder("nobody/nothing", CLASSES)
    assert transformers_logging.get_verbosity() == before


# ---- pooling, head and image size ----


@pytest.mark.parametrize(
    ("config", "options", "native"),
    [
        (ViTConfig(**TINY_VIT), {"pooling": "cls", "head": "linear"}, True),
        (ViTConfig(**TINY_VIT), {"pooling": "mean"}, False),
        (ViTConfig(**TINY_VIT), {"head": "mlp"}, False),
        (IJepaConfig(**TINY_VIT), {"pooling": "mean"}, True),
        (BeitConfig(**TINY_VIT), {"pooling": "mean"}, True),
        (BeitConfig(**TINY_VIT), {"pooling": "cls"}, True),
        (Dinov2Config(**TINY_VIT), {"pooling": "cls"}, False),
    ],
)
def test_the_native_class_is_used_wherever_it_does_what_was_asked_for(config, options, native, tmp_path):
    AutoModel.from_config(config).save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    model, _ = load_encoder(str(tmp_path), CLASSES, **options)
    assert isinstance(model, EncoderForImageClassification) != native
    states = []
    model.base_model.register_forward_hook(lambda *call: states.append(call[-1].last_hidden_state))
    with torch.no_grad():
        features = PixelModel(model, PROCESSOR).eval().features(torch.rand(2, 3, SIDE, SIDE))
    [states] = states
    if options.get("pooling") == "mean":
        prefix = 0 if config.model_type == "ijepa" else 1
        expected = states[:, prefix:].mean(1)
        if config.model_type == "beit":
            expected = model.beit.pooler.layernorm(expected)
    else:
        expected = states[:, 0]
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("source", ["clip_vision_model", "siglip_vision_model"])
def test_a_tower_that_was_published_alone_becomes_a_native_classifier(source, tmp_path, new_weights):
    original = AutoModel.from_config(AutoConfig.for_model(source, **TINY_VIT)).eval()
    original.save_pretrained(tmp_path / "public")
    PROCESSOR.save_pretrained(tmp_path / "public")
    model, processor = load_encoder(str(tmp_path / "public"), CLASSES)
    assert type(model).__name__ == {"c": "CLIPForImageClassification", "s": "SiglipForImageClassification"}[source[0]]
    assert new_weights() == "classifier.bias, classifier.weight"
    pixel_model, images = PixelModel(model, processor).eval(), torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        states = original(pixel_model.to_pixel_values(images)).last_hidden_state
        expected = states[:, 1 if source[0] == "c" else 0 :].mean(1)
        torch.testing.assert_close(pixel_model.features(images), expected, rtol=0, atol=1e-5)
    assert model.config.name_or_path == str(tmp_path / "public")
    model.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()


def test_a_classifier_of_ours_keeps_its_head_and_can_be_given_another(encoders, tmp_path, new_weights, caplog):
    model, processor = load_encoder(encoders["mae"], CLASSES, pooling="mean", head="mlp")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    caplog.clear()
    again, _ = load_encoder(str(tmp_path), CLASSES)
    assert new_weights() == "none, its head fits the labels"
    assert (again.config.pooling, again.config.head) == ("mean", "mlp")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    for labels, options in ((["a", "b"], {}), (["a", "b", "c"], {}), (CLASSES, {"head": "linear"})):
        other, _ = load_encoder(str(tmp_path), labels, **options)
        assert not torch.equal(next(other.classifier.parameters()), next(model.classifier.parameters()))
        for name, value in model.encoder.state_dict().items():
            assert torch.equal(other.encoder.state_dict()[name], value), name


def test_positions_are_interpolated_to_what_the_processor_makes_and_the_log_says_so(changed, caplog):
    caplog.set_level(logging.INFO, "genaf_hf")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(changed)
    model, _ = load_encoder(str(changed), CLASSES)
    assert model.config.image_size == 16
    positions = model.vit.embeddings.position_embeddings
    original = ViTModel.from_pretrained(changed).embeddings
    assert torch.equal(positions, original.interpolate_pos_encoding(torch.empty(1, 17, 16), 16, 16))
    assert "Position embeddings interpolated from 2 x 2 to 4 x 4 patches" in caplog.messages


def test_pixels_beyond_the_last_patch_change_no_position(changed):
    ViTImageProcessor(size={"height": SIDE + 1, "width": SIDE + 1}).save_pretrained(changed)
    model, _ = load_encoder(str(changed), CLASSES)
    original = ViTModel.from_pretrained(changed)
    assert torch.equal(model.vit.embeddings.position_embeddings, original.embeddings.position_embeddings)
    assert model(torch.rand(1, 3, SIDE + 1, SIDE + 1)).logits.shape == (1, 3)


def test_a_trained_classifier_is_taken_at_the_size_of_its_processor(tmp_path):
    model = Dinov2ForImageClassification(Dinov2Config(**TINY_VIT)).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 12, "width": 12}).save_pretrained(tmp_path)
    pixel_values = torch.rand(2, 3, 12, 12)
    with torch.no_grad():
        found = load_classifier(str(tmp_path))[0](pixel_values).logits
        torch.testing.assert_close(found, model(pixel_values).logits, rtol=0, atol=1e-5)


def test_a_classifier_of_patches_is_refused(tmp_path):
    config = Siglip2Config(vision_config={**TINY_VIT, "num_patches": 4}, text_config={**TEXT, "vocab_size": 8})
    Siglip2ForImageClassification(config).save_pretrained(tmp_path)
    Siglip2ImageProcessor(patch_size=4, max_num_patches=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes images as patches in grids of varying sides"):
        load_classifier(str(tmp_path))


# ---- drop path ----


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (Dinov2Config(**TINY_VIT), {}),
        (Dinov2Config(**TINY_VIT), {"pooling": "cls"}),
        (Dinov2Config(**TINY_VIT), {"image_size": 12}),
        (BeitConfig(**TINY_VIT), {}),
        (SwinConfig(image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2), {}),
        (ConvNextConfig(image_size=SIDE, patch_size=2, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2), {}),
    ],
    ids=["dinov2", "dinov2 of ours", "dinov2 resized", "beit", "swin", "convnext"],
)
def test_drop_path_is_set_for_training_and_neither_for_attacks_nor_for_what_is_saved(config, options, tmp_path):
    AutoModel.from_config(config).save_pretrained(tmp_path / "public")
    PROCESSOR.save_pretrained(tmp_path / "public")
    models = []
    for rate in (None, 0.0, 0.9):
        torch.manual_seed(0)
        models.append(load_encoder(str(tmp_path / "public"), CLASSES, drop_path_rate=rate, **options))
    (own, processor), (without, _), (dropping, _) = models
    assert encoder_part(own.config).drop_path_rate == config.drop_path_rate
    assert encoder_part(dropping.config).drop_path_rate == 0.9
    for name, value in own.state_dict().items():
        assert torch.equal(dropping.state_dict()[name], value), name

    images, labels = torch.rand(8, 3, *PixelModel(own, processor).image_size), torch.arange(8) % 3
    with torch.no_grad():
        assert not torch.equal(dropping.train()(images).logits, dropping(images).logits)
        assert torch.equal(without.train()(images).logits, without(images).logits)
    attacked = [
        pgd(PixelModel(model.train(), processor), images, labels, eps=0.1, steps=2, step_size=0.05)
        for model in (without, dropping)
    ]
    assert torch.equal(*attacked)
    assert dropping.training

    dropping.save_pretrained(tmp_path / "saved")
    saved = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(saved(images).logits, without.eval()(images).logits)


@pytest.mark.parametrize("settings", [{}, {"drop_path_rate": 0.1}])
def test_drop_path_is_refused_for_an_encoder_that_has_none(settings, tmp_path, dataset, config):
    ViTModel(ViTConfig(**TINY_VIT, **settings)).save_pretrained(tmp_path / "public")
    PROCESSOR.save_pretrained(tmp_path / "public")
    sentence = 'drop_path_rate is 0.1, but the "vit" encoder of transformers has no drop path: leave it out.'
    assert refusal(tmp_path / "public", drop_path_rate=0.1) == sentence
    dataset.save_to_disk(tmp_path / "data")
    arguments = HardeningArguments(str(tmp_path / "public"), str(tmp_path / "data"), drop_path_rate=0.1)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        harden(arguments, config())


# ---- the old task ----


@pytest.mark.parametrize("options", [{}, {"head": "mlp"}], ids=["native", "ours"])
def test_settings_of_the_old_task_end_with_it_and_the_log_says_so(options, tmp_path, caplog):
    old = {"problem_type": "multi_label_classification", "return_dict": False, "output_hidden_states": True}
    config = ViTConfig(**TINY_VIT, **old, num_labels=5, dtype="bfloat16", auto_map={"AutoModel": "a/b--evil.Model"})
    ViTForImageClassification(config).save_pretrained(tmp_path / "public")
    PROCESSOR.save_pretrained(tmp_path / "public")
    settings = json.loads((tmp_path / "public/config.json").read_text())
    added = {"auto_map": {"AutoModel": "a/b--evil.Model"}, "dtype": "bfloat16", "attn_implementation": "evil/kernel"}
    (tmp_path / "public/config.json").write_text(json.dumps(settings | added))
    model, _ = load_encoder(str(tmp_path / "public"), CLASSES, **options)
    answer = model(torch.rand(2, 3, SIDE, SIDE), labels=torch.tensor([0, 2]))
    assert answer.hidden_states is None
    torch.testing.assert_close(answer.loss, nn.functional.cross_entropy(answer.logits, torch.tensor([0, 2])))
    for each in (
        "problem_type is None instead of multi_label_classification",
        "return_dict is True instead of False",
        "output_hidden_states is False instead of True",
        "dtype is float32 instead of bfloat16",
    ):
        assert each in caplog.text
    model.save_pretrained(tmp_path / "saved")
    for word in ("multi_label", "bfloat16", "evil"):
        assert word not in (tmp_path / "saved/config.json").read_text()


def test_nothing_is_told_of_what_a_fine_tune_leaves_in_a_configuration(classifier, caplog):
    folder, _ = classifier
    config = json.loads(Path(folder, "config.json").read_text())
    Path(folder, "config.json").write_text(json.dumps(config | {"problem_type": "single_label_classification"}))
    load_classifier(folder)
    load_encoder(folder, ["a", "b"])
    assert "problem_type" not in caplog.text


def test_a_classifier_of_several_labels_that_returns_tuples_answers_like_any_other(classifier, caplog):
    folder, weights = classifier
    config = json.loads(Path(folder, "config.json").read_text())
    old = {"problem_type": "multi_label_classification", "return_dict": False}
    Path(folder, "config.json").write_text(json.dumps(config | old))
    model, _ = load_classifier(folder)
    assert torch.equal(model.classifier.weight, weights["classifier.weight"])
    answer = model(torch.rand(2, 3, SIDE, SIDE), labels=torch.tensor([0, 2]))
    torch.testing.assert_close(answer.loss, nn.functional.cross_entropy(answer.logits, torch.tensor([0, 2])))
    assert "problem_type is None instead of multi_label_classification" in caplog.text


def test_parameters_are_counted():
    assert parameter_count(nn.Linear(3, 4)) == 16


# ---- what is saved needs nothing of ours ----

PLAIN = """
import json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

answers = {}
for folder in sys.argv[2:]:
    model = AutoModelForImageClassification.from_pretrained(folder)
    inputs = AutoImageProcessor.from_pretrained(folder)(Image.open(sys.argv[1]), return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    scores = pipeline("image-classification", model=folder)(sys.argv[1])
    answers[folder] = {"logits": logits[0].tolist(), "scores": {each["label"]: each["score"] for each in scores}}
assert "genaf_hf" not in sys.modules
print(json.dumps(answers))
"""


def test_saved_models_load_and_answer_the_same_without_this_package(processes, encoders, dataset, tmp_path):
    picture = dataset["test"][0]["image"]
    picture.save(tmp_path / "picture.png")
    expected = {}
    for family, encoder in encoders.items():
        model, processor = load_encoder(encoder, CLASSES)
        model.save_pretrained(tmp_path / family)
        processor.save_pretrained(tmp_path / family)
        with torch.no_grad():
            expected[str(tmp_path / family)] = model.eval()(**processor(picture, return_tensors="pt")).logits[0]
    command = [sys.executable, "-c", PLAIN, str(tmp_path / "picture.png"), *expected]
    answer = processes.run(command, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr[-2000:]
    answers = json.loads(answer.stdout.splitlines()[-1])
    for folder, logits in expected.items():
        found = torch.tensor(answers[folder]["logits"])  # of a process whose memory may be aligned otherwise
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-6)
        scores = [answers[folder]["scores"][label] for label in CLASSES]
        torch.testing.assert_close(torch.tensor(scores), logits.softmax(0), rtol=0, atol=1e-5)


def test_convolutions_compute_in_channels_last_and_are_saved_as_ever(resnet, vit, tmp_path):
    model = resnet[0].eval()
    images = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found, expected = model(images).logits, copy.deepcopy(model).to(memory_format=torch.contiguous_format)(images)
    torch.testing.assert_close(found, expected.logits, rtol=0, atol=1e-5)
    [stem, *_] = [each.weight for each in model.modules() if isinstance(each, nn.Conv2d)]
    assert stem.is_contiguous(memory_format=torch.channels_last)
    assert not stem.is_contiguous()
    assert all(each.is_contiguous() for each in vit[0].parameters())
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
