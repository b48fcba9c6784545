"""What the weight of the genetic regularization changes on the default run: paired differences over seeds.

    python benchmarks/genetic_weight.py --seeds 10,11,12,13,14,15,16,17,18,19 --weights 0,200

Each seed is hardened with each weight, with the settings of recipes/configs/digits.yaml and nothing else changed. A run
takes about 80 s of CPU time. Results are kept in genetic_weight.jsonl, and a run that is there is not done again.
"""

import argparse
import copy
import json
import tempfile
from functools import partial
from pathlib import Path
from statistics import mean, stdev

import torch
import yaml
from scipy.stats import t as student

from genaf_hf import (
    GenAFConfig,
    GenAFTrainer,
    PixelModel,
    evaluate_robustness,
    l4a,
    load_encoder,
    load_images,
    pgd,
    with_pixel_values,
)
from genaf_hf.attacks.pgd import default_step_size
from genaf_hf.digits_encoder import DIGITS_ENCODER, pretrain_digits_encoder
from genaf_hf.hardening import HardeningArguments

SETTINGS = Path(__file__).parents[1] / "recipes" / "configs" / "digits.yaml"
FOUND = Path("genetic_weight.jsonl")
ATTACKS = ("clean", "l4a", "pgd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="10,11,12,13,14,15,16,17,18,19")
    parser.add_argument("--weights", default="0,200", help="The first is what the others are compared with.")
    arguments = parser.parse_args()
    seeds, weights = ([float(word) for word in words.split(",")] for words in (arguments.seeds, arguments.weights))
    lines = FOUND.read_text().splitlines() if FOUND.exists() else []
    found = {(each["seed"], each["weight"]): each for each in map(json.loads, lines)}
    pretrain_digits_encoder(use_cpu=True)
    for seed in map(int, seeds):
        for weight in weights:
            if (seed, weight) not in found:
                found[seed, weight] = {"seed": seed, "weight": weight, **hardened_accuracies(seed, weight)}
                with FOUND.open("a") as file:
                    file.write(json.dumps(found[seed, weight]) + "\n")
    print_table(found, [int(seed) for seed in seeds], weights)


def hardened_accuracies(seed: int, weight: float) -> dict[str, float]:
    """Accuracies in % on the test images, clean and under the attacks of the default run."""
    values = yaml.safe_load(SETTINGS.read_text())
    ours = {name: values.pop(name) for name in list(values) if name in HardeningArguments.__dataclass_fields__}
    data = load_images(ours["dataset_name"])
    torch.manual_seed(seed)
    model, processor = load_encoder(DIGITS_ENCODER, data["train"].features["label"].names)
    pixels = {split: with_pixel_values(images, processor) for split, images in data.items()}
    encoder = PixelModel(copy.deepcopy(model), processor).eval()
    with tempfile.TemporaryDirectory() as folder:
        changes = {"seed": seed, "genetic_weight": weight, "output_dir": folder, "save_strategy": "no", "use_cpu": True}
        config = GenAFConfig(**{**values, **changes})
        trainer = GenAFTrainer(model=model, args=config, train_dataset=pixels["train"], processing_class=processor)
        trainer.train()
    images = encoder.to_images(pixels["train"][:]["pixel_values"])
    steps, pgd_steps = HardeningArguments.dae_steps, HardeningArguments.pgd_steps
    pgd_eps = ours.get("pgd_eps", config.eps)
    attacks = {
        "l4a": l4a(encoder, images, eps=ours["dae_eps"], steps=steps, layer=ours["dae_layer"], seed=seed),
        "pgd": partial(pgd, eps=pgd_eps, steps=pgd_steps, step_size=default_step_size(pgd_eps, pgd_steps)),
    }
    subject = {"hardened": PixelModel(trainer.model, processor).eval()}
    report = evaluate_robustness(subject, pixels["test"], attacks, batch_size=128, seed=seed)
    return {attack: 100 * report.measurement("hardened", attack).accuracy.value for attack in ATTACKS}


def print_table(found: dict, seeds: list[int], weights: list[float]) -> None:
    """Means and standard deviations, and mean differences to the first weight with 95 % t intervals."""
    print(f"\n| weight | {' | '.join(ATTACKS)} |\n|---|{'---|' * len(ATTACKS)}")
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
        print(f"| {weight:g} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
