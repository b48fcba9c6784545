"""Images by split, under the name by which they were loaded."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datasets import Dataset, DatasetDict

from genaf_hf.data.identity import images_content, split_digests
from genaf_hf.data.known_datasets import known_dataset
from genaf_hf.values.provenance import public_name


def commit(dataset: Dataset) -> str | None:
    """The commit on the Hub that a dataset was downloaded from, None where there is none: the name of its cache."""
    parts = [part for file in dataset.cache_files for part in Path(file["filename"]).parts]
    return next((part for part in parts if re.fullmatch("[0-9a-f]{40}", part)), None)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by split, under the name by which they were loaded.

    Attributes:
        name: Hub id or local folder; empty where there is none.
        data: with the splits train and test, as `load_images` gives them.
        config_name, revision: that were asked for.
    """

    name: str
    data: DatasetDict
    config_name: str | None = None
    revision: str | None = None

    @cached_property
    def digests(self) -> dict[str, list[str]]:
        """As `split_digests` gives them, made once."""
        return split_digests(self.data)

    @property
    def content(self) -> str:
        """What tells all images and labels from others, in 16 digits."""
        return images_content(self.data, self.digests)[:16]

    @cached_property
    def source(self) -> dict[str, str | None]:
        """Where the test images come from; the revision is that which was asked for where they know none."""
        test = self.data["test"]
        return {
            "name": public_name(self.name),
            "config": self.config_name or known_dataset(self.name).config_name,
            "revision": commit(test) or self.revision,
            "split": str(test.split or "test"),
        }

    @property
    def measured(self) -> dict[str, str | None]:
        """The same for a report, with what tells the test images from others: pixels and order, whatever the labels."""
        test = {"test": self.data["test"].remove_columns("label")}
        return {**self.source, "content": images_content(test, self.digests)[:16]}
