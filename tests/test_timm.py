"""What is particular to encoders of timm; test_families.py takes some of them the whole way."""

import json

import pytest
import torch
from conftest import CLASSES
from timm_models import of_timm, publish
from transformers import AutoConfig

from genaf_hf import PixelModel, load_encoder
from genaf_hf.models.bare_encoder import is_classifier
from genaf_hf.models.head import head_name

timm = pytest.importorskip("timm", reason="timm is not installed")


@pytest.fixture
def published(tmp_path):
    """A function that makes a folder as timm publishes a model of an architecture."""

    def make(architecture: str, side: int, **model_args) -> str:
        torch.manual_seed(0)
        publish(of_timm(architecture, side, **model_args), tmp_path)
        return str(tmp_path)

    return make


def refusal(folder: str, **options) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        load_encoder(folder, CLASSES, **options)
    return str(error.value)


def test_layers_are_those_that_run_from_the_stem_up(published):
    small = {"embed_dims": [8, 8, 8, 8], "num_heads": [1, 1, 1, 1], "depths": [1, 1, 1, 1]}
    model, processor = load_encoder(published("twins_svt_small", 64, img_size=64, **small), CLASSES)
    pixel_model = PixelModel(model, processor).eval()
    images = torch.rand(2, 3, 64, 64)
    names = pixel_model.layer_names(images)
    assert names == [f"timm_model.blocks.{stage}.0" for stage in range(4)]
    assert len(pixel_model.hidden_states(images)) == 4
    assert [len(pixel_model.hidden_states(images, up_to=i)) for i in range(4)] == [1, 2, 3, 4]


@pytest.mark.parametrize("classes", [5, 0])
def test_what_timm_writes_is_a_classifier_where_it_has_classes(tmp_path, classes):
    model = of_timm("resnet18", 32)
    model.reset_classifier(classes)
    publish(model, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architectures is None
    assert is_classifier(config) == (classes > 0)


def test_two_heads_are_replaced_by_one(published):
    model, _ = load_encoder(published("deit_tiny_distilled_patch16_224", 32, img_size=32, depth=1), CLASSES)
    assert type(model).__name__ == "EncoderForImageClassification"
    assert head_name(model) == "classifier"


def test_images_of_a_size_that_the_encoder_does_not_take_are_refused(published):
    folder = published("maxvit_rmlp_pico_rw_256", 64, img_size=64)
    assert refusal(folder, image_size=72).startswith('The "timm_wrapper" encoder does not take an image of 72 x 72')


def test_windows_that_would_change_with_the_size_are_refused(published):
    small = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1], "window_size": 4}
    folder = published("swin_tiny_patch4_window7_224", 32, img_size=32, **small)
    sentence = 'The "swin_tiny_patch4_window7_224" encoder of timm is for images of 32 x 32 pixels, and cannot be made'
    assert refusal(folder, image_size=48).startswith(sentence)


def test_an_architecture_that_the_installed_timm_does_not_know_is_refused(published, tmp_path):
    folder = published("vit_tiny_patch16_224", 32, img_size=32, depth=1)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architecture": "vit_of_tomorrow"}))
    assert refusal(folder).startswith(f'"{folder}" is a "vit_of_tomorrow" of timm, which timm {timm.__version__} does')
