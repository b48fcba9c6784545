"""Where images come from, for a report."""

import re
from pathlib import Path

from datasets import Dataset

from genaf_hf.data.known_datasets import known_dataset
from genaf_hf.values.provenance import public_name


def commit(dataset: Dataset) -> str | None:
    """The commit on the Hub that a dataset was downloaded from, None where there is none: the name of its cache."""
    parts = [part for file in dataset.cache_files for part in Path(file["filename"]).parts]
    return next((part for part in parts if re.fullmatch("[0-9a-f]{40}", part)), None)


def data_source(
    test: Dataset, name_or_path: str, *, config_name: str | None, revision: str | None
) -> dict[str, str | None]:
    """Where the test images come from, for a report; `revision` is told where the dataset does not know its own."""
    return {
        "name": public_name(name_or_path),
        "config": config_name or known_dataset(name_or_path).config_name,
        "revision": commit(test) or revision,
        "split": str(test.split or "test"),
    }
