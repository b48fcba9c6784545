import copy
import json
import logging
import math
import os
import pickle
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, SIDE, TINY_VIT
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    BeitConfig,
    BertConfig,
    BertModel,
    ConvNextConfig,
    Dinov2Config,
    Dinov2ForImageClassification,
    IJepaConfig,
    ResNetForImageClassification,
    Siglip2Config,
    Siglip2ForImageClassification,
    Siglip2ImageProcessor,
    SwinConfig,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTMAEForPreTraining,
    ViTModel,
)
from transformers.utils import is_timm_available

from genaf_hf import PixelModel, l4a, load_encoder, pgd
from genaf_hf.errors import UserError
from genaf_hf.models.encoder_classifier import EncoderForImageClassification
from genaf_hf.models.head import HEAD, in_head
from genaf_hf.models.loading import load_classifier, parameter_count
from genaf_hf.models.position_embeddings import encoder_part
from genaf_hf.pipelines.harden import HardeningArguments, harden

PROCESSOR = ViTImageProcessor(size={"height": SIDE, "width": SIDE})
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.fixture
def new_weights(caplog):
    """A function that tells the weights that the log says are new."""
    caplog.set_level(logging.INFO, "genaf_hf.models.loading")

    def read() -> str:
        [message] = [record.getMessage() for record in caplog.records if record.name == "genaf_hf.models.loading"]
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


# ---- refusals ----


def refusal(name, labels=CLASSES, **options) -> str:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        load_encoder(str(name), labels, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_an_unknown_model_is_refused():
    assert refusal("nobody/nothing").startswith('"nobody/nothing" has no configuration and image processor')


def test_a_mistyped_folder_is_refused_at_once_and_the_nearest_is_named(changed, monkeypatch):
    mistyped = changed.with_name("chnaged")
    assert refusal(mistyped) == (
        f'There is no folder "{mistyped}" (did you mean "{changed}"?), and a model on the Hub has a name like '
        "namespace/name: correct the path or the name."
    )
    monkeypatch.chdir(changed.parent.parent)  # from where it could be on the Hub too, which is asked first
    relative = changed.relative_to(Path.cwd())
    assert refusal(relative.with_name("chnaged")).endswith(f' (did you mean "{relative}"?).')
    assert refusal("/no/such/folder").startswith('There is no folder "/no/such/folder", and a model on the Hub has')


def test_a_file_and_a_dangling_link_are_refused(changed):
    assert refusal(changed / "config.json") == f'"{changed}/config.json" is a file, expected the folder of a model.'
    (changed / "model.safetensors").unlink()
    (changed / "model.safetensors").symlink_to("somewhere")
    assert refusal(changed).startswith(f"{changed}/model.safetensors is a link to something that is not there: put")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_size": 10**9}, "hidden_size is 1000000000"),
        ({"hidden_size": 10**6, "num_attention_heads": 1}, "more than 10,000,000,000 parameters"),
        ({"hidden_size": 4096, "intermediate_size": 4096}, "bytes: they do not belong together"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ({"num_hidden_layers": 10**5}, "more than 10,000 modules"),
        ({"num_labels": 10**8, "id2label": None}, "num_labels is 100000000"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": -32}, "hidden_size is -32"),
        ({"hidden_size": 6, "num_attention_heads": 1}, "holds only 2 of 38 weights"),
        ({"attention_probs_dropout_prob": 1}, "attention_probs_dropout_prob is 1"),
        ({"drop_path_rate": [0, math.nan]}, "drop_path_rate is nan"),
        ({"hidden_size": "16"}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"hidden_act": "x"}, 'No "vit" can be made of this config.json (KeyError'),
        ({"model_type": ["vit"]}, "has no configuration and image processor that transformers can load (TypeError"),
        ({"dtype": "evil"}, "dtype is evil"),
        ({"torch_dtype": 8.5}, "torch_dtype is 8.5"),
        ({"layer_norm_eps": math.nan}, "gives logits that are NaN or infinite"),
        ({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}, "would run code from its repository"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "holds quantized weights (quantization_config"),
    ],
    ids=lambda each: json.dumps(each) if isinstance(each, dict) else "",
)
def test_absurd_configurations_are_refused_before_anything_is_made(settings, words, changed):
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | settings))
    assert words in refusal(changed)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "holds a list, expected an object"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "RecursionError"),
        ('{"a":' * 40 + "1" + "}" * 40, "is nested more than 32 deep"),
    ],
    ids=["list", "very deep", "deep"],
)
def test_a_configuration_that_is_none_is_refused(content, words, changed):
    (changed / "config.json").write_text(content)
    assert words in refusal(changed)


def test_classes_may_be_called_what_settings_are(changed):
    config = json.loads((changed / "config.json").read_text())
    names = ["drop-off", "hidden_size", *(f"class {number}" for number in range(998))]
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    (changed / "config.json").write_text(json.dumps(config))
    assert load_encoder(changed, CLASSES)[0].config.num_labels == len(CLASSES)


def test_what_a_family_does_not_read_may_stand_in_its_configuration(changed):
    notes = {"num_train_samples": 14_197_122, "seed": 2**32 - 1, "lr_drop": 200, "dataset_size": 14_197_122}
    notes |= {"class_to_idx": {"drop": 5, "dtype": 1}, "training": {"dtype": "fp16"}, "quantization_config": {}}
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | notes))
    model, _ = load_encoder(changed, CLASSES)
    model.save_pretrained(changed)
    assert "quantization_config" not in json.loads((changed / "config.json").read_text())


def test_settings_inside_of_a_configuration_are_bounded_too(changed):
    (changed / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": {"hidden_size": 10**9}}))
    assert "hidden_size is 1000000000" in refusal(changed)


def test_a_pointer_of_git_lfs_is_refused_by_name_where_it_stands_for_the_weights(changed):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 346293852\n"
    (changed / "pytorch_model.bin").write_text(pointer)
    load_encoder(changed, CLASSES)
    (changed / "model.safetensors").unlink()
    sentence = (
        f"{changed / 'pytorch_model.bin'} is a pointer of Git LFS, not the file itself: fetch it with git lfs pull."
    )
    assert refusal(changed) == sentence
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"hidden_size": 1024}))
    assert refusal(changed) == sentence


def test_other_files_in_the_folder_of_an_encoder_are_left_alone(changed):
    save_file({"layer.weight": torch.zeros(3, dtype=torch.int8)}, changed / "model_int8.safetensors")
    (changed / "broken.safetensors").write_text("broken")
    (changed / "latest-run").symlink_to("run-that-was-deleted")
    (changed / ".#config.json").symlink_to("somebody@somewhere.1234")
    load_encoder(changed, CLASSES)


def test_an_old_head_of_more_layers_gives_way_to_a_new_one(encoders, tmp_path):
    folder = Path(shutil.copytree(encoders["resnet"], tmp_path / "resnet"))
    weights = load_file(folder / "model.safetensors")
    weights["classifier.4.weight"], weights["classifier.4.bias"] = torch.zeros(4, 5), torch.zeros(4)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert load_encoder(str(folder), CLASSES)[0].classifier[1].out_features == len(CLASSES)
    with pytest.raises(
        UserError, match=r"holds weights of more layers than its config.json has, for example classifier"
    ):
        load_classifier(str(folder))


def test_weights_that_are_whole_numbers_are_refused(changed):
    weights = load_file(changed / "model.safetensors")
    numbers = {name: (weight * 100).to(torch.int8) for name, weight in weights.items()}
    save_file(numbers, changed / "model.safetensors", {"format": "pt"})
    assert refusal(changed).startswith(f'"{changed}" holds quantized weights (')
    (changed / "model.safetensors").rename(changed / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(numbers, "part.safetensors")}
    (changed / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(changed).startswith(f'"{changed}" holds quantized weights (')


def test_a_classifier_of_ours_is_whole_in_single_precision(encoders, tmp_path):
    model, processor = load_encoder(encoders["dino"], CLASSES, head="mlp")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["encoder_config"] |= {"dtype": "bfloat16", "return_dict": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    again, _ = load_classifier(str(tmp_path))
    torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, changed, classifier):
    for folder, load in ((changed, load_encoder), (Path(classifier[0]), lambda name, labels: load_classifier(name))):
        weights = load_file(folder / "model.safetensors")
        name = next(name for name in weights if name.endswith("layernorm.weight"))
        weights[name][0] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError, match=rf'^"{folder}" holds NaN or infinite values in (vit\.)?layernorm.weight, '):
            load(str(folder), CLASSES)


def test_a_classifier_is_refused_whose_head_has_another_shape_or_whose_classes_have_no_names(classifier):
    folder, config = classifier[0], json.loads(Path(classifier[0], "config.json").read_text())
    for names, words in (({"0": "a"}, "has 1 entries"), ({"1": "a", "2": "b"}, "begins with 1: a, 2: b and")):
        Path(folder, "config.json").write_text(json.dumps(config | {"id2label": names}))
        with pytest.raises(UserError, match=words):
            load_classifier(folder)
    Path(folder, "config.json").write_text(json.dumps(config | {"id2label": {"0": "a", "1": "b"}}))
    words = (
        r'" holds a classifier.bias of shape \(3,\), but its config.json makes one of shape \(2,\): they do not belong'
    )
    with pytest.raises(UserError, match=words):
        load_classifier(folder)


class Evil:
    """Runs a program where a pickle of it is read."""

    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_pickled_weights_are_read_without_running_what_they_bring(changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = load_file(changed / "model.safetensors")
    (changed / "model.safetensors").unlink()
    torch.save(weights, changed / "pytorch_model.bin")
    model, _ = load_encoder(str(changed), CLASSES)
    assert torch.equal(model.vit.layernorm.weight, weights["layernorm.weight"])
    (changed / "pytorch_model.bin").write_bytes(pickle.dumps({"layernorm.weight": Evil()}))
    assert f'The weights of "{changed}" cannot be read: UnpicklingError: ' in refusal(changed)
    assert not (tmp_path / "evil").exists()


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


@pytest.mark.parametrize("missing", ["config.json", "preprocessor_config.json"])
def test_a_folder_without_configuration_or_processor_is_refused(changed, missing):
    (changed / missing).unlink()
    assert refusal(changed).startswith(f'"{changed}" has no configuration and image processor')
    assert ("it lacks a preprocessor_config.json: save" in refusal(changed)) == (missing == "preprocessor_config.json")


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


def test_weights_of_another_depth_are_refused(changed, classifier):
    surplus = "holds weights of more layers than its config.json has, for example "
    for folder, load, lacking in (
        (changed, lambda name: load_encoder(name, CLASSES), "holds only 38 of 198 weights for a ViTForImageClassific"),
        (Path(classifier[0]), load_classifier, "lacks 160 weights of a ViTForImageClassification, for example "),
    ):
        config = json.loads((folder / "config.json").read_text())
        for depth, words in ((1, surplus), (12, lacking)):
            (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": depth}))
            with pytest.raises(UserError, match=words):
                load(str(folder))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            lambda: BertModel(BertConfig(**TEXT, vocab_size=10)),
            'A "bert" encoder takes input_ids, expected one that takes images.',
        ),
        (
            lambda: VideoMAEModel(VideoMAEConfig(**TINY_VIT, num_frames=2)),
            f'The "videomae" encoder does not take an image of {SIDE} x {SIDE} pixels (',
        ),
        (
            lambda: ViTModel(ViTConfig(**TINY_VIT, num_channels=1)),
            'The "vit" encoder takes images of 1 channels, expected 3.',
        ),
    ],
    ids=["text", "video", "grey"],
)
def test_what_gives_no_features_of_colored_images_is_refused_by_name(model, sentence, tmp_path):
    model().save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    assert refusal(tmp_path).startswith(sentence)


@pytest.mark.skipif(is_timm_available(), reason="timm is installed")
@pytest.mark.parametrize("settings", [{"model_type": "timm_wrapper"}, {"pretrained_cfg": {"input_size": [3, 8, 8]}}])
def test_an_encoder_of_timm_is_refused_where_it_is_not_installed(settings, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", **settings}))
    assert refusal(tmp_path).startswith(f'"{tmp_path}" is an encoder of timm, which is not installed: pip install "gen')


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pooling": "max"}, 'pooling is "max", expected one of cls, mean, pooler.'),
        ({"head": "deep"}, 'head is "deep", expected one of linear, mlp.'),
        ({"drop_path_rate": 1}, "drop_path_rate is 1, expected a share in [0, 1)."),
        ({"drop_path_rate": -0.1}, "drop_path_rate is -0.1, expected a share in [0, 1)."),
        ({"drop_path_rate": math.nan}, "drop_path_rate is nan, expected a share in [0, 1)."),
        ({"image_size": 0}, "image_size is 0, expected a positive number of pixels."),
        ({"image_size": 2}, "The image processor makes images of 2 x 2 pixels, expected squares of at least one patch"),
    ],
)
def test_options_out_of_range_are_refused(encoders, options, sentence):
    assert refusal(encoders["dino"], **options).startswith(sentence)


def test_a_pooling_that_the_encoder_does_not_have_is_refused(encoders):
    sentence = (
        'The "resnet" encoder has no features for pooling "cls"; it gives last_hidden_state (1, 16, 1, 1), pooler'
    )
    assert refusal(encoders["resnet"], pooling="cls").startswith(sentence)


@pytest.mark.parametrize("labels", [[], ["one"], ["one", "two", "one"], [1, "1"]])
def test_too_few_or_equal_labels_are_refused(encoders, labels):
    expected = f"labels are {[str(label) for label in labels]}, expected at least two different class names."
    assert refusal(encoders["dino"], labels) == expected


def test_windows_larger_than_the_image_are_refused(tmp_path):
    config = SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=8)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    assert refusal(tmp_path).startswith(f'The "swin" encoder does not take an image of {SIDE} x {SIDE} pixels (')


def test_a_processor_of_images_that_are_no_squares_is_refused(changed):
    ViTImageProcessor(size={"height": SIDE, "width": 12}).save_pretrained(changed)
    assert refusal(changed).startswith(f"The image processor makes images of {SIDE} x 12 pixels, expected squares")


def test_a_processor_of_images_of_varying_size_is_refused(changed):
    ViTImageProcessor(size={"shortest_edge": SIDE}).save_pretrained(changed)
    assert refusal(changed).startswith("The image processor makes images of 8 x 12 pixels from a wide one and 12 x 8")
    name = type(AutoImageProcessor.from_pretrained(changed)).__name__  # another one where torchvision is installed
    sentence = f"image_size is 16, but the {name} of this encoder cannot be set to make squares of it"
    assert refusal(changed, image_size=16).startswith(sentence)


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
