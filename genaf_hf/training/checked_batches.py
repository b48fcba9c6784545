"""Batches that are looked at while they are on the CPU."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genaf_hf.models.pixel_model import check_range
from genaf_hf.training.training_images import check_labels


@dataclass(frozen=True)
class CheckedBatches:
    """A data collator that refuses labels that are no class ids of a model, and pixel values that are no images.

    Attributes:
        collate: makes a batch of rows.
        classes: of the model.
        mean, std: that images in [0, 1] are normalised by.

    Raises:
        UserError: when it is called; names what was found.
    """

    collate: Callable[[list], dict]
    classes: int
    mean: Tensor
    std: Tensor

    def __call__(self, rows: list) -> dict:
        batch = self.collate(rows)
        if batch.get("labels") is not None:
            check_labels(torch.as_tensor(batch["labels"]), self.classes)
        if batch.get("pixel_values") is not None:
            pixel_values = torch.as_tensor(batch["pixel_values"])
            extremes = torch.cat([each(pixel_values, (0, 2, 3), keepdim=True) for each in (torch.amin, torch.amax)])
            check_range(extremes * self.std + self.mean)
        return batch
