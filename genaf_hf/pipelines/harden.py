"""From a public encoder and labelled images to a hardened model with its report: what `genaf-hf harden` runs."""

import copy
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedModel

from genaf_hf.data import measured_images, split_digests
from genaf_hf.errors import UserError
from genaf_hf.evaluation.evaluate import craft_and_evaluate, try_out
from genaf_hf.evaluation.report import UNDEFENDED, RobustnessReport
from genaf_hf.evaluation.threats import Attacker, worst_of
from genaf_hf.models.loading import load_configuration
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.experiment import (
    SWEEP,
    asked_attacks,
    copy_results,
    described,
    hardening_run,
    load_data,
    load_encoder_and_pixels,
    open_result,
    push_result,
    repeated,
    training_config,
    what_was_loaded,
    write_attacked,
)
from genaf_hf.pipelines.experiment_arguments import ExperimentArguments
from genaf_hf.pipelines.trained_images import images_of_record, warn_of_duplicates
from genaf_hf.runs.run import Run
from genaf_hf.sharing.data_figures import draw_samples
from genaf_hf.sharing.example import leave_example
from genaf_hf.sharing.existing_card import is_hardened_encoder
from genaf_hf.sharing.layout import RECORD, SAMPLES
from genaf_hf.sharing.record import STANDARD_FINETUNE, TrainingRecord, balance_table
from genaf_hf.sharing.result_folder import write_results
from genaf_hf.sharing.trackers import track_results
from genaf_hf.training.checkpoint import newest_complete_checkpoint
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.sharing_trainer import HARDENED
from genaf_hf.training.trainer import STAGES, GenAFTrainer

logger = logging.getLogger(__name__)

# What the command line has defaults of its own for, by the encoder's family, so that a card must state it.
SET_BY_FAMILY = ("weight_decay", "layer_decay", "random_flip", "eval_strategy", "load_best_model_at_end")


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
    attacks = asked_attacks(arguments, config)
    run = hardening_run(arguments, config)
    run.check()
    hub = {"revision": arguments.model_revision, "token": config.hub_token}
    load_configuration(arguments.model_name_or_path, **hub)
    hardened_before = tell_of_hardened_encoder(arguments.model_name_or_path, **hub)
    data = load_data(arguments, config.hub_token)
    source = arguments.source_of(data["test"])
    digests = split_digests(data)
    images = {**described(data, source), **images_of_record(digests, arguments.labelled_options)}
    if PartialState().is_main_process:
        logger.info("\n%s\n", balance_table(images))
        warn_of_duplicates(digests)
    encoder, processor, pixels = load_encoder_and_pixels(arguments, config, data)
    public_encoder = PixelModel(encoder, processor).to(config.device)
    attacker = Attacker.of(data["train"], arguments.dataset_name, public_encoder, public_encoder)
    try_out(attacks, attacker, public_encoder)
    public_encoder.cpu()  # while others are trained
    model_name = open_result(run, config)
    with run.working(what_was_loaded(public_encoder, data, digests)):
        if PartialState().is_main_process:
            draw_samples(data["train"], run.folder / SAMPLES)

        models, record = fine_tune(encoder, processor, pixels, config, arguments.standard_max_steps, run)
        public_encoder.to(config.device)
        report, threats = craft_and_evaluate(
            models,
            pixels["test"],
            attacks,
            attacker,
            factors=SWEEP,
            batch_size=config.per_device_eval_batch_size,
            workers=config.dataloader_num_workers,
            seed=config.seed,
            dataset_info={**source, "content": measured_images(data["test"], digests["test"])},
            journal=run.journal("evaluation"),
        )
        if PartialState().is_main_process:
            save_models(run, models, processor)
            worst = worst_of(report, threats, HARDENED)
            write_attacked(run.folder, report, models, worst, processor, data["test"])
            of_family = {name: run.settings[name] for name in SET_BY_FAMILY}
            record = replace(
                record,
                data=images,
                example=leave_example(models[HARDENED], data["test"], run.folder),
                command=run.command("harden", {**of_family, **repeated(arguments, config, record, source)}),
            )
            TrainingRecord(record.base_model, images).save(run.folder / UNDEFENDED / RECORD)
            write_results(run.folder, report, record, model_name=model_name)
            track_results(report, record, config)
            if hardened_before:
                tell_of_gain(report, arguments.model_name_or_path, config.defence)
    push_result(run, config, model_name, push_anyway=arguments.push_anyway)
    PartialState().wait_for_everyone()
    return report


def tell_of_hardened_encoder(model_name_or_path: str, **hub) -> bool:
    """Whether an encoder has a hardening behind it, of which the log then says what it leaves to gain."""
    found = PartialState().is_main_process and is_hardened_encoder(model_name_or_path, **hub)
    if found:
        said = '"%s" is an encoder that is hardened already, as its card says: a plain fine-tune keeps a part of that'
        logger.info(said, model_name_or_path)
    return found


def tell_of_gain(report: RobustnessReport, model_name_or_path: str, defence: str) -> None:
    """Says what a defence gained over the plain fine-tune of an encoder that was hardened before."""
    parts = [
        f"{each.attack} {report.measurement(UNDEFENDED, each.attack).accuracy.value:.1%} to {each.accuracy.value:.1%}"
        for each in report.verdict(HARDENED)
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
    """The undefended and the hardened model, both from the same encoder and head, and how the latter was made."""
    config = training_config(config, run)
    folder = Path(config.output_dir)

    def trainer() -> GenAFTrainer:
        return GenAFTrainer(
            model=copy.deepcopy(encoder),
            args=copy.copy(config),
            train_dataset=pixels["train"],
            eval_dataset=pixels["validation"],
            processing_class=processor,
        )

    def finished(trained: GenAFTrainer) -> PixelModel:
        return PixelModel(trained.accelerator.unwrap_model(trained.model, keep_fp32_wrapper=False), processor).eval()

    newest = partial(newest_complete_checkpoint, world_size=config.world_size)
    undefended, hardened = trainer(), trainer()
    undefended.args.max_steps = standard_max_steps or config.max_steps
    undefended.standard_finetune(newest(folder / STANDARD_FINETUNE) if run.resumed else None)
    models = {UNDEFENDED: finished(undefended)}
    del undefended  # whose optimizer holds twice as much as the encoder
    began = newest(*(folder / stage for stage in STAGES if stage != STANDARD_FINETUNE)) is not None
    hardened.train(resume_from_checkpoint=run.resumed and began)
    if hardened.is_world_process_zero():
        hardened.save_perturbations(folder)
    models[HARDENED] = finished(hardened)
    return models, hardened.training_record()


def save_models(run: Run, models: dict[str, PixelModel], processor) -> None:
    """Both models, and what their training found."""
    for name, place in ((UNDEFENDED, run.folder / UNDEFENDED), (HARDENED, run.folder)):
        models[name].model.save_pretrained(place)
        processor.save_pretrained(place)
    copy_results(run)
