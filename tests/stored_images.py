"""Images as people keep them: folders, saved datasets and plain labels, with fixtures to import by name."""

from pathlib import Path

import datasets
import pytest
from conftest import CLASSES, colored_images
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image

KINDS = Features({"image": Image(), "label": ClassLabel(names=CLASSES)})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """What is read goes with the test; `datasets` waits five seconds after each stream of Parquet files it leaves."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)


@pytest.fixture
def saved(tmp_path):
    """A function that saves splits by `save_to_disk` and returns the folder."""

    def save(**splits: Dataset) -> str:
        DatasetDict(splits).save_to_disk(tmp_path / "saved")
        return str(tmp_path / "saved")

    return save


def with_labels(labels: list, feature=None) -> Dataset:
    pictures = colored_images(len(labels), 3).remove_columns("label")
    return pictures.add_column("label", labels, feature=feature)


def picture_folder(folder: Path, classes=("cat", "dog"), count: int = 20, suffix: str = ".png") -> Path:
    for index, picture in enumerate(colored_images(count, 4)["image"][:]):
        place = folder / classes[index % len(classes)]
        place.mkdir(parents=True, exist_ok=True)
        picture.save(place / f"{index:02}{suffix}")
    return folder


def contents(dataset: Dataset) -> list[bytes]:
    return [example["image"]["bytes"] for example in dataset]


def assert_one_sentence(refusal) -> None:
    assert "\n" not in str(refusal.value)


def whole_images(count: int) -> list[dict]:
    return colored_images(count, 4).cast_column("image", Image(decode=False))["image"][:]
