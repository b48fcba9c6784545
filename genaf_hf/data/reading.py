"""All splits of a dataset, from wherever it is."""

import glob
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pyarrow.parquet as parquet
import yaml
from datasets import (
    ClassLabel,
    DatasetBuilder,
    DatasetDict,
    DownloadConfig,
    Features,
    IterableDatasetDict,
    load_dataset_builder,
    load_from_disk,
)
from datasets.data_files import resolve_pattern
from datasets.exceptions import DatasetGenerationError

from genaf_hf.data.digits import DIGITS, digits
from genaf_hf.data.image_folders import EXTENSIONS, METADATA, image_folder, kind, read_image_folder, split_of
from genaf_hf.data.known_datasets import NOTHING_KNOWN, known_dataset
from genaf_hf.data.own_files import FOLDER_BUILDER, check_data_files
from genaf_hf.data.streaming import open_stream, stream_folder
from genaf_hf.errors import UserError, first_line
from genaf_hf.hub import is_hub_id, why_not_loaded
from genaf_hf.values.names import folder_like, some_of, told

logger = logging.getLogger(__name__)

NO_FILE_NAMES = "must be present as dictionary key in metadata files"  # of what `datasets` says then
ALIKE = 0.75  # names of folders, from which on one may be meant by the other
# What `datasets` raises for strangers' files, also for the code in them, which it does not run.
FOREIGN = (
    *(OSError, ValueError, RuntimeError, TypeError, LookupError, AttributeError, NotImplementedError),
    *(yaml.YAMLError, DatasetGenerationError, httpx2.HTTPError),
)


def read_dataset(
    name_or_path: str,
    *,
    config_name: str | None = None,
    streaming: bool = False,
    labelled: bool = True,
    named_splits: Mapping[str, str | None],
    revision: str | None = None,
    token: str | bool | None = None,
) -> tuple[DatasetDict | IterableDatasetDict, Path | None]:
    """All splits of a dataset; if they are streamed, with the folder for what is drawn from them.

    What is on this machine as `datasets` keeps it, the digits or what `save_to_disk` left, is never streamed.

    Args:
        name_or_path, config_name, streaming, revision, token: as for `load_images`.
        labelled: whether a folder of images has to say their classes.
        named_splits: splits of it that the user names, by role.

    Raises:
        UserError: when nothing is there, or what is there is no dataset.
    """
    if name_or_path == DIGITS and not Path(name_or_path).exists():
        return digits(), None
    with in_one_sentence(name_or_path, revision, token):
        check_place(name_or_path)
        if (Path(name_or_path) / "dataset_dict.json").exists():
            return saved(name_or_path, load_from_disk(name_or_path)), None
        if (Path(name_or_path) / "state.json").exists():
            return saved(name_or_path, DatasetDict(train=load_from_disk(name_or_path))), None
        if (found := image_folder(name_or_path)) and config_name is None:
            splits = read_image_folder(name_or_path, found, labelled=labelled, named_splits=named_splits)
            return stream_folder(name_or_path, splits) if streaming else (splits, None)
        check_no_pattern(name_or_path)
        files = {"train": "**"} if is_described(name_or_path, named_splits) and config_name is None else None
        builder = load_dataset_builder(name_or_path, config_name, data_files=files, revision=revision, token=token)
        used = [str(file) for files in (builder.config.data_files or {}).values() for file in files]
        check_data_files(used, name_or_path)
        check_same_classes(name_or_path, used)
        tell_unused_files(name_or_path, builder, used)
        if streaming:
            return open_stream(builder)
        prepare(name_or_path, builder, used)
        splits = builder.as_dataset()
        tell_unnamed_images(name_or_path, builder, used, splits)
        return splits, None


def is_described(name: str, named_splits: Mapping[str, str | None]) -> bool:
    """Whether a file at the root of a local folder tells of all images below, whatever words are in their names.

    Raises:
        UserError: when there are folders of splits beside it, where it is not read.
    """
    described = [each for each in METADATA if (Path(name) / each).exists()]
    if not described:
        return False
    splits = [each.name for each in sorted(Path(name).iterdir()) if each.is_dir() and split_of(each.name, named_splits)]
    if splits:
        raise UserError(
            f'"{name}" has {described[0]} beside the folders {some_of(splits)}, of splits, where it would not be read: '
            "put one into each of them, with file names from there on, or move it elsewhere."
        )
    return True


def check_same_classes(name: str, files: Sequence[str]) -> None:
    """Refuses local tables that call their classes otherwise, of which `datasets` takes the first one's for all.

    Raises:
        UserError: names the two files and the column.
    """
    known: dict[str, tuple[str, list[str]]] = {}
    for file in (Path(each) for each in files if kind(Path(each)) == ".parquet" and Path(each).exists()):
        for column, feature in Features.from_arrow_schema(parquet.read_schema(file)).items():
            if not isinstance(feature, ClassLabel):
                continue
            first, names = known.setdefault(column, (file.name, feature.names))
            if feature.names != names:
                raise UserError(
                    f'{file.name} of "{name}" has the classes {some_of(feature.names)} in its column {column}, and '
                    f"{first} {some_of(names)}, by which datasets would read both: write them with the same ones."
                )


def prepare(name: str, builder: DatasetBuilder, used: Sequence[str]) -> None:
    """Downloads and converts a dataset.

    Raises:
        UserError: for class folders in an archive, of which `datasets` takes the archive's own folder for the class.
    """
    try:
        builder.download_and_prepare()
    except DatasetGenerationError as error:
        archives = [Path(file).name for file in used if kind(Path(file)) == ".zip"]
        if archives and builder.name == FOLDER_BUILDER and "class label" in str(error.__cause__):
            raise UserError(
                f'The dataset "{name}" has class folders within {some_of(archives)}, which are not read there: unpack '
                "it, and name the folder."
            ) from error
        raise


def saved(name: str, splits: DatasetDict) -> DatasetDict:
    """What `save_to_disk` left, after a look at the names of its files, and as Python's own types and all columns.

    Raises:
        UserError: when one lies elsewhere.
    """
    check_data_files((file["filename"] for part in splits.values() for file in part.cache_files), name)
    return splits.with_format(None)


def tell_unused_files(name_or_path: str, builder: DatasetBuilder, used: Sequence[str]) -> None:
    """Logs files of the kinds that are read, which `datasets` found no split for in the words of their names."""
    if not used or (builder.name != FOLDER_BUILDER and not Path(name_or_path).exists()):
        return  # on the Hub, files of tables belong to other configurations too
    there = resolve_pattern("**", builder.base_path, download_config=DownloadConfig(token=builder.token))
    read = {kind(Path(file)) for file in used}
    taken = set(map(os.path.normpath, used))
    if unused := [file for file in there if os.path.normpath(file) not in taken and kind(Path(file)) in read]:
        names = some_of([Path(file).name for file in unused])
        logger.warning('"%s": %d of %d files are left out, %s', name_or_path, len(unused), len(there), names)


def tell_unnamed_images(name: str, builder: DatasetBuilder, used: Sequence[str], splits: DatasetDict) -> None:
    """Logs how many images of a folder its metadata does not name."""
    images, taken = sum(kind(Path(file)) in EXTENSIONS for file in used), sum(map(len, splits.values()))
    if builder.name == FOLDER_BUILDER and taken < images:
        logger.warning(
            '"%s": %d of %d images are left out, which its metadata does not name', name, images - taken, images
        )


def check_place(name_or_path: str) -> None:
    """Refuses what is no folder and cannot be meant as a dataset of the Hub, before the Hub is asked.

    Raises:
        UserError: names the nearest folder.
    """
    path = Path(name_or_path)
    if not name_or_path.strip():
        raise UserError(f'The dataset is "{name_or_path}", expected a folder or the id of a dataset on the Hub.')
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f'"{name_or_path}" is a file, expected a folder of images or the id of a dataset on the Hub.')
    near = folder_like(path, ALIKE)
    if (near and known_dataset(name_or_path) is NOTHING_KNOWN) or not is_hub_id(name_or_path):
        meant = f'did you mean "{near}"' if near else "check its spelling"
        raise UserError(f'There is no folder "{name_or_path}": {meant}, or name a dataset of the Hub as OWNER/NAME.')


def check_no_pattern(name_or_path: str) -> None:
    """Refuses a folder whose name `datasets` takes for a pattern, so that it finds nothing in it, or others' files.

    Raises:
        UserError: names the folder.
    """
    path = Path(name_or_path)
    if path.is_dir() and glob.escape(str(path.resolve())) != str(path.resolve()):
        raise UserError(
            f'The folder "{path.resolve()}" has one of *, ? and [ in its path, by which its tables cannot be found: '
            "rename it."
        )


@contextmanager
def in_one_sentence(name_or_path: str, revision: str | None, token: str | bool | None):
    """Says what is wrong where a dataset cannot be loaded.

    Raises:
        UserError: instead of what `datasets` and the Hub's client raise.
    """
    try:
        yield
    except UserError:
        raise
    except FOREIGN as error:
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        reason = told(first_line(cause))
        if NO_FILE_NAMES in reason:
            reason = (
                "its metadata has no column file_name, which says what each row is about: add it, and separate the "
                "columns of a metadata.csv by commas"
            )
        raise UserError(
            why_not_loaded(error, "dataset", name_or_path, revision=revision, token=token)
            or f'The dataset "{name_or_path}" cannot be loaded: {reason}.'
        ) from error
