import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, SIDE, TINY_VIT
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    BeitConfig,
    BertConfig,
    BertModel,
    ConvNextConfig,
    Dinov2Config,
    ResNetForImageClassification,
    SwinConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEForPreTraining,
    ViTModel,
)

from genaf_hf import PixelModel, l4a, load_encoder
from genaf_hf.encoders import in_head, parameter_count

PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE})


@pytest.fixture
def new_weights(caplog):
    """A function that tells the weights that the log says are new."""
    caplog.set_level(logging.INFO, "genaf_hf.encoders")

    def read() -> str:
        [message] = [record.getMessage() for record in caplog.records if record.name == "genaf_hf.encoders"]
        return message.split(": ")[1]

    return read


@pytest.fixture
def changed(encoders, tmp_path):
    """A copy of the DINO-style encoder's folder, to be damaged."""
    return Path(shutil.copytree(encoders["dino"], tmp_path / "changed"))


@pytest.fixture
def classifier(encoders, tmp_path):
    """The folder of a saved classifier of the three classes, and its weights."""
    torch.manual_seed(1)
    model, processor = load_encoder(encoders["dino"], CLASSES)
    nn.init.normal_(model.classifier.bias)
    model.save_pretrained(tmp_path / "classifier")
    processor.save_pretrained(tmp_path / "classifier")
    return str(tmp_path / "classifier"), model.state_dict()


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


@pytest.mark.parametrize(
    "config",
    [
        Dinov2Config(**TINY_VIT),
        BeitConfig(**TINY_VIT),
        SwinConfig(image_size=SIDE, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2),
        ConvNextConfig(image_size=SIDE, patch_size=2, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    ],
    ids=lambda config: config.model_type,
)
def test_only_the_head_is_new_in_the_other_families(config, tmp_path, new_weights):
    AutoModel.from_config(config).save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    model, _ = load_encoder(str(tmp_path), CLASSES)
    assert new_weights() == "classifier.bias, classifier.weight"
    assert all(in_head(name) == name.startswith("classifier.") for name, _ in model.named_parameters())
    assert PixelModel(model, PROCESSOR)(torch.rand(2, 3, SIDE, SIDE)).shape == (2, 3)


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
        assert in_head(name) or torch.equal(model.state_dict()[name], value), name


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


# ---- refusals ----


def refusal(name, labels=CLASSES) -> str:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        load_encoder(str(name), labels)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", ["nobody/nothing", "/no/such/folder"])
def test_an_unknown_model_is_refused(name):
    assert refusal(name).startswith(f'"{name}" has no configuration and image processor')


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_folder_without_configuration_or_processor_is_refused(changed, missing):
    (changed / missing).unlink()
    assert refusal(changed).startswith(f'"{changed}" has no configuration and image processor')


def test_a_folder_without_weights_is_refused(changed):
    (changed / "model.safetensors").unlink()
    assert f'The weights of "{changed}" cannot be read' in refusal(changed)


@pytest.mark.parametrize("kept", [0, 20, -100])
def test_truncated_weights_are_refused(changed, kept):
    file = changed / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert f'The weights of "{changed}" cannot be read' in refusal(changed)


def test_weights_of_something_else_are_refused(changed):
    save_file({"something.else": torch.zeros(2)}, changed / "model.safetensors", {"format": "pt"})
    assert refusal(changed) == f'"{changed}" holds no weights for a ViTForImageClassification.'


def test_a_family_without_image_classifier_is_refused(tmp_path):
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=10)
    BertModel(config).save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    assert 'No image classifier of transformers takes a "bert" encoder' in refusal(tmp_path)


@pytest.mark.parametrize("labels", [[], ["one"], ["one", "two", "one"], [1, "1"]])
def test_too_few_or_equal_labels_are_refused(encoders, labels):
    expected = f"labels are {[str(label) for label in labels]}, expected at least two different class names."
    assert refusal(encoders["dino"], labels) == expected


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": {"height": 16, "width": 16}}, "16 x 16"),
        ({"size": {"height": SIDE, "width": 12}}, f"{SIDE} x 12"),
        ({}, "224 x 224"),
    ],
)
def test_a_processor_of_another_size_is_refused(changed, settings, size):
    ViTImageProcessor(**settings).save_pretrained(changed)
    assert f"makes images of {size} pixels, the encoder takes {SIDE}" in refusal(changed)


def test_parameters_are_counted_and_the_head_is_told_from_the_encoder():
    assert parameter_count(nn.Linear(3, 4)) == 16
    assert in_head("classifier.weight")
    assert in_head("base_model.model.classifier.1.bias")
    assert not in_head("vit.layers.0.mlp.fc1.weight")
    assert not in_head("vit.classifiers.weight")


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


def test_saved_models_load_and_answer_the_same_without_this_package(encoders, dataset, tmp_path):
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
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ.copy(), check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    answers = json.loads(answer.stdout.splitlines()[-1])
    for folder, logits in expected.items():
        torch.testing.assert_close(torch.tensor(answers[folder]["logits"]), logits, rtol=0, atol=0)
        scores = [answers[folder]["scores"][label] for label in CLASSES]
        torch.testing.assert_close(torch.tensor(scores), logits.softmax(0), rtol=0, atol=1e-5)
