"""Labelled images from the Hub or a local folder, checked, split and turned into pixel values."""

import io
import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import httpx2
import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Image, Value, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError
from PIL import Image as PILImage
from PIL import ImageOps
from tqdm import tqdm

from genaf_hf.digits import digits
from genaf_hf.errors import first_line
from genaf_hf.hub import why_not_loaded
from genaf_hf.provenance import public_name

logger = logging.getLogger(__name__)

DIGITS = "digits"
IN_MEMORY_BYTES = 2 * 2**30
DECODED_AT_ONCE = 256
SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def load_images(
    name_or_path: str,
    *,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    held_out_share: float = 0.1,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DatasetDict:
    """Splits train, validation and test with the columns `image` (Image) and `label` (ClassLabel).

    Columns and splits are found by themselves where only one fits. A missing validation split is held out of train,
    stratified, by a fixed seed; a missing test split is the validation split, or held out of train too. Every image is
    decoded once, so that a broken one is found before any work.

    Args:
        name_or_path: Hub id, local folder (also one of images in class folders, or saved by `save_to_disk`), or
            `"digits"` for the embedded default.
        config_name: configuration (subset) of the dataset.
        image_column: column of images, needed if there are several.
        label_column: column of class labels, needed if there are several.
        train_split: name of the split to train on.
        validation_split: name of the split by which choices are made.
        test_split: name of the split to report, never used to choose anything.
        held_out_share: share of train that is held out for each missing split.
        seed: of the held-out splits.
        revision: branch, tag or commit on the Hub.
        token: for private and gated datasets.

    Raises:
        ValueError: for an unknown dataset, missing or ambiguous columns, an empty split, a single class, labels that
            are missing or outside the class names, and images that cannot be read as 8-bit RGB.
    """
    raw = read_dataset(name_or_path, config_name=config_name, revision=revision, token=token)
    splits = choose_splits(raw, {"train": train_split, "validation": validation_split, "test": test_split})
    image_column = choose_column(raw[splits["train"]], image_column, "image")
    label_column = choose_column(raw[splits["train"]], label_column, "label")

    chosen = DatasetDict({role: raw[split] for role, split in splits.items()})
    for role, dataset in chosen.items():
        where = f'split "{splits[role]}" of "{name_or_path}"'
        if len(dataset) == 0:
            raise ValueError(f"The {where} is empty; name another with --{role}_split.")
        for column in (image_column, label_column):
            if column not in dataset.column_names:
                raise ValueError(f'The {where} has no column "{column}", only {", ".join(dataset.column_names)}.')
        if dataset.features[label_column] != chosen["train"].features[label_column]:
            raise ValueError(
                f'The {where} has other labels than "{splits["train"]}": {dataset.features[label_column]} instead of '
                f"{chosen['train'].features[label_column]}."
            )
    chosen = chosen.select_columns([image_column, label_column])
    for column, name in ((image_column, "image"), (label_column, "label")):
        if column != name:
            chosen = chosen.rename_column(column, name)
    try:
        chosen = with_class_labels(chosen).cast_column("image", Image(decode=False))
    except (NotImplementedError, TypeError) as error:
        held = chosen["train"].features["image"]
        raise ValueError(f'The column "{image_column}" holds {held}, expected images.') from error
    for role, dataset in chosen.items():
        check_labels(dataset, f'split "{splits[role]}" of "{name_or_path}"')
        check_images_decode(dataset, f'split "{splits[role]}" of "{name_or_path}"')
    return hold_out_missing(chosen, held_out_share, seed)


def read_dataset(name_or_path: str, *, config_name=None, revision=None, token=None) -> DatasetDict:
    """All splits of a dataset, from wherever it is.

    Raises:
        ValueError: when nothing is there, or what is there is no dataset.
    """
    if name_or_path == DIGITS and not Path(name_or_path).exists():
        return digits()
    try:
        if (Path(name_or_path) / "dataset_dict.json").exists():
            return load_from_disk(name_or_path)
        if (Path(name_or_path) / "state.json").exists():
            return DatasetDict(train=load_from_disk(name_or_path))
        return load_dataset(name_or_path, config_name, revision=revision, token=token)
    except (OSError, ValueError, DatasetGenerationError, httpx2.HTTPError) as error:
        reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise ValueError(
            why_not_loaded(error, "dataset", name_or_path, revision=revision, token=token)
            or f'The dataset "{name_or_path}" cannot be loaded: {first_line(reason)}.'
        ) from error


def choose_splits(raw: DatasetDict, named: dict[str, str | None]) -> dict[str, str]:
    """The dataset's name of each role (train, validation, test) that it has a split for.

    Raises:
        ValueError: when a named split, or any to train on, is missing.
    """
    chosen = {role: name for role, name in named.items() if name}
    for name in chosen.values():
        if name not in raw:
            raise ValueError(f'There is no split "{name}"; the dataset has {", ".join(raw)}.')
    if len(set(chosen.values())) < len(chosen):
        raise ValueError(f"One split has several roles: {chosen}; train, validation and test must differ.")
    for role in SPLITS.keys() - chosen.keys():
        if free := [known for known in SPLITS[role] if known in raw and known not in chosen.values()]:
            chosen[role] = free[0]
    if "train" not in chosen:
        raise ValueError(f"There is no split to train on among {', '.join(raw)}; name one with --train_split.")
    if "test" not in chosen and "validation" in chosen and not named["validation"]:
        chosen["test"] = chosen.pop("validation")
    return chosen


def choose_column(dataset: Dataset, named: str | None, kind: str) -> str:
    """The one column of images or labels.

    Raises:
        ValueError: when the named column is missing, or none or several fit.
    """
    columns = dataset.column_names
    if named is not None:
        if named not in columns:
            raise ValueError(f'There is no column "{named}"; the dataset has {", ".join(columns)}.')
        return named
    feature = {"image": Image, "label": ClassLabel}[kind]
    fitting = [name for name in columns if isinstance(dataset.features[name], feature)]
    if not fitting and kind == "label":
        fitting = [name for name in columns if name in ("label", "labels", "class", "target")]
    if len(fitting) != 1:
        raise ValueError(
            f"{len(fitting)} columns could be the {kind}: found {', '.join(fitting) or 'none'} among "
            f"{', '.join(columns)}; name one with --{kind}_column."
        )
    return fitting[0]


def with_class_labels(splits: DatasetDict) -> DatasetDict:
    """Turns plain strings or integers in the label column into class ids with names, the same in every split."""
    feature = splits["train"].features["label"]
    if isinstance(feature, ClassLabel):
        return splits
    if not isinstance(feature, Value):
        raise ValueError(f"The label column holds {feature}, expected one class per image.")
    values = {role: dataset["label"][:] for role, dataset in splits.items()}
    if any(value is None for column in values.values() for value in column):
        raise ValueError("Some images have no label; expected one class per image.")
    names = sorted({value for column in values.values() for value in column})
    ids = {value: i for i, value in enumerate(names)}
    feature = ClassLabel(names=[str(name) for name in names])
    return DatasetDict(
        {
            role: dataset.remove_columns("label").add_column(
                "label", [ids[value] for value in values[role]], feature=feature
            )
            for role, dataset in splits.items()
        }
    )


def check_labels(dataset: Dataset, where: str) -> None:
    """Refuses labels that no classifier can be trained on.

    Raises:
        ValueError: names what was found.
    """
    counts = Counter(dataset["label"])
    names = dataset.features["label"].names
    outside = sorted(str(label) for label in counts if label is None or not 0 <= label < len(names))
    if outside:
        raise ValueError(f"The {where} has labels {', '.join(outside)}, expected 0 to {len(names) - 1}.")
    if len(counts) < 2:
        raise ValueError(f'The {where} has the one class "{names[next(iter(counts))]}", expected at least two.')


def check_images_decode(dataset: Dataset, where: str) -> None:
    """Decodes every image once.

    Raises:
        ValueError: names the first image that is broken or of an unknown kind.
    """
    for index, encoded in enumerate(tqdm(dataset["image"], desc=f"Reading the {where}", leave=False)):
        try:
            to_rgb(encoded)
        except (OSError, SyntaxError, ValueError, RuntimeError, PILImage.DecompressionBombError) as error:
            name = encoded["path"] if encoded and encoded.get("path") else f"number {index}"
            raise ValueError(f"Image {name} in the {where} cannot be read: {error}.") from error


def hold_out_missing(splits: DatasetDict, share: float, seed: int) -> DatasetDict:
    """Holds validation and test out of train where they are missing, stratified, by a fixed seed.

    Raises:
        ValueError: when train is too small for that, or the share no share.
    """
    splits = DatasetDict(splits)
    for role in ("test", "validation"):
        if role in splits:
            continue
        if not 0 < share < 1:
            raise ValueError(f"held_out_share is {share}, expected a share in (0, 1).")
        rarest = min(Counter(splits["train"]["label"]).values())
        size = round(share * len(splits["train"]))
        classes = len(set(splits["train"]["label"]))
        if rarest < 2 or size < classes or len(splits["train"]) - size < classes:
            raise ValueError(
                f"{len(splits['train'])} images of {classes} classes are too few to hold a {role} split out of; "
                f"name one with --{role}_split, or raise --held_out_share from {share}."
            )
        parts = splits["train"].train_test_split(test_size=size, seed=seed, stratify_by_column="label")
        splits["train"], splits[role] = parts["train"], parts["test"]
        logger.info("No %s split: %d images held out of train by seed %d", role, len(parts["test"]), seed)
    return splits


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
        "config": config_name,
        "revision": commit(test) or revision,
        "split": str(test.split or "test"),
    }


def stratified_subset(dataset: Dataset, count: int | None, seed: int) -> Dataset:
    """At most `count` images, with the class shares of the whole, by a fixed seed; `None` keeps all."""
    if count is None or count >= len(dataset):
        return dataset
    return dataset.select(stratified_rows(dataset["label"], count, seed))


def stratified_rows(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """At most `count` rows, with the class shares of the whole, by a fixed seed.

    Raises:
        ValueError: for a count below 1.
    """
    if count < 1:
        raise ValueError(f"The subset is to have {count} images, expected at least 1.")
    labels = np.asarray(labels)
    order = np.random.default_rng(seed).permutation(len(labels))
    places = np.empty(len(labels))
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        places[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return order[np.argsort(places[order], kind="stable")[:count]]


def to_rgb(image) -> PILImage.Image:
    """An 8-bit RGB image, upright, from encoded bytes, a file or a PIL image; other 8-bit modes are converted.

    Raises:
        ValueError: for other pixels than 8-bit ones.
        OSError: when the file is broken.
    """
    if image is None:
        raise ValueError("it is missing")
    if isinstance(image, dict):
        image = PILImage.open(io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"])
    if image.mode not in EIGHT_BIT_MODES:
        raise ValueError(f'its mode is "{image.mode}", expected 8 bits per channel')
    return ImageOps.exif_transpose(image).convert("RGB")


def with_pixel_values(dataset: Dataset, processor) -> torch.utils.data.Dataset:
    """The dataset as `pixel_values` (3, h, w) and `labels`; an index gives one image, a slice a batch.

    What fits into 2 GiB is decoded once and kept, anything larger is decoded when it is read.

    Raises:
        ValueError: when there is no image.
    """
    if len(dataset) == 0:
        raise ValueError("The dataset has no image.")
    decoded = dataset.with_transform(partial(to_pixel_values, processor=processor))
    if len(dataset) * decoded[0]["pixel_values"].nbytes > IN_MEMORY_BYTES:
        return decoded
    starts = tqdm(range(0, len(dataset), DECODED_AT_ONCE), desc="Decoding images", leave=False)
    batches = [decoded[start : start + DECODED_AT_ONCE] for start in starts]
    return InMemoryDataset({name: torch.cat([batch[name] for batch in batches]) for name in batches[0]})


class InMemoryDataset(torch.utils.data.Dataset):
    """Tensors by name, all with one row per image."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int | slice) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


def to_pixel_values(examples: dict, processor) -> dict[str, torch.Tensor]:
    """What the image processor makes of a batch of examples."""
    images = [to_rgb(image) for image in examples["image"]]
    pixel_values = processor(images, return_tensors="pt")["pixel_values"]
    return {"pixel_values": pixel_values, "labels": torch.as_tensor(examples["label"])}
