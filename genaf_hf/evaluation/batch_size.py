"""How many images a model is asked about at once."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

logger = logging.getLogger(__name__)

ON_CPU, ELSEWHERE = 64, 512  # a CPU gains nothing from larger ones, and is not told in time that its memory runs out
Found = TypeVar("Found")


class BatchSize:
    """Images at a time, of which there are half as many from where they did not fit into a device's memory on.

    Args:
        images: to begin with, default 64 on a CPU and 512 elsewhere.
        device: that works.
    """

    def __init__(self, images: int | None, device: torch.device):
        self.images = images or (ON_CPU if device.type == "cpu" else ELSEWHERE)

    def fitting(self, work: Callable[[int], Found]) -> Found:
        """What work gives that is called with a number of images; it is begun anew with fewer where these do not fit.

        Args:
            work: gives the same for every number.
        """
        while True:
            try:
                return work(self.images)
            except RuntimeError as error:
                if self.images == 1 or not should_reduce_batch_size(error):
                    raise
            self.images //= 2
            logger.info("Memory is short: from here on %d images at a time", self.images)
            clear_device_cache(garbage_collection=True)
