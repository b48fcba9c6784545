"""What both hardenings do: a training in the run's own folder, and what is left of it and shared."""

import copy
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from genaf_hf.evaluation.measurement import PUBLIC_ENCODER
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.threats import Threat, worst_of
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.experiment import Experiment
from genaf_hf.pipelines.experiment_arguments import ExperimentArguments
from genaf_hf.pipelines.shown_images import draw_worst, shown_images
from genaf_hf.runs.run import Run
from genaf_hf.sharing.figures import draw_overview
from genaf_hf.sharing.layout import (
    CARD,
    HARDENED_MODEL,
    LAYERS,
    OVERVIEW,
    PERTURBATION,
    RECORD,
    REPORT,
    TRAINED_ON,
)
from genaf_hf.sharing.record import ADAPT, TrainingRecord, changed_settings
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.trainer import GenAFTrainer

logger = logging.getLogger(__name__)


def hardening_run(
    arguments: ExperimentArguments,
    config: GenAFConfig,
    *,
    leaves=(CARD, REPORT, RECORD),
    overwrites=HARDENED_MODEL,
    reads: Mapping[str, str] | None = None,
) -> Run:
    """The run that these ask for, in `config.output_dir`.

    Args:
        arguments, config: of the hardening.
        leaves: what it leaves there.
        overwrites: what of an earlier one it overwrites.
        reads: what it reads beside the encoder and the dataset.
    """
    settings = {**asdict(arguments), **config.to_dict(), "processes": config.world_size}
    sources = {"encoder": arguments.model_name_or_path, "dataset": arguments.dataset_name}
    return Run(config.output_dir, settings, leaves=leaves, overwrites=overwrites, reads=sources | (reads or {}))


def training_config(config: GenAFConfig, run: Run) -> GenAFConfig:
    """The configuration of a training in the run's own folder, of which nothing is pushed."""
    logger.info("Training on %d process(es), %s", config.world_size, config.device)
    config = copy.copy(config)
    config.output_dir, config.push_to_hub = str(run.unfinished.resolve()), False  # checkpoints name the folder
    return config


def train_or_go_on(trainer: GenAFTrainer, run: Run) -> tuple[PixelModel, TrainingRecord]:
    """The model after a training in the run's own folder, which begins anew or goes on, and how it was made."""
    folder = Path(trainer.args.output_dir)
    stages = (folder / stage for stage in (trainer.stage_1, ADAPT))
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
    for tracked in run.unfinished.rglob("runs"):  # TensorBoard's, of each stage
        stage = tracked.parent.relative_to(run.unfinished)
        shutil.copytree(tracked, run.folder / "runs" / stage, dirs_exist_ok=True)
    copy_perturbations(run.unfinished, run.folder)


def copy_perturbations(trained: Path, folder: Path) -> None:
    """Copies the universal perturbations of a training, where there are any, beside what was trained."""
    if (perturbations := trained / TRAINED_ON).exists():
        shutil.copytree(perturbations, folder / TRAINED_ON, dirs_exist_ok=True)


def write_attacked(
    folder: Path,
    case: Experiment,
    models: dict[str, PixelModel],
    report: RobustnessReport,
    threats: Sequence[Threat],
) -> None:
    """The perturbation from the public encoder that is worst for the subject of the report, and pictures.

    They show what it makes of some test images for both models, and what the worst of each kind makes of them for the
    subject.
    """
    name, test = report.subject, case.data["test"]
    worst = worst_of(report, threats, name)
    images, labels = shown_images(models[name], test)
    names = test.features["label"].names
    for perturbation in (each.perturbations[name] for each in worst if each.knowledge == PUBLIC_ENCODER):
        perturbation.save_pretrained(folder / PERTURBATION)
        draw_overview(report, models, images, labels, names, perturbation, folder / OVERVIEW)
    draw_worst(folder, worst, name, models[name], images, labels, names)


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
