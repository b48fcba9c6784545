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
