"""Which class of a model is which of a dataset, by their names."""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from genaf_hf.errors import UserError
from genaf_hf.values.names import some_of

logger = logging.getLogger(__name__)

NAMED = 5  # classes that a sentence names


def match_classes(model_labels: Sequence[str], dataset_labels: Sequence[str]) -> tuple[list[int], str]:
    """The model's class id of each of the dataset's, and what was assumed to find them, empty where names are the same.

    The same name decides, then one that differs in case, spaces, hyphens and underscores, then a list of synonyms
    ("tench, Tinca tinca") that shares one. Where this leaves several classes for a name, or one side has numbers in
    place of names, the order decides, if there are as many classes and all other names agree. What is assumed is said.

    Raises:
        UserError: when the model does not know a name, or has several classes of it; when it names none, and the
            dataset's are numbers in another order than theirs.
    """
    ours, theirs = (list(map(str, labels)) for labels in (model_labels, dataset_labels))
    as_many, in_order = len(ours) == len(theirs), list(range(len(theirs)))
    if as_many and all(label == f"LABEL_{i}" for i, label in enumerate(ours)):
        check_ascending(theirs)
        assumed = "The model does not name its classes: they are taken in the order of the dataset's."
        logger.warning(assumed)
        return in_order, assumed
    candidates = by_closest_name(ours, theirs)
    if len({*map(tuple, candidates)}) == len(theirs) and all(len(found) == 1 for found in candidates):
        ids, how = [i for [i] in candidates], "Some names are spelt in another way, or are one of several synonyms"
    elif as_many and agree_by_order(ours, theirs, candidates):
        ids, how = in_order, "Several classes have one name and are matched by their order, as all other names agree"
    elif as_many and sorted(map(number, theirs)) == in_order:
        ids, how = list(map(number, theirs)), "The dataset's numbers are taken for the model's class ids"
    elif as_many and list(map(number, ours)) == in_order:
        ids, how = in_order, "The model has numbers for names and is taken in the order of the dataset's classes"
    else:
        raise UserError(why_not(ours, theirs))
    if assumed := matched_otherwise(how, ours, theirs, ids):
        logger.warning(assumed)
    return ids, assumed


def check_ascending(labels: Sequence[str]) -> None:
    """Refuses numbers for names that are sorted as words are; the `UserError` names some.

    A model that names no class was trained by their order as words, as folders are sorted, or by that of the numbers.
    """
    numbers = [number(label.removeprefix("LABEL_")) for label in labels]
    if min(numbers) >= 0 and numbers != sorted(numbers):
        raise UserError(
            f"The model does not name its classes, and the dataset's are {', '.join(labels[:NAMED])}, ..., "
            "of which nobody knows whether it was trained by this order: name its classes in id2label of its "
            "config.json."
        )


def by_closest_name(ours: Sequence[str], theirs: Sequence[str]) -> list[list[int]]:
    """For each of their labels the ids of ours with the same name, else with nearly the same, else with a synonym."""
    found = [candidates_by(names, ours, theirs) for names in (itself, spelling, synonyms)]
    return [next(filter(None, levels), []) for levels in zip(*found, strict=True)]


def candidates_by(names: Callable[[str], set[str]], ours: Sequence[str], theirs: Sequence[str]) -> list[list[int]]:
    """For each of their labels the ids of ours that share one of its names."""
    known = {}
    for i, label in enumerate(ours):
        for name in names(label):
            known.setdefault(name, []).append(i)
    return [sorted({i for name in names(label) for i in known.get(name, ())}) for label in theirs]


def agree_by_order(ours: Sequence[str], theirs: Sequence[str], candidates: Sequence[Sequence[int]]) -> bool:
    """Whether all labels share a name with the one at their place, but for those of names that several classes have,
    of which one is a part of the other (`crane` and `crane2`).
    """
    agreeing = [i in found for i, found in enumerate(candidates)]
    repeated = [len(found) > 1 for found in candidates_by(synonyms, ours, ours)]
    return any(agreeing) and all(
        agrees or (twice and is_part(normal(mine), normal(other)))
        for agrees, twice, mine, other in zip(agreeing, repeated, ours, theirs, strict=True)
    )


def is_part(one: str, other: str) -> bool:
    return one in other or other in one


def why_not(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """The sentence about the first name that has not exactly one class."""
    mine, same = (candidates_by(spelling, labels, theirs) for labels in (ours, theirs))
    odd = next(
        (label for label, one, other in zip(theirs, mine, same, strict=True) if (len(one), len(other)) != (1, 1)),
        theirs[0],
    )
    return (
        f'The model has not exactly one class for "{odd}" of the dataset; it has {some_of(ours)}. Name another '
        "--label_column, or a dataset with the model's classes."
    )


def matched_otherwise(how: str, ours: Sequence[str], theirs: Sequence[str], ids: Iterable[int]) -> str:
    """The sentence that names the classes that were matched without having the same name; empty for none."""
    pairs = [f'"{label}" is {i}, "{ours[i]}"' for label, i in zip(theirs, ids, strict=True) if label != ours[i]]
    more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
    return f"{how}: {'; '.join(pairs[:NAMED])}{more}." if pairs else ""


def normal(label: str) -> str:
    """A name without what is only spelling."""
    return " ".join(re.sub("[_-]", " ", unicodedata.normalize("NFKC", label).casefold()).split())


def itself(label: str) -> set[str]:
    return {label}


def spelling(label: str) -> set[str]:
    return {normal(label)}


def synonyms(label: str) -> set[str]:
    """The names of a list of synonyms."""
    return {normal(label), *filter(None, map(normal, label.split(",")))}


def number(label: str) -> int:
    """The number that a label is; -1 for any other."""
    return int(label) if re.fullmatch("[0-9]{1,9}", label) else -1
