"""What `TrainingArguments` can ask for that would change model, data or result unseen: refused before any work."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy, has_length

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.pixel_model import evaluating
from genaf_hf.training.optimization import make_schedule

logger = logging.getLogger(__name__)

UNSUPPORTED = {
    "auto_find_batch_size": "a second try would go on with weights that the first one changed; name a "
    "per_device_train_batch_size that fits",
    "deepspeed": "attacks need the whole model on each process",
    "enable_jit_checkpoint": "it ends a training early as if it was complete; save_steps leaves checkpoints to go on "
    "from",
    "fsdp": "attacks need the whole model on each process",
    "ignore_data_skip": "what is resumed goes on with the images that it has not seen",
    "neftune_noise_alpha": "its noise is for embeddings of words",
    "parallelism_config": "attacks need the whole model on each process",
    "use_liger_kernel": "its kernels are for language models",
}
OF_LAUNCHERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
METRICS = ("loss", "clean_accuracy", "robust_accuracy")
OWN_GROUPS = ("galore", "apollo", "lomo")  # optimizers that take the model apart themselves


class CheckedArguments(TrainingArguments):
    """`TrainingArguments` that say in one sentence of a `UserError` what they cannot take.

    Raises:
        UserError: names the field.
    """

    def __post_init__(self):
        check_unsupported(self)
        try:
            super().__post_init__()
        except (ImportError, OSError, TypeError, ValueError) as error:
            raise UserError(f"{first_line(error)}.") from error
        check_options(self)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Steps of the warm-up, which leaves one step at least: the first one of a warm-up has a learning rate of 0."""
        return min(super().get_warmup_steps(num_training_steps), num_training_steps - 1)


def check_options(args: TrainingArguments) -> None:
    """Refuses what our Trainers cannot honour.

    Raises:
        UserError: names the field.
    """
    check_unsupported(args)
    check_numbers(args)
    check_checkpointing(args)
    if args.train_sampling_strategy in ("group_by_length", "batch_rebalance"):
        raise UserError(
            f"train_sampling_strategy is {args.train_sampling_strategy}, but images have no lengths: choose random."
        )
    if args.push_to_hub and args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise UserError(
            f"hub_strategy is {args.hub_strategy.value}, but checkpoints are not shared: they hold the optimizer's "
            "state and the arguments; choose end."
        )
    if args.save_strategy == SaveStrategy.BEST and args.metric_for_best_model is None:
        raise UserError("save_strategy is best, but metric_for_best_model does not say by what: robust_accuracy?")
    for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
        if getattr(args, name) and args.dataloader_num_workers == 0:
            raise UserError(f"{name} is {getattr(args, name)}, but dataloader_num_workers is 0: name a number.")
    if args.n_gpu > 1:  # the Trainer would split batches over copies of the model, which adversaries do not know
        raise UserError(
            f"This one process has {args.n_gpu} GPUs, but trains on one: leave it one by CUDA_VISIBLE_DEVICES=0, or "
            "start a process for each by accelerate launch -m genaf_hf.cli harden."
        )
    if args.fp16 and args.device.type == "cpu":
        raise UserError("fp16 is True, but a CPU does not compute in it: use bf16, or leave it out.")
    check_reporting(args)
    check_optimizer(args)


def check_unsupported(args: TrainingArguments) -> None:
    """Refuses what our Trainers do not do.

    Raises:
        UserError: names the field.
    """
    for name, reason in UNSUPPORTED.items():
        if value := getattr(args, name, None):
            raise UserError(f"{name} is {value}, but {reason}: leave it out.")
    for variable, name in OF_LAUNCHERS.items():
        if os.environ.get(variable, "false").lower() in ("true", "1"):
            raise UserError(
                f"{name} is configured for accelerate, but attacks need the whole model on each process: launch with "
                "a configuration without it, such as accelerate launch --multi_gpu."
            )


def refuse_resume_flag(args: TrainingArguments) -> None:
    """Refuses a checkpoint that is named where runs go on by themselves.

    Raises:
        UserError: names it.
    """
    if args.resume_from_checkpoint is not None:
        raise UserError(
            f"resume_from_checkpoint is {args.resume_from_checkpoint}, but a run that was killed goes on by itself "
            "when it is started again with the same settings and output_dir: leave it out."
        )


def check_numbers(args: TrainingArguments) -> None:
    """Refuses numbers out of range.

    Raises:
        UserError: names the field.
    """
    for name in (
        *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        "eval_accumulation_steps",
    ):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UserError(f"{name} is {value}, expected at least 1.")
    if args.dataloader_num_workers < 0:
        raise UserError(f"dataloader_num_workers is {args.dataloader_num_workers}, expected 0 or more.")
    for name in ("max_steps", "adapt_max_steps"):
        if (value := getattr(args, name, -1)) == 0 or value < -1:
            raise UserError(f"{name} is {value}, expected a positive number, or -1 to count epochs instead.")
    epochs = args.num_train_epochs
    if args.max_steps < 0 and epochs is not None and not 0 < epochs < math.inf:
        raise UserError(f"num_train_epochs is {epochs}, expected a positive number.")
    if not 0 <= args.label_smoothing_factor < 1:
        raise UserError(f"label_smoothing_factor is {args.label_smoothing_factor}, expected a value in [0, 1).")
    if not 0 <= args.max_grad_norm < math.inf:
        raise UserError(f"max_grad_norm is {args.max_grad_norm}, expected 0 or more.")
    for name in ("seed", "data_seed"):
        if (value := getattr(args, name)) is not None and not 0 <= value < 2**32:
            raise UserError(f"{name} is {value}, expected a whole number from 0 to {2**32 - 1}.")


def check_checkpointing(args: TrainingArguments) -> None:
    """Refuses re-entrant activation checkpointing.

    Raises:
        UserError: names the field.
    """
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        given = getattr(args, name, None)
        if isinstance(given, dict) and given.get("use_reentrant"):
            raise UserError(
                f"{name} has use_reentrant, with which nothing trains behind frozen embeddings: leave it out."
            )


def check_checkpointable(args: TrainingArguments, model: nn.Module) -> None:
    """Refuses activation checkpointing of a model that has none.

    Raises:
        UserError: names the model.
    """
    if args.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", True):
        raise UserError(
            f"gradient_checkpointing is True, but a {type(model).__name__} has no activation checkpointing: leave it "
            "out, and lower per_device_train_batch_size where memory is short."
        )


def check_reporting(args: TrainingArguments) -> None:
    """Refuses to report to what is not installed.

    Raises:
        UserError: names it.
    """
    installed = [*get_available_reporting_integrations(), *(["flyte"] if find_spec("flytekit") else [])]
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            raise UserError(f'report_to is "{name}", expected none or some of {known}.')
        if name not in installed:
            raise UserError(
                f'report_to is "{name}", but its package is not installed: install {name}, or give --report_to none.'
            )


def check_optimizer(args: TrainingArguments) -> None:
    """Refuses an optimizer that cannot be made.

    Raises:
        UserError: names it and what it needs.
    """
    if any(name in args.optim for name in OWN_GROUPS):
        raise UserError(
            f"optim is {args.optim.value}, which groups the weights itself, but encoder and head have rates of their "
            "own: choose another one, for example adamw_torch."
        )
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        if args.learning_rate is None:  # it goes by the model
            settings["lr"] = 1.0
        kind([nn.Parameter(torch.zeros(1))], **settings)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"optim is {args.optim.value}, which cannot be made ({first_line(error)}): install what it needs, mend its "
            "settings, or choose another one, for example adamw_torch."
        ) from error


def check_schedule(args: TrainingArguments) -> None:
    """Refuses a schedule of the learning rate that cannot be made.

    Raises:
        UserError: names it and what it needs.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        make_schedule(args, optimizer, steps=1000, steps_per_epoch=1)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"lr_scheduler_type is {args.lr_scheduler_type.value} with lr_scheduler_kwargs {args.lr_scheduler_kwargs}, "
            f"which do not fit ({first_line(error)}): mend them, or choose another one, for example linear."
        ) from error


def keep_precision(args: TrainingArguments) -> None:
    """Turns off evaluation in half precision, for which the Trainer casts the weights that training goes on with."""
    for name in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(args, name):
            logger.warning("%s would cast the weights for good: evaluation is in the precision of training.", name)
            setattr(args, name, False)


def warn_of_half_precision(model: nn.Module) -> None:
    """Says so where the weights that are trained are in a precision that small steps are lost in."""
    for dtype in {each.dtype for each in model.parameters() if each.requires_grad} & {torch.float16, torch.bfloat16}:
        logger.warning(
            "Weights are %s, in which small steps of a training are lost: load the model with dtype=torch.float32, and "
            "set bf16=True to compute in half precision.",
            str(dtype).removeprefix("torch."),
        )


def check_training_images(args: TrainingArguments, dataset, *, epochs: float, max_steps: int) -> None:
    """Refuses a training that would take no step.

    Raises:
        UserError: says why.
    """
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
    if not has_length(dataset) or isinstance(dataset, IterableDataset):  # whose rows may come only once
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


def check_early_stopping(args: TrainingArguments, callbacks: Sequence[TrainerCallback]) -> None:
    """Refuses to stop early where nothing says when.

    Raises:
        UserError: names what is missing.
    """
    if not any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks):
        return
    if args.eval_strategy == IntervalStrategy.NO:
        raise UserError('EarlyStoppingCallback is given, but eval_strategy is "no": choose "epoch" or "steps".')
    if args.metric_for_best_model is None:
        raise UserError(
            "EarlyStoppingCallback is given, but metric_for_best_model does not say by what: robust_accuracy?"
        )


def leave_out_batch_of_one(args: TrainingArguments, model: nn.Module, dataset) -> None:
    """Leaves out the last batch of an epoch where it has one image, over which nothing can be normalized.

    Processes of a distributed training fill up their last batches.

    Raises:
        UserError: when all batches have one image.
    """
    if not normalizes_over_batch(model) or args.world_size > 1 or not has_length(dataset):
        return
    if args.train_batch_size == 1 or len(dataset) == 1:
        raise UserError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size} and train_dataset has {len(dataset)} "
            "image(s), but the model normalizes over batches: expected at least 2 of both."
        )
    if len(dataset) % args.train_batch_size == 1 and not args.dataloader_drop_last:
        logger.info("The last batch of an epoch has one image, over which nothing can be normalized: it is left out.")
        args.dataloader_drop_last = True


def normalizes_over_batch(model: nn.Module) -> bool:
    """Whether the model has BatchNorm that is trained."""
    return any(
        isinstance(module, nn.modules.batchnorm._BatchNorm)
        and any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        for module in model.modules()
    )


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuses labels (n,) that are no class ids.

    Raises:
        UserError: names one.
    """
    if labels.is_floating_point() or labels.ndim != 1:
        raise UserError(
            f"labels are {str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}, expected one whole "
            "number per image."
        )
    if len(labels) and ((lowest := labels.min().item()) < 0 or labels.max().item() >= classes):
        wrong = lowest if lowest < 0 else labels.max().item()
        raise UserError(f"A label is {wrong}, expected a class id from 0 to {classes - 1}, as the model has them.")


def check_finite_weights(model: nn.Module, step: int, advice: Callable[[], str]) -> None:
    """Refuses to save weights that are not finite.

    Raises:
        UserError: names one, and the advice.
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.isfinite().all():
            raise UserError(f"{name} is not finite after step {step}, nothing was saved. {advice()}")


@contextmanager
def must_train(model: nn.Module, what: str) -> Iterator[Callable[[], None]]:
    """Refuses a training that leaves all trainable weights as they were.

    Gives what looks at them once more, for a training that puts the best weights back, which may be the first ones.

    Args:
        model: that is trained meanwhile.
        what: the training, in words.

    Raises:
        UserError: afterwards, when no weight changed.
    """
    before, changed = trainable_sums(model), False

    def look() -> None:
        nonlocal changed
        changed = changed or before != trainable_sums(model)

    yield look
    look()
    if not changed:
        raise UserError(
            f"{what} changed no weight: raise the learning rate, and check that some weights are trainable and that an "
            "optimizer that was given holds them."
        )


def trainable_sums(model: nn.Module) -> dict[str, float]:
    """The sum of each trainable parameter."""
    return {
        name: parameter.detach().cpu().double().sum().item()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


@contextmanager
def without_token(args: TrainingArguments) -> Iterator[None]:
    """Takes the token away from arguments for as long as they are written to a file."""
    token, args.hub_token = args.hub_token, None
    try:
        yield
    finally:
        args.hub_token = token
