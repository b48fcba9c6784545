"""What a linear probe reads from each encoder, and what attacks on it leave of models made from it.

    python benchmarks/encoders.py --use_cpu --defence gen-af --clean_share 0
    python benchmarks/encoders.py genaf_hf/cli/configs/digits_mae.yaml --encoders ENCODER ... --dataset_name DATASET

From each encoder an undefended and a hardened model are made with the settings of the YAML file, by default those of
digits_mae.yaml from the digits' encoders of all four methods. The universal perturbations are crafted
on the encoder, and adaptively on each model, PGD attacks each model itself. Flags are those of recipes/genaf_vit.py.
Results are kept in a folder for each encoder, and a killed run goes on where it was. Prints
Markdown tables.
"""

import copy
import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from probe import probe
from transformers import AutoModelForImageClassification, set_seed

from genaf_hf import GenAFConfig, PixelModel
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.evaluate import craft_and_evaluate
from genaf_hf.evaluation.measurement import CLEAN, Rate
from genaf_hf.pipelines.experiment import asked_attacks, load_data, load_encoder_and_pixels
from genaf_hf.pipelines.harden import HardeningArguments, fine_tune
from genaf_hf.pipelines.hardening import hardening_run
from genaf_hf.pretraining.digits_encoder import DIGITS_ENCODERS, pretrain_where_named
from genaf_hf.runs.journal import Journal
from genaf_hf.values.markup import markdown

SETTINGS = Path(__file__).parents[1] / "genaf_hf" / "cli" / "configs" / "digits_mae.yaml"
FOUND = Path("encoders-found")


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
    attacks = list(asked_attacks(arguments, config))
    data = load_data(arguments, config.hub_token)
    probes = [["encoder", "linear probe", "linear probe on random weights"]]
    accuracies = [["encoder", "model", CLEAN, *attacks]]
    for encoder in benchmark.encoders:
        pretrain_where_named(encoder, config.use_cpu)
        found = measured(replace(arguments, model_name_or_path=encoder), copy.copy(config), data)
        name = Path(encoder).name
        probes.append([name, *(str(Rate(*part_and_count)) for part_and_count in found["probes"])])
        for model, rates in found["models"].items():
            accuracies.append([name, model, *(str(Rate(*rates[attack])) for attack in (CLEAN, *attacks))])
    print(f"\n{markdown(probes)}\n\n{markdown(accuracies)}")


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
            attacker = Attacker.of(data["train"], arguments.dataset_name, public, public)
            report, _ = craft_and_evaluate(
                models, pixels["test"], asked_attacks(arguments, config), attacker, batch_size=250, seed=config.seed
            )
            found = {
                name: {attack: counted(report.measurement(name, attack).accuracy) for attack in report.attacks}
                for name in models
            }
            set_seed(config.seed)
            random = AutoModelForImageClassification.from_config(encoder.config).to(config.device)
            return {"probes": [counted(probe(each, processor, data)) for each in (encoder, random)], "models": found}

    return Journal(folder / "results").once("accuracies", measure, of=json.dumps(run.settings))


def counted(rate: Rate) -> list[int]:
    return [rate.part, rate.count]


if __name__ == "__main__":
    main()
