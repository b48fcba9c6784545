"""A Trainer that learns from random views of images, and the one way by which its encoder becomes a checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import default_collate
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments

from genaf_hf.data import images_content, with_pixel_values
from genaf_hf.models.pixel_model import pixel_statistics
from genaf_hf.pretraining.augmentation import Augmentation, uniform_numbers
from genaf_hf.pretraining.card import encoder_card
from genaf_hf.runs.run import FINISHED, Run
from genaf_hf.sharing.layout import CARD
from genaf_hf.sharing.record import changed_settings
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.options import check_options, check_schedule
from genaf_hf.training.resumable_trainer import ResumableTrainer
from genaf_hf.training.training_images import check_training_images
from genaf_hf.values.device import sent

LEAVES = (CARD, "config.json", "model.safetensors", "preprocessor_config.json")


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
        check_options(args)
        check_schedule(args)
        self.augmentations = list(views)
        self.needs_labels = labels
        self.mean, self.std = (each.to(args.device) for each in pixel_statistics(processor))
        indexed = Indexed(with_pixel_values(dataset, processor))
        super().__init__(model, args, train_dataset=indexed, data_collator=indexed_batch, processing_class=processor)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        [view] = self.views(inputs)
        outputs = model(pixel_values=view, **({"labels": inputs["labels"]} if self.needs_labels else {}))
        return (outputs.loss, outputs) if return_outputs else outputs.loss

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

    def advice(self) -> str:
        return "Lower the learning rate and begin anew in another output_dir."


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


def pretrained(
    make_trainer: Callable[[TrainingArguments], ViewTrainer],
    args: TrainingArguments,
    *,
    method: str,
    config: PreTrainedConfig,
    views: Sequence[Augmentation],
    data: str,
    images: Dataset,
    encoder: Callable[[nn.Module], PreTrainedModel] = lambda model: model,
    settings: Mapping | None = None,
) -> Path:
    """Trains once, and leaves the encoder, its image processor and a card in `args.output_dir`.

    Args:
        make_trainer: makes model and trainer.
        args: of the training.
        method: one of `genaf_hf.pretraining.card.PAPERS`.
        config: of the encoder.
        views: that it is trained on.
        data: what the images are called.
        images: with the column `image`, and `label` if the method reads labels.
        encoder: the part of the trained model that is kept.
        settings: of the method.

    Returns:
        The folder. An encoder that is there already is returned as it is.

    Raises:
        UserError: when there is an unfinished run with other settings, or something else of the names.
    """
    told = {**(settings or {}), "views": [view.settings for view in views]}
    everything = {"method": method, "data": data, "model": config.to_dict(), **told, **args.to_dict()}
    everything |= {"processes": args.world_size, "content of the images": images_content({"train": images})[:16]}
    run = Run(args.output_dir, everything, leaves=LEAVES)
    if run.state == FINISHED:
        return run.folder
    training = changed_settings(args)
    with run.working():
        args.output_dir = str(run.unfinished / "checkpoints")
        trainer = make_trainer(args)
        check_training_images(args, trainer.train_dataset, epochs=args.num_train_epochs, max_steps=args.max_steps)
        trainer.train_or_load(newest_complete_checkpoint(args.output_dir, world_size=args.world_size))
        if trainer.is_world_process_zero():
            trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
            encoder(trained).save_pretrained(run.folder)
            trainer.processing_class.save_pretrained(run.folder)
            card = encoder_card(
                method, data, len(trainer.train_dataset), {"model": config.to_diff_dict(), **told, **training}
            )
            card.save(run.folder / CARD)
    return run.folder
