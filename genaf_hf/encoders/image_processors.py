"""Image processors of public encoders, without torchvision."""

import math

import transformers
from PIL.Image import Resampling
from transformers import AutoImageProcessor, PreTrainedConfig
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import is_torchvision_available

from genaf_hf.errors import UserError
from genaf_hf.pixel_model import image_sizes

NEEDS_TORCHVISION = ("DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast")
SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)


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
        return neutral_processor(timm_settings(pretrained_cfg))
    settings, _ = ImageProcessingMixin.get_image_processor_dict(model_name_or_path, **hub)
    if settings.get("image_processor_type") in NEEDS_TORCHVISION:
        return neutral_processor(settings)
    processor = AutoImageProcessor.from_pretrained(model_name_or_path, config=config, **hub)
    if "spatial_shapes" in processor.model_input_names:
        side = math.isqrt(processor.max_num_patches) * processor.patch_size
        return neutral_processor({**processor.to_dict(), "size": {"height": side, "width": side}})
    return processor


def timm_settings(pretrained_cfg: dict) -> dict:
    """What timm does to an image for evaluation, as settings of an image processor of `transformers`.

    Where an odd number of rows or columns is cut off, the two may keep one that the other does not.

    Raises:
        UserError: when it cuts images in a way that those do not.
    """
    from timm.data import resolve_data_config

    wanted = resolve_data_config(pretrained_cfg, verbose=False)
    _, height, width = wanted["input_size"]
    scaled = [math.floor(side / wanted["crop_pct"]) for side in (height, width)]
    if wanted["crop_mode"] == "squash":
        size = {"height": scaled[0], "width": scaled[1]}
    elif wanted["crop_mode"] == "center" and height == width:
        size = {"shortest_edge": scaled[0]}
    else:
        raise UserError(
            f'its crop_mode is "{wanted["crop_mode"]}" for images of {height} x {width} pixels, expected squash, or '
            "center for squares"
        )
    return {
        "size": size,
        "resample": Resampling[wanted["interpolation"].upper()],
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "image_mean": list(wanted["mean"]),
        "image_std": list(wanted["std"]),
    }


def neutral_processor(settings: dict):
    """A processor that resizes, crops, rescales and normalises by these settings, and nothing else.

    It is of the class that `AutoImageProcessor` loads again from what it saves: torchvision, where that is installed,
    resizes a little otherwise.
    """
    made = transformers.ViTImageProcessor if is_torchvision_available() else transformers.ViTImageProcessorPil
    return made(**{name: settings[name] for name in SETTINGS if settings.get(name) is not None})


def at_image_size(processor, side: int):
    """The processor for square images of another side; what it cuts off stays the same share.

    Raises:
        UserError: when its size cannot be set.
    """
    if side < 1:
        raise UserError(f"image_size is {side}, expected a positive number of pixels.")
    settings = processor.to_dict()
    before = settings.get("size") or {}
    changes = {"size": dict.fromkeys(before, side)}
    if settings.get("do_center_crop"):
        cropped_to = settings["crop_size"]["height"]
        changes["size"] = {name: round(length * side / cropped_to) for name, length in before.items()}
        changes["crop_size"] = {"height": side, "width": side}
    changed = type(processor).from_dict({**settings, **changes})
    if image_sizes(changed) != ((side, side), (side, side)):
        raise UserError(
            f"image_size is {side}, but the {type(processor).__name__} of this encoder cannot be set to make squares "
            "of it: leave image_size out."
        )
    return changed
