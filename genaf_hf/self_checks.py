"""Whether a model's robust accuracies can be trusted, by the warning signs of gradient masking.

Athalye et al., ICML 2018 (https://arxiv.org/abs/1802.00420); Carlini et al., 2019 (https://arxiv.org/abs/1902.06705).
"""

import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_hf.attacks import pgd, square
from genaf_hf.pixel_model import PixelModel, evaluating
from genaf_hf.report import Check, Rate

STEPS = 20
FAR, FAR_STEPS = 1.0, 50
QUERIES = 300
ZERO_GRADIENTS = 0.05
ROUNDING = 1e-4
SIGNIFICANCE = 0.05


def self_checks(
    model: PixelModel, images: Tensor, labels: Tensor, *, eps: float, name: str, batch_size: int = 64
) -> list[Check]:
    """Runs every check on some images; one that fails makes the model's robust accuracies unreliable.

    Args:
        model: left as it was.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids.
        eps: radius of the L-inf ball in pixel units that the model is attacked in.
        name: the model's in the report.
        batch_size: images at a time.
    """

    def batched(function, *tensors: Tensor) -> Tensor:
        return torch.cat(
            [function(*parts) for parts in zip(*(each.split(batch_size) for each in tensors), strict=True)]
        )

    def logits(batch: Tensor) -> Tensor:
        with torch.no_grad():
            return model(batch)

    differentiable = Differentiable(model)

    def attacked(attack, **settings) -> tuple[list[bool], float]:
        """Which images are still right under an attack, and the mean loss."""
        seeds = torch.arange(len(images))
        found = batched(
            lambda *part: attack(differentiable, *part[:2], seeds=part[2].tolist(), **settings), images, labels, seeds
        )
        answers = batched(logits, found)
        return (answers.argmax(1) == labels).tolist(), F.cross_entropy(answers, labels).item()

    with evaluating(model):
        first, again = batched(logits, images), batched(logits, images)
        difference = (first - again).abs().max().item()
        gradients = batched(lambda *part: input_gradients(differentiable, *part), images, labels).flatten(1)
        dead = ((gradients == 0).all(1) | ~gradients.isfinite().all(1)).sum().item()
        once, once_loss = attacked(pgd, eps=eps, steps=1, step_size=eps)
        white, white_loss = attacked(pgd, eps=eps, steps=STEPS)
        black, _ = attacked(square, eps=eps, steps=QUERIES)
        far, _ = attacked(pgd, eps=FAR, steps=FAR_STEPS)

    chance = 1 / first.shape[1]
    only_once, only_more = disagreements(once, white)
    only_black, only_white = disagreements(black, white)
    far_rate = Rate(sum(far), len(images))
    results = {
        "the output is deterministic": (
            difference <= ROUNDING * max(1.0, first.abs().max().item()),
            {"largest difference of two evaluations": difference},
        ),
        "gradients are not zero": (
            dead <= ZERO_GRADIENTS * len(images),
            {"images without a gradient": dead},
        ),
        "more steps help": (
            white_loss > once_loss and not significantly_more(only_once, only_more),
            {
                "loss after 1 step": once_loss,
                f"loss after {STEPS}": white_loss,
                "images that only 1 step fools": only_once,
                f"images that only {STEPS} fool": only_more,
            },
        ),
        "a white box beats a black box": (
            not significantly_more(only_black, only_white),
            {"images that only square fools": only_black, "images that only pgd fools": only_white, "queries": QUERIES},
        ),
        "accuracy falls to chance as eps grows": (
            far_rate.interval[0] <= chance,
            {f"accuracy at eps {FAR:g}": far_rate.value, "chance": chance},
        ),
    }
    return [
        Check(name, check, passed, {**numbers, "images": len(images)}) for check, (passed, numbers) in results.items()
    ]


class Differentiable(nn.Module):
    """A model to which an attack can ask for gradients; they are zero where the model has none."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images) + 0 * images.sum()


def input_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the loss by each image."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(F.cross_entropy(model(images), labels, reduction="sum"), images)[0]


def disagreements(one: list[bool], other: list[bool]) -> tuple[int, int]:
    """How many images only the one attack fools, and only the other, by which are still right under each."""
    pairs = list(zip(one, other, strict=True))
    return sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)


def significantly_more(one: int, other: int) -> bool:
    """Sign test: whether `one` of two counts of differing images is larger by more than luck."""
    return one > other and bool(binomtest(one, one + other, alternative="greater").pvalue < SIGNIFICANCE)
