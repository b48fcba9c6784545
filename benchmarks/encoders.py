"""What a linear probe reads from each encoder, and what attacks on it leave of models made from it.

    python benchmarks/encoders.py --use_cpu
    python benchmarks/encoders.py genaf_hf/cli/configs/digits_mae.yaml --encoders ENCODER ... --dataset_name DATASET

From each encoder an undefended and a hardened model are made with the settings of the YAML file, by default those of
digits_mae.yaml from the digits' encoders of all four methods. The universal perturbations are crafted
on the encoder with `--dae_eps`, `--dae_steps` and `--dae_layer`, PGD attacks each model itself. Flags are those of
recipes/genaf_vit.py. Results are kept in a folder for each encoder, and a killed run goes on where it was. Prints
Markdown tables.
"""

import copy
import json
import logging
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from probe import probe
from transfer import accuracy_under
from transformers import AutoModelForImageClassification, set_seed

from genaf_hf import GenAFConfig, PixelModel, UniversalPerturbation, with_pixel_values
from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.pgd import default_step_size
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.perturbation_cache import crafted_once
from genaf_hf.evaluation.report import Rate, markdown
from genaf_hf.pipelines.harden import (
    SURROGATE_IMAGES,
    HardeningArguments,
    check_evaluation,
    fine_tune,
    hardening_run,
    load_data,
    load_encoder_and_pixels,
)
from genaf_hf.pretraining.digits_encoder import DIGITS_ENCODERS, pretrain_where_named
from genaf_hf.runs.journal import Journal

SETTINGS = Path(__file__).parents[1] / "genaf_hf" / "cli" / "configs" / "digits_mae.yaml"
FOUND = Path("encoders-found")
DAES = ("l4a", "uapgd", "ssp")


@dataclass
class BenchmarkArguments:
    """Which encoders are compared."""

    encoders: list[str] = field(
        default_factory=lambda: list(DIGITS_ENCODERS),
        metadata={"help": "Hub ids or local folders, default the digits' encoders of all four methods."},
    )


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    benchmark, arguments, config = parse_arguments((BenchmarkArguments, HardeningArguments, GenAFConfig), SETTINGS)
    check_evaluation(arguments, config)
    data = load_data(arguments, config.hub_token)
    probes = [["encoder", "linear probe", "linear probe on random weights"]]
    accuracies = [["encoder", "model", "clean", *DAES, f"PGD-{arguments.pgd_steps}"]]
    for encoder in benchmark.encoders:
        pretrain_where_named(encoder, config.use_cpu)
        found = measured(replace(arguments, model_name_or_path=encoder), copy.copy(config), data)
        name = Path(encoder).name
        probes.append([name, *(str(Rate(*part_and_count)) for part_and_count in found["probes"])])
        for model, rates in found["models"].items():
            accuracies.append([name, model, *(str(Rate(*part_and_count)) for part_and_count in rates)])
    dae_eps, pgd_eps = arguments.dae_eps, arguments.pgd_eps or config.eps
    print(f"\n{markdown(probes)}\n\n{markdown(accuracies)}")
    print(f"\nUniversal perturbations have eps {dae_eps:g}, PGD has eps {pgd_eps:g} ({config.norm}).")


def measured(arguments: HardeningArguments, config: GenAFConfig, data) -> dict:
    """Correct answers and images of both probes and of both models, as JSON holds them; measured once."""
    folder = FOUND / Path(arguments.model_name_or_path).name
    config.output_dir = str(folder)
    run = hardening_run(arguments, config)

    def measure() -> dict:
        encoder, processor, pixels = load_encoder_and_pixels(arguments, config, data)
        with run.working():
            models, _ = fine_tune(encoder, processor, pixels, config, arguments.standard_max_steps, run)
            public = PixelModel(encoder.to(config.device), processor)
            attacks = [None, *crafted(arguments, config, public, data["train"]), pgd_of(arguments, config)]
            found = {
                name: [counted(accuracy_under(model, pixels["test"], attack)) for attack in attacks]
                for name, model in models.items()
            }
            set_seed(config.seed)
            random = AutoModelForImageClassification.from_config(encoder.config).to(config.device)
            return {"probes": [counted(probe(each, processor, data)) for each in (encoder, random)], "models": found}

    return Journal(folder / "results").once("accuracies", measure, of=json.dumps(run.settings))


def crafted(
    arguments: HardeningArguments, config: GenAFConfig, encoder: PixelModel, train
) -> list[UniversalPerturbation]:
    """The universal perturbations, from training images and, for those that need them, their labels."""
    rows = with_pixel_values(stratified_subset(train, SURROGATE_IMAGES, seed=0), encoder.processor)[:]
    given = {"images": encoder.to_images(rows["pixel_values"].to(config.device)), "labels": rows["labels"]}
    shared = {"eps": arguments.dae_eps, "steps": arguments.dae_steps, "seed": config.seed}
    found = []
    for name in DAES:
        layer = {} if name == "uapgd" else {"layer": arguments.dae_layer}
        attack = ATTACKS[name].configure(**shared, **layer)
        found.append(crafted_once(attack, encoder, *(given[need] for need in ATTACKS[name].needs[1:])))
    return found


def pgd_of(arguments: HardeningArguments, config: GenAFConfig) -> partial:
    eps, steps = arguments.pgd_eps or config.eps, arguments.pgd_steps
    return ATTACKS["pgd"].configure(eps=eps, steps=steps, step_size=default_step_size(eps, steps), norm=config.norm)


def counted(rate: Rate) -> list[int]:
    return [rate.part, rate.count]


if __name__ == "__main__":
    main()
