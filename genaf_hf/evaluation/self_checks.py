"""Whether a model's robust accuracies can be trusted, by the warning signs of gradient masking.

Athalye et al., ICML 2018 (https://arxiv.org/abs/1802.00420); Carlini et al., 2019 (https://arxiv.org/abs/1902.06705).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from types import MappingProxyType

import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from torch.nn import functional as F

from genaf_hf.attacks import pgd, square
from genaf_hf.evaluation.answers import NOT_FINITE, Answers
from genaf_hf.evaluation.measurement import CLEAN, Check, Measurement, Rate
from genaf_hf.evaluation.report import UNDEFENDED
from genaf_hf.models.pixel_model import PixelModel, evaluating

STEPS = 20
FAR, FAR_STEPS = 1.0, 50
WITHSTANDING = 0.05  # share of images that may be right far away, also with so many classes that chance is nothing
QUERIES = 300
ZERO_GRADIENTS = 0.05
ROUNDING = 1e-4
SIGNIFICANCE = 0.05
BALL_ROUNDING = 1e-5
NOTHING = 0.01  # of eps, which an attack that does something moves some image by
NEARLY_ALL = 0.95  # of the images
WEAKER = 0.1  # of the images
FAR_BELOW = 0.5  # of the undefended model's accuracy


def self_checks(
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    name: str,
    claimed: Mapping[str, list[bool]] = MappingProxyType({}),
    batch_size: int = 64,
) -> list[Check]:
    """Runs every check on some images; one that fails makes the model's robust accuracies unreliable.

    Args:
        model: left as it was.
        images: (n, 3, h, w) in [0, 1].
        labels: (n,) class ids.
        eps: radius of the L-inf ball in pixel units that the model is attacked in.
        name: the model's in the report.
        claimed: by attack of several steps in this ball or a larger one, which images it left right.
        batch_size: images at a time.
    """
    probe = Probe(model, images, labels, eps, name, batch_size)
    with evaluating(model):
        return [
            is_deterministic(probe),
            has_gradients(probe),
            more_steps_help(probe),
            white_beats_black_box(probe),
            falls_to_chance(probe),
            *(no_weaker_than_pgd(probe, attack, right) for attack, right in claimed.items()),
        ]


@dataclass(frozen=True, eq=False)
class Probe:
    """A model with the images that it is checked on; attributes as the arguments of `self_checks`."""

    model: PixelModel
    images: Tensor
    labels: Tensor
    eps: float
    name: str
    batch_size: int

    @cached_property
    def clean(self) -> Tensor:
        """Logits of the images (n, classes)."""
        return self.logits(self.images)

    @cached_property
    def under_pgd(self) -> tuple[list[bool], float]:
        """What `under` tells of PGD in the ball."""
        return self.under(pgd, eps=self.eps, steps=STEPS)

    def logits(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.batched(self.model, images)

    def batched(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """What a function makes of the rows of tensors, batch by batch."""
        parts = zip(*(each.split(self.batch_size) for each in tensors), strict=True)
        return torch.cat([function(*part) for part in parts])

    def under(self, attack: Callable[..., Tensor], **settings) -> tuple[list[bool], float]:
        """Which images are still right under an attack, and the mean loss."""
        attacked = self.batched(
            lambda *part: attack(Differentiable(self.model), *part[:2], seeds=part[2].tolist(), **settings),
            *(self.images, self.labels, torch.arange(len(self.images))),
        )
        answers = self.logits(attacked)
        return (answers.argmax(1) == self.labels).tolist(), F.cross_entropy(answers, self.labels).item()

    def check(self, name: str, passed: bool, numbers: dict) -> Check:
        return Check(self.name, name, passed, {**numbers, "images": len(self.images)})


def is_deterministic(probe: Probe) -> Check:
    difference = (probe.clean - probe.logits(probe.images)).abs().max().item()
    return probe.check(
        "the output is deterministic",
        difference <= ROUNDING * probe.clean.abs().max().item(),
        {"largest difference of two evaluations": difference},
    )


def has_gradients(probe: Probe) -> Check:
    gradients = probe.batched(partial(input_gradients, Differentiable(probe.model)), probe.images, probe.labels)
    gradients = gradients.flatten(1)
    dead = ((gradients == 0).all(1) | ~gradients.isfinite().all(1)).sum().item()
    return probe.check(
        "gradients are not zero", dead <= ZERO_GRADIENTS * len(probe.images), {"images without a gradient": dead}
    )


def more_steps_help(probe: Probe) -> Check:
    once, once_loss = probe.under(pgd, eps=probe.eps, steps=1, step_size=probe.eps)
    more, more_loss = probe.under_pgd
    only_once, only_more = disagreements(once, more)
    return probe.check(
        "more steps help",
        more_loss > once_loss and not significantly_more(only_once, only_more),
        {
            "loss after 1 step": once_loss,
            f"loss after {STEPS}": more_loss,
            "images that only 1 step fools": only_once,
            f"images that only {STEPS} fool": only_more,
        },
    )


def white_beats_black_box(probe: Probe) -> Check:
    white, _ = probe.under_pgd
    black, _ = probe.under(square, eps=probe.eps, steps=QUERIES)
    only_black, only_white = disagreements(black, white)
    return probe.check(
        "a white box beats a black box",
        not significantly_more(only_black, only_white),
        {"images that only square fools": only_black, "images that only pgd fools": only_white, "queries": QUERIES},
    )


def falls_to_chance(probe: Probe) -> Check:
    far, _ = probe.under(pgd, eps=FAR, steps=FAR_STEPS)
    accuracy, chance = Rate(sum(far), len(far)), 1 / probe.clean.shape[1]
    return probe.check(
        "accuracy falls to chance as eps grows",
        accuracy.interval[0] <= max(chance, WITHSTANDING),
        {f"accuracy at eps {FAR:g}": accuracy.value, "chance": chance},
    )


def no_weaker_than_pgd(probe: Probe, attack: str, right: list[bool]) -> Check:
    """Whether an attack of several steps, whatever its settings, finds what plain PGD finds."""
    only_pgd, only_attack = disagreements(probe.under_pgd[0], right)
    return probe.check(
        f"{attack} is no weaker than PGD of {STEPS} steps at eps {probe.eps:.4g}",
        not far_more(only_pgd, only_attack, len(right)),
        {"images that only the latter fools": only_pgd, f"images that only {attack} fools": only_attack},
    )


# ---- what a model answers ----


def collapse_checks(model: str, labels: Sequence[int], predictions: Sequence[int]) -> list[Check]:
    """Whether a model still tells classes apart: one that does not cannot be fooled, and looks robust.

    Args:
        model: its name in the report.
        labels: true class ids.
        predictions: of the model on clean images.
    """
    count, pairs = len(labels), list(zip(predictions, labels, strict=True))
    [(favourite, times)], [(frequent, most)] = (Counter(ids).most_common(1) for ids in (predictions, labels))
    too_often = sum(label != given == favourite for given, label in pairs)
    missed = sum(given != label == favourite for given, label in pairs)
    right = Rate(sum(given == label for given, label in pairs), count)
    better = sum(given == label != frequent for given, label in pairs)
    worse = sum(given != label == frequent for given, label in pairs)
    chance = most / count
    # With few images nothing is known: then the interval still reaches far above chance.
    useless = not significantly_more(better, worse) and right.interval[1] < (1 + chance) / 2
    return [
        Check(
            model,
            "the model predicts more than one class",
            not (times >= NEARLY_ALL * count and significantly_more(too_often, missed)),
            {
                "images predicted as one class": times,
                "images of it": times - too_often + missed,
                "images": count,
            },
        ),
        Check(
            model,
            "clean accuracy is above chance",
            chance == 1 or not useless,
            {"clean accuracy": right.value, "chance": chance, "images": count},
        ),
    ]


def beside_undefended(measurements: Sequence[Measurement]) -> list[Check]:
    """Whether the clean accuracy of each model is of the undefended one's order, where that stands beside it."""
    clean = {each.model: each.accuracy for each in measurements if each.attack == CLEAN}
    undefended = clean.pop(UNDEFENDED, Rate(0, 0))
    return [
        Check(
            model,
            "clean accuracy is not far below the undefended model's",
            accuracy.interval[1] >= FAR_BELOW * undefended.interval[0],
            {"clean accuracy": accuracy.value, "undefended": undefended.value},
        )
        for model, accuracy in clean.items()
        if undefended.count
    ]


# ---- what an attack did ----


def ball_check(model: str, attack: str, settings: dict, attacked: Answers) -> Check:
    """Whether an attack kept to what the report says of it."""
    eps = settings["eps"]
    inside = attacked.in_range and attacked.shift <= eps + BALL_ROUNDING * max(1.0, eps)
    numbers = {"farthest": attacked.shift, "eps": eps}
    return Check(model, f"{attack} stays in its ball and in [0, 1]", bool(inside), numbers)


def effect_check(
    model: str, attack: str, settings: dict, clean: Answers, attacked: Answers, *, on_standing: bool = False
) -> Check:
    """Whether an attack moved the images, and the model's answers to them are finite.

    One on what others leave standing may move nothing: it may give back what withstands it, too, as it was.
    """
    broken = attacked.predictions.count(NOT_FINITE)
    exempt = on_standing or not any(clean.right)
    moved = exempt or attacked.shift > NOTHING * settings["eps"]
    numbers = {"farthest": attacked.shift, "eps": settings["eps"], "answers that are not finite": broken}
    return Check(model, f"{attack} moves the images and gets finite answers", moved and not broken, numbers)


def better_than_noise(model: str, attack: str, clean: Answers, attacked: Answers, noisy: Answers) -> Check:
    """Whether an attack on single images is no weaker than noise of its size, where noise already does something.

    Args:
        model: its name in the report.
        attack: its name in the report.
        clean: answers without an attack.
        attacked: those under the attack.
        noisy: those under noise on the surface of the same ball.
    """
    by_noise, set_right = disagreements(noisy.right, clean.right)
    only_noise, only_attack = disagreements(noisy.right, attacked.right)
    better = beyond_noise(attacked, noisy) or only_attack >= sum(noisy.right) / 2
    return Check(
        model,
        f"{attack} is no weaker than noise of its size",
        better or not significantly_more(by_noise, set_right),
        {"images that only noise fools": only_noise, f"images that only {attack} fools": only_attack},
    )


def beyond_noise(attacked: Answers, noisy: Answers) -> bool:
    """Whether an attack fools more images than noise of its size by more than luck."""
    only_noise, only_attack = disagreements(noisy.right, attacked.right)
    return significantly_more(only_attack, only_noise)


def no_weaker_than_twin(model: str, attack: str, attacked: Answers, twin: Answers) -> Check:
    """Whether an attack that was crafted on the model itself is no weaker than the same one on the public encoder.

    A few points are no sign: both maximise something else than the model's errors, and one start may be the luckier.
    """
    only_twin, only_attack = disagreements(twin.right, attacked.right)
    return Check(
        model,
        f"{attack} is no weaker than on the public encoder",
        not far_more(only_twin, only_attack, len(attacked.right)),
        {"images that only the public one fools": only_twin, f"images that only {attack} fools": only_attack},
    )


# ---- tools ----


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


def far_more(one: int, other: int, images: int) -> bool:
    """Whether `one` of two counts of differing images is larger by more than luck and a few points."""
    return one - other > WEAKER * images and significantly_more(one, other)


def significantly_more(one: int, other: int) -> bool:
    """Sign test: whether `one` of two counts of differing images is larger by more than luck."""
    return one > other and bool(binomtest(one, one + other, alternative="greater").pvalue < SIGNIFICANCE)
