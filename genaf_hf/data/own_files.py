"""Which files are a dataset's own: what strangers made must not name others of this machine."""

import os
from collections.abc import Iterable
from pathlib import Path

import datasets
import pyarrow.compute as pc
from datasets import Dataset
from huggingface_hub import constants

from genaf_hf.errors import UserError
from genaf_hf.values.names import told

REMOTE = ("hf://", "https://")
FOLDER_BUILDER = "imagefolder"  # writes itself which files there are, where other ones read it in the dataset


def check_data_files(files: Iterable[str], name_or_path: str) -> None:
    """Refuses a dataset whose description takes its data from elsewhere on this machine.

    Raises:
        UserError: names the file.
    """
    folders = own_folders(name_or_path)
    for file in files:
        if not file.split("::")[-1].startswith(REMOTE) and not is_in(file, folders):
            raise foreign(file, f'dataset "{name_or_path}"')


def check_image_files(dataset: Dataset, name_or_path: str, where: str) -> None:
    """Refuses images that are no bytes but paths of other files than the dataset's.

    Args:
        dataset: with the column `image`, as it is encoded.
        name_or_path: of the dataset.
        where: words for the split.

    Raises:
        UserError: names the file.
    """
    paths = set()
    for chunk in dataset.data.column("image").chunks:
        paths.update(pc.filter(chunk.field("path"), pc.is_null(chunk.field("bytes"))).to_pylist())
    check_paths(sorted(paths - {None}), name_or_path, dataset.info.builder_name, where)


def check_paths(paths: Iterable[str], name_or_path: str, builder_name: str | None, where: str) -> None:
    """Refuses paths of images as `check_image_files` does; `builder_name` says what reads the dataset.

    Raises:
        UserError: names the file.
    """
    folders, remote = own_folders(name_or_path), ()
    if not folders and builder_name == FOLDER_BUILDER:
        folders, remote = real(constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE), REMOTE
    for path in paths:
        if not path.split("::")[-1].startswith(remote) and not is_in(path, folders):
            raise foreign(path, where)


def own_folders(name_or_path: str) -> list[Path]:
    """Where the files of a local dataset may lie; nowhere for one of the Hub."""
    folder = Path(name_or_path).resolve()
    if not folder.exists():
        return []
    # In the Hub's cache a version is a folder of links to its files, which lie beside all versions.
    of_hub = [folder.parents[1]] if folder.parent.name == "snapshots" else []
    return real(folder, *of_hub, datasets.config.EXTRACTED_DATASETS_PATH)


def real(*folders: str | Path) -> list[Path]:
    return [Path(os.path.realpath(folder)) for folder in folders]


def is_in(file: str, folders: Iterable[Path]) -> bool:
    """Whether a file lies in one of the folders, as `real` gives them, also when links are followed."""
    path = Path(os.path.realpath(file.split("::")[-1]))
    return any(path.is_relative_to(folder) for folder in folders)


def foreign(file: str, where: str) -> UserError:
    return UserError(
        f"The {where} names the file {told(file)}, which is not its own and is not opened: expected the images "
        "themselves."
    )
