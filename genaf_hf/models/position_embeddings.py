"""Encoders at another image size than they were trained at."""

import copy
import logging

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.families import encoder_part, family_in

logger = logging.getLogger(__name__)

ASKED = 2  # images at once, as an encoder may join those of a batch
SPECIAL_DISTANCES = 3  # of a relative position bias: class token to patch, patch to class token, class token to itself


def with_image_size(model: PreTrainedModel, size: tuple[int, int], **options) -> PreTrainedModel:
    """The model for images of another size, by position embeddings interpolated as the encoder itself does it.

    A model without position embeddings, or one that interpolates them by itself, as DINOv2 does, is given back as it
    is. Weights other than the position embeddings stay as they are.

    Args:
        model: any image classifier or encoder of `transformers`.
        size: height and width of the images.
        options: that it was made with beside its configuration, such as `add_pooling_layer`.

    Raises:
        UserError: when the images are no squares, smaller than a patch, a weight cannot be interpolated, or a model
            without position embeddings does not take images of this size.
    """
    before, resized = built_size(model, size), family_in(model).resized
    if size == before:
        if resized is not None:
            outputs_on_black(model, size)  # one that is built for no size may yet take only some
        return model
    if resized is not None:
        return resized(model, size)
    if weight_shapes(model, 2 * before[0], options) == weight_shapes(model, before[0], options):
        outputs_on_black(model, size)
        return model
    if not hasattr(encoder_part(model.config), "patch_size"):
        raise not_interpolated(model, "position embeddings", size[0])
    patch = as_pair(encoder_part(model.config).patch_size)[0]
    if takes(model, size) and takes(model, (size[0] + patch, size[1] + 2 * patch)):
        return model
    if size[0] != size[1] or size[0] < patch:
        raise UserError(
            f"The image processor makes images of {size[0]} x {size[1]} pixels, expected squares of at least one patch "
            f"of {patch} pixels, because the encoder has position embeddings."
        )
    old, new, weights = before[0] // patch, size[0] // patch, model.state_dict()
    with torch.no_grad():
        for name, shape in weight_shapes(model, size[0], options).items():
            if weights[name].shape != shape:
                weights[name] = interpolated(model, name, shape, old=old, new=new, side=size[0])
    config = config_at(model, size[0])
    resized = type(model)._from_config(config, dtype=model.dtype, **options)
    resized.load_state_dict(weights)
    logger.info("Position embeddings interpolated from %d x %d to %d x %d patches", old, old, new, new)
    return resized.train(model.training)


def built_size(model: PreTrainedModel, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the images that a model is built for, the default where it takes any."""
    size = family_in(model).image_size(model)
    return default if size is None else as_pair(size)


def outputs_on_black(model: PreTrainedModel, size: tuple[int, int]):
    """What a model in eval mode gives for two black images.

    Raises:
        UserError: when it does not take images of this size.
    """
    try:
        with torch.no_grad():
            return model(torch.zeros(ASKED, 3, *size))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f'The "{encoder_part(model.config).model_type}" encoder does not take an image of {size[0]} x {size[1]} '
            f"pixels ({first_line(error)}): choose another image size or encoder."
        ) from error


def takes(model: PreTrainedModel, size: tuple[int, int]) -> bool:
    """Whether a model in eval mode takes images of this size."""
    try:
        outputs_on_black(model, size)
    except UserError:
        return False
    return True


def config_at(model: PreTrainedModel, side: int) -> PreTrainedConfig:
    """A copy of a model's configuration for square images."""
    config = copy.deepcopy(model.config)
    part = encoder_part(config)
    of_pair = isinstance(part.image_size, list | tuple)
    part.image_size = type(part.image_size)((side, side)) if of_pair else side
    return config


def weight_shapes(model: PreTrainedModel, side: int, options: dict) -> dict[str, torch.Size]:
    """The shapes of a model's weights for square images; options as `with_image_size` has them."""
    with torch.device("meta"):
        sized = type(model)(config_at(model, side), **options)
    return {name: tensor.shape for name, tensor in sized.state_dict().items()}


def interpolated(model: PreTrainedModel, name: str, shape: torch.Size, *, old: int, new: int, side: int) -> Tensor:
    """A weight that depends on the image size, for images of another side.

    Args:
        model: at its old image size.
        name: of the weight.
        shape: that it is to have.
        old, new: side of the grid of patches.
        side: of the new images.

    Raises:
        UserError: when the encoder cannot interpolate it.
    """
    path = name.removesuffix(".weight").split(".")[:-1]  # a parameter's or an nn.Embedding's module
    module = model.get_submodule(".".join(path))
    if hasattr(module, "interpolate_pos_encoding"):
        return module.interpolate_pos_encoding(torch.empty(1, *shape[-2:]), side, side).view(shape)
    if name.endswith("relative_position_bias_table"):
        table = model.get_parameter(name)
        distances, special = table.split([len(table) - SPECIAL_DISTANCES, SPECIAL_DISTANCES])
        grid = distances.T.reshape(1, -1, 2 * old - 1, 2 * old - 1)
        grid = F.interpolate(grid, size=(2 * new - 1, 2 * new - 1), mode="bilinear")
        return torch.cat([grid[0].flatten(1).T, special])
    raise not_interpolated(model, name, side)


def not_interpolated(model: PreTrainedModel, name: str, side: int) -> UserError:
    """What is said of a weight that an encoder cannot interpolate to images of another side."""
    return UserError(
        f"The encoder is for images of another size than {side} x {side} pixels, and {type(model).__name__} cannot "
        f"interpolate its {name}: use the size and the processor that it was published with."
    )


def as_pair(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])
