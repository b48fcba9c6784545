"""What the record of a model tells of the images that it was trained on, so that others are tested on."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence

import httpx2
from datasets import Dataset

from genaf_hf.data.identity import DIGEST_CHARACTERS
from genaf_hf.data.known_datasets import known_dataset
from genaf_hf.errors import UserError, first_line
from genaf_hf.hub import file_of_model
from genaf_hf.sharing.layout import RECORD
from genaf_hf.sharing.record import TrainingRecord
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

REMEMBERED = 100_000  # images of a split at most, in 800 KB of text
CHOICES = {"train_split": str, "validation_split": str, "test_split": str, "held_out_share": float}
OF_STREAM = {"streaming": bool, "max_train_samples": int, "max_eval_samples": int}  # which of its images are drawn


def remembered(digests: Sequence[str]) -> str:
    """Digests of images in one word, for a training record; of many images those that come first in order."""
    return "".join(sorted(set(digests))[:REMEMBERED])


def recalled(word: str) -> list[str]:
    """The digests of which `remembered` made a word."""
    return [word[start : start + DIGEST_CHARACTERS] for start in range(0, len(word), DIGEST_CHARACTERS)]


def duplicates(digests: Mapping[str, Sequence[str]]) -> int:
    """How many test images are among those to train on too: an accuracy on these says nothing.

    Args:
        digests: as `split_digests` gives them.
    """
    trained = set(digests["train"])
    return sum(each in trained for each in digests["test"])


def warn_of_duplicates(digests: Mapping[str, Sequence[str]], name: str) -> None:
    """Says when there are such images.

    Args:
        digests: as `split_digests` gives them.
        name: of the images.
    """
    if found := duplicates(digests):
        said = '%d of %d test images of "%s" are among the images to train on too'
        logger.warning(said, found, len(digests["test"]), name)


def warn_of_contradictions(train: Dataset, digests: Sequence[str], name: str) -> None:
    """Says when images to train on stand in several classes, pixel for pixel.

    Args:
        train: with labels.
        digests: of these, as `image_digests` gives them.
        name: of the images.
    """
    labels = defaultdict(set)
    for digest, label in zip(digests, train["label"], strict=True):
        labels[digest].add(label)
    if found := [digest for digest in digests if len(labels[digest]) > 1]:
        one, other, *_ = (train.features["label"].int2str(label) for label in sorted(labels[found[0]]))
        said = (
            '%d of %d images to train on of "%s" stand in another class as well, pixel for pixel, the first in "%s" '
            'and "%s": whichever is wrong is trained on'
        )
        logger.warning(said, len(found), len(digests), name, one, other)


def images_of_record(digests: Mapping[str, Sequence[str]], choices: Mapping) -> dict:
    """What a training record's `data` holds of the images, beside their name and number.

    Args:
        digests: as `split_digests` gives them.
        choices: what `load_images` was told, of which those are kept by which it splits.
    """
    found = duplicates(digests)
    return {
        "images": {split: remembered(digests[split]) for split in ("train", "test")},
        "chosen_by": {name: choices[name] for name in (*CHOICES, *(OF_STREAM if choices.get("streaming") else ()))},
        **({"tested_and_trained_on": found} if found else {}),
    }


def read_record(model_name_or_path: str, *, revision: str | None = None, part: str = "data") -> dict:
    """The `data` of a model's training record; empty where it has none that can be read, which is said.

    Args:
        model_name_or_path: Hub id or local folder.
        revision: branch, tag or commit on the Hub.
        part: of the record, in place of `data`.
    """
    try:
        path = file_of_model(model_name_or_path, RECORD, revision=revision)
        data = {} if path is None else getattr(TrainingRecord.load(path), part)
        if isinstance(data, dict):
            return data
        reason = f"its {part} is a {type(data).__name__}"
    except (OSError, ValueError, httpx2.HTTPError) as error:
        reason = first_line(error)
    logger.warning("Which images the model was trained on is not known, its %s cannot be read: %s.", RECORD, reason)
    return {}


def choices_of_training(data: Mapping, dataset_name: str, config_name: str | None) -> dict:
    """How the images were split for training, as arguments of `load_images`; empty for other images.

    Args:
        data: as `read_record` gives it.
        dataset_name: Hub id or local folder of the images that are asked for.
        config_name: of their configuration.
    """
    found = data.get("chosen_by")
    asked = public_name(dataset_name), config_name or known_dataset(dataset_name).config_name
    if not isinstance(found, dict) or (data.get("name"), data.get("config")) != asked:
        return {}
    kinds = {**CHOICES, **(OF_STREAM if found.get("streaming") is True else {})}
    return {choice: found[choice] for choice, kind in kinds.items() if isinstance(found.get(choice), kind)}


def check_not_trained_on(data: Mapping, test: Sequence[str], model_name: str, dataset_name: str) -> None:
    """Refuses test images that a model was trained on. Those that its own report is of as well are said only.

    Args:
        data: as `read_record` gives it.
        test: digests of the test images.
        model_name: of the model.
        dataset_name: of the images.

    Raises:
        UserError: says how many.
    """
    words = data.get("images")
    if not isinstance(words, dict) or not all(isinstance(words.get(split), str) for split in ("train", "test")):
        return
    trained, reported = (set(recalled(words[split])) for split in ("train", "test"))
    seen = trained - reported
    if found := sum(each in seen for each in test):
        advice = "give the dataset by that name, so that it is split as it was for training, or name"
        if data.get("name") == dataset_name:
            advice = "these images or how they are split have changed since; name"
        raise UserError(
            f"{'At least ' * (len(trained) == REMEMBERED)}{found} of {len(test)} test images are among those that "
            f'"{model_name}" was trained on, of "{data.get("name")}": {advice} a --test_split or a dataset that the '
            "model has not seen."
        )
    if found := sum(each in trained for each in test):
        said = '%d of %d test images are among those that "%s" was trained on, as in its own report'
        logger.warning(said, found, len(test), model_name)
