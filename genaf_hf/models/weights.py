"""Weights from the files of a stranger."""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_files

from genaf_hf.errors import UserError
from genaf_hf.hub import why_not_loaded
from genaf_hf.models.head import find_head, in_head, name_of
from genaf_hf.models.soundness import kind_and_line

ROOM = 2**20  # weights that an encoder may have beyond its files, for tiny ones
POINTER = b"version https://git-lfs."  # the first bytes of what a clone without Git LFS has instead of a file


def read_weights(
    model_class: type[PreTrainedModel],
    model_name_or_path: str,
    *,
    new_head: bool = False,
    revision: str | None = None,
    token: str | bool | None = None,
    **options,
) -> tuple[PreTrainedModel, dict]:
    """A model by `from_pretrained`, which runs no code of a checkpoint, and reads a pickle by `weights_only` alone.

    Args:
        model_class: one of `transformers`, also of the Auto classes.
        model_name_or_path: Hub id or local folder.
        new_head: whether a head that does not fit the model's gives way to a new one.
        revision, token: of the Hub.
        options: of `from_pretrained`.

    Returns:
        The model, and what `from_pretrained` tells of weights that are missing or do not fit.

    Raises:
        UserError: when they cannot be read, are quantized, or have other shapes or layers than the model.
    """
    hub: dict[str, Any] = {"revision": revision, "token": token}
    try:
        with quiet_transformers():
            model, loading = model_class.from_pretrained(
                model_name_or_path,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # of which the error tells no name
                trust_remote_code=False,
                **options,
                **hub,
            )
            check_not_quantized(model_name_or_path, **hub)
    except UserError:
        raise
    except Exception as error:  # whatever the files make of the packages that read them
        if said := why_not_loaded(error, "model", model_name_or_path, **hub):
            raise UserError(said) from error
        check_no_pointers(weight_files(model_name_or_path, **hub))
        raise UserError(f'The weights of "{model_name_or_path}" cannot be read: {kind_and_line(error)}.') from error
    head = find_head(model) if new_head else None
    own = {name for name, _ in model.named_parameters()}
    if head is not None:
        place = name_of(head, model)
        own = {name for name in own if not in_head(name, place)}
    if wrong := sorted(each for each in loading["mismatched_keys"] if each[0] in own):
        name, found, wanted = wrong[0]
        raise UserError(
            f'"{model_name_or_path}" holds a {name} of shape {tuple(found)}, but its config.json makes one of shape '
            f"{tuple(wanted)}: they do not belong together."
        )
    of_base = {name.removeprefix(f"{model.base_model_prefix}.") for name in own}
    more = of_other_layers(loading["unexpected_keys"], own | of_base)
    fewer = of_other_layers(own & loading["missing_keys"], own - loading["missing_keys"])
    if more or fewer:
        raise UserError(
            f'"{model_name_or_path}" holds weights of {"more" if more else "fewer"} layers than its config.json has, '
            f"for example {'' if more else 'not of '}{(more or fewer)[0]}: they do not belong together."
        )
    return model, loading


def check_fits_weights(model: PreTrainedModel, model_name_or_path: str, **hub) -> None:
    """Refuses a configuration of far more weights than the checkpoint holds, before there is memory for them.

    Args:
        model: of the configuration, on the meta device; its head may be new.
        model_name_or_path: Hub id or local folder.
        hub: `revision` and `token`.

    Raises:
        UserError: names both.
    """
    files = weight_files(model_name_or_path, **hub)
    found = sum(file.stat().st_size for file in files)
    head = find_head(model)
    new = 0 if head is None else sum(each.numel() for each in head.parameters())
    wanted = sum(each.numel() for each in model.parameters()) - new
    if files and wanted > found + ROOM:  # a weight takes a byte or more
        check_no_pointers(files)
        raise UserError(
            f'The config.json of "{model_name_or_path}" is of an encoder with {wanted} weights, but its files hold '
            f"{found} bytes: they do not belong together."
        )


def weight_files(model_name_or_path: str, **hub) -> list[Path]:
    """A checkpoint's files of weights; of one on the Hub, the safetensors."""
    if Path(model_name_or_path).is_dir():
        return [*Path(model_name_or_path).glob("*.safetensors"), *Path(model_name_or_path).glob("*.bin")]
    return safetensors_files(model_name_or_path, **hub)


def safetensors_files(model_name_or_path: str, **hub) -> list[Path]:
    """Those of a checkpoint's safetensors that a model is read from, in one file or several."""
    if file := quietly_cached(model_name_or_path, [SAFE_WEIGHTS_NAME], **hub):
        return file
    index = quietly_cached(model_name_or_path, [SAFE_WEIGHTS_INDEX_NAME], **hub)
    try:
        shards = {str(each) for file in index for each in json.loads(file.read_bytes())["weight_map"].values()}
    except (AttributeError, KeyError, TypeError, ValueError):  # of which loading tells too
        return []
    return quietly_cached(model_name_or_path, sorted(shards), **hub) if shards else []


def quietly_cached(model_name_or_path: str, names: list[str], **hub) -> list[Path]:
    """Those of the files that a checkpoint has, of whose absence loading tells."""
    errors = ("missing_entries", "gated_repo", "connection_errors")
    quietly = {f"_raise_exceptions_for_{each}": False for each in errors}
    return [Path(file) for file in cached_files(model_name_or_path, names, **quietly, **hub) or () if file is not None]


def check_no_pointers(files: Iterable[Path]) -> None:
    """Refuses files of which only the pointers were cloned; the `UserError` names the first one."""
    for file in files:
        with file.open("rb") as content:
            if content.read(len(POINTER)) == POINTER:
                raise UserError(f"{file} is a pointer of Git LFS, not the file itself: fetch it with git lfs pull.")


def check_not_quantized(model_name_or_path: str, **hub) -> None:
    """Refuses weights that were read and are whole numbers, which would be taken for what they stand for.

    Raises:
        UserError: names the first one.
    """
    for file in safetensors_files(model_name_or_path, **hub):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if name.endswith(".weight") and tensors.get_slice(name).get_dtype() in ("I8", "U8"):
                    raise UserError(
                        f'"{model_name_or_path}" holds quantized weights ({name} is of whole numbers), which cannot be '
                        "trained or attacked in full: name the model that it was made from."
                    )


def of_other_layers(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Those of the names of weights that are named like others, by another number."""

    def without_numbers(name: str) -> str:
        return re.sub(r"\d+", "#", name)

    known = set(map(without_numbers, others))
    return sorted(name for name in names if without_numbers(name) in known)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the loading report of `transformers`, which lists every weight of a decoder that is left behind."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def parameter_count(model: nn.Module) -> int:
    """Numbers in all weights of a model, whether they are trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())
