"""What every trial of a worker shares."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from datasets import DatasetDict
from transformers import PreTrainedModel

from genaf_hf.adapter_search.arguments import AdapterSearchArguments
from genaf_hf.adapter_search.fitness import Fitness
from genaf_hf.adapter_search.front import PGD
from genaf_hf.adapter_search.search_space import SearchSpace
from genaf_hf.attacks import ConfiguredAttack
from genaf_hf.evaluation.threats import Attacker, Threat
from genaf_hf.models.loading import load_configuration
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.experiment import asked_attacks, load_data, load_encoder_and_pixels
from genaf_hf.runs.run import Run
from genaf_hf.training.config import GenAFConfig


@dataclass(frozen=True)
class Laboratory:
    """What every trial of a worker shares.

    Attributes:
        arguments: of the search.
        config: of the training.
        data: images by split.
        pixels: the same as pixel values.
        encoder: the public encoder as a classifier with a fresh head; nothing changes it.
        processor: its image processor.
    """

    arguments: AdapterSearchArguments
    config: GenAFConfig
    data: DatasetDict
    pixels: dict
    encoder: PreTrainedModel
    processor: object

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def adapters(self) -> Path:
        """Folder of the study's adapters."""
        return self.folder / quote(self.arguments.study, safe="")

    def adapter(self, trial: int) -> Path:
        """Folder of a trial's adapter."""
        return self.adapters / f"trial-{trial}"

    @property
    def attacks(self) -> dict[str, ConfiguredAttack]:
        """Those of the final evaluation."""
        return asked_attacks(self.arguments, self.config)

    @property
    def dataset_info(self) -> dict:
        """Where the test images come from."""
        return self.arguments.source_of(self.data["test"])

    @cached_property
    def fitness(self) -> Fitness:
        """By which genomes are compared: on the validation images."""
        threat = Threat(PGD, self.attacks[PGD].changed(steps=self.arguments.search_steps))
        images = self.pixels["train"], self.pixels["validation"]
        return Fitness(self.encoder, self.processor, *images, self.config, threat)

    @cached_property
    def space(self) -> SearchSpace:
        """The genomes that there are for the encoder."""
        examples = self.pixels["validation"][:2]["pixel_values"].to(self.encoder.device)
        return SearchSpace.of(self.encoder, self.config, examples)

    def attacker(self, public: PixelModel) -> Attacker:
        """Who attacks a picked model: has the public encoder, and images that it was trained on."""
        return Attacker.of(self.data["train"], self.arguments.dataset_name, public, public)


def open_laboratory(arguments: AdapterSearchArguments, config: GenAFConfig) -> Laboratory:
    """Loads the images and, once for all trials of this process, the encoder.

    Raises:
        UserError: when there is none that can be worked with.
    """
    load_configuration(arguments.model_name_or_path, revision=arguments.model_revision, token=config.hub_token)
    data = load_data(arguments, config.hub_token)
    encoder, processor, pixels = load_encoder_and_pixels(arguments, config, data)
    return Laboratory(arguments, config, data, pixels, encoder.eval(), processor)


def search_run(arguments: AdapterSearchArguments, config: GenAFConfig) -> Run:
    """The run in the folder that workers share; what is done, and with which settings, the study says."""
    sources = {"encoder": arguments.model_name_or_path, "dataset": arguments.dataset_name}
    return Run(config.output_dir, {}, reads=sources, shared=True)
