"""What every experiment does: images and an encoder by their names, attacks, and what is left of a run and shared."""

import copy
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import DatasetDict
from transformers import PreTrainedModel

from genaf_hf.attacks import ConfiguredAttack
from genaf_hf.data import (
    ImageSet,
    check_enough_to_train,
    counted_classes,
    load_images,
    to_pixel_values,
    with_pixel_values,
)
from genaf_hf.errors import UserError
from genaf_hf.evaluation.measurement import PUBLIC_ENCODER
from genaf_hf.evaluation.perturbation_cache import encoder_digest
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import Attacker, Threat, on_shown, worst_of
from genaf_hf.models.loading import load_encoder
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.attack_arguments import named_attacks
from genaf_hf.pipelines.experiment_arguments import ExperimentArguments
from genaf_hf.pipelines.trained_images import images_of_record
from genaf_hf.runs.run import Run
from genaf_hf.sharing.figures import SHOWN, draw_gallery, draw_overview
from genaf_hf.sharing.layout import (
    CARD,
    GALLERY,
    HARDENED_MODEL,
    LAYERS,
    OVERVIEW,
    PERTURBATION,
    RECORD,
    REPORT,
    TRAINED_ON,
)
from genaf_hf.sharing.publishing import open_repository, publish
from genaf_hf.sharing.record import STANDARD_FINETUNE, TRAINING_EPS, TrainingRecord, changed_settings
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.options import refuse_resume_flag
from genaf_hf.training.sharing_trainer import HARDENED
from genaf_hf.training.trainer import STAGES, GenAFTrainer

logger = logging.getLogger(__name__)

SWEEP = (0.5, 1.5, 2.0)  # factors on eps for the picture of accuracy against eps


def asked_attacks(arguments: ExperimentArguments, config: GenAFConfig) -> dict[str, ConfiguredAttack]:
    """The attacks of the final evaluation, with their settings.

    Raises:
        UserError: for settings that these could not be run with; names the setting.
    """
    refuse_resume_flag(config)
    objective = config.make_defence().objective
    if objective is not None and not objective.reads_labels:
        raise UserError(
            f"The defence {config.defence} reads no labels, so that the classifier's head would stay as it is drawn: "
            "harden the encoder by genaf-hf harden-encoder and fine-tune that, or choose another defence."
        )
    asked = arguments.attacks, arguments.attack_settings
    return named_attacks(*asked, eps=config.eps or TRAINING_EPS, norm=config.norm, seed=config.seed)


def hardening_run(
    arguments: ExperimentArguments, config: GenAFConfig, *, leaves=(CARD, REPORT, RECORD), overwrites=HARDENED_MODEL
) -> Run:
    """The run that these ask for, in `config.output_dir`: what it leaves, and what of an earlier one it overwrites."""
    settings = {**asdict(arguments), **config.to_dict(), "processes": config.world_size}
    sources = {"encoder": arguments.model_name_or_path, "dataset": arguments.dataset_name}
    return Run(config.output_dir, settings, leaves=leaves, overwrites=overwrites, reads=sources)


def load_data(arguments: ExperimentArguments, token: str | None) -> DatasetDict:
    """The checked splits, cut to the sizes that were asked for."""
    data = load_images(arguments.dataset_name, **arguments.labelled_options, token=token)
    check_enough_to_train(data)
    return data


def load_encoder_and_pixels(
    arguments: ExperimentArguments, config: GenAFConfig, data: DatasetDict
) -> tuple[PreTrainedModel, object, dict]:
    """The encoder with a head for these images, drawn by the seed; its image processor; pixel values by split."""
    torch.manual_seed(config.seed)
    encoder, processor = load_encoder(
        arguments.model_name_or_path,
        data["train"].features["label"].names,
        token=config.hub_token,
        **arguments.encoder_options,
    )
    return encoder, processor, {split: with_pixel_values(images, processor) for split, images in data.items()}


@dataclass(frozen=True, eq=False)
class Experiment:
    """A public encoder and images, loaded, with what is asked of them.

    Attributes:
        arguments: which encoder on which images, and what the result is attacked with.
        config: of the training.
        data: images by split.
        pixels: the same as pixel values.
        encoder: the public encoder as a classifier with a fresh head; nothing changes it.
        processor: its image processor.
    """

    arguments: ExperimentArguments
    config: GenAFConfig
    data: DatasetDict
    pixels: dict
    encoder: PreTrainedModel
    processor: object

    @classmethod
    def load(cls, arguments: ExperimentArguments, config: GenAFConfig):
        """What the arguments name.

        Raises:
            UserError: when there is none that can be worked with.
        """
        data = load_data(arguments, config.hub_token)
        encoder, processor, pixels = load_encoder_and_pixels(arguments, config, data)
        return cls(arguments, config, data, pixels, encoder, processor)

    @property
    def attacks(self) -> dict[str, ConfiguredAttack]:
        """Those of the final evaluation."""
        return asked_attacks(self.arguments, self.config)

    @cached_property
    def public(self) -> PixelModel:
        """The encoder, as attackers have it."""
        return PixelModel(self.encoder, self.processor)

    @cached_property
    def attacker(self) -> Attacker:
        """Who has the public encoder, and images that are trained on; moves both to the device of the training."""
        public = self.public.to(self.config.device)
        return Attacker.of(self.data["train"], self.arguments.dataset_name, public, public)

    @cached_property
    def images(self) -> ImageSet:
        """The same as `data`, with what tells them apart."""
        asked = self.arguments
        return ImageSet(asked.dataset_name, self.data, asked.dataset_config_name, asked.dataset_revision)

    @property
    def classes(self) -> dict:
        """Those that are trained on, as `counted_classes` tells of them."""
        return counted_classes(self.data)

    @cached_property
    def record_of_images(self) -> dict:
        """What `TrainingRecord.data` tells of the images."""
        return {
            **{name: self.images.source[name] for name in ("name", "config", "revision")},
            "splits": {split: len(images) for split, images in self.data.items()},
            **self.classes,
            **images_of_record(self.images.digests, self.arguments.labelled_options),
        }

    @property
    def content(self) -> dict[str, str]:
        """What stands behind the names of encoder and images, which may have changed when a run goes on."""
        return {
            "content of the encoder": encoder_digest(self.public)[:16],
            "content of the images": self.images.content,
        }

    @property
    def measuring(self) -> dict:
        """How models are measured, as arguments of `evaluate_threats`."""
        return {
            "batch_size": self.config.per_device_eval_batch_size,
            "workers": self.config.dataloader_num_workers,
            "seed": self.config.seed,
        }


def training_config(config: GenAFConfig, run: Run) -> GenAFConfig:
    """The configuration of a training in the run's own folder, of which nothing is pushed."""
    logger.info("Training on %d process(es), %s", config.world_size, config.device)
    config = copy.copy(config)
    config.output_dir, config.push_to_hub = str(run.unfinished.resolve()), False  # checkpoints name the folder
    return config


def train_or_go_on(trainer: GenAFTrainer, run: Run) -> tuple[PixelModel, TrainingRecord]:
    """The model after a training in the run's own folder, which begins anew or goes on, and how it was made."""
    folder = Path(trainer.args.output_dir)
    stages = (folder / stage for stage in STAGES if stage != STANDARD_FINETUNE)
    began = newest_complete_checkpoint(*stages, world_size=trainer.args.world_size) is not None
    trainer.train(resume_from_checkpoint=run.resumed and began)
    if trainer.is_world_process_zero():
        trainer.save_perturbations(folder)
    return trained_model(trainer), trainer.training_record()


def trained_model(trainer: GenAFTrainer) -> PixelModel:
    """What was trained."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    return PixelModel(model, trainer.processing_class).eval()


def copy_results(run: Run) -> None:
    """Copies what the training wrote that is a result, beside the model."""
    if (record := run.unfinished / LAYERS).exists():
        shutil.copy(record, run.folder)
    if (tracked := run.unfinished / "runs").exists():  # TensorBoard's
        shutil.copytree(tracked, run.folder / "runs", dirs_exist_ok=True)
    if (trained_on := run.unfinished / TRAINED_ON).exists():
        shutil.copytree(trained_on, run.folder / TRAINED_ON, dirs_exist_ok=True)


def write_attacked(
    folder: Path,
    case: Experiment,
    models: dict[str, PixelModel],
    report: RobustnessReport,
    threats: Sequence[Threat],
) -> None:
    """The perturbation from the public encoder that is worst for the hardened model, and pictures.

    They show what it makes of the first test images for both models, and what the worst of each kind makes of them for
    the hardened one.
    """
    model, test, worst = models[HARDENED], case.data["test"], worst_of(report, threats, HARDENED)
    shown, names = to_pixel_values(test[:SHOWN], case.processor), test.features["label"].names
    images, labels = model.to_images(shown["pixel_values"]), shown["labels"].to(model.device)
    for perturbation in (each.perturbations[HARDENED] for each in worst if each.knowledge == PUBLIC_ENCODER):
        perturbation.save_pretrained(folder / PERTURBATION)
        draw_overview(report, models, images, labels, names, perturbation, folder / OVERVIEW)
    on_images = {each.name: partial(on_shown, each, HARDENED, model) for each in worst}
    draw_gallery(model, images, labels, names, on_images, folder / GALLERY)


def open_result(run: Run, config: GenAFConfig) -> str:
    """The model's name; where it is to be pushed that of its repository, which is made before any work.

    Raises:
        UserError: when the Hub does not let the user write there.
    """
    if not config.push_to_hub or not PartialState().is_main_process:
        return run.folder.resolve().name
    sharing = {"token": config.hub_token, "private": config.hub_private_repo}
    return open_repository(config.output_dir, config.hub_model_id, **sharing)


def push_result(run: Run, config: GenAFConfig, model_name: str, *, push_anyway: bool) -> None:
    """Uploads what `open_result` named, where it is to be pushed."""
    if config.push_to_hub and PartialState().is_main_process:
        sharing = {"token": config.hub_token, "private": config.hub_private_repo, "revision": config.hub_revision}
        logger.info("Pushed to %s", publish(run.folder, model_name, push_anyway=push_anyway, **sharing))


def repeated(case: Experiment, record: TrainingRecord) -> dict:
    """The settings that make a result again, from the revisions that it was made of."""
    ours = {name: value for name, value in case.arguments.given.items() if name != "push_anyway"}
    return {
        **ours,
        **changed_settings(case.config),
        "learning_rate": record.hyperparameters["learning_rate"],
        "model_revision": record.base_model["revision"],
        "dataset_revision": case.images.source["revision"],
    }
