"""Images that are trained and evaluated on: what is missing or cannot be taken is refused before any work."""

import logging
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel, TrainingArguments, default_data_collator
from transformers.trainer_utils import IntervalStrategy, has_length

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.batch_norm import normalizes_over_batch
from genaf_hf.models.pixel_model import evaluating

logger = logging.getLogger(__name__)

LOOKED_AT = 8  # images
METRICS = ("loss", "clean_accuracy", "robust_accuracy")


def check_training_images(args: TrainingArguments, dataset, *, epochs: float, max_steps: int) -> None:
    """Refuses a training that would take no step; the `UserError` says why."""
    if dataset is None:
        raise UserError("train_dataset is missing, expected images to train on.")
    if isinstance(dataset, dict):
        raise UserError(f"train_dataset is a dict of {', '.join(map(str, dataset))}, expected one of these.")
    if not has_length(dataset):
        if max_steps <= 0:
            raise UserError("train_dataset has no length, so that epochs cannot be counted: name max_steps.")
        return
    if len(dataset) == 0:
        raise UserError("train_dataset is empty, expected images to train on.")
    batch = args.train_batch_size * args.world_size
    if args.dataloader_drop_last and len(dataset) < batch:
        raise UserError(
            f"train_dataset has {len(dataset)} image(s), fewer than one batch of {batch}, which dataloader_drop_last "
            "leaves out: lower per_device_train_batch_size, or leave dataloader_drop_last out."
        )
    if max_steps <= 0 and not epochs > 0:
        raise UserError(f"The training has {epochs} epochs, expected a positive number, or a number of steps.")


def has_rows(dataset) -> bool:
    """Whether a dataset has a length and gives rows by number."""
    return has_length(dataset) and not isinstance(dataset, IterableDataset)


def images_of_update(args: TrainingArguments, dataset) -> int:
    """How many images an update is of, over all processes and micro-batches."""
    images = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    return min(images, len(dataset)) if has_length(dataset) else images


def check_rows(
    args: TrainingArguments,
    name: str,
    dataset,
    collate: Callable[[list], dict],
    model: PreTrainedModel,
    *,
    labelled: bool = True,
) -> None:
    """Refuses images without pixel values that the model takes, or without class ids as labels.

    Args:
        args: of the training.
        name: of the dataset, in words.
        dataset: to train or evaluate on.
        collate: makes a batch of rows.
        model: that is trained, a classifier.
        labelled: whether there have to be labels.

    Raises:
        UserError: names what is missing, or the label.
    """
    columns, classes = getattr(dataset, "column_names", None) or [], model.config.num_labels
    if args.remove_unused_columns and columns and "pixel_values" not in columns:
        raise UserError("remove_unused_columns is True, but pixel values are made of such columns: leave it out.")
    if not has_rows(dataset):  # which may come only once
        return
    row = dataset[0]
    if collate is default_data_collator:
        if not isinstance(row, Mapping):
            raise UserError(
                f"{name} has rows of type {type(row).__name__}, expected mappings with pixel_values and labels: see "
                "with_pixel_values, or give a data_collator."
            )
        if "pixel_values" not in row:
            raise UserError(f"{name} has no pixel_values, only {', '.join(map(str, row))}: see with_pixel_values.")
    batch = collate([row])
    if not isinstance(batch, Mapping):
        raise UserError(
            f"data_collator makes a {type(batch).__name__} of {name}, expected a mapping with pixel_values and labels."
        )
    for needed in ("pixel_values", *(["labels"] if labelled else [])):
        if needed not in batch:
            raise UserError(f"{name} has no {needed}, only {', '.join(batch)}: see with_pixel_values.")
    check_taken(model, name, torch.as_tensor(batch["pixel_values"]))
    if not labelled:
        return
    check_labels(torch.as_tensor(batch["labels"]), classes)
    if getattr(dataset, "format", {}).get("type") != "custom":  # which may make labels of anything
        for column in {"label", "labels"} & {*columns}:
            check_labels(torch.as_tensor(dataset.with_format(None)[column][:]), classes)


def check_taken(model: nn.Module, name: str, pixel_values: Tensor) -> None:
    """Refuses pixel values (n, 3, h, w) of a shape that the model does not take.

    Raises:
        UserError: names the dataset and the shape.
    """
    try:
        with evaluating(model), torch.no_grad():
            model(pixel_values=pixel_values.to(next(model.parameters()).device))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{name} has pixel_values of shape {tuple(pixel_values.shape[1:])}, which the model does not take "
            f"({first_line(error)}): prepare them with the model's image processor."
        ) from error


def warn_of_raw_images(dataset, collate: Callable[[list], dict], mean: Tensor) -> None:
    """Says when images look as if nobody had subtracted the mean of the image processor from them.

    Images in [0, 1] then are in a part of that, so that `check_range` takes them.

    Args:
        dataset: to train on.
        collate: makes a batch of rows.
        mean: by which images in [0, 1] are normalised.
    """
    if not (mean > 0).all() or not has_rows(dataset):
        return
    with torch.random.fork_rng(devices=()):  # reading an augmented row draws numbers
        rows = [dataset[i] for i in range(0, len(dataset), math.ceil(len(dataset) / LOOKED_AT))]
        pixel_values = torch.as_tensor(collate(rows)["pixel_values"])
    if pixel_values.min() >= 0:
        logger.warning(
            "No pixel of %d images of train_dataset is darker than the mean of the image processor: if they are not "
            "normalised by it, do so, or eps is not in units of pixels and the saved model gets other images.",
            len(rows),
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuses labels (n,) that are no class ids; the `UserError` names one."""
    if labels.is_floating_point() or labels.ndim != 1:
        raise UserError(
            f"labels are {str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}, expected one whole "
            "number per image."
        )
    if len(labels) and ((lowest := labels.min().item()) < 0 or labels.max().item() >= classes):
        wrong = lowest if lowest < 0 else labels.max().item()
        raise UserError(f"A label is {wrong}, expected a class id from 0 to {classes - 1}, as the model has them.")


def check_evaluation_images(args: TrainingArguments, dataset, *, any_metric: bool) -> None:
    """Refuses what cannot be evaluated on, and to choose the best model by a metric that there is not.

    Args:
        args: of the training.
        dataset: to evaluate on; None for none.
        any_metric: whether there may be metrics of other names than ours.

    Raises:
        UserError: says what is expected.
    """
    if dataset is None:
        if args.eval_strategy != IntervalStrategy.NO:
            raise UserError(
                f"eval_strategy is {args.eval_strategy.value}, but eval_dataset is missing: give one, or set "
                'eval_strategy to "no".'
            )
        return
    if isinstance(dataset, dict):
        raise UserError(
            f"eval_dataset is a dict of {', '.join(map(str, dataset))}, expected one dataset, which report and card "
            "are about: give the others to evaluate()."
        )
    if not has_length(dataset) or len(dataset) == 0:
        raise UserError("eval_dataset is empty or has no length, expected a sized one: the report counts its images.")
    metric = (args.metric_for_best_model or METRICS[0]).removeprefix("eval_")
    if not any_metric and metric not in METRICS:
        raise UserError(f'metric_for_best_model is "{metric}", expected one of {", ".join(METRICS)}.')
    given = args.metric_for_best_model is not None and metric in METRICS
    if given and args.greater_is_better is (metric == METRICS[0]):
        raise UserError(
            f"greater_is_better is {args.greater_is_better}, with which the worst {metric} is taken for the best: "
            "leave it out."
        )


def leave_out_small_batch(args: TrainingArguments, model: nn.Module, dataset, least: int) -> None:
    """Leaves out the last batch of an epoch where it has too few images to be normalized over.

    Processes of a distributed training fill up their last batches.

    Args:
        args: of the training.
        model: that is trained.
        dataset: to train on.
        least: how many images can be normalized over.

    Raises:
        UserError: when all batches have too few images.
    """
    if not normalizes_over_batch(model) or args.world_size > 1 or not has_length(dataset):
        return
    if min(args.train_batch_size, len(dataset)) < least:
        raise UserError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size} and train_dataset has {len(dataset)} "
            f"image(s), but the model normalizes over batches: expected at least {least} of both."
        )
    last = len(dataset) % args.train_batch_size
    if 0 < last < least and not args.dataloader_drop_last:
        logger.info("The last batch of an epoch has %d image(s), too few to be normalized over: it is left out", last)
        args.dataloader_drop_last = True
