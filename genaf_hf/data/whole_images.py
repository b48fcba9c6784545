"""Images that can be read: each is decoded once, before any work."""

import logging
from collections.abc import Mapping

from datasets import ClassLabel, Dataset

from genaf_hf.data.each_image import of_each_image
from genaf_hf.data.pixel_values import to_rgb
from genaf_hf.errors import UserError, first_line
from genaf_hf.values.names import NAMED_AT_ONCE, some_of, told

logger = logging.getLogger(__name__)


def with_whole_images(
    splits: Mapping[str, Dataset], origins: Mapping[str, tuple[Dataset, str]], *, skip: bool
) -> dict[str, Dataset]:
    """The splits, after every image was decoded once.

    Args:
        splits: by role.
        origins: what they were chosen from, in which their images have their numbers, and words for it, by role.
        skip: whether broken images are left out.

    Raises:
        UserError: names the first of the images that are broken or of an unknown kind; when no other is left.
    """
    whole, broken = {}, []
    for role, dataset in splits.items():
        found = broken_images(dataset, origins[role][1])
        broken += [(role, dataset[row]["image"], words) for row, words in found.items()]
        whole[role] = dataset.select([row for row in range(len(dataset)) if row not in found]) if found else dataset
    if not broken:
        return whole
    words = "; ".join(
        f"Image {image_name(encoded, origins[role][0])} in the {origins[role][1]} cannot be read: {reason}"
        for role, encoded, reason in broken[:NAMED_AT_ONCE]
    )
    words += f"; nor can {len(broken) - NAMED_AT_ONCE} others" if len(broken) > NAMED_AT_ONCE else ""
    if not skip:
        raise UserError(f"{words}; mend or delete what is broken, or leave it out with --skip_broken_images.")
    logger.warning("%d images are left out, for they cannot be read: %s", len(broken), words)
    for role, dataset in whole.items():
        check_not_empty(dataset, role, origins[role][1])
    check_all_classes(splits["train"], whole["train"], origins["train"][1])
    return whole


def check_all_classes(before: Dataset, after: Dataset, where: str) -> None:
    """Refuses a class of which no image to train on is left; the `UserError` names it."""
    feature = before.features.get("label")
    if isinstance(feature, ClassLabel) and (lost := sorted({*before["label"]} - {*after["label"]})):
        classes = some_of([feature.names[label] for label in lost])
        raise UserError(f"No image of the class {classes} in the {where} can be read: mend some, or take it away.")


def broken_images(dataset: Dataset, where: str) -> dict[int, str]:
    """What is wrong with the images that cannot be read, by row."""
    reasons = of_each_image(dataset, why_broken, f"Reading the {where}")
    return {row: reason for row, reason in enumerate(reasons) if reason is not None}


def why_broken(encoded) -> str | None:
    """What is wrong with an image, in words; None where it can be read."""
    try:
        to_rgb(encoded)
    except Exception as error:  # Pillow raises whatever broken bytes lead its decoders to
        return first_line(error)
    return None


def image_name(encoded: dict | None, origin: Dataset) -> str:
    """The file of an image, or its number in what it was chosen from."""
    named = encoded and encoded.get("path")
    return told(named) if named else f"number {next(i for i, other in enumerate(origin['image']) if other == encoded)}"


def check_not_empty(dataset: Dataset, role: str, where: str) -> None:
    """Refuses a split without an image; the `UserError` names the split."""
    if len(dataset) == 0:
        raise UserError(f"The {where} is empty; name another with --{role}_split.")
