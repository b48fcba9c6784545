"""What tells images apart, whatever they are called and whichever kind of file they are in."""

import base64
import hashlib
from collections.abc import Mapping, Sequence

from datasets import Dataset

from genaf_hf.data.each_image import of_each_image
from genaf_hf.data.pixel_values import to_rgb

DIGEST_BYTES = 6  # one of 50,000 images has the digest of one of a million others with a probability of 0.0002
DIGEST_CHARACTERS = 8  # in base64


def image_digests(images: Dataset) -> list[str]:
    """A short digest of each image's pixels, `DIGEST_CHARACTERS` long."""
    return of_each_image(images, image_digest)


def split_digests(data: Mapping[str, Dataset]) -> dict[str, list[str]]:
    """What `image_digests` gives, by split."""
    return {split: image_digests(images) for split, images in data.items()}


def image_digest(image) -> str:
    """That of one image, of a size and pixels in 8-bit RGB, whatever it is encoded as."""
    image = to_rgb(image)
    found = hashlib.blake2b(repr(image.size).encode(), digest_size=DIGEST_BYTES)
    found.update(image.tobytes())
    return base64.urlsafe_b64encode(found.digest()).decode()


def images_content(data: Mapping[str, Dataset], digests: Mapping[str, Sequence[str]] | None = None) -> str:
    """SHA-256 of images, and of their labels with their names where they have any.

    Args:
        data: by split.
        digests: as `split_digests` gives them; made here where they are not needed for more.
    """
    found, digests = hashlib.sha256(), split_digests(data) if digests is None else digests
    for split, images in data.items():
        labels = (images.features["label"], list(images["label"])) if "label" in images.column_names else ()
        found.update(repr((split, labels, list(digests[split]))).encode())
    return found.hexdigest()
