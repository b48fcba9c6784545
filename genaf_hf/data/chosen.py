"""Which splits and columns of a dataset are read."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from datasets import ClassLabel, Dataset, Image, IterableDataset

from genaf_hf.data.known_datasets import KnownDataset
from genaf_hf.data.labels import LabelsError, has_no_label
from genaf_hf.data.pixel_values import holds_images
from genaf_hf.data.splits import SPLITS, choose_splits
from genaf_hf.errors import UserError
from genaf_hf.values.names import some_of, told

logger = logging.getLogger(__name__)

OF_SPLITS = ("split", "fold", "subset", "set")  # columns that may say of images which split they are of
LABELS = ("label", "labels", "class", "target")  # what columns of labels are called


class Chosen(NamedTuple):
    """What is read of a dataset."""

    splits: dict[str, Dataset | IterableDataset]  # by role: train, validation, test
    names: dict[str, str]  # the dataset's names of these, by role
    columns: dict[str, str]  # the dataset's names of the columns image and label
    where: dict[str, str]  # words for each split, by role


def choose(
    name_or_path: str,
    raw: Mapping[str, Dataset | IterableDataset],
    named: Mapping[str, str | None],
    columns: Mapping[str, str | None],
    known: KnownDataset,
    *,
    streamed: bool,
) -> Chosen:
    """The splits and columns that the user names, that are known, or that alone fit.

    Where no split is named, those without a label are left out, unless they are streamed and cannot be looked into.

    Args:
        name_or_path, raw, known: of the dataset.
        named: the user's names of splits, by role.
        columns: the user's names of the columns `image` and `label`.
        streamed: whether the splits are streams.

    Raises:
        UserError: for missing or ambiguous splits and columns, and splits whose labels mean different things.
    """
    roles = choose_splits(raw, named, known.splits)
    train = raw[roles["train"]]
    columns = {
        "image": choose_column(train, columns["image"], known.image_column, "image"),
        "label": choose_column(train, columns["label"], known.label_column, "label"),
    }
    if unread := [name for name in train.column_names if name.lower() in OF_SPLITS and name not in columns.values()]:
        logger.warning(
            'The column %s of "%s" is not read: put the images of each split into a folder', unread[0], name_or_path
        )
    if not (streamed or named["validation"] or named["test"]):
        raw = without_unlabelled(raw, roles, columns["label"])
        roles = choose_splits(raw, named, known.splits)
    if roles.get("test") in {*SPLITS["validation"]} - {named["test"], known.splits.get("test")}:
        said = "The split %s is the one to report on; name it with --validation_split to choose by it"
        logger.info(said, roles["test"])
    if "test" not in roles and (unused := [split for split in raw if split not in roles.values()]):
        words = (some_of(unused), name_or_path)
        logger.warning('The split %s of "%s" is not used: if it is to be reported, name it with --test_split', *words)
    where = {role: f'split "{split}" of "{name_or_path}"' for role, split in roles.items()}
    splits = {role: raw[split] for role, split in roles.items()}
    check_columns(splits, columns["image"], columns["label"], where)
    return Chosen(splits, roles, columns, where)


def without_unlabelled(raw: Mapping[str, Dataset], chosen: Mapping[str, str], label_column: str) -> dict[str, Dataset]:
    """The splits without those of which no image has a label, which is logged; never without the one to train on.

    Args:
        raw: by the dataset's names.
        chosen: the dataset's names by role.
        label_column: of the labels.
    """
    unlabelled = [
        split
        for role, split in chosen.items()
        if role != "train" and label_column in raw[split].column_names and len(raw[split])
        if has_no_label(raw[split][label_column])
    ]
    if unlabelled:
        logger.warning("No image of the split %s has a label: it is left out", some_of(unlabelled))
    return {split: dataset for split, dataset in raw.items() if split not in unlabelled}


def choose_column(dataset: Dataset | IterableDataset, named: str | None, known: str | None, kind: str) -> str:
    """The one column of images or labels: as the user says, as it is known, or the only one that fits.

    One that has the type fits, and beside columns of other names, such as `mask`, one that has the usual name alone.

    Raises:
        UserError: when the named column is missing, or none or several fit; of labels, `LabelsError` for the latter.
    """
    columns = dataset.column_names
    if columns is None:  # as of tables of text, which tell it only when they are read
        raise UserError("What is streamed does not tell its columns before it is read: set streaming to False.")
    if named is not None and named not in columns:
        raise UserError(f'There is no column "{named}"; the dataset has {told(", ".join(columns))}.')
    if named is not None or known in columns:
        return named or known
    feature, usual = {"image": (Image, ("image", "images")), "label": (ClassLabel, LABELS)}[kind]
    encoded = [name for name in columns if kind == "image" and holds_images(dataset.features[name])]
    fitting = [name for name in columns if isinstance(dataset.features[name], feature)]
    if not set(usual) & set(fitting):
        fitting += [name for name in columns if name in usual and (kind == "label" or name in encoded)]
    fitting = fitting or encoded
    if len(fitting) != 1:
        raise {"image": UserError, "label": LabelsError}[kind](
            f"{len(fitting)} columns could be the {kind}: found {told(', '.join(fitting)) or 'none'} among "
            f"{told(', '.join(columns))}; name one with --{kind}_column."
        )
    return fitting[0]


def check_columns(
    splits: Mapping[str, Dataset | IterableDataset], image_column: str, label_column: str, where: Mapping[str, str]
) -> None:
    """Refuses splits without these columns, or whose labels mean different things.

    Raises:
        UserError: names the split and the column.
    """
    if image_column == label_column:
        raise UserError(f'The column "{image_column}" is named for images and for labels, expected one for each.')
    labels = splits["train"].features[label_column]
    for role, dataset in splits.items():
        for column in (image_column, label_column):
            if column not in dataset.column_names:
                raise UserError(
                    f'The {where[role]} has no column "{column}", only {told(", ".join(dataset.column_names))}.'
                )
        if (found := dataset.features[label_column]) != labels:
            words = " instead of ".join(map(told, (found, labels)))
            raise UserError(f"The {where[role]} has other labels than the one to train on: {words}.")
