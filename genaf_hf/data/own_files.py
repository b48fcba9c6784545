"""Which files are a dataset's own: what strangers made must not name others of this machine."""

import os
from collections.abc import Iterable
from pathlib import Path

import datasets
import pyarrow.compute as pc
from datasets import Dataset, DatasetBuilder
from huggingface_hub import constants

from genaf_hf.errors import UserError

REMOTE = ("hf://", "https://")
FOLDER_BUILDER = "imagefolder"  # writes itself which files there are, where other ones read it in the dataset


def check_data_files(builder: DatasetBuilder, name_or_path: str) -> None:
    """Refuses a dataset whose description takes its data from elsewhere on this machine.

    Raises:
        UserError: names the file.
    """
    for files in (builder.config.data_files or {}).values():
        for file in map(str, files):
            if not file.split("::")[-1].startswith(REMOTE) and not is_in(file, own_folders(name_or_path)):
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
    for path in sorted(paths - {None}):
        check_image_file(path, name_or_path, dataset.info.builder_name, where)


def check_image_file(path: str, name_or_path: str, builder_name: str | None, where: str) -> None:
    """Refuses one image as `check_image_files` does; `builder_name` says what read the dataset, which may be a stream.

    Raises:
        UserError: names the file.
    """
    folders = own_folders(name_or_path)
    if not folders and builder_name == FOLDER_BUILDER:
        folders = [Path(constants.HF_HUB_CACHE), Path(datasets.config.HF_DATASETS_CACHE)]
        if path.split("::")[-1].startswith(REMOTE):
            return
    if not is_in(path, folders):
        raise foreign(path, where)


def own_folders(name_or_path: str) -> list[Path]:
    """Where the files of a local dataset may lie; nowhere for one of the Hub."""
    folder = Path(name_or_path)
    if not folder.exists():
        return []
    folder = folder.resolve()
    # In the Hub's cache a version is a folder of links to its files, which lie beside all versions.
    of_hub = [folder.parents[1]] if folder.parent.name == "snapshots" else []
    return [folder, *of_hub, Path(datasets.config.EXTRACTED_DATASETS_PATH)]


def is_in(file: str, folders: Iterable[Path]) -> bool:
    """Whether a file lies in one of the folders, also when links are followed."""
    path = Path(os.path.realpath(file.split("::")[-1]))
    return any(path.is_relative_to(os.path.realpath(folder)) for folder in folders)


def foreign(file: str, where: str) -> UserError:
    return UserError(
        f"The {where} names the file {file}, which is not its own and is not opened: expected the images themselves."
    )
