"""Models of timm in the wrapper of `transformers`, which leaves to timm what timm does for itself."""

import copy
import logging
import math
from importlib.util import find_spec
from typing import Any

from PIL.Image import Resampling
from torch import nn

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.families.family import FAMILIES, Family, encoder_part

logger = logging.getLogger(__name__)


def inner(model: nn.Module) -> Any:
    """The model of timm inside of a classifier."""
    return next(module.timm_model for module in model.modules() if hasattr(module, "timm_model"))


def image_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a model is built for; None where it takes any."""
    return getattr(getattr(inner(model), "patch_embed", None), "img_size", None)


def resized(model: Any, size: tuple[int, int]) -> Any:
    """A classifier for images of another height and width, for which timm interpolates.

    Raises:
        UserError: when it cannot, or what it makes of itself is not what its configuration makes.
    """
    before: Any = image_size(model)
    config = copy.deepcopy(model.config)
    settings = encoder_part(config)
    settings.model_args = {**(settings.model_args or {}), "img_size": list(size)}
    try:
        inner(model).set_input_size(img_size=size)
        made = type(model)(config).to(model.dtype)
        made.load_state_dict(model.state_dict())
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f'The "{settings.architecture}" encoder of timm is for images of {before[0]} x {before[1]} pixels, and '
            f"cannot be made for {size[0]} x {size[1]} ({first_line(error)}): use the size that it was published with."
        ) from error
    logger.info("Position embeddings interpolated for images of %d x %d pixels, by timm", *size)
    return made.train(model.training)


def processor_settings(pretrained_cfg: dict) -> dict:
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


def check_installed(model_name_or_path: str, architecture: str) -> None:
    """Refuses a model of timm that the installed release, or none, cannot make.

    Raises:
        UserError: says what to install.
    """
    if not (find_spec("timm") and find_spec("torchvision")):
        raise UserError(
            f'"{model_name_or_path}" is an encoder of timm, which is not installed: pip install "genaf_hf[timm]", with '
            "the release of torchvision that belongs to the installed torch."
        )
    import timm

    if not timm.is_model(architecture):
        raise UserError(
            f'"{model_name_or_path}" is a "{architecture}" of timm, which timm {timm.__version__} does not know: '
            "install a newer one."
        )


FAMILIES.add(
    "timm_wrapper",
    Family(
        classifier="timm_wrapper",  # without its way to make images, which the processor beside it tells
        head=lambda model: inner(model).get_classifier(),
        stem=lambda model: next(inner(model).children()),  # what timm tells as hidden states are copies
        image_size=image_size,
        resized=resized,
    ),
)
