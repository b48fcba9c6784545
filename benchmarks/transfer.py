"""What every universal attack, crafted on a public encoder, does to a model that was fine-tuned from it, beside noise.

    python benchmarks/transfer.py --encoder ENCODER --model ENCODER-genaf/undefended --dataset_name uoft-cs/cifar10

`--model` is a classifier fine-tuned from the encoder, such as the undefended one that recipes/genaf_vit.py leaves.
Perturbations are crafted once and cached. Prints a Markdown table.
"""

import argparse
import logging

from genaf_hf import PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks import ATTACKS
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.evaluate import evaluate_threats
from genaf_hf.evaluation.report import CLEAN, RobustnessReport, markdown
from genaf_hf.evaluation.threats import Attacker, UniversalThreat
from genaf_hf.models.loading import load_classifier
from genaf_hf.pipelines.attack_arguments import SETTINGS_HELP, named_attacks

EPS = (10 / 255, 16 / 255)
MODEL = "model"


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--attacks", default=",".join(name for name, attack in ATTACKS.items() if attack.on_encoder))
    parser.add_argument("--attack_settings", help=SETTINGS_HELP)
    parser.add_argument("--attacker_images", type=int, default=2048)
    parser.add_argument("--test_images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    data = load_images(args.dataset_name)
    labels = data["train"].features["label"].names
    encoder, model = PixelModel(*load_encoder(args.encoder, labels)), PixelModel(*load_classifier(args.model))
    known = stratified_subset(data["train"], args.attacker_images, seed=0)
    attacker = Attacker.of(known, args.dataset_name, encoder, encoder)
    test = with_pixel_values(stratified_subset(data["test"], args.test_images, seed=0), model.processor)
    rounds = [named_attacks(args.attacks, args.attack_settings, dae_eps=eps, seed=args.seed) for eps in EPS]
    threats = {
        (name, level): UniversalThreat(f"{name} {level}", attack, adaptive=False).crafted(attacker, {MODEL: model})
        for level, attacks in zip(levels(), rounds, strict=True)
        for name, attack in attacks.items()
    }
    report = evaluate_threats({MODEL: model}, test, list(threats.values()), batch_size=250, seed=args.seed)
    rows = [["attack", *levels()], ["none", *[str(report.measurement(MODEL, CLEAN).accuracy)] * len(EPS)]]
    for name in rounds[0]:
        rows.append([name, *(cell(report, threats[name, level].name) for level in levels())])
    print(f"\n{markdown(rows)}")


def levels() -> list[str]:
    return [f"eps {round(255 * eps)}/255" for eps in EPS]


def cell(report: RobustnessReport, threat: str) -> str:
    """An accuracy, with its marks and what noise of the same size leaves."""
    found = report.measurement(MODEL, threat)
    return f"{' '.join([str(found.accuracy), *report.marks(found)])}; noise: {found.noise_correct}"


if __name__ == "__main__":
    main()
