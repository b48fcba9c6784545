"""A Trainer whose killed runs go on where they were, and end with the weights and logs of one that was not killed."""

import logging
import math
import shutil
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, PreTrainedModel, Trainer, TrainerState
from transformers.trainer import _is_peft_model
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, IntervalStrategy, SaveStrategy, TrainOutput, has_length

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.batch_norm import average_over_batches, batch_norms
from genaf_hf.training.checkpoint import (
    BESIDE_MODEL,
    check_disk_space,
    check_length,
    come_along,
    damage,
    finished_stage,
    forget_finished_stage,
    is_complete,
    load_weights,
    newest_complete_checkpoint,
    read_state,
    write_finished_stage,
)
from genaf_hf.training.global_batch_norm import normalizing_globally
from genaf_hf.training.options import without_token
from genaf_hf.training.trained_weights import check_finite_weights, must_train
from genaf_hf.training.training_images import leave_out_small_batch

logger = logging.getLogger(__name__)

BEST_WEIGHTS = "best"
LOG_SUMS = "LogSums"


class ResumableTrainer(Trainer):
    """Checks what it saves, and goes on from it to the bit: weights, optimizer, random states, sums of the logs.

    That holds for rows that are the same whenever they are read: the `Trainer` of `transformers` reads ahead, so that
    after going on within an epoch torch's global generator augments them otherwise (`random_flip` draws by seeds).

    What a subclass trains beside the model, such as a perturbation, it gives and takes as tensors by name in
    `tensors_beside_model` and `take_tensors_beside_model`.

    Raises:
        UserError: when a loss or a weight is not finite, or no weight changes.
    """

    loss_is_scaled_for_ga = False
    _tr_loss: Tensor

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        average_over_batches(self.model)
        self.accelerator.dataloader_config.non_blocking = True  # batches come while a device still computes
        if self.args.data_seed is None:  # else from each process's own seed, and the processes draw overlapping batches
            self.accelerator.dataloader_config.data_seed = self.args.seed
        self._log_sums: dict[str, Any] = defaultdict(float)  # of a term, and how many numbers it is of
        self._diverged: Tensor | None = None  # the first step whose loss was not finite, or inf
        self._look_at_weights: Callable[[], None] = lambda: None
        self._sums_of_checkpoint: dict | None = None

    # ---- for subclasses ----

    @property
    def words(self) -> str:
        """What this is, in sentences."""
        return "training"

    @property
    def least_images(self) -> int:
        """How many images a batch is of at least where the model normalizes over it."""
        return 2

    def tensors_beside_model(self) -> dict[str, Tensor]:
        """What is trained beside the model, the same on all processes; checkpoints hold it."""
        return {}

    def take_tensors_beside_model(self, tensors: dict[str, Tensor]) -> None:
        """Goes on with what a checkpoint holds beside the model; the tensors are on the CPU."""

    def kept_beside_model(self) -> dict:
        """What checkpoints hold in the Trainer's state, by names that no callback has, as JSON gives it back."""
        return {}

    def during_step(self) -> AbstractContextManager:
        """What a training step is done in, from its loss to the gradients."""
        return nullcontext()

    def save_results(self, folder: str | Path) -> None:
        """Saves what belongs beside a trained model that is saved, and not beside a checkpoint."""

    def advice(self) -> str:
        """What is to be done when a training diverges, in a sentence."""
        checkpoint = newest_complete_checkpoint(self.args.output_dir, world_size=self.args.world_size)
        other = f", or have the trainer resume from {checkpoint}" if checkpoint else ""
        return f"Lower the learning rate and begin anew in another output_dir{other}."

    def add_to_log(self, rows: int, **terms: Tensor) -> None:
        """Sums up terms of the loss, whose means over rows since the last log are logged with the next one.

        Args:
            rows: of the batch.
            terms: each the mean of a batch, or a number of each of its rows, NaN of those that it is not of.
        """
        for name, value in terms.items():
            of_rows = value.detach().expand(rows)
            is_told = ~of_rows.isnan()
            found = torch.stack([of_rows.where(is_told, 0).sum(), is_told.sum().to(value)])
            self._log_sums[name] = self._log_sums[name] + found

    def forget_log(self) -> None:
        """Begins the sums of the log anew."""
        self._log_sums.clear()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model as the Trainer does and, where that is no checkpoint, what belongs beside it."""
        super().save_model(output_dir, _internal_call)
        if not _internal_call and self.is_world_process_zero():
            self.save_results(output_dir or self.args.output_dir)

    def save_here(self, folder: str) -> None:
        """Saves the model on this machine alone, where `save_model` pushes it too if the arguments say so."""
        self.save_model(folder, _internal_call=True)

    # ---- training ----

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the weights that decay; the Trainer knows norms by their names, which not all of BatchNorm have."""
        norms = {f"{name}.weight" for name in batch_norms(model)}
        return [name for name in super().get_decay_parameter_names(model) if name not in norms]

    def train_or_load(self, checkpoint: Path | None, **kwargs) -> TrainOutput:
        """Trains, goes on, or, where a training was at its end already, only loads the result.

        Args:
            checkpoint: complete, to go on from; None for the start.
            kwargs: for `Trainer.train`.
        """
        if self.args.save_strategy != SaveStrategy.NO and self.args.should_save:
            check_disk_space(Path(self.args.output_dir).parent, self.model)
        leave_out_small_batch(self.args, self.model, self.train_dataset, self.least_images)
        self._diverged, self._was_stopped = None, False
        if checkpoint is None:
            trains = self.args.learning_rate > 0
            with (
                must_train(self.model, f"The {self.words}")
                if trains
                else nullcontext(lambda: None) as self._look_at_weights
            ):
                return self._train_to_the_end(**kwargs)
        if self.args.should_save:
            come_along(checkpoint)
        self.accelerator.wait_for_everyone()
        state = read_state(checkpoint)
        if not has_length(self.train_dataset):
            logger.warning(
                "train_dataset has no length: a training that goes on after its first pass over it sees other images "
                "than one that was not killed"
            )
        if (checkpoint / BESIDE_MODEL).exists():
            self.take_tensors_beside_model(load_file(checkpoint / BESIDE_MODEL))
        finished = finished_stage(checkpoint)
        *_, max_steps = self.set_initial_training_values(self.args, self.get_train_dataloader())
        for callback in self._patience:
            told = state.stateful_callbacks.get(type(callback).__name__)
            vars(callback).update(told["attributes"] if isinstance(told, dict) else {})  # of several it is a list
        if finished is None and state.global_step < max_steps and not self._out_of_patience:
            self._sums_of_checkpoint = state.stateful_callbacks.get(LOG_SUMS)
            self.args.eval_on_start = False  # it was evaluated at its start
            return self._train_to_the_end(resume_from_checkpoint=str(checkpoint), **kwargs)
        if finished is not None or not self._out_of_patience:
            check_length(checkpoint, max_steps)
        self.state = state
        if self.args.load_best_model_at_end and state.best_model_checkpoint is not None:
            self._load_best_model()
        else:
            self._load_from_checkpoint(str(checkpoint))
        if finished is not None:
            self.state.log_history = finished
        else:
            self._log_end(state)
            self._end_training()
        return TrainOutput(state.global_step, 0.0, {})

    def _train_to_the_end(self, **kwargs) -> TrainOutput:
        """Trains and, where training did not, evaluates what came out of it.

        Raises:
            UserError: when a process that reads images was killed.
        """
        try:
            output = super().train(**kwargs)
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker (pid"):  # and not what was raised in one
                raise
            raise UserError(
                f"A process that reads images ended, as where memory runs out: {first_line(error)}; lower "
                "dataloader_num_workers, and begin again."
            ) from error
        self._end_training()
        return output._replace(training_loss=output.metrics["train_loss"])

    @property
    def _patience(self) -> list[EarlyStoppingCallback]:
        """The callbacks that end a training early."""
        return [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]

    @property
    def _out_of_patience(self) -> bool:
        """Whether one of them did."""
        return any(each.early_stopping_patience_counter >= each.early_stopping_patience for each in self._patience)

    def _end_training(self) -> None:
        """Evaluates where training did not, and writes down that it is finished, with what it logged.

        One that was stopped, but not for want of patience, as by a callback that minds the time, is not finished. The
        checkpoint beside which that is written is of the last step: it is saved where the arguments left it out.
        """
        check_finite_weights(self.model, self.state.global_step, self.advice)
        if self.eval_dataset is not None and self.args.eval_strategy == IntervalStrategy.NO:
            self.evaluate()
        step, steps = self.state.global_step, self.state.max_steps
        self._was_stopped = step < steps and not self._out_of_patience
        if self._was_stopped:
            newest = newest_complete_checkpoint(self.args.output_dir, world_size=self.args.world_size)
            goes_on = f"a resumed one goes on from {newest}" if newest else "without a checkpoint to go on from"
            logger.warning("The %s was stopped at step %d of %d: %s", self.words, step, steps, goes_on)
        elif self.args.save_strategy != SaveStrategy.NO:
            self._keep_end()

    def _keep_end(self) -> None:
        """Writes down beside the checkpoint of the last step that the training is finished."""
        last = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        self.accelerator.wait_for_everyone()
        [missing] = broadcast_object_list([not is_complete(last, self.args.world_size)])
        if missing:
            limit, self.args.save_total_limit = self.args.save_total_limit, None  # which could take it away again
            self._save_checkpoint(self.model, None)
            self.args.save_total_limit = limit
        if self.args.should_save:
            write_finished_stage(last, self.state.log_history)

    def _log_end(self, state: TrainerState) -> None:
        """Logs what the Trainer does at the end of training, of a run that was killed before that."""
        sums = state.stateful_callbacks.get(LOG_SUMS)
        if sums is not None:
            loss = (sums["logged_loss"] + sums["loss"]) / state.global_step
            self.log({"total_flos": state.total_flos, "train_loss": loss})

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """As the Trainer's, over all processes' images.

        Whether a loss was finite is read with the next log, so that no step waits for a device.
        """
        with normalizing_globally(self.model), self.during_step():
            loss = super().training_step(model, inputs, num_items_in_batch)
        diverged = loss.new_full((), self.state.global_step).where(~loss.isfinite(), torch.inf)
        self._diverged = diverged if self._diverged is None else torch.minimum(self._diverged, diverged)
        return loss

    def _check_losses(self) -> None:
        """Stops a training that diverges; the `UserError` names the step, and what is to be done."""
        first = math.inf if self._diverged is None else self._diverged.item()
        if first < math.inf:
            raise UserError(f"The loss is not finite at step {first:.0f} of the {self.words}. {self.advice()}")

    def _run_epoch(self, **kwargs) -> None:
        """Goes on with the sums of the checkpoint, which the Trainer begins anew."""
        self.args.logging_nan_inf_filter = False  # which looks at each loss, for what stops this training anyway
        if self._sums_of_checkpoint is not None:
            sums, self._sums_of_checkpoint = self._sums_of_checkpoint, None
            self._tr_loss = self._tr_loss.new_tensor(sums["loss"])
            self._total_loss_scalar, self._globalstep_last_logged = sums["logged_loss"], sums["logged_step"]
            of_terms = sums.get("of_terms", {})  # which a checkpoint of an older version lacks
            self._log_sums.update({name: self._tr_loss.new_tensor(value) for name, value in of_terms.items()})
        super()._run_epoch(**kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds to training logs the mean of each term since the last one."""
        self._check_losses()
        if "train_runtime" in logs:  # of the whole training, where the Trainer's is of what came after a checkpoint
            logs["train_loss"] = self._total_loss_scalar / self.state.global_step
        if "loss" in logs:
            for name, sums in self._log_sums.items():
                total, count = gather(sums).view(-1, 2).sum(0).tolist()
                if count:
                    logs[name] = total / count
            self.forget_log()
        super().log(logs, start_time)

    # ---- checkpoints ----

    def find_checkpoint(self, resume_from_checkpoint: str | Path | bool | None, *folders: str | Path) -> Path | None:
        """The checkpoint to go on from: the one that was named, with True the newest complete one in some folders.

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
            return checkpoint
        checkpoint = newest_complete_checkpoint(*folders, world_size=self.args.world_size)
        if checkpoint is None:
            raise UserError(
                f"There is no complete checkpoint of {self.args.world_size} process(es) in "
                f"{' or '.join(map(str, folders))}; start without resuming."
            )
        return checkpoint

    def _save_checkpoint(self, model, trial) -> None:
        self._check_losses()
        check_finite_weights(self.model, self.state.global_step, self.advice)
        self.state.stateful_callbacks |= {LOG_SUMS: self._sums(), **self.kept_beside_model()}
        tensors = self.tensors_beside_model()
        if tensors:
            self.state.stateful_callbacks[BESIDE_MODEL] = sorted(tensors)
        if self.args.should_save:
            folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
            forget_finished_stage(folder)
            if tensors:  # before the Trainer's state, which marks a checkpoint complete
                folder.mkdir(parents=True, exist_ok=True)
                save_file({name: each.detach().cpu() for name, each in tensors.items()}, folder / BESIDE_MODEL)
        super()._save_checkpoint(model, trial)

    def _sums(self) -> dict:
        """What was summed up since the last log, for a run that goes on from here; the mean over processes."""

        def mean(value: Tensor) -> list[float]:
            return gather(value).cpu().double().view(-1, value.numel()).mean(0).tolist()

        return {
            "loss": mean(self._tr_loss)[0],
            "logged_loss": self._total_loss_scalar,
            "logged_step": self._globalstep_last_logged,
            "of_terms": {name: mean(value) for name, value in self._log_sums.items()},
        }

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self._has_native_checkpoints():
            load_weights(self.model, resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        self._look_at_weights()
        if self._has_native_checkpoints():
            load_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _has_native_checkpoints(self) -> bool:
        """Whether checkpoints are whole `save_pretrained` folders, which the Trainer would load only in part."""
        return isinstance(self.model, PreTrainedModel) and not _is_peft_model(self.model)

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """Keeps the weights of the best evaluation so far where no checkpoint of this step will hold them.

        Those that the newest checkpoint knows as the best stay too, for a run that goes on from there.
        """
        try:
            is_best = super()._determine_best_metric(metrics, trial)
        except KeyError as error:  # a caller's metrics have names that nobody knows before the first evaluation
            raise UserError(
                f'metric_for_best_model is "{self.args.metric_for_best_model}", but an evaluation gives '
                f"{', '.join(metrics)}: choose one of these."
            ) from error
        saves = self.control.should_save or self.args.save_strategy == SaveStrategy.BEST
        if is_best and self.args.load_best_model_at_end and not saves:
            folder = Path(self.args.output_dir)
            newest = newest_complete_checkpoint(folder, world_size=self.args.world_size)
            kept = newest and read_state(newest).best_model_checkpoint
            self.state.best_model_checkpoint = str(folder / f"{BEST_WEIGHTS}-{self.state.global_step}")
            self.save_here(self.state.best_model_checkpoint)
            if self.args.should_save:
                for path in folder.glob(f"{BEST_WEIGHTS}-*"):
                    if str(path) not in (self.state.best_model_checkpoint, kept):
                        shutil.rmtree(path)
        return is_best

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As the Trainer does, which writes the arguments too, but without their token."""
        with without_token(self.args):
            super()._save(output_dir, state_dict)
