"""What every trial of a worker shares."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from genaf_hf.adapter_search.arguments import AdapterSearchArguments
from genaf_hf.adapter_search.fitness import Fitness
from genaf_hf.adapter_search.front import PGD
from genaf_hf.adapter_search.search_space import SearchSpace
from genaf_hf.evaluation.threats import ImageThreat
from genaf_hf.models.loading import load_configuration
from genaf_hf.pipelines.experiment import Experiment
from genaf_hf.runs.run import Run
from genaf_hf.training.config import GenAFConfig


@dataclass(frozen=True, eq=False)
class Laboratory(Experiment):
    """What every trial of a worker shares."""

    arguments: AdapterSearchArguments

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

    @cached_property
    def fitness(self) -> Fitness:
        """By which genomes are compared: on the validation images."""
        threat = ImageThreat(PGD, self.attacks[PGD].configure(steps=self.arguments.search_steps))
        images = self.pixels["train"], self.pixels["validation"]
        return Fitness(self.encoder, self.processor, *images, self.config, threat)

    @cached_property
    def space(self) -> SearchSpace:
        """The genomes that there are for the encoder."""
        examples = self.pixels["validation"][:2]["pixel_values"].to(self.encoder.device)
        return SearchSpace.of(self.encoder, self.config, examples)


def open_laboratory(arguments: AdapterSearchArguments, config: GenAFConfig) -> Laboratory:
    """Loads the images and, once for all trials of this process, the encoder.

    Raises:
        UserError: when there is none that can be worked with.
    """
    load_configuration(arguments.model_name_or_path, revision=arguments.model_revision, token=config.hub_token)
    laboratory = Laboratory.load(arguments, config)
    laboratory.encoder.eval()
    return laboratory


def search_run(arguments: AdapterSearchArguments, config: GenAFConfig) -> Run:
    """The run in the folder that workers share; what is done, and with which settings, the study says."""
    sources = {"encoder": arguments.model_name_or_path, "dataset": arguments.dataset_name}
    return Run(config.output_dir, {}, reads=sources, shared=True)
