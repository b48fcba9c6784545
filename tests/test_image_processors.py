import json

import numpy as np
import pytest
import torch
from conftest import CLASSES, SIDE, TINY_VIT
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage
from torch.nn import functional as F
from transformers import (
    AutoImageProcessor,
    AutoModel,
    BeitImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    DINOv3ViTConfig,
    GLPNImageProcessor,
    Siglip2Config,
    Siglip2ImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from genaf_hf import PixelModel, load_encoder, with_pixel_values
from genaf_hf.errors import UserError
from genaf_hf.models.families.timm import processor_settings
from genaf_hf.models.image_processors import at_image_size, in_rgb, load_image_processor
from genaf_hf.models.pixel_model import image_sizes

ONE_LEVEL = 0.02  # of 255, which torchvision rounds otherwise where it is installed
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def picture(width: int, height: int, mode: str = "RGB") -> PILImage.Image:
    generator = np.random.default_rng(0)
    return PILImage.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def normalised(image: PILImage.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("kind", ["DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast"])
def test_dinov3s_processor_works_without_torchvision_and_is_saved_as_one_that_does(kind, tmp_path):
    AutoModel.from_config(DINOv3ViTConfig(**TINY_VIT)).save_pretrained(tmp_path)
    settings = {"image_processor_type": kind, "size": {"height": SIDE, "width": SIDE}, "resample": 2}
    settings |= {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    settings |= {"image_mean": MEAN, "image_std": STD, "do_center_crop": None, "data_format": "channels_first"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    _, processor = load_encoder(str(tmp_path), CLASSES)
    processor.save_pretrained(tmp_path / "saved")
    image = picture(20, 12)
    expected = normalised(image.resize((SIDE, SIDE), PILImage.Resampling.BILINEAR))
    for each in (processor, AutoImageProcessor.from_pretrained(tmp_path / "saved")):
        found = each(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(found, expected, rtol=0, atol=ONE_LEVEL)


@pytest.mark.parametrize(
    ("crop_mode", "crop_pct", "side"),
    [("center", 0.875, 8), ("center", 0.8, 24), ("center", 1.0, 8), ("center", 1.0, 24), ("squash", 0.9, 24)],
)
def test_images_for_an_encoder_of_timm_are_made_as_timm_makes_them(crop_mode, crop_pct, side):
    data = pytest.importorskip("timm.data", reason="timm is not installed")
    pretrained_cfg = {"input_size": [3, side, side], "crop_pct": crop_pct, "crop_mode": crop_mode, "mean": MEAN}
    pretrained_cfg |= {"std": STD, "interpolation": "bicubic"}
    transform = data.create_transform(**data.resolve_data_config(pretrained_cfg), is_training=False)
    processor = ViTImageProcessorPil(**processor_settings(pretrained_cfg))
    for image in (picture(60, 40), picture(40, 60), picture(9, 6)):
        found = processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(found, transform(image), rtol=0, atol=1e-5)


def test_images_that_timm_would_pad_are_refused():
    pytest.importorskip("timm.data", reason="timm is not installed")
    with pytest.raises(ValueError, match=r'^its crop_mode is "border" for images of 8 x 8 pixels, expected squash, or'):
        processor_settings({"input_size": [3, 8, 8], "crop_mode": "border"})


def test_siglip2s_patches_are_those_of_the_square_that_takes_their_place(tmp_path):
    original = Siglip2ImageProcessor(patch_size=4, max_num_patches=9)
    original.save_pretrained(tmp_path)
    processor = load_image_processor(str(tmp_path), Siglip2Config())
    image = picture(30, 30)
    patches, squares = (each(image, return_tensors="pt")["pixel_values"] for each in (original, processor))
    assert squares.shape == (1, 3, 12, 12)
    cut = F.unfold(squares, 4, stride=4).transpose(1, 2).unflatten(2, (3, 16)).transpose(2, 3).flatten(2)
    torch.testing.assert_close(cut, patches, rtol=0, atol=ONE_LEVEL)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("width", "height"), [(20, 12), (12, 20)])
def test_grey_images_of_any_aspect_ratio_are_cropped_as_the_processor_says(width, height, mode, tmp_path):
    AutoModel.from_config(ViTConfig(**TINY_VIT)).save_pretrained(tmp_path)
    settings = {"image_mean": MEAN, "image_std": STD, "resample": 3}
    crop = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": 12}, crop_size=crop, **settings).save_pretrained(tmp_path)
    _, processor = load_encoder(str(tmp_path), CLASSES)
    image = picture(width, height, mode)
    features = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})
    dataset = Dataset.from_dict({"image": [image], "label": [0]}, features=features)
    left, top = (width - SIDE) // 2, (height - SIDE) // 2
    expected = normalised(image.convert("RGB").crop((left, top, left + SIDE, top + SIDE)))
    found = with_pixel_values(dataset, processor)[0]["pixel_values"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def saved_vit(folder, **settings) -> None:
    """A tiny ViT beside an image processor of these settings."""
    torch.manual_seed(0)
    AutoModel.from_config(ViTConfig(**TINY_VIT)).save_pretrained(folder)
    size = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}, "do_center_crop": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(size | settings))


def test_a_processor_that_makes_bgr_gives_way_to_one_of_rgb_and_the_encoder_answers_the_same(tmp_path, caplog):
    saved_vit(tmp_path, image_processor_type="MobileViTImageProcessor", do_flip_channel_order=True, resample=2)
    original = AutoModel.from_pretrained(tmp_path)
    model, processor = load_encoder(str(tmp_path), CLASSES)
    assert "MobileViTImageProcessor" in caplog.text
    assert "makes BGR of RGB" in caplog.text
    image = picture(20, 12)
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    left, small = (13 - SIDE) // 2, image.resize((13, SIDE), PILImage.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(small.crop((left, 0, left + SIDE, SIDE)))).permute(2, 0, 1)[None] / 255
    found = PixelModel(model, processor).to_images(pixel_values)
    torch.testing.assert_close(found, expected, rtol=0, atol=ONE_LEVEL)
    with torch.no_grad():
        bgr = original(found.flip(1)).last_hidden_state
        torch.testing.assert_close(model.vit(pixel_values).last_hidden_state, bgr, rtol=0, atol=1e-4)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again, _ = load_encoder(str(tmp_path / "saved"), CLASSES)
    first = "vit.embeddings.patch_embeddings.projection.weight"
    assert torch.equal(again.state_dict()[first], model.state_dict()[first])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"include_top": True}, lambda x: ((x - 0.4) / 0.2) / 0.2),
        ({"include_top": False, "rescale_offset": True, "rescale_factor": 1 / 127.5}, lambda x: (2 * x - 1.4) / 0.2),
        ({"include_top": False}, lambda x: (x - 0.4) / 0.2),
    ],
    ids=["twice", "offset", "once"],
)
def test_what_is_normalised_twice_or_by_an_offset_is_given_back(settings, expected, tmp_path):
    statistics = {"do_normalize": True, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    saved_vit(tmp_path, image_processor_type="EfficientNetImageProcessor", resample=2, **statistics, **settings)
    model, processor = load_encoder(str(tmp_path), CLASSES)
    image = picture(SIDE, SIDE)
    images = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
    pixel_values = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_values, expected(images), rtol=0, atol=1e-3)
    torch.testing.assert_close(PixelModel(model, processor).to_images(pixel_values), images, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": {"height": 10**6, "width": 10**6}}, "size of the image processor is 1000000, expected 1 to 2048"),
        ({"crop_size": {"height": 0, "width": 8}}, "crop_size of the image processor is 0, expected 1 to 2048"),
        ({"size": {"shortest_edge": "8"}}, "size of the image processor is 8, expected 1 to 2048"),
        ({"image_std": [0.5, 0.0, 0.5]}, "its image_mean is (0.5, 0.5, 0.5) and its image_std (0.5, 0.0, 0.5)"),
        ({"image_mean": [0.5, float("nan"), 0.5]}, "its image_mean is (0.5, nan, 0.5) and its image_std"),
        ({"image_std": [-0.5] * 3}, "has image_std=(-0.5, -0.5, -0.5), expected one or three numbers from 0.0001"),
        ({"image_std": [1e30] * 3}, "has image_std=(1e+30, 1e+30, 1e+30), expected one or three numbers from 0.0001"),
        ({"image_mean": [0.5] * 2}, "cannot prepare a picture ("),
        ({"resample": 99}, "cannot prepare a picture ("),
        ({"image_processor_type": "EvilProcessor", "auto_map": {"AutoImageProcessor": "evil.Evil"}}, "never run"),
    ],
    ids=lambda each: json.dumps(each) if isinstance(each, dict) else "",
)
def test_absurd_processors_are_refused(settings, words, tmp_path):
    saved_vit(tmp_path, **{"image_processor_type": "ViTImageProcessor"} | settings)
    with pytest.raises(UserError) as refused:
        load_encoder(str(tmp_path), CLASSES)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


class Padding(ViTImageProcessorPil):
    """Puts a black margin around what it made."""

    def preprocess(self, images, **kwargs):
        made = super().preprocess(images, **kwargs)
        for values in made["pixel_values"]:
            values[:, 0] = -1
        return made


class Mirror(ViTImageProcessorPil):
    """Turns what it made upside down."""

    def preprocess(self, images, **kwargs):
        made = super().preprocess(images, **kwargs)
        made["pixel_values"] = [values[:, ::-1] for values in made["pixel_values"]]
        return made


@pytest.mark.parametrize("kind", [Padding, Mirror])
def test_a_processor_that_cannot_be_undone_is_refused_by_name(kind):
    with pytest.raises(UserError, match=f"^The {kind.__name__} does more to an image than to resize, crop and normal"):
        in_rgb(kind(size={"height": SIDE, "width": SIDE}))


def test_an_image_size_that_a_processor_cannot_have_is_refused():
    with pytest.raises(UserError, match=r"image_size is 56, but the GLPNImageProcessor\w* of this encoder cannot be"):
        at_image_size(GLPNImageProcessor(), 56)


CROP = {"height": 224, "width": 224}


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        (ViTImageProcessor(), {"height": 56, "width": 56}),
        (BeitImageProcessor(), {"height": 56, "width": 56}),
        (CLIPImageProcessor(), {"shortest_edge": 56}),
        (BitImageProcessor(size={"shortest_edge": 256}, crop_size=CROP), {"shortest_edge": 64}),
        (DeiTImageProcessor(size={"height": 256, "width": 256}, crop_size=CROP), {"height": 64, "width": 64}),
        (ConvNextImageProcessor(size={"shortest_edge": 224}), {"shortest_edge": 56}),
    ],
    ids=lambda each: type(each).__name__,
)
def test_another_image_size_keeps_the_share_that_is_cut_off(processor, size):
    before = processor.to_dict()
    changed = at_image_size(processor, 56)
    assert image_sizes(changed) == ((56, 56), (56, 56))
    assert changed.to_dict()["size"] == size
    assert (changed.image_mean, changed.resample) == (processor.image_mean, processor.resample)
    assert processor.to_dict() == before
