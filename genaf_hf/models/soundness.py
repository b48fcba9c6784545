"""What a checkpoint of a stranger has to be before anything is made of it, and after it was loaded."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import CONFIG_MAPPING, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel

from genaf_hf.errors import UserError, first_line
from genaf_hf.hub import is_hub_id
from genaf_hf.models.pixel_model import evaluating
from genaf_hf.values.names import nearest

DEEPEST = 32  # how deep a configuration may be nested
LARGEST = 10**7  # of its whole numbers, which all count or measure something
MOST = 10**5  # of what is made one by one
MADE_ONE_BY_ONE = ("blocks", "classes", "depth", "depths", "labels", "layers", "stages")
LENGTHS = (*MADE_ONE_BY_ONE, "channels", "dim", "heads", "size", "sizes")
NEVER_ZERO = ("depth", "depths", "hidden_size", "num_attention_heads", "num_hidden_layers", "num_layers", "patch_size")
MOST_MODULES = 10_000  # the deepest encoders have half of that
MOST_PARAMETERS = 10**10  # 40 GB in single precision
SETTINGS_INSIDE = ("_args", "_cfg", "_config", "_kwargs")  # ends of names; other objects hold classes and the like
FILES_READ = (".bin", ".json", ".safetensors")
QUANTIZED = ("quantization_config", "compression_config")


def check_place(model_name_or_path: str) -> None:
    """Refuses what can only be a folder and is none, before the Hub is asked for it.

    Raises:
        UserError: names the folder that is nearest.
    """
    path = Path(model_name_or_path)
    if path.is_dir():
        links = [each for each in sorted(path.glob("[!.]*")) if each.suffix in FILES_READ and each.is_symlink()]
        if broken := next((each for each in links if not each.exists()), None):
            raise UserError(f"{broken} is a link to something that is not there: put the file itself in its place.")
        return
    if path.exists():
        raise UserError(f'"{model_name_or_path}" is a file, expected the folder of a model.')
    if not is_hub_id(model_name_or_path):
        raise UserError(
            f'There is no folder "{model_name_or_path}"{nearest(path)}, and a model on the Hub has a name like '
            "namespace/name: correct the path or the name."
        )


def check_settings(settings: object, model_name_or_path: str) -> None:
    """Refuses a configuration by its bare values, before any object is made of it.

    Raises:
        UserError: when it is nested too deep or holds absurd numbers; for quantized weights; when the model is none
            that `transformers` has, but one of code beside it, which is not run.
    """
    if not isinstance(settings, dict):
        raise UserError(
            f'The config.json of "{model_name_or_path}" holds a {type(settings).__name__}, expected an object.'
        )
    model_type = settings.get("model_type")
    for name, value in values(settings, f'the config.json of "{model_name_or_path}"'):
        if name in QUANTIZED and value:
            raise UserError(
                f'"{model_name_or_path}" holds quantized weights ({name} in its config.json), which cannot be trained '
                "or attacked in full: name the model that it was made from."
            )
    for name, value in values(of_its_family(settings), "it"):
        if expected := expected_instead(name, value):
            raise UserError(
                f'{name} is {value} in the config.json of "{model_name_or_path}", expected {expected}: choose another '
                "model, or mend it."
            )
    if settings.get("auto_map") and not (isinstance(model_type, str) and model_type in CONFIG_MAPPING):
        raise UserError(
            f'"{model_name_or_path}" is a "{model_type}", for which transformers would run code from its repository, '
            "and that is never run here: choose an encoder of a family that transformers has itself."
        )


def of_its_family(settings: dict) -> dict:
    """A configuration without what its family does not read, for example seeds, or how many images there were."""
    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return settings
    family = CONFIG_MAPPING[model_type]
    read = {*(each.name for each in fields(family)), *family.attribute_map, "num_labels"}
    return {
        name: value
        for name, value in settings.items()
        if name in read or name.endswith(SETTINGS_INSIDE) or not isinstance(value, (int, dict))
    }


def expected_instead(name: str, value: object) -> str | None:
    """What a setting of a configuration would have to be by its name; None where nothing is wrong with it."""
    if name in ("dtype", "torch_dtype") and value is not None:
        known = isinstance(value, str) and isinstance(getattr(torch, value.removeprefix("torch."), None), torch.dtype)
        return None if known else "the name of a type of torch"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if "drop" in name and not 0 <= value < 1:
        return "a share in [0, 1)"
    kind = name.rpartition("_")[2]
    least = (1 if name in NEVER_ZERO else 0) if kind in LENGTHS else -LARGEST
    most = MOST if kind in MADE_ONE_BY_ONE else LARGEST
    return f"{least} to {most}" if isinstance(value, int) and not least <= value <= most else None


def values(settings: object, place: str, name: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Names and values in settings, those inside of others too, where lists give their items by one name.

    Args:
        settings: as they were read from a file.
        place: what the file is called.
        name: of the settings inside of others.
        depth: at which they are there.

    Raises:
        UserError: when it is nested too deep.
    """
    if depth > DEEPEST:
        raise UserError(f"{place} is nested more than {DEEPEST} deep, expected no more than a model needs.")
    yield name, settings
    if isinstance(settings, dict):
        for key, value in settings.items():
            own = depth == 0 or name.endswith(SETTINGS_INSIDE)
            yield from values(value, place, str(key) if own else name, depth + 1)
    elif isinstance(settings, list):
        for value in settings:
            yield from values(value, place, name, depth + 1)


def on_meta(
    config: PreTrainedConfig, auto_class: type[PreTrainedModel] = AutoModelForImageClassification
) -> PreTrainedModel:
    """The model of a configuration without memory for its weights.

    Raises:
        UserError: when none can be made, or none that a machine could hold.
    """
    parameters = modules = 0

    def count_parameter(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters
        parameters += 0 if parameter is None else parameter.numel()
        if parameters > MOST_PARAMETERS:
            raise TooLargeError(f"more than {MOST_PARAMETERS:,} parameters")

    def count_module(module: nn.Module, name: str, part: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise TooLargeError(f"more than {MOST_MODULES:,} modules")

    hooks = [
        register_module_parameter_registration_hook(count_parameter),
        register_module_module_registration_hook(count_module),
    ]
    try:
        with torch.device("meta"):
            model = auto_class.from_config(config, trust_remote_code=False)
    except Exception as error:  # whatever the numbers of a stranger make of the modules
        raise UserError(
            f'No "{config.model_type}" can be made of this config.json ({kind_and_line(error)}): choose another model.'
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    empty = [name for name, each in model.named_modules() if getattr(each, "weight", None) is not None]
    if empty := [name for name in empty if not model.get_submodule(name).weight.numel()]:
        raise UserError(f'The config.json makes a "{config.model_type}" of no size: its {empty[0]} has no weights.')
    return model


class TooLargeError(Exception):
    """Stops the making of a model that nobody could hold."""


def check_finite_weights(model: nn.Module, model_name_or_path: str) -> None:
    """Refuses a model with weights or running statistics that are no numbers, which would look robust.

    Raises:
        UserError: names the first one.
    """
    for name, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise UserError(
                f'"{model_name_or_path}" holds NaN or infinite values in {name}, expected finite ones: it is broken, '
                "load another checkpoint."
            )


def check_answers(model: PreTrainedModel, pixel_values: Tensor, model_name_or_path: str) -> None:
    """Refuses a model that does not answer an image by one number for each of its classes.

    Args:
        model: an image classifier.
        pixel_values: of the image, (1, 3, h, w).
        model_name_or_path: its name.

    Raises:
        UserError: when it does.
    """
    try:
        with evaluating(model), torch.no_grad():
            logits = model(pixel_values=pixel_values).logits
    except Exception as error:  # whatever the settings of a stranger make of the modules
        size = " x ".join(map(str, pixel_values.shape[-2:]))
        raise UserError(
            f'"{model_name_or_path}" cannot answer an image of {size} pixels ({kind_and_line(error)}): its '
            "config.json, its weights and its image processor do not belong together."
        ) from error
    classes = len(model.config.id2label)
    if logits.shape != (1, classes):
        raise UserError(
            f'"{model_name_or_path}" answers an image by logits of shape {tuple(logits.shape)}, expected one for each '
            f"of its {classes} classes: its num_labels and its id2label do not belong together."
        )
    if not logits.isfinite().all():
        raise UserError(
            f'"{model_name_or_path}" gives logits that are NaN or infinite for a plain image, although its weights are '
            "finite: it is broken, load another checkpoint."
        )


def kind_and_line(error: BaseException) -> str:
    """What an error says, after its kind where that is none that is written for users."""
    said = first_line(error)
    return said if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {said}"
