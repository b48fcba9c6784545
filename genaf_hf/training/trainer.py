"""Gen-AF as a `transformers.Trainer` (Zhou et al., IEEE S&P 2024, https://arxiv.org/abs/2403.10801)."""

import copy
import json
import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate.utils import broadcast_object_list, gather, set_seed
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset
from transformers import EarlyStoppingCallback, TrainerState
from transformers.trainer import _is_peft_model
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, SaveStrategy, TrainOutput, has_length

from genaf_hf.attacks.pgd import pgd
from genaf_hf.errors import UserError
from genaf_hf.models.pixel_model import at_least_float32, evaluating, only_trainable
from genaf_hf.runs.progress import progress
from genaf_hf.sharing.layout import LAYERS
from genaf_hf.training.checkpoint import (
    check_disk_space,
    damage,
    finished_stage,
    forget_finished_stage,
    load_weights,
    newest_complete_checkpoint,
    read_state,
    write_finished_stage,
)
from genaf_hf.training.config import CLEAN_ACCURACY, ROBUST_ACCURACY, GenAFConfig
from genaf_hf.training.genetic_regularization import genetic_regularization
from genaf_hf.training.global_batch import AccumulatedBatch, gather_rows
from genaf_hf.training.layers import freeze_modules, layer_robustness, layer_weights, most_redundant
from genaf_hf.training.optimization import fine_tuning_rate, make_schedule, parameter_groups
from genaf_hf.training.options import (
    check_early_stopping,
    check_evaluation_images,
    check_finite,
    check_finite_weights,
    check_labels,
    check_options,
    check_rows,
    check_schedule,
    check_training_images,
    keep_precision,
    leave_out_batch_of_one,
    must_train,
    warn_of_half_precision,
)
from genaf_hf.training.sharing_trainer import SharingTrainer

logger = logging.getLogger(__name__)

STANDARD_FINETUNE = "standard_finetune"
ADVERSARIAL_FINETUNE = "adversarial_finetune"
ADAPT = "adapt"
STAGES = (STANDARD_FINETUNE, ADVERSARIAL_FINETUNE, ADAPT)
BEST_WEIGHTS = "best"
COUPLED = "decoupled_weight_decay=false"  # in optim_args: Adam instead of AdamW
ASSESSMENT_STEPS = 10
LOG_SUMS = "LogSums"
LEAST_EPOCHS, LEAST_STEPS = 3, 300  # of a stage whose length nobody named
ONE_ANSWER, RIGHT = 0.95, 0.9  # so many images with one answer and so few right ones are a collapse
DROWNING = 10  # how many times the cross-entropy a regularization drowns it


class GenAFTrainer(SharingTrainer):
    """Hardens an image classifier made from a public encoder.

    `train()` is the method: `adversarial_finetune()`, `assess_layers()`, `adapt()`; each can be called alone. Takes
    what `Trainer` takes; `processing_class` is the image processor that made the datasets' `pixel_values`. Checkpoints
    of the two stages lie in `adversarial_finetune/` and `adapt/` of the output folder; each stage can be resumed from
    one of its own, or with `resume_from_checkpoint=True` from its newest complete one.

    Evaluation reports `eval_clean_accuracy` and `eval_robust_accuracy`, the latter under the training adversary.

    Raises:
        UserError: for settings that Gen-AF cannot honour, before any work.
    """

    args: GenAFConfig
    loss_is_scaled_for_ga = False

    def __init__(self, model=None, args: GenAFConfig | None = None, *others, **kwargs):
        if not isinstance(args, GenAFConfig):
            raise UserError(f"args is a {type(args).__name__}, expected a GenAFConfig.")
        if kwargs.get("processing_class") is None:
            raise UserError("processing_class is missing, expected the image processor that made the pixel_values.")
        if kwargs.get("compute_loss_func") is not None:
            raise UserError("compute_loss_func is given, but the losses of both stages are Gen-AF's: leave it out.")
        if kwargs.get("model_init") is not None:
            raise UserError("model_init is given, but stage 2 goes on with stage 1's model: pass the model itself.")
        args = copy.copy(args)
        if args.learning_rate is None:
            args.learning_rate = fine_tuning_rate(model)
        check_options(args)
        check_schedule(args)
        keep_precision(args)
        if kwargs.get("eval_dataset") is None and not others[2:]:
            check_evaluation_images(args, None, any_metric=True)
        super().__init__(model, args, *others, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UserError("FSDP or DeepSpeed is configured, but attacks need the whole model: launch without them.")
        if self.label_names != ["labels"]:
            raise UserError(f'label_names is {self.label_names}, expected ["labels"]: leave it out.')
        check_evaluation_images(args, self.eval_dataset, any_metric=self.compute_metrics is not None)
        if args.data_seed is None:  # else from each process's own seed, and the processes draw overlapping batches
            self.accelerator.dataloader_config.data_seed = args.seed
        warn_of_half_precision(model)
        if self.optimizer is None and self.lr_scheduler is not None:
            raise UserError(
                "optimizers has a scheduler but no optimizer, so that it would schedule nothing: give both, or choose "
                "an lr_scheduler_type."
            )
        self._given_optimizer_and_scheduler = self.optimizer, self.lr_scheduler
        self.stage: str | None = None
        self._redundant_layers: list[str] | None = None
        self._accumulated: AccumulatedBatch | None = None
        self._log_sums: dict[str, Tensor] = defaultdict(float)
        self._log_count = 0
        self._look_at_weights: Callable[[], None] = lambda: None
        self._sums_of_checkpoint: dict | None = None
        self._correct: dict[str, list[Tensor]] = {}
        self._answers: list[Tensor] = []

    # ---- the method ----

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """Both stages. `resume_from_checkpoint` is a checkpoint of either, or True for the newest complete one."""
        self._check_training(ADVERSARIAL_FINETUNE)
        checkpoint = self._find_checkpoint(resume_from_checkpoint, ADVERSARIAL_FINETUNE, ADAPT)
        adapts = self.args.adapt_epochs > 0 or self.args.adapt_max_steps > 0
        if adapts and (not has_length(self.train_dataset) or isinstance(self.train_dataset, IterableDataset)):
            raise UserError(
                "train_dataset has no length or no rows by number, but layers are assessed on a sample of it: use one "
                "that has them, or set adapt_epochs=0."
            )
        if adapts and not layer_weights(self.model):
            raise UserError("The model has no trainable linear or convolutional layer to adapt: set adapt_epochs=0.")
        history, steps, metrics = [], 0, {}
        if checkpoint is None or checkpoint.parent.name != ADAPT:
            output = self.adversarial_finetune(checkpoint, **kwargs)
            history, steps, checkpoint = self.state.log_history, output.global_step, None
            metrics = {f"{ADVERSARIAL_FINETUNE}_{name}": value for name, value in output.metrics.items()}
            if not adapts:
                return output
            self.assess_layers()
        else:
            history = self._history_of_stage_1()
        output = self.adapt(resume_from_checkpoint=checkpoint, **kwargs)
        self.state.log_history = history + self.state.log_history
        metrics |= {f"{ADAPT}_{name}": value for name, value in output.metrics.items()}
        return TrainOutput(steps + output.global_step, output.training_loss, metrics)

    def standard_finetune(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """The undefended baseline: all weights on clean images, with the optimizer and the schedule of stage 1."""
        return self._train_stage(STANDARD_FINETUNE, resume_from_checkpoint, **kwargs)

    def adversarial_finetune(self, resume_from_checkpoint: str | Path | bool | None = None, **kwargs) -> TrainOutput:
        """Stage 1: all weights on adversarial images with the genetic regularization, encoder and head at own rates."""
        return self._train_stage(ADVERSARIAL_FINETUNE, resume_from_checkpoint, **kwargs)

    def assess_layers(self) -> dict[str, float]:
        """Each layer's contribution to robustness on adversarial training images; picks the layers for `adapt`.

        The result is written to `layer_robustness.json`.
        """
        count = min(self.args.assessment_samples, len(self.train_dataset))
        generator = torch.Generator().manual_seed(self.args.seed)
        indices = torch.randperm(len(self.train_dataset), generator=generator)[:count].tolist()
        model = self._pixel_model(self.model)
        images, labels = [], []
        for start in progress(range(0, count, self.args.per_device_eval_batch_size), "Attacking images for assessment"):
            batch = self.data_collator(
                [self.train_dataset[i] for i in indices[start : start + self.args.per_device_eval_batch_size]]
            )
            batch = self._prepare_inputs(batch)
            clean = model.to_images(batch["pixel_values"])
            seeds = range(start, start + len(clean))
            images.append(pgd(model, clean, batch["labels"], **self._assessment_adversary(), seeds=seeds))
            labels.append(batch["labels"])
        contributions = layer_robustness(model, torch.cat(images), torch.cat(labels), method=self.args.layer_assessment)
        [contributions] = broadcast_object_list([contributions])
        self._redundant_layers = most_redundant(contributions, self.args.redundant_share)
        if self.is_world_process_zero():
            self._write_layer_robustness(contributions, count)
        return contributions

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
            self._redundant_layers = list(redundant_layers)
        if self._redundant_layers is None:
            self._redundant_layers = self._read_redundant_layers()
        with only_trainable(self.model, self._redundant_layers):
            return self._train_stage(ADAPT, resume_from_checkpoint, **kwargs)

    # ---- losses ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Stage 1: cross-entropy on adversarial and clean images, and the regularization. Otherwise on clean ones."""
        if model.training:
            freeze_modules(self.accelerator.unwrap_model(model))
        if not model.training or self.stage != ADVERSARIAL_FINETUNE:
            # Without the item count the loss is a mean, which the Trainer divides by the number of micro-batches.
            share = inputs.pop("share", 1.0)
            loss = super().compute_loss(model, inputs, return_outputs)
            return (loss[0] * share, loss[1]) if return_outputs else loss * share

        labels, micro_batch, share = inputs["labels"], inputs.get("micro_batch", 0), inputs.get("share", 1.0)
        adversarial = inputs.get("adversarial_pixel_values")
        if adversarial is None:
            adversarial = self._craft(model, inputs)
        outputs = model(pixel_values=torch.cat([inputs["pixel_values"], adversarial]))
        benign_logits, adversarial_logits = at_least_float32(outputs.logits).chunk(2)

        adversarial_loss = F.cross_entropy(adversarial_logits, labels, label_smoothing=self.args.label_smoothing_factor)
        loss = adversarial_loss * share
        if self.args.clean_share > 0:
            clean_loss = F.cross_entropy(benign_logits, labels, label_smoothing=self.args.label_smoothing_factor)
            loss = torch.lerp(loss, clean_loss * share, self.args.clean_share)
            self._add_to_log(clean_loss=clean_loss)
        if self.args.genetic_weight > 0:
            regularization, weight = self._regularization(benign_logits, adversarial_logits, labels, micro_batch)
            # The Trainer divides by the number of micro-batches; the regularization is of all of them already.
            loss = loss + weight * regularization * self.current_gradient_accumulation_steps
            self._add_to_log(genetic_regularization=regularization, genetic_loss=weight * regularization)
        self._add_to_log(
            adversarial_loss=adversarial_loss,
            clean_accuracy=(benign_logits.argmax(1) == labels).float().mean(),
            robust_accuracy=(adversarial_logits.argmax(1) == labels).float().mean(),
        )
        self._log_count += 1
        return (loss, outputs) if return_outputs else loss

    def _craft(self, model, inputs) -> Tensor:
        """Adversarial pixel values of a batch, crafted through the unwrapped model."""
        pixel_model = self._pixel_model(model)
        images, labels = pixel_model.to_images(inputs["pixel_values"]), inputs["labels"]
        first = inputs.get("first_row", 0) * self.args.world_size + self.args.process_index * len(labels)
        step_seed = ((self.args.seed * 1_000_003 + self.state.global_step) % 2**50) << 12
        with self.accelerator.autocast():
            adversarial = pgd(
                pixel_model,
                images,
                labels,
                **self._adversary(self._eps_share()),
                seeds=range(step_seed + first, step_seed + first + len(labels)),
            )
        return pixel_model.to_pixel_values(adversarial)

    def _eps_share(self) -> float:
        """What eps and step size are multiplied by at this step: they grow over the first part of stage 1."""
        ramp = self.args.eps_warmup_ratio * self.state.max_steps
        return min(1.0, (self.state.global_step + 1) / ramp) if ramp > 0 else 1.0

    def _adversary(self, eps_share: float = 1.0) -> dict:
        """Settings of the training adversary."""
        return {
            "eps": self.args.eps * eps_share,
            "steps": self.args.steps,
            "step_size": self.args.step_size * eps_share,
            "norm": self.args.norm,
            "random_start": self.args.random_start,
        }

    def _assessment_adversary(self) -> dict:
        """The paper's PGD-10 with random start, at the eps of training (theirs: 8/255, in steps of 2/255)."""
        eps = self.args.eps
        return {"eps": eps, "steps": ASSESSMENT_STEPS, "step_size": eps / 4, "norm": self.args.norm}

    def _regularization(
        self, benign: Tensor, adversarial: Tensor, labels: Tensor, micro_batch: int
    ) -> tuple[Tensor, float | Tensor]:
        """The regularization over the global batch, and its weight at this step.

        The global batch are all processes' rows, and all micro-batches' under accumulation. The weight is lowered where
        the weighted regularization would exceed its share of the cross-entropy, which grows with eps.
        """
        benign, adversarial, labels = gather_rows(benign), gather_rows(adversarial), gather(labels)
        if self._accumulated is not None:
            benign, adversarial, labels = self._accumulated.with_own(micro_batch, benign, adversarial)
        sample_weight = F.cross_entropy(benign, labels, reduction="none")
        regularization = genetic_regularization(benign, adversarial, labels, sample_weight)
        if math.isinf(self.args.genetic_share):
            return regularization, self.args.genetic_weight
        largest = self.args.genetic_share * self._eps_share() * F.cross_entropy(adversarial.detach(), labels)
        return regularization, (largest / regularization.detach()).clamp(max=self.args.genetic_weight)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Under gradient accumulation, crafts all micro-batches first, because the regularization relates them.

        A micro-batch's `share` is its number of rows by the mean number, so that a short one counts for less.
        """
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._accumulated = None
        if len(batches) > 1:
            batches = [self._prepare_inputs(batch) for batch in batches]
            rows = [len(batch["labels"]) for batch in batches]
            for index, batch in enumerate(batches):
                batch["share"] = rows[index] * len(rows) / sum(rows)
                if self.stage == ADVERSARIAL_FINETUNE:
                    batch |= {"micro_batch": index, "first_row": sum(rows[:index])}
            if self.stage == ADVERSARIAL_FINETUNE and self.args.genetic_weight > 0:
                self._accumulated = self._craft_together(batches)
        return batches, num_items

    def _craft_together(self, batches: list[dict]) -> AccumulatedBatch:
        """Gives each micro-batch its adversarial pixel values; returns the logits of all.

        They are those of eval mode, which a micro-batch's own are related to: exact without dropout, drop path and
        BatchNorm.
        """
        accumulated = AccumulatedBatch([], [], [])
        model = self._pixel_model(self.model)
        for batch in batches:
            adversarial = self._craft(self.model, batch)
            with evaluating(model), torch.no_grad(), self.accelerator.autocast():
                logits = at_least_float32(model.model(torch.cat([batch["pixel_values"], adversarial])).logits)
            accumulated.add(*(gather(half) for half in logits.chunk(2)), gather(batch["labels"]))
            batch["adversarial_pixel_values"] = adversarial
        return accumulated

    # ---- evaluation ----

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)
        if labels is not None:
            inputs = self._prepare_inputs(inputs)
            pixel_model = self._pixel_model(model)
            images = pixel_model.to_images(inputs["pixel_values"])
            batch = len(self._correct.get("clean", [])) * self.args.world_size + self.args.process_index
            first = batch * self.args.eval_batch_size
            with self.accelerator.autocast():
                adversarial = pgd(
                    pixel_model, images, labels, **self._adversary(), seeds=range(first, first + len(labels))
                )
                with torch.no_grad():
                    adversarial_logits = pixel_model(adversarial)
            clean_logits = logits[0] if isinstance(logits, tuple) else logits
            for name, values in (("clean", clean_logits), ("robust", adversarial_logits)):
                correct = self.accelerator.gather_for_metrics(values.argmax(1) == labels)
                self._correct.setdefault(name, []).append(correct)
            self._answers.append(self.accelerator.gather_for_metrics(clean_logits.argmax(1)))
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """Leaves no image out of an evaluation, as `dataloader_drop_last` would."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        self._correct, self._answers = {}, []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        for name, parts in self._correct.items():
            output.metrics[f"{metric_key_prefix}_{name}_accuracy"] = torch.cat(parts).double().mean().item()
        if self._answers and self.state.global_step > 0 and self._eps_share() == 1:
            self._warn_of_collapse(torch.cat(self._answers), output.metrics[f"{metric_key_prefix}_clean_accuracy"])
        return output

    def _warn_of_collapse(self, answers: Tensor, accuracy: float) -> None:
        """Says so where a model gives one answer to nearly all images, and that is wrong for many."""
        answer = answers.mode().values.item()
        share = (answers == answer).double().mean().item()
        if share >= ONE_ANSWER and accuracy < RIGHT:
            logger.warning(
                'The model has collapsed: it answers "%s" to %.0f%% of the images, and %.0f%% are right. Lower '
                "learning_rate, eps or genetic_weight.",
                *(self.model.config.id2label[answer], 100 * share, 100 * accuracy),
            )

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
        if optimizer_class is torch.optim.AdamW and COUPLED in (self.args.optim_args or ""):
            optimizer_class = torch.optim.Adam  # AdamW sets its groups to decoupled whenever a state is loaded
        self.optimizer = optimizer_class(groups, **settings)
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
            self.args.num_train_epochs = float(max(LEAST_EPOCHS, math.ceil(LEAST_STEPS / self._steps_per_epoch())))
        if self.args.logging_strategy == IntervalStrategy.STEPS and self.args.logging_steps > 1:
            self.args.logging_steps = min(self.args.logging_steps, self._steps_per_epoch())
        best_by = (self.args.metric_for_best_model or "").removeprefix("eval_")
        if stage == STANDARD_FINETUNE and best_by == ROBUST_ACCURACY:
            self.args.metric_for_best_model = CLEAN_ACCURACY
        if self.args.load_best_model_at_end and self.args.save_total_limit == 1:
            self.args.save_total_limit = 2  # else the Trainer keeps the best alone, and a killed run lacks the last
        self.optimizer, self.lr_scheduler = (None, None) if stage == ADAPT else self._given_optimizer_and_scheduler
        self._created_lr_scheduler = False
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, EarlyStoppingCallback):
                callback.early_stopping_patience_counter = 0  # else a stage ends because of the one before it
        self._log_sums.clear()
        self._log_count = 0
        self.model_wrapped = self.model
        set_seed(whole_run.seed, device_specific=True)
        try:
            yield
        finally:
            self.stage, self.args = None, whole_run

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
        with self._stage(stage):
            return self._train_or_load(checkpoint, **kwargs)

    def _check_training(self, stage: str) -> None:
        """Refuses a stage that cannot be trained.

        Raises:
            UserError: says why.
        """
        args, of_stage_2 = self.args, stage == ADAPT
        check_training_images(
            args,
            self.train_dataset,
            epochs=args.adapt_epochs if of_stage_2 else args.num_train_epochs or LEAST_EPOCHS,
            max_steps=args.adapt_max_steps if of_stage_2 else args.max_steps,
        )
        check_early_stopping(args, self.callback_handler.callbacks)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise UserError("The model has no trainable weight: set requires_grad of those that are to be trained.")
        with self.accelerator.autocast():
            for name in ("train_dataset", "eval_dataset"):
                if (dataset := getattr(self, name)) is not None:
                    check_rows(args, name, dataset, self.data_collator, self.model)

    def _train_or_load(self, checkpoint: Path | None, **kwargs) -> TrainOutput:
        """Trains, resumes, or, where the stage was at its end already, only loads the result."""
        if self.args.save_strategy != SaveStrategy.NO and self.args.should_save:
            check_disk_space(Path(self.args.output_dir).parent, self.model)
        leave_out_batch_of_one(self.args, self.model, self.train_dataset)
        if checkpoint is None:
            with must_train(self.model, f"The stage {self.stage}") as self._look_at_weights:
                return self._train_and_measure(**kwargs)
        state = read_state(checkpoint)
        finished = finished_stage(checkpoint)
        *_, max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
        if finished is None and state.global_step < max_steps:
            self._sums_of_checkpoint = state.stateful_callbacks.get(LOG_SUMS)
            self.args.eval_on_start = False  # it was evaluated at its start
            return self._train_and_measure(resume_from_checkpoint=str(checkpoint), **kwargs)
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        else:
            self._load_from_checkpoint(str(checkpoint))
        if finished is not None:
            self.state.log_history = finished
        else:
            self._log_end(state)
            self._end_stage()
        return TrainOutput(state.global_step, 0.0, {})

    def _train_and_measure(self, **kwargs) -> TrainOutput:
        """Trains a stage and, where training did not, evaluates what came out of it."""
        output = super().train(**kwargs)
        self._end_stage()
        return output._replace(training_loss=output.metrics["train_loss"])

    def _end_stage(self) -> None:
        """Evaluates the stage where training did not, and writes down that it is finished, with what it logged."""
        check_finite_weights(self.model, self.state.global_step, self._last_good_checkpoint)
        if self.eval_dataset is not None and self.args.eval_strategy == IntervalStrategy.NO:
            self.evaluate()
        newest = newest_complete_checkpoint(self.args.output_dir, world_size=self.args.world_size)
        if newest is not None and self.args.should_save and self.args.save_strategy != SaveStrategy.NO:
            write_finished_stage(newest, self.state.log_history)

    def _log_end(self, state: TrainerState) -> None:
        """Logs what the Trainer does at the end of training, of a run that was killed before that."""
        sums = state.stateful_callbacks.get(LOG_SUMS)
        if sums is not None:
            loss = (sums["logged_loss"] + sums["loss"]) / state.global_step
            self.log({"total_flos": state.total_flos, "train_loss": loss})

    def _history_of_stage_1(self) -> list[dict]:
        """What stage 1 logged, where only stage 2 is gone on with."""
        newest = newest_complete_checkpoint(self._stage_folder(ADVERSARIAL_FINETUNE), world_size=self.args.world_size)
        return (newest and (finished_stage(newest) or read_state(newest).log_history)) or []

    def _stage_folder(self, stage: str) -> Path:
        return Path(self.args.output_dir) / stage

    def _find_checkpoint(self, resume_from_checkpoint: str | Path | bool | None, *stages: str) -> Path | None:
        """The checkpoint to go on from: the one that was named, or the newest of some stages.

        Raises:
            UserError: when there is none where one was asked for.
        """
        if not resume_from_checkpoint:
            return None
        if resume_from_checkpoint is not True:
            checkpoint = Path(resume_from_checkpoint).resolve()
            if found := damage(checkpoint, self.args.world_size):
                raise UserError(
                    f"{checkpoint} is no complete checkpoint; resume_from_checkpoint=True finds the newest one: "
                    f"its {found}."
                )
            if checkpoint.parent.name in {*STAGES} - {*stages}:
                raise UserError(
                    f"{checkpoint} is of the stage {checkpoint.parent.name}, expected one of {' or '.join(stages)}: "
                    "weights, optimizer and step of another stage are not gone on with."
                )
            return checkpoint
        folders = [self._stage_folder(stage) for stage in stages]
        checkpoint = newest_complete_checkpoint(*folders, world_size=self.args.world_size)
        if checkpoint is None:
            raise UserError(
                f"There is no complete checkpoint of {self.args.world_size} process(es) in "
                f"{' or '.join(map(str, folders))}; start without resuming."
            )
        return checkpoint

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self._has_native_checkpoints():
            load_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """Keeps the weights of the best evaluation so far where no checkpoint of this step will hold them.

        Those that the newest checkpoint knows as the best stay too, for a run that goes on from there.
        """
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end and not self.control.should_save:
            folder = Path(self.args.output_dir)
            newest = newest_complete_checkpoint(folder, world_size=self.args.world_size)
            kept = newest and read_state(newest).best_model_checkpoint
            self.state.best_model_checkpoint = str(folder / f"{BEST_WEIGHTS}-{self.state.global_step}")
            self.save_model(self.state.best_model_checkpoint, _internal_call=True)
            if self.args.should_save:
                for path in folder.glob(f"{BEST_WEIGHTS}-*"):
                    if str(path) not in (self.state.best_model_checkpoint, kept):
                        shutil.rmtree(path)
        return is_best

    def _load_best_model(self) -> None:
        self._look_at_weights()
        if self._has_native_checkpoints():
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _has_native_checkpoints(self) -> bool:
        """Whether checkpoints are whole `save_pretrained` folders, which the Trainer would load only in part."""
        return not _is_peft_model(self.model)

    def _save_checkpoint(self, model, trial) -> None:
        check_finite_weights(self.model, self.state.global_step, self._last_good_checkpoint)
        self.state.stateful_callbacks[LOG_SUMS] = self._sums()
        if self.args.should_save:
            forget_finished_stage(Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"))
        super()._save_checkpoint(model, trial)

    def _sums(self) -> dict:
        """What was summed up since the last log, for a run that goes on from here; the mean over processes."""
        terms = {name: gather(torch.as_tensor(value)).double().mean().item() for name, value in self._log_sums.items()}
        return {
            "loss": gather(self._tr_loss).double().mean().item(),
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "terms": terms,
            "count": self._log_count,
        }

    def _run_epoch(self, **kwargs) -> None:
        """Goes on with the sums of the checkpoint, which the Trainer begins anew."""
        if self._sums_of_checkpoint is not None:
            sums, self._sums_of_checkpoint = self._sums_of_checkpoint, None
            self._tr_loss = self._tr_loss.new_tensor(sums["loss"])
            self._total_loss_scalar, self._globalstep_last_logged = sums["logged_loss"], sums["logged_step"]
            self._log_sums.update({name: self._tr_loss.new_tensor(value) for name, value in sums["terms"].items()})
            self._log_count = sums["count"]
        super()._run_epoch(**kwargs)

    def _prepare_inputs(self, inputs: dict) -> dict:
        inputs = super()._prepare_inputs(inputs)
        if inputs.get("labels") is not None:
            check_labels(inputs["labels"], self.model.config.num_labels)
        return inputs

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        check_finite(loss, f"step {self.state.global_step} of {self.stage}", self._last_good_checkpoint)
        return loss

    def _last_good_checkpoint(self) -> str:
        checkpoint = newest_complete_checkpoint(self.args.output_dir, world_size=self.args.world_size)
        return f"Lower the learning rate and resume from {checkpoint or 'the start: no checkpoint was written yet'}."

    def _read_redundant_layers(self) -> list[str]:
        path = Path(self.args.output_dir) / LAYERS
        if not path.exists():
            raise UserError(f"{path} is missing: call assess_layers() first, or name the redundant_layers.")
        return json.loads(path.read_text())["redundant_layers"]

    def _write_layer_robustness(self, contributions: dict[str, float], samples: int) -> None:
        record = {
            "method": self.args.layer_assessment,
            "adversary": self._assessment_adversary(),
            "samples": samples,
            "redundant_layers": self._redundant_layers,
            "contributions": contributions,
        }
        (Path(self.args.output_dir) / LAYERS).write_text(json.dumps(record, indent=2))

    def _add_to_log(self, **terms: Tensor) -> None:
        for name, value in terms.items():
            self._log_sums[name] = self._log_sums[name] + value.detach()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the stage, and to training logs the mean of each loss term and accuracy since the last one."""
        if self.stage is not None:
            logs["stage"] = self.stage
            logs.pop("eval_model_preparation_time", None)  # only a run that goes on at the end of a stage has it
        if "train_runtime" in logs:  # of the whole stage, where the Trainer's is of what came after a checkpoint
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        if "loss" in logs and self._log_count:
            for name, value in self._log_sums.items():
                logs[name] = gather(value / self._log_count).mean().item()
            if logs.get("genetic_loss", 0) > DROWNING * logs["adversarial_loss"]:
                logger.warning(
                    "The regularization is %.1f at step %d, and the cross-entropy %.2f drowns in it: lower "
                    "genetic_weight or genetic_share.",
                    *(logs["genetic_loss"], self.state.global_step, logs["adversarial_loss"]),
                )
            self._log_sums.clear()
            self._log_count = 0
        super().log(logs, start_time)
