"""Which images are trained on, which choices are made by, and which are reported."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset, DatasetDict, NamedSplit, concatenate_datasets

from genaf_hf.data.labels import LabelsError
from genaf_hf.errors import UserError
from genaf_hf.values.names import some_of

logger = logging.getLogger(__name__)

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


def choose_splits(raw: Mapping, named: Mapping[str, str | None], known: Mapping[str, str]) -> dict[str, str]:
    """The dataset's name of each role (train, validation, test) that it has a split for.

    Args:
        raw: splits by the dataset's names.
        named: by role, what the user says.
        known: by role, what is known of the dataset; what it has not is passed over.

    Raises:
        UserError: when a named split, or any to train on, is missing.
    """
    chosen = {role: name for role, name in named.items() if name}
    for name in chosen.values():
        if name not in raw:
            raise UserError(f'There is no split "{name}"; the dataset has {", ".join(raw)}.')
    if len(set(chosen.values())) < len(chosen):
        raise UserError(f"One split has several roles: {chosen}; train, validation and test must differ.")
    for role in ("train", "test", "validation"):  # a split known as the one to report is no longer free to choose by
        free = [name for name in (known.get(role), *SPLITS[role]) if name in raw and name not in chosen.values()]
        if role not in chosen and free:
            chosen[role] = free[0]
    if "train" not in chosen:
        raise UserError(
            f"There is no split to train on, or in an audit for attacks to be crafted on, among {', '.join(raw)}; name "
            "one with --train_split."
        )
    if "test" not in chosen and "validation" in chosen and not named["validation"]:
        chosen["test"] = chosen.pop("validation")
    return {role: chosen[role] for role in SPLITS if role in chosen}


def hold_out_missing(splits: DatasetDict, share: float, seed: int) -> DatasetDict:
    """Holds validation and test out of train where they are missing, stratified, by a fixed seed.

    Raises:
        UserError: when the share is no share; `LabelsError` when train is too small for all of its classes.
    """
    splits = DatasetDict(splits)
    for role in ("test", "validation"):
        if role in splits:
            continue
        check_held_out_share(share)
        counts = Counter(splits["train"]["label"])
        size, classes = round(share * len(splits["train"])), len(counts)
        names = splits["train"].features["label"].names
        if single := [names[label] for label, count in sorted(counts.items()) if count < 2]:
            raise LabelsError(
                f"There are too few images of the class {some_of(single)} to hold a {role} split out of train: add "
                f"some, leave the class out, or name a split with --{role}_split."
            )
        if size < classes or len(splits["train"]) - size < classes:
            change = "raise" if size < classes else "lower"
            raise LabelsError(
                f"{len(splits['train'])} images of {classes} classes are too few to hold a {role} split out of; "
                f"name one with --{role}_split, or {change} --held_out_share from {share}."
            )
        hold_out(splits, role, size, seed, words=f"{100 * share:g}%", stratify_by_column="label")
    return splits


def check_held_out_share(share: float) -> None:
    """Refuses what is no share; the `UserError` names it."""
    if not 0 < share < 1:
        raise UserError(f"held_out_share is {share}, expected a share in (0, 1).")


def hold_out_drawn(splits: DatasetDict, size: int, seed: int) -> DatasetDict:
    """Holds validation and test out of train where they are missing, at random: of many classes few images are drawn.

    Raises:
        UserError: when train is too small for that.
    """
    splits = DatasetDict(splits)
    for role in ("test", "validation"):
        if role in splits:
            continue
        if len(splits["train"]) <= size:
            raise UserError(
                f"{len(splits['train'])} images are too few to hold a {role} split of {size} out of; name one with "
                f"--{role}_split, or lower --max_eval_samples."
            )
        hold_out(splits, role, size, seed, words=f"{size} images")
    return splits


def hold_out(splits: DatasetDict, role: str, size: int, seed: int, words: str, **settings) -> None:
    """Moves images out of train into a split of its own name, which says so, for example in a report.

    The name, e.g. `test[10% held out of train by seed 0]`, is one that `datasets` takes for a split's.
    """
    train = splits["train"]
    parts = train.train_test_split(test_size=size, seed=seed, **settings)
    name = NamedSplit(f"{role}[{words} held out of {train.split or 'train'} by seed {seed}]")
    splits["train"], splits[role] = parts["train"], concatenate_datasets([parts["test"]], split=name)
    logger.info("No %s split: %d images held out of train by seed %d", role, len(parts["test"]), seed)


def random_subset(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    """At most `count` images, drawn by a fixed seed; `None` keeps all."""
    if count is None or count >= len(dataset):
        return dataset
    return dataset.shuffle(seed=seed).select(range(count))


def stratified_subset(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    """At most `count` images, with the class shares of the whole, by a fixed seed; `None` keeps all."""
    if count is None or count >= len(dataset):
        return dataset
    return dataset.select(stratified_rows(dataset["label"], count, seed))


def stratified_rows(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """At most `count` rows, with the class shares of the whole, by a fixed seed.

    Raises:
        UserError: for a count below 1.
    """
    if count < 1:
        raise UserError(f"The subset is to have {count} images, expected at least 1.")
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    places = np.empty(len(labels))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        places[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return order[np.argsort(places[order], kind="stable")[:count]]
