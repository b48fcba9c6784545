"""What a genome is worth: its adapter, trained for a budget of steps on the shared encoder, and measured."""

import copy
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from peft import PeftModel
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PrinterCallback

from genaf_hf.adapter_search.genome import Genome
from genaf_hf.adapter_search.inheritance import adapt
from genaf_hf.adapter_search.merged_weights import AdapterTrainer, merged_weights
from genaf_hf.attacks.pgd import default_step_size
from genaf_hf.evaluation.answers import answer
from genaf_hf.evaluation.measurement import Rate
from genaf_hf.evaluation.threats import Threat
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.runs.journal import write_whole
from genaf_hf.training.config import GenAFConfig

HISTORY = "history.json"
LOGS = 0.1  # one for each tenth of the steps


@dataclass(frozen=True)
class Score:
    """What was found for a genome on the validation images.

    Attributes:
        clean: accuracy on them.
        robust: accuracy under the attack.
        parameters: trainable ones, of adapters and head.
        seconds: that training and measuring took.
    """

    clean: Rate
    robust: Rate
    parameters: int
    seconds: float


class Fitness:
    """Trains and measures genomes one after the other on one frozen encoder, which stays as it is.

    Args:
        encoder: a classifier from a public encoder; its head is what every genome's head starts from.
        processor: its image processor.
        train: `pixel_values` and `labels`.
        validation: the same, to measure on.
        config: of the training; what a genome says comes before it. `max_steps` or `num_train_epochs` is the budget.
        threat: by which robust accuracy is measured, on each model itself.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        processor,
        train: Dataset,
        validation: Dataset,
        config: GenAFConfig,
        threat: Threat,
    ):
        self.encoder, self.processor = encoder.to(config.device).requires_grad_(False), processor
        self.train, self.validation = train, validation
        self.config, self.threat = config, threat

    def __call__(
        self,
        genome: Genome,
        folder: str | Path | None = None,
        parents: Mapping[str | Path, float] | None = None,
        number: int = 0,
    ) -> Score:
        """Trains a genome and measures it.

        Args:
            genome: of this encoder.
            folder: where the trained adapter, `genome.json`, `history.json` and the universal perturbations that it was
                trained on go; None keeps nothing.
            parents: weights by folder of the trained adapters that it starts from.
            number: place of the trial in the budget. Each has an order of images of its own, so that one that goes on
                with its parents' adapters sees other ones first than they did.

        Raises:
            UserError: when training diverges.
        """
        start = time.perf_counter()
        model = self.adapted(genome, parents)
        trainer = AdapterTrainer(
            model=model,
            args=self.training_of(genome, number),
            train_dataset=self.train,
            processing_class=self.processor,
            public=PixelModel(self.encoder, self.processor, autocast=torch.bfloat16 if self.config.bf16 else None),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.adversarial_finetune()
        rates = self.measure(model)
        if folder is not None:
            save_adapter(model, genome, folder)
            history = json.dumps(trainer.state.log_history, indent=2) + "\n"
            write_whole(Path(folder) / HISTORY, history)
            trainer.save_perturbations(folder)
        return Score(*rates, model.get_nb_trainable_parameters()[0], time.perf_counter() - start)

    def adapted(self, genome: Genome, parents: Mapping[str | Path, float] | None = None) -> PeftModel:
        """The encoder with a genome's adapter, untrained; it shares the encoder's weights."""
        torch.manual_seed(self.config.seed)
        return adapt(self.encoder, genome.peft_config(self.encoder), parents)

    def training_of(self, genome: Genome, number: int = 0) -> GenAFConfig:
        """The settings by which a trial of a genome is trained; it leaves no checkpoints and reports nowhere."""
        config = copy.copy(self.config)
        config.data_seed = number + (config.seed if config.data_seed is None else config.data_seed)
        for name in ("learning_rate", "head_learning_rate", "genetic_weight", "steps"):
            setattr(config, name, getattr(genome, name))
        if genome.eps_share is not None:
            config.eps = self.config.eps * genome.eps_share
        if self.config.step_size is not None:
            asked = self.config.step_size / default_step_size(self.config.eps, self.config.steps or 1)
            config.step_size = asked * default_step_size(config.eps, config.steps or 1)
        config.save_strategy = config.eval_strategy = "no"
        config.logging_strategy, config.logging_steps = "steps", LOGS
        config.report_to, config.disable_tqdm = [], True
        config.dataloader_pin_memory = config.dataloader_pin_memory and config.device.type != "cpu"
        return config

    def parameters(self, genome: Genome) -> int:
        """How many parameters a genome trains."""
        return self.adapted(genome).get_nb_trainable_parameters()[0]

    def measure(self, model: PeftModel) -> tuple[Rate, Rate]:
        """Clean and robust accuracy on the validation images."""
        with merged_weights(model):
            ask = partial(
                answer,
                PixelModel(model, self.processor),
                self.validation,
                batch_size=self.config.per_device_eval_batch_size,
                seed=self.config.seed,
            )
            clean, attacked = (ask(attack) for attack in (None, self.threat.on("genome")))
        return tuple(Rate(sum(each.right), len(each.right)) for each in (clean, attacked))


def save_adapter(model: PeftModel, genome: Genome, folder: str | Path) -> None:
    """Writes an adapter as PEFT does, with the genome beside it, in a folder of their own."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    write_whole(Path(folder) / "genome.json", genome.to_json())
