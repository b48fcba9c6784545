import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from conftest import CLASSES
from PIL import Image as PILImage
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, ResNetForImageClassification

from genaf_hf import PixelModel, load_encoder
from genaf_hf.errors import UserError
from genaf_hf.models.encoder_classifier import EncoderForImageClassification
from genaf_hf.pretraining.solo_learn import METHODS, convert_solo_learn, known_method

RECIPE = Path(__file__).parents[1] / "recipes" / "convert_solo.py"


class Block(nn.Module):
    """torchvision's BasicBlock, or its Bottleneck with the stride in the 3 x 3 convolution."""

    def __init__(self, channels: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        out = 4 * width if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        widths = (channels, width, width, out) if bottleneck else (channels, width, out)
        self.count = len(kernels)
        for i, (kernel, step) in enumerate(zip(kernels, strides, strict=True), 1):
            self.add_module(f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(widths[i]))
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Reference(nn.Module):
    """A narrow ResNet in torchvision's layout, as solo-learn changes it: no fc, and on CIFAR another stem."""

    def __init__(self, *, depths=(2, 2, 2, 2), bottleneck=False, cifar=True):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, 1, 2, bias=False) if cifar else nn.Conv2d(3, 4, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.maxpool = nn.Identity() if cifar else nn.MaxPool2d(3, 2, 1)
        channels = 4
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(Block(channels, 4 * (stage + 1), stride, bottleneck))
                channels = 4 * (stage + 1) * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))


def pretrained(**layout) -> Reference:
    torch.manual_seed(0)
    model = Reference(**layout).train()
    for _ in range(3):
        model(torch.rand(8, 3, 32, 32))  # moves the statistics
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def lightning(model: Reference, prefix: str) -> dict:
    """What Lightning saves: the online encoder, a momentum encoder of other weights, and heads."""
    online = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    momentum = {f"momentum_{name}": torch.zeros_like(tensor) for name, tensor in online.items()}
    heads = {
        "classifier.weight": torch.ones(10, 16),
        "projector.0.weight": torch.ones(4, 16),
        "queue": torch.ones(2, 4),
    }
    return {"epoch": 999, "state_dict": {**heads, **momentum, **online}, "optimizer_states": [], "loops": {"fit": {}}}


@pytest.fixture
def saved(tmp_path):
    """A function that saves a checkpoint under a name."""

    def save(content, name: str = "byol-cifar10-x1y2-ep=999.ckpt") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


LAYOUTS = {
    "resnet18, cifar": ({}, 18),
    "resnet18, imagenet": ({"cifar": False}, 18),
    "resnet50, cifar": ({"depths": (3, 4, 6, 3), "bottleneck": True}, 50),
    "resnet50, imagenet": ({"depths": (3, 4, 6, 3), "bottleneck": True, "cifar": False}, 50),
}


@pytest.mark.parametrize("prefix", ["backbone.", "encoder."])
@pytest.mark.parametrize(("layout", "layers"), LAYOUTS.values(), ids=LAYOUTS)
def test_features_are_those_of_the_original(layout, layers, prefix, saved, tmp_path):
    reference = pretrained(**layout)
    found = convert_solo_learn(saved(lightning(reference, prefix)), tmp_path / "converted")
    cifar = layout.get("cifar", True)
    assert (found.layers, found.cifar_stem, found.method) == (layers, cifar, "BYOL")
    assert found.left_out.keys() == {"classifier", "projector", "queue", f"momentum_{prefix[:-1]}"}

    model, processor = load_encoder(str(tmp_path / "converted"), CLASSES, image_size=32)
    assert type(model) is (EncoderForImageClassification if cifar else ResNetForImageClassification)
    pixel_model, images = PixelModel(model, processor).eval(), torch.rand(4, 3, 1, 1) * torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        expected = reference(pixel_model.to_pixel_values(images))
        torch.testing.assert_close(pixel_model.features(images), expected, rtol=0, atol=1e-5)
    assert expected.std(dim=0).mean() > 1e-3


@pytest.mark.parametrize("layout", [{}, {"cifar": False}], ids=["cifar", "imagenet"])
def test_the_auto_classes_load_the_result(layout, saved, tmp_path):
    reference, folder = pretrained(**layout), tmp_path / "converted"
    convert_solo_learn(saved(lightning(reference, "backbone.")), folder)
    pixel_values = torch.rand(2, 3, 32, 32)
    classifier, encoder = AutoModelForImageClassification.from_pretrained(folder), AutoModel.from_pretrained(folder)
    encoder = getattr(encoder, "encoder", encoder) if "cifar" not in layout else encoder
    with torch.no_grad():
        for model in (classifier.base_model.eval(), encoder.eval()):
            torch.testing.assert_close(model(pixel_values).pooler_output.flatten(1), reference(pixel_values))


def test_the_padding_of_the_stem_can_be_that_of_others(saved, tmp_path):
    reference = pretrained()
    reference.conv1.padding = (1, 1)
    convert_solo_learn(saved(lightning(reference, "backbone.")), tmp_path / "converted", stem_padding=1)
    encoder, pixel_values = AutoModel.from_pretrained(tmp_path / "converted").encoder.eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixel_values).pooler_output.flatten(1), reference(pixel_values))


@pytest.mark.parametrize(
    ("layout", "settings", "shape", "mean"),
    [
        ({}, {}, (32, 32), 0.4914),
        ({}, {"image_size": 64, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}, (64, 64), 0.1),
        ({"cifar": False}, {}, (224, 224), 0.485),
        ({"cifar": False}, {"image_size": 96}, (96, 96), 0.485),
    ],
)
def test_the_processor_is_that_of_the_data(layout, settings, shape, mean, saved, tmp_path):
    convert_solo_learn(saved(lightning(pretrained(**layout), "backbone.")), tmp_path / "converted", **settings)
    processor = AutoImageProcessor.from_pretrained(tmp_path / "converted")
    assert processor(PILImage.new("RGB", (80, 50)), return_tensors="pt")["pixel_values"].shape[-2:] == shape
    assert processor.image_mean[0] == mean


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"image_size": 0}, "image_size is 0, expected a positive number"),
        ({"stem_padding": -1}, "stem_padding is -1, expected 0 or more"),
        ({"image_size": 4096}, "size of the image processor is 4096, expected 1 to 2048"),
        ({"image_std": [1e-6, 1, 1]}, r"has image_std=.1e-06, 1, 1., expected one or three numbers from 0.0001"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is 0.5 0.5, expected three numbers, for R, G and B"),
        (
            {"image_std": [0.5, 0.0, 0.5]},
            "image_std is 0.5 0.0 0.5, expected three numbers, each above 0",
        ),
    ],
)
def test_numbers_that_no_processor_can_have_are_refused_before_anything_is_written(settings, sentence, saved, tmp_path):
    checkpoint = saved(lightning(pretrained(), "backbone."))
    with pytest.raises(UserError, match=sentence):
        convert_solo_learn(checkpoint, tmp_path / "converted", **settings)
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("content", [b"hello, world", b"image,label\n1.png,cat\n"])
def test_a_file_that_is_none_of_pytorchs_is_refused_in_one_sentence(content, tmp_path):
    (tmp_path / "byol.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="is no file of tensors and plain values alone"):
        convert_solo_learn(tmp_path / "byol.ckpt", tmp_path / "converted")


@pytest.mark.parametrize("method", METHODS)
def test_methods_are_known_by_the_name_of_the_file(method):
    assert known_method(None, Path(f"/somewhere/else/{method}-cifar10-32brzx9a-ep=999.ckpt")) == method


def test_a_record_beside_the_file_and_the_flag_go_before_its_name(tmp_path):
    checkpoint = tmp_path / "byol.ckpt"
    assert known_method(None, tmp_path / "ep=999.ckpt") is None
    (tmp_path / "args.json").write_text(json.dumps({"method": "mocov3"}))
    assert known_method(None, checkpoint) == "mocov3"
    assert known_method("wmse", checkpoint) == "wmse"
    (tmp_path / "args.json").write_text(json.dumps({"method": ["mocov3"]}))
    assert known_method(None, checkpoint) == "byol"
    with pytest.raises(ValueError, match='method is "simsiam", expected one of barlow_twins, byol'):
        known_method("simsiam", checkpoint)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('["mocov3"]', "holds a list, expected an object"),
        ('"mocov3"', "holds a str, expected an object"),
        ("{method: mocov3", "cannot be read as JSON (Expecting property name"),
        ("", "cannot be read as JSON (Expecting value"),
    ],
)
def test_a_broken_record_is_refused_by_its_name(text, sentence, tmp_path):
    (tmp_path / "args.json").write_text(text)
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        known_method(None, tmp_path / "byol.ckpt")
    assert str(refused.value).startswith(f"{tmp_path / 'args.json'} {sentence}")
    assert "\n" not in str(refused.value)
    assert known_method("wmse", tmp_path / "byol.ckpt") == "wmse"


class Harmless:
    """Runs nothing, yet stands for code that a pickle would run."""


def test_other_files_are_refused_in_one_sentence(saved, tmp_path):
    whole = lightning(pretrained(), "backbone.")
    without_top, without_norm = dict(whole["state_dict"]), dict(whole["state_dict"])
    del without_top["backbone.layer2.0.conv2.weight"], without_norm["backbone.layer2.0.bn1.weight"]
    vit = {"backbone.cls_token": torch.ones(1, 1, 4), "backbone.pos_embed": torch.ones(1, 5, 4)}
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    files = {
        tmp_path / "missing.ckpt": "cannot be read",
        tmp_path / "text.ckpt": "is no file of tensors and plain values alone",
        saved({**whole, "hyper_parameters": Harmless()}, "code.ckpt"): "is no file of tensors and plain values alone",
        saved({"hyper": argparse.Namespace(a=1)}, "namespace.ckpt"): "is no file of tensors and plain values alone",
        saved({"model": whole["state_dict"]}, "other.ckpt"): 'has no "state_dict" of tensors',
        saved([1, 2], "list.ckpt"): 'has no "state_dict" of tensors',
        saved(
            {"state_dict": {"student.weight": torch.ones(1)}}, "student.ckpt"
        ): "holds student, expected the backbone",
        saved({"state_dict": {}}, "empty.ckpt"): "holds nothing, expected the backbone",
        saved({"state_dict": vit}, "vit.ckpt"): "holds an encoder with cls_token, pos_embed, expected a ResNet",
        saved({"state_dict": without_top}, "top.ckpt"): "holds no whole ResNet: it lacks layer2.0.conv2.weight",
        saved({"state_dict": without_norm}, "norm.ckpt"): "holds no whole ResNet: Error(s) in loading state_dict",
    }
    state, first = whole["state_dict"], "backbone.layer1.0.conv1.weight"
    files |= {
        saved({"state_dict": state | {first: torch.full_like(state[first], torch.nan)}}, "nan.ckpt"): (
            "holds NaN or infinite values in"
        ),
        saved(
            {"state_dict": state | {first: state[first].to(torch.int8)}}, "int8.ckpt"
        ): "holds layer1.0.conv1.weight in",
        saved({"state_dict": state | {first: torch.ones(())}}, "scalar.ckpt"): "holds no whole ResNet",
        saved({"state_dict": {3: torch.ones(1)}}, "numbers.ckpt"): 'has no "state_dict" of tensors',
        saved({"state_dict": state | {"backbone.conv1.weight": state["backbone.conv1.weight"][:, :1]}}, "gray.ckpt"): (
            'The "resnet" encoder takes images of 1 channels'
        ),
        saved(
            lightning(pretrained(cifar=False), "backbone."), "imagenet.ckpt"
        ): "holds the ImageNet stem: leave it out",
    }
    for file, sentence in files.items():
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            convert_solo_learn(file, tmp_path / "converted", stem_padding=1 if file.name == "imagenet.ckpt" else None)
        assert sentence in str(refused.value)
        assert file.name in str(refused.value) or file.name == "gray.ckpt"
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "converted").exists()


def test_the_recipe_says_what_it_found_and_what_it_left_out(saved, tmp_path, monkeypatch, capsys):
    checkpoint, folder = saved(lightning(pretrained(), "backbone."), "mocov2plus_<b>.ckpt"), tmp_path / "converted"
    arguments = [str(RECIPE), "--checkpoint", str(checkpoint), "--output_dir", str(folder)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(RECIPE), run_name="__main__")
    found = "ResNet-18 with CIFAR stem, pre-trained by MoCo v2+"
    said = f"{found}, is in {folder}. Left out: classifier (1 tensors), projector (1 tensors), queue (1 tensors), "
    assert capsys.readouterr().out.startswith(said)
    card = (folder / "README.md").read_text()
    assert f"# {found}" in card
    assert "<b>" not in card

    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"holds a finished run \(config.json, model.safetensors"):
        runpy.run_path(str(RECIPE), run_name="__main__")
    assert (folder / "README.md").read_text() == card
    monkeypatch.setattr(sys, "argv", [*arguments[:-1], str(tmp_path / "other"), "--method", "x"])
    with pytest.raises(SystemExit, match='method is "x", expected one of'):
        runpy.run_path(str(RECIPE), run_name="__main__")
