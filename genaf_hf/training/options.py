"""What `TrainingArguments` can ask for that would change model, data or result unseen: refused before any work."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import nn
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy

from genaf_hf.errors import UserError, first_line
from genaf_hf.training.optimization import make_schedule

logger = logging.getLogger(__name__)

UNSUPPORTED = {
    "auto_find_batch_size": "a second try would go on with weights that the first one changed; name a "
    "per_device_train_batch_size that fits",
    "deepspeed": "attacks need the whole model on each process",
    "enable_jit_checkpoint": "it ends a training early, of which a report would be made; save_steps leaves checkpoints "
    "to go on from",
    "fsdp": "attacks need the whole model on each process",
    "ignore_data_skip": "what is resumed goes on with the images that it has not seen",
    "neftune_noise_alpha": "its noise is for embeddings of words",
    "parallelism_config": "attacks need the whole model on each process",
    "save_only_model": "a run that is killed goes on from its checkpoints, which need the optimizer's state",
    "use_liger_kernel": "its kernels are for language models",
}
OF_LAUNCHERS = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
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
        if self.gradient_checkpointing and self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = True  # the default is for checkpointing of a kind that is refused here
        check_options(self)

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Steps of the warm-up, which leaves one step at least: the first one of a warm-up has a learning rate of 0."""
        return min(super().get_warmup_steps(num_training_steps), num_training_steps - 1)


def check_options(args: TrainingArguments) -> None:
    """Refuses what our Trainers cannot honour; the `UserError` names the field."""
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
    """Refuses what our Trainers do not do; the `UserError` names the field."""
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
    """Refuses a checkpoint that is named where runs go on by themselves; the `UserError` names it."""
    if args.resume_from_checkpoint is not None:
        raise UserError(
            f"resume_from_checkpoint is {args.resume_from_checkpoint}, but a run that was killed goes on by itself "
            "when it is started again with the same settings and output_dir: leave it out."
        )


def check_numbers(args: TrainingArguments) -> None:
    """Refuses numbers out of range; the `UserError` names the field."""
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
    """Refuses re-entrant activation checkpointing; the `UserError` names the field."""
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        given = getattr(args, name, None)
        if isinstance(given, dict) and given.get("use_reentrant"):
            raise UserError(
                f"{name} has use_reentrant, with which nothing trains behind frozen embeddings: leave it out."
            )


def check_trainable(args: TrainingArguments, model: nn.Module) -> None:
    """Refuses what our Trainers cannot honour, and cannot with this model; the `UserError` names the field."""
    check_options(args)
    check_schedule(args)
    check_checkpointable(args, model)


def check_checkpointable(args: TrainingArguments, model: nn.Module) -> None:
    """Refuses activation checkpointing of a model that has none; the `UserError` names the model."""
    if args.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", True):
        raise UserError(
            f"gradient_checkpointing is True, but a {type(model).__name__} has no activation checkpointing: leave it "
            "out, and lower per_device_train_batch_size where memory is short."
        )


def check_reporting(args: TrainingArguments) -> None:
    """Refuses to report to what is not installed; the `UserError` names it."""
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
    """Refuses an optimizer that cannot be made; the `UserError` names it and what it needs."""
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
    """Refuses a schedule of the learning rate that cannot be made; the `UserError` names it and what it needs."""
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


def check_early_stopping(args: TrainingArguments, callbacks: Sequence[TrainerCallback]) -> None:
    """Refuses to stop early where nothing says when; the `UserError` names what is missing."""
    if not any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks):
        return
    if args.eval_strategy == IntervalStrategy.NO:
        raise UserError('EarlyStoppingCallback is given, but eval_strategy is "no": choose "epoch" or "steps".')
    if args.metric_for_best_model is None:
        raise UserError(
            "EarlyStoppingCallback is given, but metric_for_best_model does not say by what: robust_accuracy?"
        )


@contextmanager
def without_token(args: TrainingArguments) -> Iterator[None]:
    """Takes the token away from arguments for as long as they are written to a file."""
    token, args.hub_token = args.hub_token, None
    try:
        yield
    finally:
        args.hub_token = token
