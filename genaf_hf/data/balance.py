"""How many images each class has."""

from collections import Counter

from datasets import DatasetDict


def class_balance(splits: DatasetDict) -> dict[str, dict[str, int]]:
    """Images by split and class name, the classes in the order of their ids; those without an image have 0.

    Args:
        splits: with a column `label` (ClassLabel), as `load_images` gives them.
    """
    counts = {split: Counter(dataset["label"]) for split, dataset in splits.items()}
    return {
        split: {name: counts[split][i] for i, name in enumerate(dataset.features["label"].names)}
        for split, dataset in splits.items()
    }
