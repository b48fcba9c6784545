"""Work on every image of a dataset, as it is encoded."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from datasets import Dataset
from tqdm import tqdm

READ_AT_ONCE = 64
Result = TypeVar("Result")


def of_each_image(images: Dataset, work: Callable[[Any], Result], title: str | None = None) -> list[Result]:
    """What a function makes of each image, in order, by threads: Pillow lets others work meanwhile.

    Args:
        images: whose column `image` is read.
        work: on one image, as `to_rgb` takes it.
        title: of a progress bar, which there is none of without.
    """

    def part(start: int) -> list[Result]:
        return [work(each) for each in images[start : start + READ_AT_ONCE]["image"]]

    starts = range(0, len(images), READ_AT_ONCE)
    with ThreadPoolExecutor() as pool:
        parts = tqdm(pool.map(part, starts), title, len(starts), leave=False, disable=title is None)
        return [each for part in parts for each in part]
