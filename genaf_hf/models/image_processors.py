"""Image processors of public encoders, without torchvision."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME, is_torchvision_available

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.families import timm
from genaf_hf.models.pixel_model import image_sizes, maps_to_unit_range, pixel_statistics
from genaf_hf.models.soundness import values

logger = logging.getLogger(__name__)

NEEDS_TORCHVISION = ("DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast")
SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
PROCESSOR_FILES = (IMAGE_PROCESSOR_NAME, PROCESSOR_NAME)
LENGTHS = ("size", "crop_size", "pad_size")
LONGEST = 2048  # pixels
SIDE = 64  # of the pictures that processors are tried on
COLOR = (250, 20, 10)  # changed by whatever exchanges channels
QUARTERS = {(0, 0): COLOR, (0, 1): (20, 240, 30), (1, 0): (40, 30, 230), (1, 1): (220, 220, 60)}
ONE_LEVEL = 1.5 / 255  # with rounding
OVERSHOOT = 40  # of 255, of resampling, in the middle of a quarter


def load_image_processor(model_name_or_path: str, config: PreTrainedConfig, **hub):
    """The image processor of a checkpoint, or one that does the same without torchvision, and with images as output.

    DINOv3's, which has no form for PIL, becomes a `ViTImageProcessor` of its settings. SigLIP 2's of flexible
    resolution, which cuts images into patches, becomes one that makes squares of as many patches. An encoder of timm
    tells in its configuration what one is to do.

    Args:
        model_name_or_path: Hub id or local folder.
        config: of the model.
        hub: `revision` and `token`.

    Raises:
        OSError, ValueError: when there is none.
    """
    if pretrained_cfg := getattr(config, "pretrained_cfg", None):
        return neutral_processor(timm.processor_settings(pretrained_cfg))
    folder = Path(model_name_or_path)
    if folder.is_dir() and not any((folder / name).exists() for name in PROCESSOR_FILES):
        raise UserError(f"it lacks a {IMAGE_PROCESSOR_NAME}: save there the image processor that it was trained with")
    settings, _ = ImageProcessingMixin.get_image_processor_dict(model_name_or_path, **hub)
    check_lengths(settings)
    list(values(settings, "its image processor"))  # which refuses what is nested too deep to be copied
    kind = str(settings.get("image_processor_type", ""))
    if "AutoImageProcessor" in (settings.get("auto_map") or {}) and not hasattr(
        transformers, kind.removesuffix("Fast")
    ):
        raise UserError(f'its image processor "{kind}" is code of its repository, which is never run here')
    if kind in NEEDS_TORCHVISION:
        return neutral_processor(settings)
    processor = AutoImageProcessor.from_pretrained(model_name_or_path, config=config, trust_remote_code=False, **hub)
    if "spatial_shapes" in processor.model_input_names:
        side = math.isqrt(processor.max_num_patches) * processor.patch_size
        return neutral_processor({**processor.to_dict(), "size": {"height": side, "width": side}})
    return processor


def neutral_processor(settings: dict):
    """A processor that resizes, crops, rescales and normalises by these settings, and nothing else.

    It is of the class that `AutoImageProcessor` loads again from what it saves: torchvision, where that is installed,
    resizes a little otherwise.

    Raises:
        UserError: for absurd sizes.
    """
    check_lengths(settings)
    made = transformers.ViTImageProcessor if is_torchvision_available() else transformers.ViTImageProcessorPil
    return made(**{name: settings[name] for name in SETTINGS if settings.get(name) is not None})


def check_lengths(settings: dict) -> None:
    """Refuses settings of an image processor that would make images of no size, or fill the memory with one.

    Raises:
        UserError: names the length.
    """
    for name in LENGTHS:
        given = settings.get(name)
        lengths = given.values() if isinstance(given, dict) else given if isinstance(given, list) else [given]
        for length in lengths:
            if length is not None and not (isinstance(length, int) and 1 <= length <= LONGEST):
                raise UserError(
                    f"{name} of the image processor is {length}, expected 1 to {LONGEST} pixels as a whole number."
                )


def in_rgb(processor) -> tuple[object, bool]:
    """A processor whose normalisation can be undone by what it says of it, and whether the given one makes BGR.

    It is the given one where that holds for a few pictures. One that exchanges red and blue, or normalises otherwise
    than by its `image_mean` and `image_std`, becomes a neutral one that normalises as that was seen to, in RGB.

    Raises:
        UserError: names the processor whose normalisation cannot be undone.
    """
    pictures = [PILImage.new("RGB", (SIDE, SIDE), color) for color in ((0, 0, 0), (255, 255, 255), COLOR)]
    made = prepared(processor, [*pictures, quarters()])
    if is_undone(processor, made):
        return processor, False
    kind = type(processor).__name__
    for flipped in (False, True):
        rgb = made.flip(1) if flipped else made
        black, white = rgb[:2].mean((2, 3))
        if not (white > black).all():
            continue
        std = 1 / (white - black)
        statistics = {"do_normalize": True, "image_mean": (-black * std).tolist(), "image_std": std.tolist()}
        settings = {**processor.to_dict(), "do_rescale": True, "rescale_factor": 1 / 255, **statistics}
        neutral = neutral_processor(settings)
        found = prepared(neutral, [*pictures, quarters()])
        if found.shape == rgb.shape and ((found - rgb).abs().amax((0, 2, 3)) * std < ONE_LEVEL).all():
            logger.warning(
                "The %s normalises otherwise than by its image_mean and image_std%s: a %s of the same images takes its "
                "place.",
                kind,
                ", and makes BGR of RGB" if flipped else "",
                type(neutral).__name__,
            )
            return neutral, flipped
    raise UserError(
        f"The {kind} does more to an image than to resize, crop and normalise it, or to flip RGB to BGR, and that "
        "cannot be undone: give the model another image processor."
    )


def is_undone(processor, made: Tensor) -> bool:
    """Whether the statistics of a processor give back black, white, `COLOR` and `quarters`, of which it made this.

    Raises:
        UserError: for statistics that are no numbers.
    """
    if not maps_to_unit_range(processor):
        return False
    mean, std = pixel_statistics(processor)
    images = made * std + mean
    plain = torch.tensor([(0, 0, 0), (255, 255, 255), COLOR]).view(3, 3, 1, 1) / 255
    if (images[:3] - plain).abs().max() > ONE_LEVEL:
        return False
    height, width = images.shape[-2:]
    middles = [
        images[3, :, (2 * row + 1) * height // 4, (2 * column + 1) * width // 4] * 255 - torch.tensor(color)
        for (row, column), color in QUARTERS.items()
    ]
    if min(height, width) < 8:  # there is no middle
        return True
    return max(each.abs().max().item() for each in middles) < OVERSHOOT


def quarters() -> PILImage.Image:
    """A picture of four colors, which tells where its corners went."""
    picture = PILImage.new("RGB", (SIDE, SIDE))
    for (row, column), color in QUARTERS.items():
        top, left = row * SIDE // 2, column * SIDE // 2
        picture.paste(color, (left, top, left + SIDE // 2, top + SIDE // 2))
    return picture


def prepared(processor, pictures: Sequence[PILImage.Image]) -> Tensor:
    """What an image processor makes of pictures, (n, 3, h, w).

    Raises:
        UserError: when it makes nothing of the kind.
    """
    kind = type(processor).__name__
    try:
        each_made = processor(list(pictures))["pixel_values"]
        made = torch.stack([torch.from_numpy(np.ascontiguousarray(each)) for each in each_made]).float()
    except Exception as error:  # whatever the settings of a stranger make of it
        raise UserError(
            f"The {kind} cannot prepare a picture ({first_line(error)}): mend its settings, or give the model another "
            "image processor."
        ) from error
    if made.ndim != 4 or made.shape[1] != 3 or not made.isfinite().all():
        shape = " x ".join(map(str, made.shape[1:]))
        raise UserError(
            f"The {kind} makes {shape} values of a picture, expected three channels of finite ones: its image_mean is "
            f"{getattr(processor, 'image_mean', None)} and its image_std {getattr(processor, 'image_std', None)}."
        )
    return made


def at_image_size(processor, side: int):
    """The processor for square images of another side; what it cuts off stays the same share.

    Raises:
        UserError: when its size cannot be set.
    """
    if not 1 <= side <= LONGEST:
        expected = "a positive number of" if side < 1 else f"at most {LONGEST}"
        raise UserError(f"image_size is {side}, expected {expected} pixels.")
    settings = processor.to_dict()
    before = settings.get("size") or {}
    changes = {"size": dict.fromkeys(before, side)}
    try:
        if settings.get("do_center_crop"):
            cropped_to = settings["crop_size"]["height"]
            changes["size"] = {name: round(length * side / cropped_to) for name, length in before.items()}
            changes["crop_size"] = {"height": side, "width": side}
        changed = type(processor).from_dict({**settings, **changes})
        if image_sizes(changed) == ((side, side), (side, side)):
            return changed
        reason = "it makes others"
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # each processor has names of its own for sizes
        reason = first_line(error)
    raise UserError(
        f"image_size is {side}, but the {type(processor).__name__} of this encoder cannot be set to make squares of it "
        f"({reason}): leave image_size out."
    )
