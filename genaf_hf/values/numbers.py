"""Numbers and class ids as numpy, torch, JSON and words give them, taken for what they are."""

import math
from collections.abc import Sequence
from dataclasses import fields
from os import PathLike, fspath
from types import UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

import torch
from torch import Tensor

from genaf_hf.errors import UserError
from genaf_hf.values.device import are_trusted

UNIONS = (Union, UnionType)
LARGEST_EPS = {"linf": 1.0, "l2": math.inf}
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a text", type(None): "None"}


def plain(value):
    """Scalars of numpy and tensors without dimensions as Python's own, paths as texts; inside of lists too."""
    if isinstance(value, PathLike):
        return fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    if type(value) is dict:
        return {name: plain(each) for name, each in value.items()}
    return value


def make_plain(settings) -> None:
    """Makes the fields of a dataclass plain, in place."""
    for each in fields(settings):
        object.__setattr__(settings, each.name, plain(getattr(settings, each.name)))  # also of a frozen one


def is_number(value: object) -> TypeGuard[float]:
    """Whether this is a finite number; True and False are none."""
    return (is_whole(value) and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value))


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_kind(name: str, value: object, kinds: Sequence[type]) -> None:
    """Refuses a setting of another kind; where a number is expected, a whole one will do, True and False will not.

    Raises:
        UserError: names the setting, its value and what was expected.
    """
    number = float in kinds and is_number(value)
    if not number and type(value) not in {*kinds} - {float} and not (str in kinds and isinstance(value, str)):
        shown = f'"{value}"' if isinstance(value, str) else value
        raise UserError(f"{name} is {shown}, expected {' or '.join(KINDS[kind] for kind in kinds)}.")


def check_positive(name: str, value: object, example: float) -> None:
    """Refuses what is no positive number; the `UserError` names it and an example."""
    if not is_number(value) or value <= 0:
        raise UserError(f"{name} is {value}, expected a positive number, for example {example:g}.")


def check_share(name: str, value: object) -> None:
    """Refuses what is no number in [0, 1]; the `UserError` names it."""
    if not is_number(value) or not 0 <= value <= 1:
        raise UserError(f"{name} is {value}, expected a share in [0, 1].")


def class_ids(labels: Tensor | Sequence[int], count: int) -> Tensor:
    """Labels of any integer type as int64, (count,).

    Raises:
        UserError: when they are no whole numbers from 0 on, or not one for each image.
    """
    try:
        labels = torch.as_tensor(labels)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"labels are {type(labels).__name__}, expected the class id of each image.") from error
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.shape != (count,) or not whole:
        raise UserError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}, expected whole numbers of shape ({count},), "
            "the class id of each image."
        )
    labels = labels.long()
    if count and not are_trusted() and labels.amin() < 0:
        raise UserError(f"labels reach down to {labels.amin().item()}, expected class ids from 0 on.")
    return labels


def alternatives(hint: Any) -> tuple:
    """The types that a union allows; of any other type itself."""
    return get_args(hint) if get_origin(hint) in UNIONS else (hint,)


def kinds_of(hint: Any) -> set[type]:
    """The classes that values of a type may have: of `list[int] | None` a list and None's, of a Literal its words'."""
    each_of = alternatives(hint)
    words = {type(word) for each in each_of if get_origin(each) is Literal for word in get_args(each)}
    return words | {get_origin(each) or each for each in each_of if get_origin(each) is not Literal}


def number(word: str) -> float:
    """A number, also as a fraction such as 8/255.

    Raises:
        UserError: for other words; the sentence begins with the word.
    """
    above, slash, below = word.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if math.isnan(value):
        raise UserError(f'"{word}", expected a number such as 0.03 or 8/255.')
    return value


def eps_text(eps: float) -> str:
    """Eps as the field writes it: `8/255` where it is a whole number of 8-bit levels below 255, else `0.31`."""
    levels = round(eps * 255)
    return f"{levels}/255" if 0 < levels < 255 and abs(eps * 255 - levels) < 1e-3 else f"{eps:.4g}"
