"""What every universal attack, crafted on a public encoder, does to a model that was fine-tuned from it, beside noise.

    python benchmarks/transfer.py --encoder ENCODER --model ENCODER-genaf/undefended --dataset_name uoft-cs/cifar10

`--model` is a classifier fine-tuned from the encoder, such as the undefended one that recipes/genaf_vit.py leaves.
Perturbations are crafted once and cached. Prints a Markdown table.
"""

import argparse
import json
import logging
from functools import partial

import torch

from genaf_hf import PixelModel, UniversalPerturbation, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks import ATTACKS
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.answers import answer
from genaf_hf.evaluation.perturbation_cache import crafted_once
from genaf_hf.evaluation.report import Rate, markdown
from genaf_hf.models.loading import load_classifier

EPS = (10 / 255, 16 / 255)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--attacks", default=",".join(name for name, attack in ATTACKS.items() if attack.universal))
    parser.add_argument("--attack_settings", type=json.loads, default={}, help="By attack, as JSON.")
    parser.add_argument("--attacker_images", type=int, default=2048)
    parser.add_argument("--test_images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    data = load_images(args.dataset_name)
    labels = data["train"].features["label"].names
    encoder, model = PixelModel(*load_encoder(args.encoder, labels)), PixelModel(*load_classifier(args.model))
    attacker = with_pixel_values(stratified_subset(data["train"], args.attacker_images, seed=0), encoder.processor)[:]
    given = {"images": encoder.to_images(attacker["pixel_values"]), "labels": attacker["labels"]}
    test = with_pixel_values(stratified_subset(data["test"], args.test_images, seed=0), model.processor)
    accuracy = partial(accuracy_under, model, test)

    rows = [["attack", *(f"eps {round(255 * eps)}/255" for eps in EPS)]]
    rows.append(["none", *[str(accuracy(None))] * len(EPS)])
    rows.append(["uniform noise", *(str(accuracy(noise(encoder, eps))) for eps in EPS)])
    for name in args.attacks.split(","):
        attack, settings = ATTACKS[name], args.attack_settings.get(name, {})
        if "eps" in attack.defaults:
            rounds = [attack.configure(eps=eps, seed=args.seed, **settings) for eps in EPS]
        else:
            rounds = [attack.configure(seed=args.seed, **settings)]
        found = [
            str(accuracy(crafted_once(each, encoder, *(given[need] for need in attack.needs[1:])))) for each in rounds
        ]
        rows.append([name, *found, *["-"] * (len(EPS) - len(found))])
        print(f"{name}: {', '.join(found)}", flush=True)
    print(f"\n{markdown(rows)}")


def accuracy_under(model: PixelModel, test, attack: UniversalPerturbation | None) -> Rate:
    found = answer(model, test, attack, batch_size=250)
    return Rate(sum(a == b for a, b in zip(found.predictions, found.labels, strict=True)), len(found.labels))


def noise(encoder: PixelModel, eps: float) -> UniversalPerturbation:
    """One uniform random perturbation of the same size as the attacks'."""
    delta = torch.empty(3, *encoder.image_size).uniform_(-eps, eps, generator=torch.Generator().manual_seed(0))
    return UniversalPerturbation(delta=delta, attack="uniform-noise", eps=eps)


if __name__ == "__main__":
    main()
