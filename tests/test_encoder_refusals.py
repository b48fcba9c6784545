"""What is no public encoder: each is refused in one sentence."""

import json
import math
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CLASSES, SIDE, TINY_VIT
from public_encoders import PROCESSOR, TEXT, changed, classifier, refusal
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BertConfig,
    BertModel,
    SwinConfig,
    VideoMAEConfig,
    VideoMAEModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)
from transformers.utils import is_timm_available

from genaf_hf import load_encoder
from genaf_hf.errors import UserError
from genaf_hf.models.loading import load_classifier

__all__ = ["changed", "classifier"]  # fixtures


def test_an_unknown_model_is_refused():
    sentence = "and HF_HUB_OFFLINE is set: unset it, or check the spelling."
    assert (
        refusal("nobody/nothing")
        == f'The model "nobody/nothing" is neither a local folder nor in the cache, {sentence}'
    )


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
        ({"hidden_size": 6, "num_attention_heads": 1}, "cls_token of shape (1, 1, 16), but its config.json"),
        (
            {"patch_size": 2},
            "projection.weight of shape (16, 3, 4, 4), but its config.json makes one of",
        ),
        ({"image_size": 16}, "position_embeddings of shape (1, 5, 16), but its config.json makes one of shape (1, 17"),
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


def test_other_files_in_the_folder_of_an_encoder_are_left_alone(changed, encoders):
    save_file({"layer.weight": torch.zeros(3, dtype=torch.int8)}, changed / "model_int8.safetensors")
    (changed / "broken.safetensors").write_text("broken")
    (changed / "latest-run").symlink_to("run-that-was-deleted")
    (changed / ".#config.json").symlink_to("somebody@somewhere.1234")
    (found, _), (public, _) = (load_encoder(folder, CLASSES) for folder in (changed, encoders["dino"]))
    torch.testing.assert_close(found.vit.state_dict(), public.vit.state_dict(), rtol=0, atol=0)


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
    for folder, load in ((changed, lambda name: load_encoder(name, CLASSES)), (Path(classifier[0]), load_classifier)):
        config = json.loads((folder / "config.json").read_text())
        for depth, words in ((1, "more layers"), (3, "fewer layers"), (12, "fewer layers")):
            (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": depth}))
            with pytest.raises(UserError, match=f"holds weights of {words} than its config.json has, for example "):
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
    sentence = 'The "resnet" encoder has no features for pooling "cls"; of 2 images it gives last_hidden_state'
    assert refusal(encoders["resnet"], pooling="cls").startswith(sentence)


@pytest.mark.parametrize("labels", [[], ["one"], ["one", "two", "one"], [1, "1"]])
def test_too_few_or_equal_labels_are_refused(encoders, labels):
    expected = f"labels are {[str(label) for label in labels]}, expected at least two different class names."
    assert refusal(encoders["dino"], labels) == expected


@pytest.mark.parametrize("labels", [{0: "one", 1: "two"}, {"one", "two"}, "one,two"])
def test_labels_that_are_no_list_are_refused(encoders, labels):
    assert refusal(encoders["dino"], labels).startswith(f"labels are a {type(labels).__name__}, expected a list")


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
