"""A Trainer that learns from random views of images."""

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import PreTrainedModel, TrainingArguments

from genaf_hf.data import with_pixel_values
from genaf_hf.models.pixel_model import pixel_statistics
from genaf_hf.pretraining.augmentation import Augmentation, uniform_numbers
from genaf_hf.training.options import check_trainable
from genaf_hf.training.resumable_trainer import ResumableTrainer
from genaf_hf.values.device import sent


class ViewTrainer(ResumableTrainer):
    """Trains on views of a dataset's images; what a view is depends on seed, epoch and index, not on the batch.

    `compute_loss` is the model's own loss on one view: that of a masked autoencoder, or of a classifier.

    Args:
        model: what is trained.
        args: of the training.
        dataset: with the column `image`, and `label` if the model gets labels.
        processor: makes the images' `pixel_values`, which the views are cut from.
        views: one per view; without any, the pixel values are the view.
        labels: whether the model gets labels.

    Raises:
        UserError: for settings that cannot be honoured, before any work; when training diverges.
    """

    words = "pre-training"
    kept = ""  # the name of the part of the model that is kept, by default all of it

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        dataset: Dataset,
        processor,
        views: Sequence[Augmentation] = (),
        *,
        labels: bool = False,
    ):
        check_trainable(args, model)
        self.augmentations = list(views)
        self.needs_labels = labels
        self.mean, self.std = (each.to(args.device) for each in pixel_statistics(processor))
        indexed = Indexed(with_pixel_values(dataset, processor))
        super().__init__(model, args, train_dataset=indexed, data_collator=indexed_batch, processing_class=processor)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        [view] = self.views(inputs)
        outputs = model(pixel_values=view, **self.beside(view, inputs))
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def beside(self, view: Tensor, inputs: dict) -> dict[str, Tensor]:
        """What the model is given with the one view of a batch, (n, 3, h, w)."""
        return {"labels": inputs["labels"]} if self.needs_labels else {}

    def views(self, inputs: dict) -> list[Tensor]:
        """Normalized views of a batch, each (n, 3, h, w)."""
        pixel_values = inputs["pixel_values"]
        if not self.augmentations:
            return [pixel_values]
        mean, std = self.mean.to(pixel_values), self.std.to(pixel_values)
        images, epoch = (pixel_values * std + mean).clamp(0, 1), int(self.state.epoch or 0)
        numbers = uniform_numbers(self.args.seed, epoch, inputs["index"], len(self.augmentations))
        numbers = sent(numbers, images.device)
        return [(augmentation(images, numbers[:, i]) - mean) / std for i, augmentation in enumerate(self.augmentations)]

    def trained_encoder(self) -> PreTrainedModel:
        """What is kept of the model."""
        return self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False).get_submodule(self.kept)


class Indexed(torch.utils.data.Dataset):
    """Rows of a dataset, each with its `index`."""

    def __init__(self, rows: torch.utils.data.Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return {**self.rows[index], "index": index}


def indexed_batch(rows: list[dict]) -> dict:
    """A batch of `Indexed` rows; its `index` stays a list, as what is drawn by it is drawn on the CPU."""
    return {**default_collate(rows), "index": [row["index"] for row in rows]}
