"""What the weight of the genetic regularization changes: paired differences over seeds.

    python benchmarks/genetic_weight.py --use_cpu --defence gen-af --clean_share 0
    python benchmarks/genetic_weight.py genaf_hf/cli/configs/digits_vit.yaml --use_cpu --defence gen-af \
        --clean_share 0 --eps 0.25 --weights 0 200 600

Each seed is hardened with each weight, by default with the settings of digits_vit.yaml and nothing else
changed, and then attacked as recipes/genaf_vit.py does. Flags are those of that recipe. A run takes about a minute of
CPU time. Results are kept in genetic_weight.jsonl, and a run that is there is not done again. Prints a Markdown table.
"""

import copy
import json
import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import t as student

from genaf_hf import GenAFConfig, GenAFTrainer, PixelModel
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.evaluate import craft_and_evaluate
from genaf_hf.pipelines.experiment import asked_attacks, load_data, load_encoder_and_pixels
from genaf_hf.pipelines.harden import HardeningArguments
from genaf_hf.pipelines.hardening import hardening_run
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.values.markup import markdown

SETTINGS = Path(__file__).parents[1] / "genaf_hf" / "cli" / "configs" / "digits_vit.yaml"
FOUND = Path("genetic_weight.jsonl")
ATTACKS = ("clean", "l4a", "pgd")


@dataclass
class BenchmarkArguments:
    """Which runs are compared."""

    seeds: list[int] = field(default_factory=lambda: list(range(10, 20)))
    weights: list[float] = field(
        default_factory=lambda: [0.0, 200.0],
        metadata={"help": "The first is what the others are compared with."},
    )


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    benchmark, arguments, config = parse_arguments((BenchmarkArguments, HardeningArguments, GenAFConfig), SETTINGS)
    pretrain_where_named(arguments.model_name_or_path, config.use_cpu)
    found = {}
    for seed in benchmark.seeds:
        for weight in benchmark.weights:
            config.seed, config.genetic_weight = seed, weight
            found[seed, weight] = measured(arguments, config)
    print_table(found, benchmark.seeds, benchmark.weights)


def measured(arguments: HardeningArguments, config: GenAFConfig) -> dict[str, float]:
    """Accuracies in % of a run; of one that was made before, those that it had."""
    settings = hardening_run(arguments, config).settings
    for line in FOUND.read_text().splitlines() if FOUND.exists() else []:
        if (run := json.loads(line))["settings"] == settings:
            return run["accuracies"]
    accuracies = hardened_accuracies(arguments, copy.copy(config))
    with FOUND.open("a") as file:
        file.write(json.dumps({"settings": settings, "accuracies": accuracies}) + "\n")
    return accuracies


def hardened_accuracies(arguments: HardeningArguments, config: GenAFConfig) -> dict[str, float]:
    """Accuracies in % on the test images, clean and under the attacks of the recipe."""
    data = load_data(arguments, config.hub_token)
    model, processor, pixels = load_encoder_and_pixels(arguments, config, data)
    encoder = PixelModel(copy.deepcopy(model), processor).eval()
    with tempfile.TemporaryDirectory() as folder:
        config.output_dir, config.save_strategy = folder, "no"
        trainer = GenAFTrainer(model=model, args=config, train_dataset=pixels["train"], processing_class=processor)
        trainer.train()
    attacks = asked_attacks(arguments, config)
    report, _ = craft_and_evaluate(
        {"hardened": PixelModel(trainer.model, processor).eval()},
        pixels["test"],
        {name: attacks[name] for name in ATTACKS[1:]},
        Attacker.of(data["train"], arguments.dataset_name, encoder, encoder),
        batch_size=128,
        seed=config.seed,
    )
    return {attack: 100 * report.measurement("hardened", attack).accuracy.value for attack in ATTACKS}


def print_table(found: dict, seeds: list[int], weights: list[float]) -> None:
    """Means and standard deviations, and mean differences to the first weight with 95 % t intervals."""
    rows = [["weight", *ATTACKS]]
    for weight in weights:
        cells = []
        for attack in ATTACKS:
            values = [found[seed, weight][attack] for seed in seeds]
            cell = f"{mean(values):.1f} (sd {stdev(values):.1f})"
            if weight != weights[0]:
                differences = [found[seed, weight][attack] - found[seed, weights[0]][attack] for seed in seeds]
                reach = student.ppf(0.975, len(seeds) - 1) * stdev(differences) / len(seeds) ** 0.5
                cell += f", {mean(differences):+.1f} ± {reach:.1f}"
            cells.append(cell)
        rows.append([f"{weight:g}", *cells])
    print(f"\n{markdown(rows)}")


if __name__ == "__main__":
    main()
