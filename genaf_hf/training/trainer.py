"""Gen-AF as a `transformers.Trainer` (Zhou et al., IEEE S&P 2024, https://arxiv.org/abs/2403.10801)."""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn
from transformers.trainer_utils import IntervalStrategy, TrainOutput, has_length

from genaf_hf.errors import UserError
from genaf_hf.models.head import head_of, head_weights
from genaf_hf.models.partial_forward import inputs_of
from genaf_hf.models.pixel_model import at_least_float32, evaluating, only_trainable, pixel_statistics
from genaf_hf.sharing.layout import LAYERS
from genaf_hf.sharing.record import ADAPT, ADVERSARIAL_FINETUNE, LINEAR_PROBE, STANDARD_FINETUNE, TrainingRecord
from genaf_hf.training.assessment import Assessment
from genaf_hf.training.checkpoint import check_length, finished_stage, newest_complete_checkpoint, read_state
from genaf_hf.training.config import CLEAN_ACCURACY, ROBUST_ACCURACY, GenAFConfig
from genaf_hf.training.global_batch import (
    Features,
    Logits,
    MicroBatch,
    gather_logits,
    micro_batches,
    spread,
    with_own,
)
from genaf_hf.training.layers import freeze_modules, layer_weights
from genaf_hf.training.optimization import fine_tuning_rate, make_schedule, of_arguments, parameter_groups
from genaf_hf.training.options import (
    check_early_stopping,
    check_trainable,
    keep_precision,
)
from genaf_hf.training.sharing_trainer import SharingTrainer
from genaf_hf.training.trained_weights import warn_of_half_precision
from genaf_hf.training.training_images import (
    check_evaluation_images,
    check_rows,
    check_training_images,
    has_rows,
    images_of_update,
    leave_out_small_batch,
    warn_of_raw_images,
)
from genaf_hf.values.device import sent

logger = logging.getLogger(__name__)

STAGES = (STANDARD_FINETUNE, ADVERSARIAL_FINETUNE, LINEAR_PROBE, ADAPT)
LABELLED, UNLABELLED = (3, 1000), (1, 600)  # epochs and steps, at least, of a training whose length nobody named


class GenAFTrainer(SharingTrainer):
    """Hardens an image classifier made from a public encoder, by the defence that its configuration names.

    `train()` is the method: `adversarial_finetune()` and, where the defence has a second stage or one is asked for,
    `assess_layers()` and `adapt()`; each can be called alone. Takes what `Trainer` takes; `processing_class` is the
    image processor that made the datasets' `pixel_values`. Checkpoints of the two stages lie in `adversarial_finetune/`
    and `adapt/` of the output folder; each stage can be resumed from one of its own, or with
    `resume_from_checkpoint=True` from its newest complete one.

    Raises:
        UserError: for settings that Gen-AF cannot honour, before any work.
    """

    args: GenAFConfig
    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None

    def __init__(self, model=None, args: GenAFConfig | None = None, *others, **kwargs):
        if not isinstance(args, GenAFConfig):
            raise UserError(f"args is a {type(args).__name__}, expected a GenAFConfig.")
        if kwargs.get("processing_class") is None:
            raise UserError("processing_class is missing, expected the image processor that made the pixel_values.")
        if kwargs.get("compute_loss_func") is not None:
            raise UserError("compute_loss_func is given, but the loss is the defence's: leave it out.")
        if kwargs.get("model_init") is not None:
            raise UserError("model_init is given, but a second stage goes on with the first one's: pass the model.")
        if not isinstance(model, nn.Module):
            raise UserError(
                f"model is {model!r:.60}, expected an image classifier of transformers, as load_encoder gives."
            )
        args = copy.copy(args)
        if args.learning_rate is None:
            args.learning_rate = fine_tuning_rate(model)
        check_trainable(args, model)
        keep_precision(args)
        if kwargs.get("eval_dataset") is None and not others[2:]:
            check_evaluation_images(args, None, any_metric=True)
        super().__init__(model, args, *others, **kwargs)
        if self.label_names != ["labels"]:
            raise UserError(f'label_names is {self.label_names}, expected ["labels"]: leave it out.')
        check_evaluation_images(args, self.eval_dataset, any_metric=self.compute_metrics is not None)
        warn_of_half_precision(model)
        if self.optimizer is None and self.lr_scheduler is not None:
            raise UserError(
                "optimizers has a scheduler but no optimizer, so that it would schedule nothing: give both, or choose "
                "an lr_scheduler_type."
            )
        self._given_optimizer_and_scheduler = self.optimizer, self.lr_scheduler
        self.redundant_layers: list[str] | None = None
        self._waiting: list[MicroBatch] = []
        self._accumulated: list[Logits] = []
        self._new_scaler: dict = {}
        if not self.defence.reads_labels:  # nothing trains the head then, which several processes would wait for
            head_of(self.model).requires_grad_(False)

    # ---- the method ----

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """Both stages, or the first alone where a callback stopped it.

        Args:
            resume_from_checkpoint: a checkpoint of either, or True for the newest complete one.
            kwargs: as for `Trainer.train`.
        """
        self._check_training(self.stage_1)
        warn_of_raw_images(self.train_dataset, self.data_collator, pixel_statistics(self.processing_class)[0])
        checkpoint = self._find_checkpoint(resume_from_checkpoint, self.stage_1, ADAPT)
        adapts = self.args.adapt_epochs > 0 or self.args.adapt_max_steps > 0
        if adapts and not has_rows(self.train_dataset):
            raise UserError(
                "train_dataset has no length or no rows by number, but layers are assessed on a sample of it: use one "
                "that has them, or set adapt_epochs=0."
            )
        if adapts and not layer_weights(self.model):
            raise UserError("The model has no trainable linear or convolutional layer to adapt: set adapt_epochs=0.")
        if adapts:
            self._check_training(ADAPT)
        history, steps, metrics = [], 0, {}
        if checkpoint is None or checkpoint.parent.name != ADAPT:
            output = self._train_stage(self.stage_1, checkpoint, **kwargs)
            history, steps, checkpoint = self.state.log_history, output.global_step, None
            metrics = {f"{self.stage_1}_{name}": value for name, value in output.metrics.items()}
            if not adapts or self._was_stopped:
                return output
            self.assess_layers()
        else:
            history = self._history_of_stage_1()
        output = self.adapt(resume_from_checkpoint=checkpoint, **kwargs)
        self.state.log_history = history + self.state.log_history
        metrics |= {f"{ADAPT}_{name}": value for name, value in output.metrics.items()}
        return TrainOutput(steps + output.global_step, output.training_loss, metrics)

    @property
    def stage_1(self) -> str:
        """The name of the first stage, in logs and of its folder."""
        if self.defence.known.head_alone:
            return LINEAR_PROBE
        return STANDARD_FINETUNE if self.defence.objective is None else ADVERSARIAL_FINETUNE

    def standard_finetune(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """The undefended baseline: all weights on clean images, with the optimizer and the schedule of stage 1."""
        return self._train_stage(STANDARD_FINETUNE, resume_from_checkpoint, **kwargs)

    def adversarial_finetune(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """Stage 1: all weights against the defence's adversary and on its objective, encoder and head at own rates."""
        return self._train_stage(ADVERSARIAL_FINETUNE, resume_from_checkpoint, **kwargs)

    def assess_layers(self) -> dict[str, float]:
        """Each layer's contribution to robustness on adversarial training images; picks the layers for `adapt`.

        The result is written to `layer_robustness.json`.
        """
        assessment = Assessment.of(
            self.pixel_model(self.model),
            self.samples(self.args.assessment_samples, "Attacking images for assessment"),
            eps=self.args.eps,
            norm=self.args.norm,
            method=self.args.layer_assessment,
            redundant_share=self.args.redundant_share,
        )
        [assessment] = broadcast_object_list([assessment])
        self.redundant_layers = assessment.redundant_layers
        if self.is_world_process_zero():
            assessment.save(self.args.output_dir)
        return assessment.contributions

    def adapt(
        self,
        redundant_layers: list[str] | None = None,
        resume_from_checkpoint: str | Path | bool | None = None,
        **kwargs,
    ) -> TrainOutput:
        """Stage 2: only the weights of the most redundant layers, on clean images; everything else is frozen.

        Args:
            redundant_layers: exact parameter names, default those that `assess_layers` picked.
        """
        if redundant_layers is not None:
            self.redundant_layers = list(redundant_layers)
        if self.redundant_layers is None:
            if (assessment := Assessment.load(self.args.output_dir)) is None:
                path = Path(self.args.output_dir) / LAYERS
                raise UserError(f"{path} is missing: call assess_layers() first, or name the redundant_layers.")
            self.redundant_layers = assessment.redundant_layers
        with only_trainable(self.model, self.redundant_layers):
            return self._train_stage(ADAPT, resume_from_checkpoint, **kwargs)

    def training_record(self) -> TrainingRecord:
        """How the model was trained, with what was written down of the layers if its stage 2 had these."""
        found, record = Assessment.load(self.args.output_dir), super().training_record()
        if found is None or found.redundant_layers != self.redundant_layers:
            return record
        return replace(record, layers=asdict(found))

    def hyperparameter_search(self, *args, **kwargs):
        """Refused: each trial would need a new model, and a trainer has one.

        Raises:
            UserError: names what does it.
        """
        raise UserError(
            "GenAFTrainer has no hyperparameter_search, for which each trial needs another model: make a trainer for "
            "each of your settings."
        )

    # ---- losses ----

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """As of every training here.

        Raises:
            UserError: when the `compute_loss` of a subclass goes past that of this class.
        """
        waiting = len(self._waiting)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._defends and len(self._waiting) == waiting:
            raise UserError(
                f"compute_loss of {type(self).__name__} does not call that of GenAFTrainer, by which the defence "
                f"{self.defence.name} trains: add to what super().compute_loss gives, or register a defence of yours."
            )
        return loss

    def during_step(self) -> AbstractContextManager:
        """What the adversary changes of the model meanwhile."""
        return self.defence.adversary.training(self.model) if self._defends else nullcontext()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """That of the defence in stage 1; in other stages and in evaluations the model's own, on clean images."""
        micro_batch = MicroBatch()
        if model.training:
            freeze_modules(self.accelerator.unwrap_model(model))
            micro_batch = self._waiting.pop(0)
        if not model.training or not self._defends:
            # Without the item count the loss is a mean, which the Trainer divides by the number of micro-batches.
            loss = super().compute_loss(model, inputs, return_outputs)
            return (loss[0] * micro_batch.share, loss[1]) if return_outputs else loss * micro_batch.share

        attacked, objective = micro_batch.attacked, self.defence.objective
        stays_clean = self._stays_clean(inputs, micro_batch)
        labels = inputs["labels"] if self.defence.reads_labels else None
        public = self.public_features(inputs["pixel_values"]) if objective.reads_features else None
        inputs = {**inputs, "labels": self.labels_to_attack(inputs, public)}
        if attacked is None:
            attacked = self.craft(model, inputs, micro_batch, stays_clean)
        unwrapped = self.accelerator.unwrap_model(model)
        with inputs_of(head_of(unwrapped)) if objective.reads_features else nullcontext([]) as read:
            outputs = model(pixel_values=self._passed(inputs, attacked))
        own = self._logits(outputs, labels, stays_clean)
        if public is not None:
            own = replace(own, features=self._features(read[0], public))
        loss = objective(
            own,
            lambda: self._whole_update(own, micro_batch.index),
            eps_share=self.eps_share(),
            label_smoothing=self.args.label_smoothing_factor,
        )
        self.add_to_log(len(own.attacked), **loss.terms, **own.accuracies())
        # The Trainer divides by the number of micro-batches. What is of all of them already is the same in each: its
        # gradients count as often, its value, which is logged, but once.
        of_update, others = torch.as_tensor(loss.of_update), self.current_gradient_accumulation_steps - 1
        total = loss.of_rows * micro_batch.share + of_update + others * (of_update - of_update.detach())
        return (total, outputs) if return_outputs else total

    @property
    def least_images(self) -> int:
        return self.defence.adversary.least_images if self._defends else super().least_images

    @property
    def _defends(self) -> bool:
        """Whether this stage is trained by the defence, and not on clean images by the model's own loss."""
        return self.stage == ADVERSARIAL_FINETUNE and self.defence.objective is not None

    def _stays_clean(self, inputs: dict, micro_batch: MicroBatch) -> list[bool]:
        """Which images are passed clean and not attacked; empty where none is."""
        share = self.defence.objective.stay_clean
        return spread(self.first_row(inputs, micro_batch), len(inputs["pixel_values"]), share) if share else []

    def _passed(self, inputs: dict, attacked: Tensor) -> Tensor:
        """Pixel values that go through the model together."""
        return torch.cat([inputs["pixel_values"], attacked]) if self.defence.objective.reads_clean else attacked

    def _features(self, read: Tensor, public: Tensor) -> Features:
        """What the head reads of what was passed through the model, (n, ...), beside the public encoder's features."""
        read = at_least_float32(read.flatten(1))
        clean, attacked = read.chunk(2) if self.defence.objective.reads_clean else (None, read)
        return Features(clean, attacked, public)

    def _logits(self, outputs, labels: Tensor | None, stays_clean: list[bool] | None = None) -> Logits:
        """What the model makes of clean and attacked images, in float32 or wider."""
        logits = at_least_float32(outputs.logits)
        clean, attacked = logits.chunk(2) if self.defence.objective.reads_clean else (None, logits)
        left = sent(torch.tensor(stays_clean, dtype=torch.float32), logits.device) if stays_clean else None
        return Logits(clean, attacked, labels, left)

    def _whole_update(self, own: Logits, index: int) -> Logits:
        """The rows of all processes and, under accumulation, of all micro-batches, of which the own have gradients."""
        gathered = gather_logits(own)
        return with_own(self._accumulated, index, gathered) if self._accumulated else gathered

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Mirrors images where that is asked for.

        Under gradient accumulation, attacks all micro-batches first where the objective relates their rows.
        """
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self.prepared(batch) for batch in batches]
        self._waiting, self._accumulated = micro_batches([len(batch["pixel_values"]) for batch in batches]), []
        if self.args.random_flip:
            batches = [self.flipped(*each) for each in zip(batches, self._waiting, strict=True)]
        if len(batches) > 1 and self._defends and self.defence.objective.relates_rows:
            self._waiting = [self._attack_first(*each) for each in zip(batches, self._waiting, strict=True)]
        return batches, num_items

    def _attack_first(self, inputs: dict, micro_batch: MicroBatch) -> MicroBatch:
        """A micro-batch with its attacked pixel values; their logits and the clean ones' are written down."""
        attacked, model = self.craft(self.model, inputs, micro_batch), self.pixel_model(self.model)
        with evaluating(model), torch.no_grad():
            own = self._logits(model.model(self._passed(inputs, attacked)), inputs["labels"])
        self._accumulated.append(gather_logits(own))
        return replace(micro_batch, attacked=attacked)

    # ---- optimization ----

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Groups of encoder and head, each with and without weight decay, at their own learning rates.

        Stage 2 has one rate for everything.
        """
        if self.optimizer is not None:
            return self.optimizer
        model = self.model if model is None else model
        groups = parameter_groups(
            model,
            set(self.get_decay_parameter_names(model)),
            learning_rate=self.args.learning_rate,
            head_learning_rate=self.args.learning_rate if self.stage == ADAPT else self.args.head_learning_rate,
            weight_decay=self.args.weight_decay,
            layer_decay=1.0 if self.stage == ADAPT else self.args.layer_decay,
        )
        optimizer_class, settings = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = of_arguments(optimizer_class, self.args)(groups, **settings)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """The schedule of the arguments, which may decay per epoch."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.optimizer
            self.lr_scheduler = make_schedule(self.args, optimizer, num_training_steps, self._steps_per_epoch())
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # ---- stages, checkpoints and logs ----

    @contextmanager
    def _stage(self, stage: str) -> Iterator[None]:
        """Gives the Trainer the arguments, the folder and the optimizer of one stage, nothing left of the last one."""
        whole_run = self.args
        self.stage, self.args = stage, copy.copy(whole_run)
        self.args.output_dir = str(self._stage_folder(stage))
        if stage == ADAPT:
            self.args.learning_rate = whole_run.adapt_learning_rate
            self.args.num_train_epochs = whole_run.adapt_epochs
            self.args.max_steps = whole_run.adapt_max_steps
        elif self.args.num_train_epochs is None:
            epochs, steps = self._least
            self.args.num_train_epochs = float(max(epochs, math.ceil(steps / self._steps_per_epoch())))
        if self.args.logging_strategy == IntervalStrategy.STEPS and self.args.logging_steps > 1:
            shortest = self._steps_per_epoch() if self.args.max_steps < 1 else self.args.max_steps
            self.args.logging_steps = min(self.args.logging_steps, self._steps_per_epoch(), shortest)
        best_by = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if best_by == ROBUST_ACCURACY and not self.attacks_evaluations:
            self.args.metric_for_best_model = CLEAN_ACCURACY
        if self.args.load_best_model_at_end and self.args.save_total_limit == 1:
            self.args.save_total_limit = 2  # else the Trainer keeps the best alone, and a killed run lacks the last
        self.optimizer, self.lr_scheduler = (None, None) if stage == ADAPT else self._given_optimizer_and_scheduler
        self._created_lr_scheduler = False
        for callback in self._patience:
            callback.early_stopping_patience_counter = 0  # else a stage ends because of the one before it
        self.forget_log()
        self._renew_scaler()
        self.model_wrapped = self.model
        set_seed(whole_run.seed, device_specific=True)
        try:
            yield
        finally:
            self.stage, self.args = None, whole_run

    def _renew_scaler(self) -> None:
        """Has each stage in float16 begin with the same scale, also where the one before it was in another run."""
        if (scaler := self.accelerator.scaler) is not None:
            self._new_scaler = self._new_scaler or copy.deepcopy(scaler.state_dict())
            scaler.load_state_dict(self._new_scaler)

    def steps_of(self, stage: str) -> int:
        """Optimizer steps of a stage."""
        with self._stage(stage):
            leave_out_small_batch(self.args, self.model, self.train_dataset, self.least_images)
            return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    @property
    def _least(self) -> tuple[int, int]:
        """Epochs and steps of a stage 1 whose length nobody named, whichever are more."""
        return LABELLED if self.defence.reads_labels else UNLABELLED

    def _steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; all of a stage where the images have no length."""
        if not has_length(self.train_dataset):
            return self.args.max_steps
        rows = self.args.train_batch_size * self.args.world_size
        batches = len(self.train_dataset) / rows
        batches = math.floor(batches) if self.args.dataloader_drop_last else math.ceil(batches)
        return max(1, math.ceil(batches / self.args.gradient_accumulation_steps))

    def _train_stage(self, stage: str, resume_from_checkpoint: str | Path | bool | None, **kwargs) -> TrainOutput:
        """One stage, from where it is resumed to its end."""
        self._check_training(stage)
        checkpoint = self._find_checkpoint(resume_from_checkpoint, stage)  # while output_dir is the whole run's
        if checkpoint is None:  # of the baseline, too: another stage may follow, and this is the public encoder yet
            self.begin_adversary()
        trained = only_trainable(self.model, head_weights(self.model)) if stage == LINEAR_PROBE else nullcontext()
        with trained, self._stage(stage):
            return self.train_or_load(checkpoint, **kwargs)

    def _check_training(self, stage: str) -> None:
        """Refuses a stage that cannot be trained; the `UserError` says why."""
        args, of_stage_2 = self.args, stage == ADAPT
        if not self.defence.reads_labels and stage != self.stage_1:
            raise UserError(
                f"The stage {stage} trains on labels, but the defence {args.defence} reads none and leaves the head as "
                "it is: choose a defence for classifiers, such as universal, or none."
            )
        check_training_images(
            args,
            self.train_dataset,
            epochs=args.adapt_epochs if of_stage_2 else args.num_train_epochs or self._least[0],
            max_steps=args.adapt_max_steps if of_stage_2 else args.max_steps,
        )
        check_early_stopping(args, self.callback_handler.callbacks)
        self.defence.check(self.model, images_of_update(args, self.train_dataset))
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UserError("The model has no trainable weight: set requires_grad of those that are to be trained.")
        with self.accelerator.autocast():
            for name in ("train_dataset", "eval_dataset"):
                if (dataset := getattr(self, name)) is not None:
                    check_rows(args, name, dataset, self.data_collator, self.model, labelled=self.defence.reads_labels)

    def _history_of_stage_1(self) -> list[dict]:
        """What stage 1 logged, where only stage 2 is gone on with; refuses one of another length (`UserError`)."""
        newest = newest_complete_checkpoint(self._stage_folder(self.stage_1), world_size=self.args.world_size)
        if newest is None:
            return []
        check_length(newest, self.steps_of(self.stage_1))
        return finished_stage(newest) or read_state(newest).log_history

    def _stage_folder(self, stage: str) -> Path:
        return Path(self.args.output_dir) / stage

    def _find_checkpoint(self, resume_from_checkpoint: str | Path | bool | None, *stages: str) -> Path | None:
        """The checkpoint to go on from: the one that was named, or the newest of some stages.

        Raises:
            UserError: when there is none where one was asked for.
        """
        folders = [self._stage_folder(stage) for stage in stages]
        checkpoint = self.find_checkpoint(resume_from_checkpoint, *folders)
        if checkpoint is None:
            return None
        if checkpoint.parent.name in {*STAGES} - {*stages}:
            raise UserError(
                f"{checkpoint} is of the stage {checkpoint.parent.name}, expected one of {' or '.join(stages)}: "
                "weights, optimizer and step of another stage are not gone on with."
            )
        self.check_defence_of(checkpoint)
        return checkpoint

    @property
    def words(self) -> str:
        return f"stage {self.stage}"

    def log(self, logs: dict, start_time: float | None = None) -> None:
        """Adds the stage, and says what the logged terms of the loss tell to change."""
        if self.stage is not None:
            logs["stage"] = self.stage
            logs.pop("eval_model_preparation_time", None)  # only a run that goes on at the end of a stage has it
        super().log(logs, start_time)
        if "adversarial_loss" in logs and (advice := self.defence.objective.advice(logs)):
            logger.warning("Step %d: %s", self.state.global_step, advice)
