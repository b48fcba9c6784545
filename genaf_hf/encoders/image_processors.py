"""Image processors of public encoders, without torchvision."""

import math

from transformers import AutoImageProcessor, PreTrainedConfig, ViTImageProcessorPil
from transformers.image_processing_base import ImageProcessingMixin

from genaf_hf.pixel_model import image_sizes

NEEDS_TORCHVISION = ("DINOv3ViTImageProcessor", "DINOv3ViTImageProcessorFast")
SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)


def load_image_processor(model_name_or_path: str, config: PreTrainedConfig, **hub):
    """The image processor of a checkpoint, or one that does the same without torchvision, and with images as output.

    DINOv3's, which has no form for PIL, becomes a `ViTImageProcessor` of its settings. SigLIP 2's of flexible
    resolution, which cuts images into patches, becomes one that makes squares of as many patches.

    Args:
        model_name_or_path: Hub id or local folder.
        config: of the model.
        hub: `revision` and `token`.

    Raises:
        OSError, ValueError: when there is none.
    """
    settings, _ = ImageProcessingMixin.get_image_processor_dict(model_name_or_path, **hub)
    if settings.get("image_processor_type") in NEEDS_TORCHVISION:
        return neutral_processor(settings)
    processor = AutoImageProcessor.from_pretrained(model_name_or_path, config=config, **hub)
    if "spatial_shapes" in processor.model_input_names:
        side = math.isqrt(processor.max_num_patches) * processor.patch_size
        return neutral_processor({**processor.to_dict(), "size": {"height": side, "width": side}})
    return processor


def neutral_processor(settings: dict) -> ViTImageProcessorPil:
    """A processor that resizes, crops, rescales and normalises by these settings, and nothing else."""
    return ViTImageProcessorPil(**{name: settings[name] for name in SETTINGS if settings.get(name) is not None})


def at_image_size(processor, side: int):
    """The processor for square images of another side; what it cuts off stays the same share.

    Raises:
        ValueError: when its size cannot be set.
    """
    if side < 1:
        raise ValueError(f"image_size is {side}, expected a positive number of pixels.")
    settings = processor.to_dict()
    before = settings.get("size") or {}
    changes = {"size": dict.fromkeys(before, side)}
    if settings.get("do_center_crop"):
        cropped_to = settings["crop_size"]["height"]
        changes["size"] = {name: round(length * side / cropped_to) for name, length in before.items()}
        changes["crop_size"] = {"height": side, "width": side}
    changed = type(processor).from_dict({**settings, **changes})
    if image_sizes(changed) != ((side, side), (side, side)):
        raise ValueError(
            f"image_size is {side}, but the {type(processor).__name__} of this encoder cannot be set to make squares "
            "of it: leave image_size out."
        )
    return changed
