"""All splits of a dataset, from wherever it is."""

from collections.abc import Collection
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

import httpx2
import yaml
from datasets import DatasetDict, IterableDatasetDict, load_dataset_builder, load_from_disk
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from genaf_hf.data.digits import DIGITS, digits
from genaf_hf.data.image_folders import image_folder, read_image_folder
from genaf_hf.data.known_datasets import NOTHING_KNOWN, known_dataset
from genaf_hf.data.own_files import check_data_files
from genaf_hf.data.streaming import open_stream, stream_folder
from genaf_hf.errors import UserError, first_line
from genaf_hf.hub import why_not_loaded

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
    named_splits: Collection[str] = (),
    revision: str | None = None,
    token: str | bool | None = None,
) -> tuple[DatasetDict | IterableDatasetDict, Path | None]:
    """All splits of a dataset; if they are streamed, with the folder for what is drawn from them.

    What is on this machine as `datasets` keeps it, the digits or what `save_to_disk` left, is never streamed.

    Args:
        name_or_path, config_name, streaming, revision, token: as for `load_images`.
        labelled: whether a folder of images has to say their classes.
        named_splits: splits of it that the user names.

    Raises:
        UserError: when nothing is there, or what is there is no dataset.
    """
    if name_or_path == DIGITS and not Path(name_or_path).exists():
        return digits(), None
    with in_one_sentence(name_or_path, revision, token):
        check_place(name_or_path)
        if (Path(name_or_path) / "dataset_dict.json").exists():
            return load_from_disk(name_or_path), None
        if (Path(name_or_path) / "state.json").exists():
            return DatasetDict(train=load_from_disk(name_or_path)), None
        if (found := image_folder(name_or_path)) and config_name is None:
            splits = read_image_folder(name_or_path, found, labelled=labelled, named_splits=named_splits)
            return stream_folder(name_or_path, splits) if streaming else (splits, None)
        builder = load_dataset_builder(name_or_path, config_name, revision=revision, token=token)
        check_data_files(builder, name_or_path)
        if streaming:
            return open_stream(builder)
        builder.download_and_prepare()
        return builder.as_dataset(), None


def check_place(name_or_path: str) -> None:
    """Refuses what is no folder and cannot be meant as a dataset of the Hub, before the Hub is asked.

    Raises:
        UserError: names the nearest folder.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return
    if path.exists():
        raise UserError(f'"{name_or_path}" is a file, expected a folder of images or the id of a dataset on the Hub.')
    beside = [each.name for each in path.parent.iterdir() if each.is_dir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, 1, ALIKE)
    if (near and known_dataset(name_or_path) is NOTHING_KNOWN) or not is_hub_id(name_or_path):
        meant = f'did you mean "{path.parent / near[0]}"' if near else "check its spelling"
        raise UserError(f'There is no folder "{name_or_path}": {meant}, or name a dataset of the Hub as OWNER/NAME.')


def is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


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
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise UserError(
            why_not_loaded(error, "dataset", name_or_path, revision=revision, token=token)
            or f'The dataset "{name_or_path}" cannot be loaded: {first_line(reason)}.'
        ) from error
