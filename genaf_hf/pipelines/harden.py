"""From a public encoder and labelled images to a hardened model with its report: what `genaf-hf harden` runs."""

import copy
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import answer
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.evaluate import craft_and_evaluate, try_out
from genaf_hf.evaluation.measurement import Rate
from genaf_hf.evaluation.probing import probed
from genaf_hf.evaluation.report import UNDEFENDED, RobustnessReport
from genaf_hf.models.loading import load_configuration
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.experiment import SWEEP_FACTORS, Experiment, asked_attacks
from genaf_hf.pipelines.experiment_arguments import ExperimentArguments
from genaf_hf.pipelines.hardening import (
    copy_results,
    hardening_run,
    repeated,
    train_or_go_on,
    trained_model,
    training_config,
    write_attacked,
)
from genaf_hf.pipelines.trained_images import warn_of_contradictions, warn_of_duplicates
from genaf_hf.runs.run import Run
from genaf_hf.sharing.data_figures import draw_samples
from genaf_hf.sharing.example import leave_example
from genaf_hf.sharing.existing_card import is_hardened_encoder
from genaf_hf.sharing.layout import RECORD, SAMPLES
from genaf_hf.sharing.publishing import open_result, push_result
from genaf_hf.sharing.record import STANDARD_FINETUNE, TrainingRecord, balance_table, is_hardened
from genaf_hf.sharing.result_folder import write_results
from genaf_hf.sharing.trackers import track_results
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.trainer import GenAFTrainer
from genaf_hf.training.training_images import images_of_update

logger = logging.getLogger(__name__)

# What the command line has defaults of its own for, by the encoder's family, so that a card must state it.
SET_BY_FAMILY = ("defence", "weight_decay", "layer_decay", "random_flip", "eval_strategy")


@dataclass
class HardeningArguments(ExperimentArguments):
    """Which encoder is hardened on which images, and what the result is attacked with."""

    image_size: int | None = field(
        default=None,
        metadata={"help": "Side of the images in pixels, default the encoder's."},
    )
    pooling: str | None = field(
        default=None, metadata={"help": "Pooling: cls, mean or pooler, default the encoder's own."}
    )
    head: str | None = field(default=None, metadata={"help": "Other head than a linear one: mlp, the paper's."})
    drop_path_rate: float | None = field(
        default=None,
        metadata={"help": "How often a block is left out for an image in training, default the encoder's own."},
    )
    standard_max_steps: int | None = field(
        default=None, metadata={"help": "Steps of the undefended fine-tune, default those of stage 1."}
    )
    push_anyway: bool = field(
        default=False, metadata={"help": "With push_to_hub, push also a model that failed a self-check of its report."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.standard_max_steps is not None and self.standard_max_steps < 1:
            raise UserError(f"standard_max_steps is {self.standard_max_steps}, expected at least 1.")

    @property
    def encoder_options(self) -> dict:
        ours = ("image_size", "pooling", "head", "drop_path_rate")
        return {**super().encoder_options, **{name: getattr(self, name) for name in ours}}


def harden(arguments: HardeningArguments, config: GenAFConfig) -> RobustnessReport:
    """Fine-tunes an undefended and a hardened model from one encoder, attacks both, and writes everything down.

    `config.output_dir` then holds the hardened model with its processor and card, `undefended/`, `perturbation/`,
    `report.json`, `training.json`, `layer_robustness.json` and pictures. A run that was killed goes on where it was
    when it is started again with the same settings.

    Args:
        arguments: what is hardened on what, and what the result is attacked with.
        config: of the training.

    Raises:
        UserError: for input that cannot be worked with, before any training.
    """
    asked_attacks(arguments, config)
    run = hardening_run(arguments, config)
    run.check()
    hub = {"revision": arguments.model_revision, "token": config.hub_token}
    load_configuration(arguments.model_name_or_path, **hub)
    tell_of_hardened_encoder(arguments.model_name_or_path, **hub)
    case = Experiment.load(arguments, config)
    config.make_defence().check(case.encoder, images_of_update(config, case.data["train"]))
    of_images = case.record_of_images  # which all processes digest at once
    if PartialState().is_main_process:
        logger.info("\n%s\n", balance_table(of_images))
        warn_of_duplicates(case.images.digests, case.images.name)
        warn_of_contradictions(case.data["train"], case.images.digests["train"], case.images.name)
    attacker = case.attacker
    try_out(case.attacks, attacker, case.public)
    model_name = open_result(run.folder, config)
    tell_of_probe(case, attacker)
    case.public.cpu()  # while others are trained
    with run.working(case.content):
        models, record = fine_tune(case.encoder, case.processor, case.pixels, config, arguments.standard_max_steps, run)
        case.public.to(config.device)
        report, threats = craft_and_evaluate(
            models,
            case.pixels["test"],
            case.attacks,
            attacker,
            factors=SWEEP_FACTORS,
            dataset_info=case.images.measured,
            journal=run.journal("evaluation"),
            **case.measuring,
        )
        if PartialState().is_main_process:
            save_models(run, models, case.processor)
            draw_samples(case.data["train"], run.folder / SAMPLES)
            write_attacked(run.folder, case, models, report, threats)
            of_family = {name: run.settings[name] for name in SET_BY_FAMILY}
            record = replace(
                record,
                data=of_images,
                example=leave_example(models[report.subject], case.data["test"], run.folder),
                command=run.command("harden", {**of_family, **repeated(case, record)}),
            )
            TrainingRecord(record.base_model, case.record_of_images).save(run.folder / UNDEFENDED / RECORD)
            write_results(run.folder, report, record, model_name=model_name)
            track_results(report, record, config)
            if record.base_model.get("hardened") and is_hardened(record):
                tell_of_gain(report, arguments.model_name_or_path, config.defence)
    push_result(run.folder, config, model_name, push_anyway=arguments.push_anyway)
    PartialState().wait_for_everyone()
    return report


def tell_of_hardened_encoder(model_name_or_path: str, **hub) -> None:
    """Says of an encoder that has a hardening behind it what it leaves to gain."""
    if PartialState().is_main_process and is_hardened_encoder(model_name_or_path, **hub):
        said = '"%s" is an encoder that is hardened already, as its card says: a plain fine-tune keeps a part of that'
        logger.info(said, model_name_or_path)


def tell_of_probe(case: Experiment, attacker: Attacker) -> None:
    """Says what the encoder knows of the images, where a classifier's features are compared with its own."""
    objective = case.config.make_defence().objective
    if objective is None or not (objective.reads_features and objective.reads_labels):
        return
    probe = probed(case.public, attacker.images, attacker.labels, case.encoder.config.num_labels)
    found = answer(probe, case.pixels["validation"], batch_size=case.config.per_device_eval_batch_size)
    if PartialState().is_main_process:
        logger.info(
            "A linear probe on the frozen encoder is right about %s of the validation images. The defence %s compares "
            "features with that encoder's: where a plain fine-tune gets much more right, take universal",
            *(Rate(sum(found.right), len(found.right)), case.config.defence),
        )


def tell_of_gain(report: RobustnessReport, model_name_or_path: str, defence: str) -> None:
    """Says what a defence gained over the plain fine-tune of an encoder that was hardened before."""
    parts = [
        f"{each.attack} {report.measurement(UNDEFENDED, each.attack).accuracy.value:.1%} to {each.accuracy.value:.1%}"
        for each in report.verdict(report.subject)
    ]
    said = 'What the defence %s gains over a plain fine-tune of "%s", which was hardened before: %s'
    logger.info(said, defence, model_name_or_path, ", ".join(parts))


def fine_tune(
    encoder: PreTrainedModel,
    processor,
    pixels: dict,
    config: GenAFConfig,
    standard_max_steps: int | None,
    run: Run,
) -> tuple[dict[str, PixelModel], TrainingRecord]:
    """The undefended model and that of the defence, from the same encoder and head, and how the latter was made."""
    config = training_config(config, run)

    def trainer(folder: Path, max_steps: int) -> GenAFTrainer:
        args = copy.copy(config)
        args.output_dir, args.max_steps = str(folder), max_steps
        return GenAFTrainer(
            model=copy.deepcopy(encoder),
            args=args,
            train_dataset=pixels["train"],
            eval_dataset=pixels["validation"],
            processing_class=processor,
        )

    folder = Path(config.output_dir)
    undefended = trainer(folder / UNDEFENDED, standard_max_steps or config.max_steps)
    before = newest_complete_checkpoint(folder / UNDEFENDED / STANDARD_FINETUNE, world_size=config.world_size)
    undefended.standard_finetune(before if run.resumed else None)
    models = {UNDEFENDED: trained_model(undefended)}
    del undefended  # whose optimizer holds twice as much as the encoder
    defended = trainer(folder, config.max_steps)
    models[defended.defence.model_name], record = train_or_go_on(defended, run)
    return models, record


def save_models(run: Run, models: dict[str, PixelModel], processor) -> None:
    """Both models, and what their training found."""
    for model, place in zip(models.values(), (run.folder / UNDEFENDED, run.folder), strict=True):
        model.model.save_pretrained(place)
        processor.save_pretrained(place)
    copy_results(run)
