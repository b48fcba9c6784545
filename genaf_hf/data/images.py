"""Images from the Hub or a local folder, checked and split."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, Image, Value

from genaf_hf.data.chosen import Chosen, choose, choose_column
from genaf_hf.data.known_datasets import KnownDataset, known_dataset
from genaf_hf.data.labels import check_class_names, check_labels, warn_of_untrained_classes, with_class_labels
from genaf_hf.data.own_files import check_image_files
from genaf_hf.data.pixel_values import holds_images
from genaf_hf.data.reading import in_one_sentence, read_dataset
from genaf_hf.data.splits import (
    check_held_out_share,
    choose_splits,
    hold_out,
    hold_out_drawn,
    hold_out_missing,
    random_subset,
    stratified_subset,
)
from genaf_hf.data.streaming import draw, images_to_draw, warn_of_absent_classes
from genaf_hf.data.whole_images import check_not_empty, with_whole_images
from genaf_hf.errors import UserError
from genaf_hf.values.names import told
from genaf_hf.values.provenance import public_name

FEWEST = 4  # images without labels: two to train on and one to report, at least
OF_EVALUATION = "max_eval_samples, limit in an audit"
OPTIONS = {"train": "max_train_samples", "test": "max_eval_samples"}
LIMITS = {"train": "max_train_samples", "validation": OF_EVALUATION, "test": OF_EVALUATION}


def load_images(
    name_or_path: str | Path,
    *,
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    held_out_share: float = 0.1,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    streaming: bool | None = None,
    skip_broken_images: bool = False,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DatasetDict:
    """Splits train, validation and test with the columns `image` (Image) and `label` (ClassLabel).

    Columns and splits are found by themselves where only one fits, or the dataset is one of `KNOWN_DATASETS`. A missing
    validation split is held out of train, stratified, by a fixed seed; a missing test split is the validation split, or
    held out of train too. Every image of the result is decoded once, so that a broken one is found before any work;
    the result has them as they are encoded, which `cast_column("image", datasets.Image())` changes.

    A streamed dataset is never downloaded as a whole: from each split as many images are drawn as are asked for. What
    is held out is drawn on top of the images to train on, and not stratified, since few images may miss a class.

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
        max_train_samples: images of train at most, a stratified subset; `None` for all.
        max_eval_samples: the same for validation and for test.
        streaming: whether to stream, default if the dataset is known to be large.
        skip_broken_images: whether images that cannot be read are left out, which is logged, instead of refused.
        seed: of the held-out splits, the subsets and what is drawn.
        revision: branch, tag or commit on the Hub.
        token: for private and gated datasets.

    Raises:
        UserError: for an unknown dataset, missing or ambiguous columns, an empty split, a single class, labels that
            are missing or outside the class names, images that cannot be read as 8-bit RGB, and a streamed dataset
            without the numbers of images. What is wrong with labels alone is a `LabelsError`.
    """
    name_or_path = str(name_or_path)
    known = known_dataset(name_or_path)
    streaming = known.streamed(streaming)
    named_limits = {"max_train_samples": max_train_samples, "max_eval_samples": max_eval_samples}
    check_limits(name_or_path, named_limits, streaming)
    limits = {"train": max_train_samples, "validation": max_eval_samples, "test": max_eval_samples}
    hub = {"revision": revision, "token": token}
    named = {"train": train_split, "validation": validation_split, "test": test_split}
    raw, cache = read_dataset(
        name_or_path,
        config_name=config_name or known.config_name,
        streaming=streaming,
        named_splits=named,
        **hub,
    )
    columns = {"image": image_column, "label": label_column}
    chosen = choose(name_or_path, raw, named, columns, known, streamed=cache is not None)
    images = chosen_images(name_or_path, chosen, limits, seed=seed, cache=cache, **hub)
    labelled = with_checked_labels(images, chosen, known)
    if cache is None:
        divided = hold_out_missing(labelled, held_out_share, seed)
    else:
        divided = hold_out_drawn(labelled, max_eval_samples, seed)
        warn_of_absent_classes(divided["train"])

    divided = {role: stratified_subset(divided[role], limit, seed) for role, limit in limits.items()}
    chosen_from = origins(divided, labelled, chosen.where)
    divided = with_whole_images(divided, chosen_from, skip=skip_broken_images)
    for role, dataset in divided.items():
        words = f"subset of {len(dataset)} ({LIMITS[role]}) from the " if limits[role] is not None else ""
        held_out = f"{role} part that is held out of the " if role not in labelled else ""
        check_labels(dataset, words + held_out + chosen_from[role][1])
        dataset.info.dataset_name = dataset.info.dataset_name or public_name(name_or_path)
    if cache is None:
        warn_of_untrained_classes(divided)
    return DatasetDict(divided)


def load_unlabelled_images(
    name_or_path: str | Path,
    *,
    config_name: str | None = None,
    image_column: str | None = None,
    train_split: str | None = None,
    max_samples: int | None = None,
    streaming: bool = False,
    skip_broken_images: bool = False,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Dataset:
    """All images of the split to train on, in the column `image` alone, for methods that read no labels.

    Nothing is held out, labels need not be there, and every image is decoded once.

    Args:
        name_or_path, config_name, image_column, train_split, skip_broken_images, revision, token: as for `load_images`.
        max_samples: images at most, drawn at random; `None` for all.
        streaming: whether they are drawn from a stream, and the dataset is not downloaded as a whole.
        seed: of what is drawn.

    Raises:
        UserError: for an unknown dataset, a missing or ambiguous column or split, an empty split, and images that
            cannot be read as 8-bit RGB, and a streamed dataset without the number of images.
    """
    images, where, _ = read_unlabelled(
        str(name_or_path),
        {"train": train_split},
        {"train": max_samples},
        config_name=config_name,
        image_column=image_column,
        streaming=streaming,
        seed=seed,
        hub={"revision": revision, "token": token},
    )
    drawn = {"train": random_subset(images["train"], max_samples, seed)}
    return with_whole_images(drawn, origins(drawn, images, where), skip=skip_broken_images)["train"]


def load_unlabelled_splits(
    name_or_path: str | Path,
    *,
    config_name: str | None = None,
    image_column: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    held_out_share: float = 0.1,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    streaming: bool | None = None,
    skip_broken_images: bool = False,
    seed: int = 0,
    revision: str | None = None,
    token: str | bool | None = None,
) -> DatasetDict:
    """Splits train and test of images of which no labels are read, in the column `image` alone.

    A missing test split is held out of train at random, by a fixed seed.

    Args:
        name_or_path, config_name, image_column, train_split, test_split, held_out_share, max_train_samples,
            max_eval_samples, streaming, skip_broken_images, seed, revision, token: as for `load_images`.

    Raises:
        UserError: as `load_unlabelled_images`, and for fewer images than four.
    """
    name_or_path = str(name_or_path)
    limits = {"train": max_train_samples, "test": max_eval_samples}
    images, where, streamed = read_unlabelled(
        name_or_path,
        {"train": train_split, "test": test_split},
        limits,
        config_name=config_name,
        image_column=image_column,
        streaming=streaming,
        seed=seed,
        hub={"revision": revision, "token": token},
    )
    if (count := sum(map(len, images.values()))) < FEWEST:
        raise UserError(
            f'"{name_or_path}" has {count} image(s), expected at least {FEWEST}, and better some thousands: add images.'
        )
    divided = DatasetDict(images)
    if "test" not in divided:
        check_held_out_share(held_out_share)
        size = max_eval_samples if streamed else max(1, round(held_out_share * len(divided["train"])))
        hold_out(divided, "test", size, seed, words=f"{size} images" if streamed else f"{100 * held_out_share:g}%")
    drawn = {role: random_subset(divided[role], limit, seed) for role, limit in limits.items()}
    return DatasetDict(with_whole_images(drawn, origins(drawn, images, where), skip=skip_broken_images))


def read_unlabelled(
    name_or_path: str,
    named: Mapping[str, str | None],
    limits: Mapping[str, int | None],
    *,
    config_name: str | None,
    image_column: str | None,
    streaming: bool | None,
    seed: int,
    hub: Mapping[str, Any],
) -> tuple[DatasetDict, dict[str, str], bool]:
    """The splits of some roles that are there, as they are encoded, words for each, and whether they were streamed.

    Args:
        named: by role, what the user calls the split.
        limits: by role, how many images are drawn of it at most, where it is streamed.
        hub: revision and token.
        name_or_path, config_name, image_column, streaming, seed: as for `load_images`.

    Raises:
        UserError: as `load_unlabelled_images`.
    """
    known = known_dataset(name_or_path)
    streaming = known.streamed(streaming)
    check_limits(name_or_path, {OPTIONS[role]: limit for role, limit in limits.items()}, streaming)
    raw, cache = read_dataset(
        name_or_path,
        config_name=config_name or known.config_name,
        streaming=streaming,
        labelled=False,
        named_splits=named,
        **hub,
    )
    roles = choose_splits(raw, {"train": None, "validation": None, "test": None, **named}, known.splits)
    splits = {role: raw[roles[role]] for role in limits if role in roles}
    where = {role: f'split "{roles[role]}" of "{name_or_path}"' for role in splits}
    columns = {"image": choose_column(splits["train"], image_column, known.image_column, "image")}
    chosen = Chosen(splits, roles, columns, where)
    images = chosen_images(name_or_path, chosen, limits, seed=seed, cache=cache, **hub)
    for role, dataset in images.items():
        check_not_empty(dataset, role, where[role])
    return images, where, cache is not None


def check_limits(name_or_path: str, limits: Mapping[str, int | None], streaming: bool) -> None:
    """Refuses numbers of images that are none, or missing where they are needed; the `UserError` names the number."""
    for name, limit in limits.items():
        if limit is None and streaming:
            raise UserError(
                f'"{name_or_path}" is streamed but {name} is None: say by max_train_samples and max_eval_samples '
                "(limit in an audit) how many images to draw, or set streaming to False to download all."
            )
        check_limit(name, limit)


def check_limit(name: str, limit: int | None) -> None:
    """Refuses a number of images that is none; the `UserError` names the number."""
    if limit is not None and limit < 1:
        raise UserError(f"{name} is {limit}, expected at least 1 image.")


def origins(
    divided: Mapping[str, Dataset], splits: Mapping[str, Dataset], where: Mapping[str, str]
) -> dict[str, tuple[Dataset, str]]:
    """The split that each part is from, which is train where it was held out, and words for it."""
    found = {role: role if role in splits else "train" for role in divided}
    return {role: (splits[origin], where[origin]) for role, origin in found.items()}


def chosen_images(
    name_or_path: str, chosen: Chosen, limits: Mapping[str, int | None], *, seed: int, cache: Path | None, **hub
) -> DatasetDict:
    """`encoded_images`, or `drawn_images` where there is a folder for what is drawn from streams."""
    if cache is None:
        return encoded_images(name_or_path, chosen)
    return drawn_images(name_or_path, chosen, limits, seed=seed, cache=cache, **hub)


def encoded_images(name_or_path: str, chosen: Chosen) -> DatasetDict:
    """The chosen splits with the column `image`, as it is encoded, and `label` where that is chosen.

    Raises:
        UserError: when the column holds no images, or names files that are not the dataset's.
    """
    images = DatasetDict(chosen.splits).select_columns(list(chosen.columns.values()))
    images = images.rename_columns({column: name for name, column in chosen.columns.items() if column != name})
    held = images["train"].features["image"]
    other = UserError(f'The column "{chosen.columns["image"]}" holds {told(held)}, expected images.')
    if held == Value("null") or (isinstance(held, dict) and not holds_images(held)):
        raise other
    try:
        encoded = images.cast_column("image", Image(decode=False))
    except (NotImplementedError, TypeError) as error:
        raise other from error
    for role, dataset in encoded.items():
        check_image_files(dataset, name_or_path, chosen.where[role])
    return encoded


def drawn_images(
    name_or_path: str,
    chosen: Chosen,
    limits: Mapping[str, int],
    *,
    seed: int,
    cache: Path,
    revision: str | None,
    token: str | bool | None,
) -> DatasetDict:
    """As many images as `limits` say by role, drawn from the chosen streams, as `encoded_images` gives them.

    Raises:
        UserError: when the column holds no images, or the stream breaks off.
    """
    with in_one_sentence(name_or_path, revision, token):
        wanted = images_to_draw(limits, chosen.splits)
        drawing = {"name_or_path": name_or_path, "seed": seed, "cache": cache, "token": token}
        return DatasetDict(
            {
                role: draw(stream, wanted[role], chosen.columns, split=chosen.names[role], **drawing)
                for role, stream in chosen.splits.items()
            }
        )


def with_checked_labels(images: DatasetDict, chosen: Chosen, known: KnownDataset) -> DatasetDict:
    """The images with class ids that have names.

    Raises:
        UserError: when a split has no image; `LabelsError` for labels that are missing, of one class, or outside names.
    """
    for role, dataset in images.items():
        check_not_empty(dataset, role, chosen.where[role])
    class_names = known.class_names if chosen.columns["label"] == known.label_column else None
    labelled = with_class_labels(images, class_names)
    check_class_names(labelled["train"].features["label"].names)
    for role, dataset in labelled.items():
        check_labels(dataset, chosen.where[role])
    return labelled
