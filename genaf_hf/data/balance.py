"""How many images each class has."""

from collections import Counter
from collections.abc import Mapping

from datasets import Dataset


def counted_classes(splits: Mapping[str, Dataset]) -> dict:
    """Names of the classes, and by split how many images each of them has, in the order of their ids.

    Args:
        splits: train and others with a column `label` (ClassLabel), as `load_images` gives them.
    """
    names, counts = splits["train"].features["label"].names, {}
    for split, dataset in splits.items():
        found = Counter(dataset["label"])
        counts[split] = [found[i] for i in range(len(names))]
    return {"class_names": names, "class_counts": counts}
