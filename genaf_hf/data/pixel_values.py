"""Images as the tensors that an encoder takes."""

import io
import logging
from functools import partial

import torch
from datasets import Dataset, Image, Value
from PIL import ExifTags
from PIL import Image as PILImage
from PIL.Image import Transpose
from tqdm import tqdm

from genaf_hf.errors import UserError, first_line
from genaf_hf.values.names import told
from genaf_hf.values.numbers import class_ids

logger = logging.getLogger(__name__)

IN_MEMORY_BYTES = 2 * 2**30
DECODED_AT_ONCE = 256
PIXELS_AT_ONCE = 2**24  # of images that a processor gets together, which takes seven bytes and more for each
# Decoders of other formats are rarely tried by hostile files, and that of PostScript starts a program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
LARGEST_IMAGE = 2**30 // 4 // 3  # of pixels, where Pillow begins to warn unless it is told otherwise
LONGEST_SIDE = 200  # times the other one: processors that resize the shorter side make an image as many times larger
TURNS = {  # by the EXIF's orientation
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def holds_images(feature) -> bool:
    """Whether a column is one of images by its type, or of their encoded bytes as pandas writes them."""
    encoded = isinstance(feature, dict) and feature.keys() == {"bytes", "path"}
    return encoded or isinstance(feature, Image) or feature in (Value("binary"), Value("large_binary"))


def to_rgb(image) -> PILImage.Image:
    """An 8-bit RGB image, upright, from encoded bytes, a file or a PIL image; other 8-bit modes are converted.

    Raises:
        UserError: for other pixels than 8-bit ones, too many of them, and other formats than `FORMATS`.
        OSError: when the file is broken; Pillow raises other exceptions too.
    """
    ours = isinstance(image, dict)
    if image is None or (ours and image["bytes"] is None and image["path"] is None):
        raise UserError("it is missing")
    if ours:
        image = opened(io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"])
    if image.mode not in EIGHT_BIT_MODES:
        raise UserError(f'its mode is "{image.mode}", expected 8 bits per channel')
    image.load()  # some formats tell only then how they are to be turned, and TIFF turns itself
    turn = turn_of(image)
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if turn is not None:  # not by ImageOps.exif_transpose, which fails where it cannot write a camera's EXIF anew
        rgb = rgb.transpose(turn)
        rgb.info = {}  # which still says that it is to be turned
    return rgb


def turn_of(image: PILImage.Image) -> PILImage.Transpose | None:
    """How an image is to be turned to be upright; None where it says nothing of it, or nothing that can be read."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # whatever a broken block makes of Pillow; the pixels are there
        return None


def opened(file: str | io.BytesIO) -> PILImage.Image:
    """An image whose pixels are not decoded yet.

    Raises:
        UserError: for other formats than `FORMATS`, and sizes out of bounds.
        OSError: when the file is not there.
    """
    try:
        image = PILImage.open(file, formats=FORMATS)
    except PILImage.UnidentifiedImageError as error:
        raise UserError(f"it is none of {', '.join(FORMATS)}, or broken") from error
    if image.width * image.height > LARGEST_IMAGE:
        raise UserError(f"it has {image.width * image.height} pixels, expected at most {LARGEST_IMAGE}")
    if max(image.size) > LONGEST_SIDE * min(image.size):
        raise UserError(
            f"it has {image.width} x {image.height} pixels, expected sides of which none is over {LONGEST_SIDE} times "
            "the other"
        )
    return image


def with_pixel_values(dataset: Dataset, processor) -> torch.utils.data.Dataset:
    """The dataset as `pixel_values` (3, h, w), and `labels` if it has any; an index gives one image, a slice a batch.

    What fits into 2 GiB is decoded once and kept, anything larger is decoded when it is read; by the workers of a
    `DataLoader` if it has any.

    Raises:
        UserError: when it is no `Dataset` with a column `image`, or there is no image.
    """
    if not isinstance(dataset, Dataset):
        raise UserError(
            f"The dataset is a {type(dataset).__name__}, expected one split as a Dataset, such as "
            'load_images("photos")["train"].'
        )
    if "image" not in dataset.column_names:
        raise UserError(
            f'The dataset has no column "image", only {told(", ".join(dataset.column_names))}: load it by load_images, '
            "or rename its columns to image and label."
        )
    if len(dataset) == 0:
        raise UserError("The dataset has no image.")
    decoded = dataset.with_transform(partial(to_pixel_values, processor=processor))
    first = decoded[0]
    if len(dataset) * first["pixel_values"].nbytes > IN_MEMORY_BYTES:
        logger.info(
            "%d images do not fit into memory: each is decoded when it is read, beside the training if "
            "--dataloader_num_workers is above 0",
            len(dataset),
        )
        return decoded
    tensors = {name: value.new_empty(len(dataset), *value.shape) for name, value in first.items()}
    for start in tqdm(range(0, len(dataset), DECODED_AT_ONCE), desc="Decoding images", leave=False):
        rows = slice(start, start + DECODED_AT_ONCE)
        for name, values in decoded[rows].items():
            tensors[name][rows] = values
    return InMemoryDataset(tensors, dataset)


class InMemoryDataset(torch.utils.data.Dataset):
    """Tensors by name, all with one row per image, and the dataset that they were made of."""

    def __init__(self, tensors: dict[str, torch.Tensor], images: Dataset):
        self.tensors, self.images = tensors, images

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, index: int | slice) -> dict[str, torch.Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


def read(image) -> PILImage.Image:
    """As `to_rgb`, of an image that a dataset holds.

    Raises:
        UserError: when it cannot be read; names its file.
    """
    try:
        return to_rgb(image)
    except Exception as error:  # Pillow raises whatever broken bytes lead its decoders to
        path = image.get("path") if isinstance(image, dict) else None
        words = f"Image {told(path)}" if path else "An image of the dataset"
        raise UserError(f"{words} cannot be read: {first_line(error)}; mend or delete it.") from error


def to_pixel_values(examples: dict, processor) -> dict[str, torch.Tensor]:
    """What the image processor makes of a batch of examples.

    Raises:
        UserError: for an image that cannot be read, as one that broke, or went away, since the dataset was loaded, and
            for labels that are no class ids.
    """
    made, images, pixels = [], [], 0
    for i, encoded in enumerate(examples["image"], start=1):
        images.append(image := read(encoded))
        pixels += image.width * image.height
        if pixels >= PIXELS_AT_ONCE or i == len(examples["image"]):
            made += [torch.as_tensor(values) for values in processor(images)["pixel_values"]]
            images, pixels = [], 0
    labels = {"labels": class_ids(examples["label"], len(made))} if "label" in examples else {}
    # Stacked here: processors for PIL copy their arrays several times to return tensors.
    return {"pixel_values": torch.stack(made), **labels}
