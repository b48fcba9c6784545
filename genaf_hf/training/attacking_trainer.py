"""A Trainer with a defence, whose adversary it prepares, crafts by, evaluates under and carries in its checkpoints."""

import copy
import json
import logging
from collections.abc import Callable, Iterator, Sequence, Sized
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from genaf_hf.errors import UserError
from genaf_hf.models.head import head_of
from genaf_hf.models.identity import encoder_digest
from genaf_hf.models.partial_forward import input_of
from genaf_hf.models.pixel_model import PixelModel, at_least_float32, only_trainable, pixel_statistics
from genaf_hf.runs.progress import progress
from genaf_hf.sharing.record import STANDARD_FINETUNE
from genaf_hf.training.adversaries.adversary import ADVERSARY_SEED, Adversary
from genaf_hf.training.adversaries.batch import Batch
from genaf_hf.training.adversaries.draws import MIRROR, mixed_bits
from genaf_hf.training.checked_batches import CheckedBatches
from genaf_hf.training.checkpoint import read_state
from genaf_hf.training.config import CLEAN_ACCURACY, ROBUST_ACCURACY, GenAFConfig
from genaf_hf.training.global_batch import MicroBatch
from genaf_hf.training.pseudo_labels import PseudoLabels
from genaf_hf.training.resumable_trainer import ResumableTrainer
from genaf_hf.training.training_images import has_rows
from genaf_hf.values.device import sent, trusted

logger = logging.getLogger(__name__)

DEFENCE, HELD_TO = "Defence", "HeldTo"  # in the Trainer's state
CENTERS = "pseudo_labels.centers"  # beside the tensors of the adversary
CLUSTERED = 1024  # images whose features clusters are found from
ONE_ANSWER, RIGHT = 0.95, 0.9  # so many images with one answer and so few right ones are a collapse
FIRST_STEPS = 10  # after which a new head may answer so, too


class AttackingTrainer(ResumableTrainer):
    """The part of `GenAFTrainer` that its defence's adversary takes part in, beside the loss.

    Evaluation reports `eval_clean_accuracy` and, unless the defence has no adversary or the undefended baseline is
    trained, `eval_robust_accuracy`, the latter under that adversary at its full eps, as it is at this step.
    """

    args: GenAFConfig
    data_collator: Callable[[list], dict]
    stage: str | None = None  # that is trained
    _attacked: PixelModel | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.defence = self.args.make_defence()
        if self.defence.adversary is not None:
            self.add_callback(Learning(self.defence.adversary))
        self.pseudo_labels = PseudoLabels()
        if self.defence.objective is not None and self.defence.objective.reads_features:
            self._public_encoder = copy.deepcopy(self.model).eval().requires_grad_(False)
        self._right: dict[str, list[Tensor]] = {}
        self._answers: list[Tensor] = []

    # ---- crafting ----

    def pixel_model(self, model: nn.Module) -> PixelModel:
        """What attacks see of a model, unwrapped, made once for each, in the precision of the training.

        With `torch_compile` its logits are compiled.
        """
        model = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        device = next(model.parameters()).device
        if self._attacked is None or self._attacked.model is not model or self._attacked.device != device:
            autocast = torch.bfloat16 if self.args.bf16 else None
            self._attacked = PixelModel(model, self.processing_class, autocast=autocast)
            if self.args.torch_compile:
                self._attacked.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode)
        return self._attacked

    @property
    def adversary_seed(self) -> int:
        """Of what the defence trains on."""
        return self.args.seed + ADVERSARY_SEED

    def begin_adversary(self) -> None:
        """Has the adversary prepare itself on the weights as they are, unless it has done so before."""
        adversary = self.defence.adversary
        if adversary is not None and not adversary.state:
            adversary.begin(self.begun_on(), self._sampled_images, self.adversary_seed)
            if adversary.state:  # else this is done at each evaluation, and reading an augmented row draws numbers
                self._check_sizes()

    def begun_on(self) -> PixelModel:
        """What the adversary prepares itself on: the model, which is the public encoder as long as no step was made."""
        return self.pixel_model(self.model)

    def _check_sizes(self) -> None:
        """Refuses images that the adversary's state is not for, to train or to evaluate on.

        Raises:
            UserError: says which size is expected.
        """
        for dataset in (self.train_dataset, self.eval_dataset):
            if has_rows(dataset):
                self.defence.adversary.check_size(*self.data_collator([dataset[0]])["pixel_values"].shape[2:])

    def _sampled_images(self, count: int) -> tuple[Tensor, Tensor | None]:
        """Training images (n, 3, h, w) in [0, 1] drawn by the seed, so many of them or all, and labels (n,).

        Where none are read these are pseudo-labels, or None where the objective reads no features either.

        Raises:
            UserError: when there are none by number.
        """
        if not has_rows(self.train_dataset):
            raise UserError(
                f"The defence {self.defence.name} crafts perturbations on a sample of train_dataset, which has no "
                "length or no rows by number: use one that has them, or a defence without a sample, such as n-fgsm."
            )
        clustered = not self.defence.reads_labels and self.defence.objective.reads_features
        finds = clustered and self.pseudo_labels.centers is None
        rows = max(count, CLUSTERED) if finds else count
        model, batches = self.pixel_model(self.model), [*self.samples(rows, "Reading images to craft on")]
        images = torch.cat([model.to_images(batch["pixel_values"]) for batch in batches])
        if not clustered:
            return images, torch.cat([batch["labels"] for batch in batches]) if self.defence.reads_labels else None
        features = torch.cat([self.public_features(batch["pixel_values"]) for batch in batches])
        if finds:
            self.pseudo_labels.fit(features, self.args.seed)
        return images[:count], self.pseudo_labels(features[:count])

    def drawn_rows(self, dataset: Sized, count: int) -> list[int]:
        """So many rows of a dataset or all, by the seed of the run, without a draw from the global generator."""
        generator = torch.Generator().manual_seed(self.args.seed)
        return torch.randperm(len(dataset), generator=generator)[:count].tolist()

    def samples(self, count: int, words: str) -> Iterator[dict]:
        """Batches of training images drawn by the seed, so many of them or all, which are left as they are."""
        rows = self.drawn_rows(self.train_dataset, count)
        for start in progress(range(0, len(rows), self.args.per_device_eval_batch_size), words):
            chosen = rows[start : start + self.args.per_device_eval_batch_size]
            yield self.prepared(self.data_collator([self.train_dataset[i] for i in chosen]))

    def prepared(self, inputs: dict) -> dict:
        """A batch, on the device of this process."""
        return self._prepare_inputs(inputs)

    def public_features(self, pixel_values: Tensor) -> Tensor:
        """What the head of the frozen public encoder reads of clean images, (n, d), float32 or wider."""
        public = self._public_encoder
        with torch.no_grad(), self.accelerator.autocast():
            read = input_of(head_of(public), lambda: public(pixel_values=pixel_values))
        return at_least_float32(read.flatten(1))

    def labels_to_attack(self, inputs: dict, public: Tensor | None = None) -> Tensor | None:
        """What the adversary is told of a batch's images: their labels, or pseudo-labels where it began with these.

        Args:
            inputs: of the batch.
            public: its public features, if they are at hand.
        """
        if self.pseudo_labels.centers is None:
            return inputs.get("labels")
        return self.pseudo_labels(self.public_features(inputs["pixel_values"]) if public is None else public)

    def craft(self, model, inputs: dict, micro_batch: MicroBatch, stays_clean: Sequence[bool] = ()) -> Tensor:
        """Pixel values of a micro-batch, attacked through the unwrapped model.

        Args:
            model: that is trained.
            inputs: of the micro-batch.
            micro_batch: where it stands in its update.
            stays_clean: which images are left as they are; none where it is empty.
        """
        pixel_model, pixel_values = self.pixel_model(model), inputs["pixel_values"]
        rows = [row for row, is_clean in enumerate(stays_clean) if not is_clean]
        if stays_clean and not rows:
            return pixel_values
        with trusted():
            images = pixel_model.to_images(pixel_values)
            batch = Batch(images, inputs.get("labels"), self.seeds_of(inputs, micro_batch), self.eps_share())
            some = batch.rows(rows) if rows else batch
            attacked = self._attacked_images(pixel_model, some, ascends=self.defence.adversary.ascends)
        attacked = pixel_model.to_pixel_values(attacked)
        return pixel_values.index_copy(0, sent(torch.tensor(rows), attacked.device), attacked) if rows else attacked

    def _attacked_images(self, model: PixelModel, batch: Batch, *, ascends: bool = False) -> Tensor:
        """What the adversary makes of images, in a training after its own pass where it `ascends`.

        It asks for gradients of its images alone: weights have none meanwhile, for which nothing has to be kept in the
        forward pass, and which a compiled backward pass would compute all the same.
        """
        with only_trainable(model.model, ()):
            if ascends:
                self.defence.adversary.ascend(model, batch)
            return self.defence.adversary.craft(model, batch)

    def flipped(self, inputs: dict, micro_batch: MicroBatch) -> dict:
        """A micro-batch with each image mirrored left to right or not, as its seed has it."""
        pixel_values = inputs["pixel_values"]
        bits = mixed_bits(self.seeds_of(inputs, micro_batch), MIRROR) >> np.uint64(63)
        is_flipped = sent(torch.from_numpy(bits.astype(bool)), pixel_values.device)[:, None, None, None]
        return {**inputs, "pixel_values": torch.where(is_flipped, pixel_values.flip(3), pixel_values)}

    def seeds_of(self, inputs: dict, micro_batch: MicroBatch) -> range:
        """One for each image of a micro-batch: of its place in the update, of the step and of the run's seed."""
        step_seed = ((self.args.seed * 1_000_003 + self.state.global_step) % 2**50) << 12
        first = step_seed + self.first_row(inputs, micro_batch)
        return range(first, first + len(inputs["pixel_values"]))

    def first_row(self, inputs: dict, micro_batch: MicroBatch) -> int:
        """Place of a micro-batch's first image in the update over all processes."""
        return micro_batch.first_row * self.args.world_size + self.args.process_index * len(inputs["pixel_values"])

    def eps_share(self) -> float:
        """What eps and step size are multiplied by at this step: they grow over the first part of stage 1."""
        ramp = self.args.eps_warmup_ratio * self.state.max_steps
        return min(1.0, (self.state.global_step + 1) / ramp) if ramp > 0 else 1.0

    # ---- evaluation ----

    @property
    def attacks_evaluations(self) -> bool:
        """Whether evaluations are under the adversary, too."""
        return self.defence.adversary is not None and self.stage != STANDARD_FINETUNE

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)
        if labels is not None:
            inputs = self.prepared(inputs)
            clean_logits = logits[0] if isinstance(logits, tuple) else logits
            answers = {CLEAN_ACCURACY: clean_logits}
            if self.attacks_evaluations:
                known = self.labels_to_attack(inputs)
                answers[ROBUST_ACCURACY] = self._attacked_logits(model, inputs["pixel_values"], known)
            for name, values in answers.items():
                right = self.accelerator.gather_for_metrics(values.argmax(1) == labels)
                self._right.setdefault(name, []).append(right)
            self._answers.append(self.accelerator.gather_for_metrics(clean_logits.argmax(1)))
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    def _attacked_logits(self, model, pixel_values: Tensor, labels: Tensor | None) -> Tensor:
        """What the model answers to images of an evaluation under the adversary at its full eps."""
        pixel_model = self.pixel_model(model)
        first = (len(self._answers) * self.args.world_size + self.args.process_index) * self.args.eval_batch_size
        seeds = range(first, first + len(pixel_values))
        attacked = self._attacked_images(pixel_model, Batch(pixel_model.to_images(pixel_values), labels, seeds))
        with torch.no_grad():
            return pixel_model(attacked)

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """Checks all batches, and leaves no image out of an evaluation, as `dataloader_drop_last` would."""
        drop_last, collate = self.args.dataloader_drop_last, self.data_collator
        statistics = pixel_statistics(self.processing_class)
        self.args.dataloader_drop_last = drop_last and is_training
        self.data_collator = CheckedBatches(collate, self.model.config.num_labels, *statistics)
        try:
            return super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last, self.data_collator = drop_last, collate

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        if self.attacks_evaluations:
            self.begin_adversary()
        self._right, self._answers = {}, []
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        accuracies = {name: torch.cat(parts).cpu().double().mean().item() for name, parts in self._right.items()}
        for name, value in accuracies.items():
            output.metrics.setdefault(f"{metric_key_prefix}_{name}", value)  # which compute_metrics may have given
        if self._answers and self.state.global_step >= FIRST_STEPS and self.eps_share() == 1:
            self._warn_of_collapse(torch.cat(self._answers).cpu(), accuracies[CLEAN_ACCURACY])
        return output

    def _warn_of_collapse(self, answers: Tensor, accuracy: float) -> None:
        """Says so where a model gives one answer to nearly all images, and that is wrong for many."""
        answer = answers.mode().values.item()
        share = (answers == answer).cpu().double().mean().item()
        if share >= ONE_ANSWER and accuracy < RIGHT:
            logger.warning(
                'The model has collapsed: it answers "%s" to %.0f%% of the images, and %.0f%% are right. Lower '
                "learning_rate or, where it is attacked in training, eps.",
                *(self.model.config.id2label[answer], 100 * share, 100 * accuracy),
            )

    # ---- checkpoints ----

    def tensors_beside_model(self) -> dict[str, Tensor]:
        centers = self.pseudo_labels.centers
        state = {} if self.defence.adversary is None else self.defence.adversary.state
        return state if centers is None else {**state, CENTERS: centers}

    def take_tensors_beside_model(self, tensors: dict[str, Tensor]) -> None:
        state = {name: tensor.to(self.args.device) for name, tensor in tensors.items()}
        self.pseudo_labels.centers = state.pop(CENTERS, None)
        self.defence.adversary.state = state
        self._check_sizes()

    def kept_beside_model(self) -> dict:
        return {DEFENCE: json.loads(json.dumps(self.defence.identity)), HELD_TO: self._held_to}

    @cached_property
    def _held_to(self) -> str | None:
        """Digest of the public encoder that features are held to; None where they are held to none."""
        public = getattr(self, "_public_encoder", None)
        return public and encoder_digest(PixelModel(public, self.processing_class))

    def check_defence_of(self, checkpoint: Path) -> None:
        """Refuses a checkpoint of another defence, of other settings of it, or of features held to another encoder.

        Raises:
            UserError: names what differs.
        """
        own, kept = self.kept_beside_model()[DEFENCE], read_state(checkpoint).stateful_callbacks
        found = kept.get(DEFENCE, own)
        if found != own:
            raise UserError(
                f"{checkpoint} is of the defence {found['name']} with {found['settings']}, expected {own['name']} with "
                f"{own['settings']}: go on with the defence that it was begun with, or start without resuming."
            )
        if kept.get(HELD_TO, self._held_to) != self._held_to:
            raise UserError(
                f"{checkpoint} is of a training that holds features to those of another encoder than the model that is "
                "given: go on with the public encoder that it was begun with, or start without resuming."
            )


class Learning(TrainerCallback):
    """Has an adversary go on with the gradients that the training pass left it."""

    def __init__(self, adversary: Adversary):
        self.adversary = adversary

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.adversary.learn()
