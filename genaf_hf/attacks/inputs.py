"""What attacks are called with: whatever its type, memory layout and the modes of the caller, it means the same."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor, nn

from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import ROUNDING, PixelModel
from genaf_hf.values.device import are_trusted
from genaf_hf.values.numbers import KINDS, alternatives, check_kind, class_ids, is_whole, plain

Encoders = PixelModel | Sequence[PixelModel]  # one, or several that are attacked at once
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
LARGEST_SEED = 2**62


def taken(given: Mapping[str, object], hints: Mapping[str, object]) -> dict:
    """The arguments of an attack by name, checked: plain numbers, class ids, images as the model takes them.

    Args:
        given: by name; what is called model, encoder, images, labels, seeds or seed is known by its name.
        hints: the kinds of the settings.

    Raises:
        UserError: for what no attack can work with; names it.
    """
    found: dict[str, Any] = {n: value if isinstance(value, Tensor) else plain(value) for n, value in given.items()}
    models = several(found.get("model", found.get("encoder")))
    for model in models:
        check_gradients(model)
    if "images" in found:
        images = found["images"] = images_for(models[0], found["images"])
        if "labels" in found:
            found["labels"] = class_ids(outside_inference(found["labels"]), len(images)).to(images.device)
        if found.get("seeds") is not None:
            found["seeds"] = checked_seeds(found["seeds"], len(images))
    for name, value in found.items():
        if name in hints and name not in ("model", "encoder", "images", "labels", "seeds"):
            found[name] = checked_setting(name, value, hints[name])
    return found


def checked_setting(name: str, value: Any, hint: object):
    """A setting as a plain value.

    Raises:
        UserError: when it is of another kind than the attack takes, or a seed that is none.
    """
    value, kinds = plain(value), alternatives(hint)
    if get_origin(hint) is Literal:
        if value not in (words := get_args(hint)):
            raise UserError(f'{name} is "{value}", expected one of {", ".join(words)}.')
    elif {*kinds} <= {*KINDS}:
        check_kind(name, value, kinds)
    if name == "seed" and value is not None and abs(value) > LARGEST_SEED:
        raise UserError(f"seed is {value}, expected a whole number of at most 62 bits.")
    return value


def check_images(images: Tensor) -> None:
    """Refuses what is not a batch of images in [0, 1], but for rounding; the `UserError` names what was found."""
    if not isinstance(images, Tensor) or images.ndim != 4 or len(images) == 0 or images.dtype not in FLOATS:
        found = (
            f"{images.dtype} of shape {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        )
        raise UserError(f"images are {found}, expected floats (n, 3, h, w).")
    if are_trusted():
        return
    low, high = images.amin().item(), images.amax().item()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise UserError(f"images span [{low:.9g}, {high:.9g}], expected finite values in [0, 1].")


def images_for(model: nn.Module | None, images: Tensor) -> Tensor:
    """Images of the model's precision, at least float32, row by row in memory, without a history and in [0, 1].

    Raises:
        UserError: when they are none.
    """
    check_images(images)
    dtypes = [each.dtype for each in model.parameters()] if isinstance(model, nn.Module) else []
    double = next((dtype for dtype in dtypes if dtype in FLOATS), images.dtype) == torch.float64
    images = outside_inference(images).detach().to(torch.float64 if double else torch.float32)
    return images.contiguous().clamp(0, 1)


def outside_inference(value):
    """A copy of a tensor that `torch.inference_mode` made, which gradients can be taken by; else the value itself."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def checked_seeds(seeds: Sequence[int], count: int) -> list[int]:
    """One seed per image, as plain numbers.

    Raises:
        UserError: when they are not.
    """
    if not hasattr(seeds, "__iter__"):
        raise UserError(f"seeds is {seeds}, expected {count} whole numbers, one for each image.")
    seeds = [plain(seed) for seed in seeds]
    if len(seeds) != count:
        raise UserError(f"There are {len(seeds)} seeds for {count} images, expected one for each.")
    if odd := [seed for seed in seeds if not is_whole(seed) or abs(seed) > LARGEST_SEED]:
        raise UserError(f"seeds hold {odd[0]}, expected whole numbers of at most 62 bits.")
    return seeds


def several(model: Any) -> tuple:
    """The models that an attack was called with, one or several."""
    return tuple(model) if isinstance(model, list | tuple) else (model,)


def check_models(given: object, hint: object) -> None:
    """Refuses what an attack cannot be run on.

    Args:
        given: a model, or several at once.
        hint: the kind that it takes.

    Raises:
        UserError: says what is expected.
    """
    models = several(given)
    if not models or (len(models) > 1 and hint is not Encoders):
        raise UserError(f"There are {len(models)} models to attack at once, expected one, which this attack knows.")
    for model in models:
        check_model(model, hint)
    sizes = {model.image_size for model in models} if len(models) > 1 else set()
    if len(sizes) > 1:
        found = " and of ".join(f"{height} x {width}" for height, width in sorted(sizes))
        raise UserError(
            f"The encoders take images of {found} pixels, expected one size: one perturbation has to fit them all."
        )


def check_model(model: object, hint: object) -> None:
    """What `check_models` refuses of one of them."""
    if not isinstance(model, nn.Module):
        raise UserError(f"The model is a {type(model).__name__}, expected a torch.nn.Module.")
    if hint in (PixelModel, Encoders) and not hasattr(model, "hidden_states"):
        raise UserError(
            f"The model is a {type(model).__name__}, which tells no features: expected PixelModel(model, processor)."
        )


def check_gradients(model: nn.Module) -> None:
    """Refuses a model that was made where no gradients can be; the `UserError` says how to mend it."""
    if any(each.is_inference() for each in (*model.parameters(), *model.buffers())):
        raise UserError("The model was made inside torch.inference_mode, which rules gradients out: load it outside.")


@contextmanager
def autocast_left() -> Iterator[None]:
    """Outside of the caller's autocast, on every device.

    A model that is to compute in half precision enters autocast itself, as a `PixelModel` with `autocast` does and one
    that Accelerate has prepared, or has such weights.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    with ExitStack() as left:
        for device in {"cpu", accelerator.type if accelerator else "cpu"}:
            left.enter_context(torch.autocast(device, enabled=False))
        yield


@contextmanager
def callers_modes_left() -> Iterator[None]:
    """Gradients and float32, whatever the caller's modes."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad(), autocast_left():
            yield
    finally:
        torch.set_default_dtype(default)
