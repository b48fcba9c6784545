"""Class labels of images, with names, and checked."""

import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from datasets import ClassLabel, Dataset, DatasetDict, Value

from genaf_hf.errors import UserError
from genaf_hf.values.names import WRITTEN_LETTERS, some_of

logger = logging.getLogger(__name__)

NO_LABEL = ("", "nan", "NaN", "<NA>", "NaT")
# Cyrillic and Greek letters that are drawn as Latin ones.
LATIN = str.maketrans("аеорсухіјѕАВЕКМНОРСТХІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "aeopcyxijsABEKMHOPCTXIJSABEZHIKMNOPTYXo")  # noqa: RUF001


class LabelsError(UserError):
    """Refuses labels, or that there are none; the images may serve where no labels are read."""


def with_class_labels(splits: DatasetDict, class_names: Sequence[str] | None = None) -> DatasetDict:
    """Turns plain strings or integers in the column `label` into class ids with names, the same in every split.

    Args:
        splits: by role.
        class_names: of integers that are class ids already; default, they name themselves.

    Raises:
        LabelsError: when the column holds something else, or an image has no label.
    """
    feature = splits["train"].features["label"]
    if isinstance(feature, ClassLabel):
        return splits
    if not isinstance(feature, Value):
        raise LabelsError(f"The label column holds {feature}, expected one class per image.")
    values = {role: dataset["label"][:] for role, dataset in splits.items()}
    if missing := sum(is_missing(value) for column in values.values() for value in column):
        raise LabelsError(
            f"Some images have no label ({missing} of them); expected one class per image, other than the words None, "
            "NA, null and nan, which tables have for none."
        )
    if class_names is not None and "int" in feature.dtype:
        return splits.cast_column("label", ClassLabel(names=list(class_names)))
    names = sorted({value for column in values.values() for value in column})
    if "int" in feature.dtype and names[0] < 0:
        raise LabelsError(
            f"The label column has {names[0]}, as is written where there is no label; expected the class of each "
            "image, as a number that is not below 0, or a word."
        )
    ids = {value: i for i, value in enumerate(names)}
    feature = ClassLabel(names=[in_words(name) for name in names])
    return DatasetDict(
        {
            role: dataset.remove_columns("label").add_column(
                "label", [ids[value] for value in values[role]], feature=feature
            )
            for role, dataset in splits.items()
        }
    )


def has_no_label(labels: Iterable) -> bool:
    """Whether these are all missing, or the -1 that is written in their place, as in splits for a competition."""
    return all(label == -1 or is_missing(label) for label in labels)


def in_words(label: object) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def is_missing(label: object) -> bool:
    """Whether a plain label says that there is none: as None, NaN, or what pandas and CSV files write for them."""
    return label is None or label != label or (isinstance(label, str) and label.strip() in NO_LABEL)


def check_class_names(names: Sequence[str]) -> None:
    """Refuses classes that a reader cannot tell apart, and tells of those that differ by little.

    Raises:
        LabelsError: names two of them.
    """
    check_told_apart(names)
    if alike := first_alike(names, as_meant):
        logger.warning("The classes %s differ by little: if they are one, give it one name.", alike)


def check_told_apart(names: Sequence[str]) -> None:
    """Refuses classes that a reader cannot tell apart; the `LabelsError` names two of them."""
    if alike := first_alike(names, as_seen):
        raise LabelsError(
            f"The classes {alike} look the same: give each class one name, or its images are divided between two."
        )


def first_alike(names: Sequence[str], seen: Callable[[str], str]) -> str | None:
    """Two names that are seen as one, in ASCII; None where there are none."""
    known = {}
    for name in names:
        if (other := known.setdefault(seen(name), name)) != name:
            return " and ".join(ascii(each)[:WRITTEN_LETTERS] for each in (other, name))
    return None


def as_seen(name: str) -> str:
    """A name without what is not seen: how Unicode composes its letters, spaces, and letters of no width."""
    composed = unicodedata.normalize("NFC", name.translate(LATIN))
    return " ".join("".join(letter for letter in composed if unicodedata.category(letter) != "Cf").split())


def as_meant(name: str) -> str:
    """A name without what its writer may not have meant: case, underscores and hyphens for spaces, ligatures."""
    return as_seen(unicodedata.normalize("NFKC", name)).casefold().replace("_", " ").replace("-", " ")


def check_labels(dataset: Dataset, where: str) -> None:
    """Refuses labels that no classifier can be trained on; the `LabelsError` names what was found."""
    counts, names = Counter(dataset["label"]), dataset.features["label"].names
    check_class_ids(counts, len(names), where)
    if unnamed := [label for label in counts if is_missing(names[label])]:
        raise LabelsError(
            f'The {where} has {counts[unnamed[0]]} images of the class "{names[unnamed[0]]}", as if they had no label: '
            "leave them out, or give the class a name."
        )
    if len(counts) < 2:
        one = some_of([names[next(iter(counts))]])
        raise LabelsError(f"The {where} has the one class {one}, expected at least two.")


def check_class_ids(labels: Iterable, classes: int, where: str) -> None:
    """Refuses labels that are none of so many classes; the `LabelsError` names them."""
    if outside := sorted(str(label) for label in {*labels} if label is None or not 0 <= label < classes):
        raise LabelsError(f"The {where} has labels {', '.join(outside)}, expected 0 to {classes - 1}.")


def warn_of_untrained_classes(splits: Mapping[str, Dataset]) -> None:
    """Tells of classes that other splits have images of, and train has not."""
    names, known = splits["train"].features["label"].names, set(splits["train"]["label"])
    for split, dataset in splits.items():
        if strange := sorted(set(dataset["label"]) - known):
            words = some_of([names[label] for label in strange])
            logger.warning("The classes %s of %s have no image to train on", words, split)


def check_enough_to_train(splits: Mapping[str, Dataset]) -> None:
    """Refuses fewer images to train on than there are classes; the `LabelsError` names both numbers."""
    classes = len({label for dataset in splits.values() for label in dataset["label"]})
    if len(splits["train"]) < classes:
        raise LabelsError(
            f"There are {len(splits['train'])} images to train on but {classes} classes, expected at least one "
            "image of each: add images, or raise --max_train_samples."
        )
