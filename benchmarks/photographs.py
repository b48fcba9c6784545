"""README's first picture and table: photographs under perturbations that were crafted on the public encoder alone.

    python benchmarks/photographs.py mobilenet-v1-0.25-128 animals22

of folders with these names, that hold an encoder of ImageNet and photographs in a folder for each kind of animal. It
trains the undefended and the hardened model as the rows `none` and `universal-anchor` of the animals in defences.md,
unless defences.py left them in `--models`, and attacks both with the images that it held out. Draws photographs.png,
with the perturbation that is worst for the hardened model, and prints a Markdown table.
"""

import argparse
import logging
from pathlib import Path

import torch
from defence_tables import NONE
from defences import configured, described_training, parsed_arguments, trained_once

from genaf_hf import PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks import ATTACKS
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.evaluate import evaluate_threats
from genaf_hf.evaluation.measurement import PUBLIC_ENCODER
from genaf_hf.evaluation.threats import CraftedThreat, ImageThreat, Threat
from genaf_hf.models.loading import load_classifier
from genaf_hf.sharing.figures import SHOWN, draw_overview

PICTURE = Path(__file__).with_suffix(".png")
EPS, PGD_EPS = 10 / 255, 4 / 255
PUBLIC, HARDENED = ("l4a", "ssp", "uapgd", "fff", "std"), "hardened"
ROWS = {"undefended": NONE, HARDENED: "universal-anchor"}
RATES = ("--learning_rate", "3e-4", "--head_learning_rate", "2e-3")
SETTING = ("--held_out_share", "0.3", "--steps", "1200", "--precision", "fp32", "--random_flip", *RATES)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("dataset")
    parser.add_argument("--models", default="defences-found", help="folder of the trained models")
    given = parser.parse_args()
    args = parsed_arguments([given.encoder, given.dataset, "--models", given.models, *SETTING])

    data = load_images(args.dataset, held_out_share=args.held_out_share)
    names, test = data["train"].features["label"].names, data["test"]
    public = PixelModel(*load_encoder(args.encoder, names)).eval()
    training, models = described_training(args, public, data["train"]), {}
    for name, row in ROWS.items():
        config = configured(args, row, 0)
        trained_once(args, config, row, training, names, data["train"])
        models[name] = PixelModel(*load_classifier(config.output_dir)).eval()
    attacker = Attacker.of(stratified_subset(data["validation"], 1024, seed=0), args.dataset, public, public)
    threats: list[Threat] = [
        CraftedThreat(name, PUBLIC_ENCODER, attack=ATTACKS[name].configure(eps=EPS)).crafted(attacker, models)
        for name in PUBLIC
    ]
    threats.append(ImageThreat("pgd", ATTACKS["pgd"].configure(eps=PGD_EPS, steps=20)))
    pixels = with_pixel_values(test, public.processor)
    report = evaluate_threats(models, pixels, threats, batch_size=128)
    worst = report.worst(HARDENED, PUBLIC_ENCODER)
    [shown] = [each for each in threats if each.name == worst.attack]
    chosen = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:SHOWN].tolist()
    few = pixels[chosen]
    images, delta = public.to_images(few["pixel_values"]), shown.perturbations[HARDENED]
    draw_overview(report, models, images, few["labels"], names, delta, PICTURE)
    print(f"\n{report.table()}")


if __name__ == "__main__":
    main()
