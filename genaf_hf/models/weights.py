"""Weights from the files of a stranger."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from genaf_hf.errors import UserError
from genaf_hf.hub import why_not_loaded
from genaf_hf.models.head import find_head, in_head, name_of
from genaf_hf.models.soundness import check_no_pointers, check_not_quantized, kind_and_line, weight_files


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
        UserError: when they cannot be read, or are quantized, of other shapes or of more layers than the model.
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
    if loading["mismatched_keys"] and not new_head:
        name, found, wanted = min(loading["mismatched_keys"])
        raise UserError(
            f'"{model_name_or_path}" holds a {name} of shape {tuple(found)}, but its config.json makes one of shape '
            f"{tuple(wanted)}: they do not belong together."
        )
    if left := left_layers(model, loading["unexpected_keys"], new_head):
        raise UserError(
            f'"{model_name_or_path}" holds weights of more layers than its config.json has, for example {left[0]}: '
            "they do not belong together."
        )
    return model, loading


def left_layers(model: PreTrainedModel, unexpected: Iterable[str], new_head: bool) -> list[str]:
    """Those of the weights that a model has no place for which are named like its own, by another number.

    Where it gets a new head, the layers of the old one are none of them.
    """
    head = find_head(model) if new_head else None
    left_out = "" if head is None else name_of(head, model)

    def without_numbers(name: str) -> str:
        return re.sub(r"\d+", "#", name)

    own = {without_numbers(name) for name, _ in model.named_parameters() if not (head and in_head(name, left_out))}
    own |= {name.removeprefix(f"{model.base_model_prefix}.") for name in own}
    return sorted(name for name in unexpected if without_numbers(name) in own)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the loading report of `transformers`, which lists every weight of a decoder that is left behind."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
