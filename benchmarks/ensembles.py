"""Whether a perturbation from several encoders at once transfers better to another one than those from each alone.

    python benchmarks/ensembles.py digits-supervised digits-simclr digits-mae digits-dino --dataset_name digits
    python benchmarks/ensembles.py ENCODER ... --dataset_name DATASET --eps 0.04

Models are linear probes on each encoder, fitted to half of the training images; the attacker has the other half, and
sets of the encoders. What a set leaves right is held against what each of its encoders leaves alone: of a model from
one of them, where the attacker does not know which; of one from another encoder, in as many steps, and in so many that
both take as many gradients; and there against the best of them, which the attacker cannot tell. A difference in images
is the mean over the sets and encoders, each the mean over the seeds, with its 95 % t-interval over these; below zero
the set is stronger. Prints a Markdown table.
"""

import argparse
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import mean, stdev

import torch
from datasets import Dataset
from scipy.stats import t
from torch import Tensor
from transfer import AtSize

from genaf_hf import PixelModel, load_encoder, load_images, with_pixel_values
from genaf_hf.attacks import ATTACKS, Attack
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.data import stratified_subset
from genaf_hf.evaluation.threats import noise
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.values.markup import markdown

ATTACKER_IMAGES = 1024  # and as many for the probes

Members = tuple[int, ...]  # numbers of encoders


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", nargs="+", help="Hub ids, local folders, or names of the digits' encoders.")
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--limit", type=int, default=500, help="Test images at most.")
    parser.add_argument("--attacks", nargs="+", default=["uapgd", "ssp"])
    parser.add_argument("--eps", type=float, default=0.3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--largest", type=int, default=2, help="Encoders at once, at most.")
    args = parser.parse_args()

    data = load_images(args.dataset_name, max_train_samples=2 * ATTACKER_IMAGES)
    encoders, smallest = of_one_size(args.encoders, data["train"].features["label"].names)
    images, labels = pixels(data["train"], smallest, 2 * ATTACKER_IMAGES)
    half = len(images) // 2
    transfer = Transfer(
        encoders,
        [LinearProbe(encoder, images[half:], labels[half:]) for encoder in encoders],
        {"images": images[:half], "labels": labels[:half]},
        *pixels(data["test"], smallest, args.limit),
        seeds=args.seeds,
    )
    logging.info("right of %d without an attack: %s", len(transfer.test), transfer.right(transfer.test))
    # Where one encoder alone leaves no fewer of another, nothing transfers that several could transfer better.
    signs = noise(transfer.victims[0], transfer.test, transfer.expected, eps=args.eps, seeds=range(len(transfer.test)))
    logging.info("under random signs of %g: %s", args.eps, transfer.right(signs))
    rows = [["attack", "encoders at once", "one of them", "another", "another, as many gradients", "another, the best"]]
    for name in args.attacks:
        attack, numbers = ATTACKS[name].configure(eps=args.eps, steps=args.steps), range(len(encoders))
        alone = {each: transfer.left(attack, (each,)) for each in numbers}
        for count in range(2, args.largest + 1):
            longer = {each: transfer.left(attack.configure(steps=count * args.steps), (each,)) for each in numbers}
            sets = {members: transfer.left(attack, members) for members in combinations(numbers, count)}
            found = [
                differences(sets, alone, among=True),
                differences(sets, alone, among=False),
                differences(sets, longer, among=False),
                differences(sets, alone, among=False, of=min),
            ]
            rows.append([name, str(count), *map(interval, found)])
            print(f"\n{markdown(rows)}\n", flush=True)


@dataclass(frozen=True, eq=False)
class Transfer:
    """What perturbations from some encoders leave of each.

    Attributes:
        encoders: of one size.
        victims: a probe on each.
        known: images and labels of the attacker.
        test, expected: images (n, 3, h, w) in [0, 1] and their labels.
        seeds: of the attacks.
    """

    encoders: list[AtSize]
    victims: list[LinearProbe]
    known: dict[str, Tensor]
    test: Tensor
    expected: Tensor
    seeds: list[int]

    def right(self, images: Tensor) -> list[int]:
        """Images that each victim is right about."""
        with torch.no_grad():
            return [int((each.classes[each(images).argmax(1)] == self.expected).sum()) for each in self.victims]

    def left(self, attack: Attack, members: Members) -> list[float]:
        """The same under a perturbation from some encoders at once, the mean over the seeds."""
        needed = [self.known[each] for each in attack.needs[1:]]
        crafted = [
            attack.configure(seed=seed)([self.encoders[each] for each in members], *needed) for seed in self.seeds
        ]
        found = [self.right(each(self.test)) for each in crafted]
        logging.info("%s on %s in %d steps: %s", attack.name, members, attack.settings["steps"], found)
        return [mean(of_one) for of_one in zip(*found, strict=True)]


def of_one_size(names: Sequence[str], classes: Sequence[str]) -> tuple[list[AtSize], PixelModel]:
    """The encoders, for images of the smallest of their sizes, and the one of that size by itself."""
    for name in names:
        pretrain_where_named(name, use_cpu=True)
    loaded = [PixelModel(*load_encoder(name, classes)).eval().requires_grad_(False) for name in names]
    smallest = min(loaded, key=lambda each: each.image_size)
    return [AtSize(each.model, each.processor, smallest.image_size).eval() for each in loaded], smallest


def pixels(split: Dataset, encoder: PixelModel, limit: int) -> tuple[Tensor, Tensor]:
    """Images (n, 3, h, w) in [0, 1] and their labels."""
    rows = with_pixel_values(stratified_subset(split, limit, seed=0), encoder.processor)[:]
    return encoder.to_images(rows["pixel_values"]), rows["labels"]


def differences(
    sets: Mapping[Members, Sequence[float]],
    alone: Mapping[int, Sequence[float]],
    *,
    among: bool,
    of: Callable[[Iterable[float]], float] = mean,
) -> list[float]:
    """What each set leaves of an encoder, less what its own leave alone, of each set and encoder.

    Args:
        sets: what each leaves of every encoder.
        alone: what each encoder leaves alone.
        among: whether of the encoders of the set, or of those that are none of it.
        of: what is made of those of its own.
    """
    return [
        left[each] - of(alone[member][each] for member in members)
        for members, left in sets.items()
        for each in alone
        if (each in members) == among
    ]


def interval(values: Sequence[float]) -> str:
    """A mean with its 95 % t-interval."""
    wide = t.ppf(0.975, len(values) - 1) * stdev(values) / sqrt(len(values))
    return f"{mean(values):+.1f} [{mean(values) - wide:+.1f}, {mean(values) + wide:+.1f}]"


if __name__ == "__main__":
    main()
