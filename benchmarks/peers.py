"""Our attacks beside those of other libraries: do they find the same images, and how fast are they?

    pip install -c constraints.txt '.[autoattack,peers]'
    pip install -c constraints.txt --no-deps torchattacks
    python benchmarks/peers.py

One thread, fp32, no random starts. The speed's sides run in turn, round after round; the table shows their medians.
Both tables are printed and written to `peers.md` beside this file.
"""

import argparse
import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from speed import make_processor, medians
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from genaf_hf import PixelModel, pgd, with_pixel_values
from genaf_hf.attacks import autoattack, fgsm, mi_fgsm
from genaf_hf.data import digits

STEPS = 10
EPS = {"fgsm": 0.1, "pgd": 0.1, "pgd-l2": 0.5, "mi-fgsm": 0.1, "autoattack": 0.1}
FAST_EPS, FAST_STEP_SIZE = 8 / 255, 2 / 255
SAME = 1e-6
WHY = {
    ("mi-fgsm", "foolbox"): "accumulates the gradients' signs; in the paper, gradients over their L1 norms",
    ("pgd-l2", "adversarial-robustness-toolbox"): "clips to [0, 1] before it projects onto the ball, not after",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    packages = ["torch", "transformers", *PEERS, "pyautoattack"]
    text = "\n".join(
        [
            "# Our attacks beside those of other libraries\n",
            f"`python {' '.join(['benchmarks/peers.py', *sys.argv[1:]])}`\n",
            f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}; "
            "CPU, 1 thread, fp32, no random starts.\n",
            *agreement(),
            *speed(arguments.rounds),
        ]
    )
    print(text)
    Path(__file__).with_suffix(".md").write_text(text + "\n")


def agreement() -> list[str]:
    """The same attack by both sides on one model and the same images, as a table."""
    model, images, labels = digits_classifier()
    lines = [
        "## Agreement\n",
        f"A small ViT on scikit-learn's digits, {len(images)} test images, {correct(model, images, labels).sum()} of "
        "them classified correctly without an attack. A verdict is whether an image is classified correctly under the "
        f"attack; images differ where a pixel does by more than {SAME:g}.\n",
        "| attack | library | eps | steps | robust accuracy, ours | theirs | verdicts that differ | images that differ "
        "| largest difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for attack, eps in EPS.items():
        settings = {"eps": eps, "steps": STEPS, "step_size": eps / 4}
        our_images = ours(attack, model, **settings)(images, labels)
        our_verdicts = correct(model, our_images, labels)
        for library, prepare in PEERS.items() if attack != "autoattack" else [("pyautoattack", by_autoattack)]:
            their_images = prepare(attack, model, **settings)(images, labels)
            their_verdicts = correct(model, their_images, labels)
            difference = (our_images - their_images).abs().flatten(1).amax(1)
            cells = [
                attack,
                library,
                f"{eps:g}",
                {"fgsm": "1", "autoattack": "-"}.get(attack, str(STEPS)),
                *(f"{verdicts.float().mean():.1%} ({verdicts.sum()}/{len(verdicts)})"
                  for verdicts in (our_verdicts, their_verdicts)),
                str((our_verdicts != their_verdicts).sum().item()),
                str((difference > SAME).sum().item()),
                f"{difference.max():.1e}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines += [f"- {attack}: {library} {reason}." for (attack, library), reason in WHY.items()]
    return lines


def speed(rounds: int) -> list[str]:
    """PGD by all sides against its floor, as a table."""
    torch.manual_seed(0)
    arguments = argparse.Namespace(rounds=rounds, device="cpu", image_size=32)
    config = ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_labels=10,
    )
    bare = ViTForImageClassification(config).eval()
    model = PixelModel(bare, make_processor(arguments)).eval()
    images, labels = torch.rand(64, 3, 32, 32), torch.randint(10, (64,))

    def floor() -> None:
        for _ in range(STEPS):
            pixel_values = images.clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(bare(pixel_values).logits, labels), pixel_values)

    settings = {"eps": FAST_EPS, "steps": STEPS, "step_size": FAST_STEP_SIZE}
    sides = {"floor": floor}
    for name, prepare in {"genaf_hf": ours, **PEERS}.items():
        sides[name] = partial(prepare("pgd", model, **settings), images, labels)
    seconds = medians(sides, arguments)
    return [
        f"\n## Speed of PGD-{STEPS}\n",
        f"ViT of 5 layers, width 128, {len(images)} images of 32 x 32, patches of 4 x 4; medians of {rounds} "
        f"rounds, in which all run in turn. The floor is {STEPS} forward passes and input gradients of the bare "
        "model. foolbox and adversarial-robustness-toolbox compute the weights' gradients too, and classify the "
        "images once more to say which are adversarial.\n",
        "| library | images/s | time / floor |",
        "|---|---|---|",
        *(
            f"| {name} | {len(images) / value:.1f} | {value / seconds['floor']:.3f} |"
            for name, value in seconds.items()
        ),
    ]


def digits_classifier() -> tuple[PixelModel, Tensor, Tensor]:
    """A small ViT trained on the digits, in eval mode, with the test images in [0, 1] and their labels."""
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_labels=10,
    )
    model = PixelModel(ViTForImageClassification(config), ViTImageProcessor(size={"height": 8, "width": 8}))
    batches = {split: with_pixel_values(images, model.processor)[:] for split, images in digits().items()}
    images, labels = model.to_images(batches["train"]["pixel_values"]), batches["train"]["labels"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval(), model.to_images(batches["test"]["pixel_values"]), batches["test"]["labels"]


def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is classified correctly."""
    with torch.no_grad():
        return model(images).argmax(1) == labels


# ---- The same attack by each library, to be called with images and labels ----

Prepared = Callable[[Tensor, Tensor], Tensor]


def ours(attack: str, model: nn.Module, *, eps: float, steps: int, step_size: float) -> Prepared:
    iterations = {"eps": eps, "steps": steps, "step_size": step_size}
    attacks = {
        "fgsm": partial(fgsm, eps=eps),
        "pgd": partial(pgd, **iterations, random_start=False),
        "pgd-l2": partial(pgd, **iterations, random_start=False, norm="l2"),
        "mi-fgsm": partial(mi_fgsm, **iterations),
        "autoattack": partial(autoattack, eps=eps),
    }
    return partial(attacks[attack], model)


def by_foolbox(attack: str, model: nn.Module, *, eps: float, steps: int, step_size: float) -> Prepared:
    import foolbox
    from foolbox.attacks.mi_fgsm import LinfMomentumIterativeFastGradientMethod

    iterations = {"abs_stepsize": step_size, "steps": steps, "random_start": False}
    attacks = {
        "fgsm": foolbox.attacks.LinfFastGradientAttack(random_start=False),
        "pgd": foolbox.attacks.LinfPGD(**iterations),
        "pgd-l2": foolbox.attacks.L2PGD(**iterations),
        "mi-fgsm": LinfMomentumIterativeFastGradientMethod(**iterations),
    }
    model = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)
    return lambda images, labels: attacks[attack](model, images, labels, epsilons=eps)[1]


def by_torchattacks(attack: str, model: nn.Module, *, eps: float, steps: int, step_size: float) -> Prepared:
    import torchattacks

    iterations = {"eps": eps, "alpha": step_size, "steps": steps}
    attacks = {
        "fgsm": torchattacks.FGSM(model, eps=eps),
        "pgd": torchattacks.PGD(model, **iterations, random_start=False),
        "pgd-l2": torchattacks.PGDL2(model, **iterations, random_start=False, eps_for_division=0),
        "mi-fgsm": torchattacks.MIFGSM(model, **iterations),
    }
    return attacks[attack]


def by_art(attack: str, model: nn.Module, *, eps: float, steps: int, step_size: float) -> Prepared:
    from art.attacks import evasion
    from art.estimators.classification import PyTorchClassifier

    size = model.image_size
    estimator = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=(3, *size), nb_classes=10, clip_values=(0, 1), device_type="cpu"
    )
    iterations = {"eps": eps, "eps_step": step_size, "max_iter": steps, "batch_size": 512, "verbose": False}
    attacks = {
        "fgsm": evasion.FastGradientMethod(estimator, eps=eps, batch_size=512),
        "pgd": evasion.ProjectedGradientDescent(estimator, **iterations),
        "pgd-l2": evasion.ProjectedGradientDescent(estimator, **iterations, norm=2),
        "mi-fgsm": evasion.MomentumIterativeMethod(estimator, **iterations),
    }
    return lambda images, labels: torch.from_numpy(attacks[attack].generate(images.numpy(), labels.numpy()))


def by_autoattack(attack: str, model: nn.Module, *, eps: float, steps: int, step_size: float) -> Prepared:
    from pyautoattack import AutoAttack

    return lambda images, labels: AutoAttack(model, eps=eps, seed=0).run_standard_evaluation(images, labels)[0]


PEERS = {
    "foolbox": by_foolbox,
    "torchattacks": by_torchattacks,
    "adversarial-robustness-toolbox": by_art,
}


if __name__ == "__main__":
    main()
