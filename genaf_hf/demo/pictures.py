"""Images that somebody uploaded, and pictures of images."""

from math import ceil

from PIL import Image as PILImage
from torch import Tensor

from genaf_hf.data import to_rgb
from genaf_hf.data.pixel_values import FORMATS, LARGEST_IMAGE, opened
from genaf_hf.errors import UserError

ENLARGED_SIDE = 256


def read_image(path: str) -> PILImage.Image:
    """An upright RGB image from a file that somebody uploaded.

    Raises:
        UserError: when it is no image of a kind that everybody can make, or broken; says nothing of its name.
    """
    try:
        with opened(path) as image:
            return to_rgb(image)
    except ValueError as error:
        raise UserError(f"This image cannot be shown to the models: {error}.") from error
    except (OSError, SyntaxError, RuntimeError, PILImage.DecompressionBombError) as error:
        known = sorted(FORMATS)
        raise UserError(
            f"This file cannot be read: expected an image, {', '.join(known[:-1])} or {known[-1]}, that is whole "
            f"and of at most {LARGEST_IMAGE // 10**6} million pixels."
        ) from error


def enlarged(image: Tensor) -> PILImage.Image:
    """A picture of an image (3, h, w) in [0, 1]; a small one with every pixel as a square of many."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    picture = PILImage.fromarray(pixels)
    factor = ceil(ENLARGED_SIDE / max(picture.size))
    return picture.resize([factor * side for side in picture.size], PILImage.Resampling.NEAREST)
