"""What an experiment is of: images and an encoder by their names, and attacks on what comes of them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from datasets import DatasetDict
from transformers import PreTrainedModel

from genaf_hf.attacks import Attack
from genaf_hf.data import ImageSet, check_enough_to_train, counted_classes, load_images, with_pixel_values
from genaf_hf.data.known_datasets import known_dataset
from genaf_hf.errors import UserError
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.models.identity import encoder_digest
from genaf_hf.models.loading import load_encoder
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.attack_arguments import named_attacks
from genaf_hf.pipelines.experiment_arguments import ExperimentArguments
from genaf_hf.pipelines.trained_images import images_of_record
from genaf_hf.sharing.record import TRAINING_EPS
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.options import refuse_resume_flag

SWEEP_FACTORS = (0.5, 1.5, 2.0)  # factors on eps for the picture of accuracy against eps


def asked_attacks(arguments: ExperimentArguments, config: GenAFConfig) -> dict[str, Attack]:
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
    def attacks(self) -> dict[str, Attack]:
        """Those of the final evaluation."""
        return asked_attacks(self.arguments, self.config)

    @cached_property
    def public(self) -> PixelModel:
        """The encoder, as attackers have it."""
        return PixelModel(self.encoder, self.processor)

    @property
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

    @property
    def streamed(self) -> bool:
        """Whether the images were drawn from a stream."""
        return known_dataset(str(self.arguments.dataset_name)).streamed(self.arguments.streaming)

    @cached_property
    def record_of_images(self) -> dict:
        """What `TrainingRecord.data` tells of the images."""
        return {
            **{name: self.images.source[name] for name in ("name", "config", "revision")},
            "splits": {split: len(images) for split, images in self.data.items()},
            **self.classes,
            **images_of_record(self.images.digests, {**self.arguments.labelled_options, "streaming": self.streamed}),
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
