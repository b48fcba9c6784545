"""Class labels of images, with names, and checked."""

from collections import Counter
from collections.abc import Sequence

from datasets import ClassLabel, Dataset, DatasetDict, Value

from genaf_hf.errors import UserError


def with_class_labels(splits: DatasetDict, class_names: Sequence[str] | None = None) -> DatasetDict:
    """Turns plain strings or integers in the column `label` into class ids with names, the same in every split.

    Args:
        splits: by role.
        class_names: of integers that are class ids already; default, they name themselves.

    Raises:
        UserError: when the column holds something else, or an image has no label.
    """
    feature = splits["train"].features["label"]
    if isinstance(feature, ClassLabel):
        return splits
    if not isinstance(feature, Value):
        raise UserError(f"The label column holds {feature}, expected one class per image.")
    values = {role: dataset["label"][:] for role, dataset in splits.items()}
    if any(value is None for column in values.values() for value in column):
        raise UserError("Some images have no label; expected one class per image.")
    if class_names is not None and "int" in feature.dtype:
        return splits.cast_column("label", ClassLabel(names=list(class_names)))
    names = sorted({value for column in values.values() for value in column})
    ids = {value: i for i, value in enumerate(names)}
    feature = ClassLabel(names=[str(name) for name in names])
    return DatasetDict(
        {
            role: dataset.remove_columns("label").add_column(
                "label", [ids[value] for value in values[role]], feature=feature
            )
            for role, dataset in splits.items()
        }
    )


def check_labels(dataset: Dataset, where: str) -> None:
    """Refuses labels that no classifier can be trained on.

    Raises:
        UserError: names what was found.
    """
    counts = Counter(dataset["label"])
    names = dataset.features["label"].names
    outside = sorted(str(label) for label in counts if label is None or not 0 <= label < len(names))
    if outside:
        raise UserError(f"The {where} has labels {', '.join(outside)}, expected 0 to {len(names) - 1}.")
    if len(counts) < 2:
        raise UserError(f'The {where} has the one class "{names[next(iter(counts))]}", expected at least two.')
