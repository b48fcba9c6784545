"""Long loops that show how far they are."""

import os
from collections.abc import Iterable

from tqdm import tqdm

SILENT_SECONDS = 1


def progress(steps: Iterable, title: str, total: int | None = None) -> tqdm:
    """The same steps, with a bar where they take longer than a second; on the first process of a machine alone.

    Args:
        steps: of the loop.
        title: before the bar.
        total: how many there are, default their length.
    """
    other = os.environ.get("LOCAL_RANK", "0") != "0"
    return tqdm(steps, desc=title, total=total, leave=False, delay=SILENT_SECONDS, disable=other or None)
