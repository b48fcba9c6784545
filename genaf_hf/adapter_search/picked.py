"""A member of the front, merged into a plain model, attacked and told of: what `genaf-hf evolve --pick` leaves."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from genaf_hf.adapter_search.arguments import PICKED, AdapterSearchArguments
from genaf_hf.adapter_search.content import images_content
from genaf_hf.adapter_search.fitness import HISTORY
from genaf_hf.adapter_search.front import Member, merged_model
from genaf_hf.adapter_search.laboratory import Laboratory, open_laboratory, search_run
from genaf_hf.errors import UserError
from genaf_hf.evaluation.evaluate import craft_and_evaluate
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.models.identity import digest, tensors
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.experiment import SWEEP_FACTORS, asked_attacks
from genaf_hf.pipelines.hardening import copy_perturbations
from genaf_hf.runs.run import Run
from genaf_hf.sharing.data_figures import draw_samples
from genaf_hf.sharing.example import leave_example
from genaf_hf.sharing.existing_card import base_model_of
from genaf_hf.sharing.layout import CARD, HARDENED_MODEL, RECORD, REPORT, SAMPLES, TRAINED_ON
from genaf_hf.sharing.record import OF_ADAPTER, TrainingRecord, changed_settings, settings_of_training
from genaf_hf.sharing.result_folder import write_results
from genaf_hf.training.config import GenAFConfig


def pick(arguments: AdapterSearchArguments, config: GenAFConfig, members: list[Member]) -> RobustnessReport:
    """Merges a member of the front into a plain model, attacks it with everything, and writes its card.

    The folder `picked/` of the output folder then is a `transformers` checkpoint. A pick that was killed goes on where
    it was when it is started again.

    Raises:
        UserError: when no such trial is reported, or another pick is unfinished.
    """
    found = {each.trial: each for each in members}
    if arguments.pick not in found:
        raise UserError(f"pick is {arguments.pick}, expected one of the trials {', '.join(map(str, found))}.")
    run, laboratory = pick_run(arguments, config), open_laboratory(arguments, config)
    processor, folder, data = laboratory.processor, run.folder, laboratory.data
    plain = merged_model(laboratory.encoder, laboratory.adapter(arguments.pick)).to(config.device)
    model = PixelModel(plain, processor).eval()
    content = {"weights of the model": digest(None, tensors(model))[:16], "images": images_content(data)}
    with run.working(content):
        report, _ = craft_and_evaluate(
            {f"trial-{arguments.pick}": model},
            laboratory.pixels["test"],
            laboratory.attacks,
            laboratory.attacker,
            factors=SWEEP_FACTORS,
            batch_size=config.per_device_eval_batch_size,
            seed=config.seed,
            dataset_info=laboratory.images.source,
            journal=run.journal("evaluation"),
        )
        plain.save_pretrained(folder)
        processor.save_pretrained(folder)
        copy_perturbations(laboratory.adapter(arguments.pick), folder)
        draw_samples(data["train"], folder / SAMPLES)
        told = replace(record(laboratory, found[arguments.pick]), example=leave_example(model, data["test"], folder))
        name = f"{laboratory.folder.resolve().name}/{folder.name}"
        write_results(folder, report, told, model_name=name)
    return report


def pick_run(arguments: AdapterSearchArguments, config: GenAFConfig) -> Run:
    """The run of the trial that is picked, which may replace an earlier pick."""
    folder, attacks = Path(config.output_dir, PICKED), asked_attacks(arguments, config)
    asked = {"pick": arguments.pick, "seed": config.seed, "attacks": {name: attacks[name].settings for name in attacks}}
    replaceable = (folder / RECORD).exists
    return Run(folder, asked, leaves=(CARD, REPORT, RECORD), overwrites=HARDENED_MODEL, replaceable=replaceable)


def record(laboratory: Laboratory, chosen: Member) -> TrainingRecord:
    """How the picked model was made."""
    arguments, config = laboratory.arguments, laboratory.config
    asked = {name: value for name, value in arguments.given.items() if name != "storage"}
    trained = laboratory.fitness.training_of(chosen.genome, chosen.slot)
    training = settings_of_training(trained)
    adapter = laboratory.adapter(chosen.trial)
    history = json.loads((adapter / HISTORY).read_text(encoding="utf-8"))
    perturbations = sorted(each.name for each in (adapter / TRAINED_ON).glob("*"))
    return TrainingRecord(
        base_model=base_model_of(laboratory.encoder.config, config.hub_token),
        data=laboratory.record_of_images,
        hyperparameters={
            **training["hyperparameters"],
            **asdict(chosen.genome),
            **({"parents": chosen.parents} if chosen.parents else {}),
        },
        defaults=training["defaults"],
        history=[{**entry, "stage": OF_ADAPTER} for entry in history],
        defence={**trained.make_defence().record(), "perturbations": perturbations},
        command=search_run(arguments, config).command("evolve", {**asked, **changed_settings(config)}),
    )
