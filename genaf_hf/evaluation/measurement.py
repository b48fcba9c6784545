"""What one attack did to one model's answers, as a value, and how it is told."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

from scipy.stats import binomtest

from genaf_hf.attacks.registry import ANSWERS, MODEL, PUBLIC_ENCODER
from genaf_hf.values.numbers import LARGEST_EPS, eps_text, is_number, is_whole

CLEAN = "clean"
PERTURBATION = "perturbation at hand"
# What attackers know, from the least on, and what a model stands under where the worst of them is meant.
KINDS = {
    PERTURBATION: "under the worst perturbation that was at hand",
    PUBLIC_ENCODER: "under the worst perturbation that was crafted on the public encoder alone",
    ANSWERS: "under the worst attack that asks the model for its answers alone",
    MODEL: "under the worst attack on the model itself",
}
DEFAULT_EPS = 8 / 255
EVERY_ATTACK = "every attack"  # in place of one, of the worst case for each image


@dataclass(frozen=True)
class Rate:
    """A share of images, with its 95 % Wilson interval.

    Attributes:
        part: images that it holds for.
        count: images that it could hold for.
    """

    part: int
    count: int

    @property
    def value(self) -> float:
        """In [0, 1]; nan when there is no image."""
        return self.part / self.count if self.count else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval; everything when there is no image."""
        if not self.count:
            return 0.0, 1.0
        low, high = binomtest(self.part, self.count).proportion_ci(0.95, method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] ({self.part}/{self.count})" if self.count else "- (0/0)"


@dataclass(frozen=True)
class Measurement:
    """What one attack did to one model's answers.

    Attributes:
        model: the model's name in the report.
        attack: the attack's name in the report, `"clean"` for none.
        knowledge: what the attacker knew, `"nothing"` without one, else one of `KINDS`, or in words of a user's own.
        settings: everything that the attack was run with, as `eps` in pixel units, `norm` and `steps`; of a crafted
            perturbation also where it comes from.
        correct: correctly classified images under the attack.
        count: all images.
        clean_correct: correctly classified images without any attack.
        fooled: of those, the ones that are wrong under the attack.
        changed: images whose prediction is another one under the attack.
        neighbors_correct: images that a vote of the nearest neighbors in feature space classifies correctly under the
            attack; None where this was not measured.
        noise_correct: correctly classified images under random noise of the attack's norm and size; None where this
            was not measured.
        beyond_noise: whether the attack fools more of them by more than luck than that noise, and than it does with its
            pixels shuffled; None as before.
        shuffled_correct: correctly classified images under a perturbation with its pixels in random order; None where
            this was not measured.
    """

    model: str
    attack: str
    knowledge: str
    settings: dict
    correct: int
    count: int
    clean_correct: int
    fooled: int = 0
    changed: int = 0
    neighbors_correct: int | None = None
    noise_correct: int | None = None
    beyond_noise: bool | None = None
    shuffled_correct: int | None = None

    @property
    def accuracy(self) -> Rate:
        """Clean or robust accuracy."""
        return Rate(self.correct, self.count)

    @property
    def partly(self) -> str | None:
        """What of the images an attack on those that others leave has tried, in words; None where it tried them all."""
        standing, attacked = (self.settings.get(name, 0) for name in ("standing", "attacked"))
        return f"{attacked} of {standing} images left were attacked" if attacked < standing else None

    @property
    def attack_success_rate(self) -> Rate:
        """Share of the images that are right when clean and wrong under the attack."""
        return Rate(self.fooled, self.clean_correct)

    @property
    def decline(self) -> float | None:
        """(clean - robust accuracy) / clean accuracy: the attack success rate less what the attack sets right.

        None where no image is right when clean. It is no share of images, and has no interval of one: an attack that
        sets more right than it fools has one below 0.
        """
        return (self.clean_correct - self.correct) / self.clean_correct if self.clean_correct else None

    @property
    def fooling_rate(self) -> Rate:
        """Share of the images whose prediction changes, right or wrong."""
        return Rate(self.changed, self.count)

    @property
    def noise_accuracy(self) -> Rate | None:
        """Accuracy under random noise of the attack's norm and size."""
        return None if self.noise_correct is None else Rate(self.noise_correct, self.count)

    @property
    def shuffled_accuracy(self) -> Rate | None:
        """Accuracy under the perturbation with its pixels in random order."""
        return None if self.shuffled_correct is None else Rate(self.shuffled_correct, self.count)

    @property
    def neighbor_accuracy(self) -> Rate | None:
        """Accuracy of a vote of the nearest neighbors in feature space."""
        return None if self.neighbors_correct is None else Rate(self.neighbors_correct, self.count)


@dataclass(frozen=True)
class WorstCase:
    """The images that a model is right about whatever the attack: the worst case for each image by itself.

    Attributes:
        model: the model's name in the report.
        knowledge: of the attackers, as in `Measurement`; None for all attacks, whatever they have to know.
        correct: images that are correctly classified without an attack and under every one.
        count: all images.
    """

    model: str
    knowledge: str | None
    correct: int
    count: int
    attack: ClassVar[str] = EVERY_ATTACK
    settings: ClassVar[Mapping[str, object]] = MappingProxyType({})
    beyond_noise: ClassVar[None] = None

    @property
    def accuracy(self) -> Rate:
        return Rate(self.correct, self.count)


@dataclass(frozen=True)
class Check:
    """One test of whether the numbers of a model can be trusted.

    Attributes:
        model: the model's name in the report.
        name: of the check, as a statement that ought to be true.
        passed: whether it was.
        numbers: what this rests on.
    """

    model: str
    name: str
    passed: bool
    numbers: dict

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {number:.4g}" for name, number in self.numbers.items())
        return f"{'passed' if self.passed else 'FAILED'}: {self.name} ({numbers})"


def impossible_counts(each: Measurement) -> Iterator[str]:
    """What of the counts of a measurement cannot be."""
    counts = {name: getattr(each, name) for name in ("count", "correct", "clean_correct", "fooled", "changed")}
    asked = {name: getattr(each, name) for name in ("neighbors_correct", "noise_correct", "shuffled_correct")}
    counts |= {name: value for name, value in asked.items() if value is not None}
    for name, value in counts.items():
        if not is_whole(value) or not 0 <= value <= each.count:
            yield f"{name} is {value} of {each.count} images"
            return
    set_right = each.correct - (each.clean_correct - each.fooled)
    wrong = each.count - each.clean_correct
    if each.fooled > each.clean_correct or not 0 <= set_right <= wrong:
        yield f"{each.correct} images are right and {each.fooled} of {each.clean_correct} right ones were fooled"
    elif not each.fooled + set_right <= each.changed <= each.fooled + wrong:
        yield f"{each.changed} predictions changed, {each.fooled} images were fooled and {set_right} set right"
    elif each.attack == CLEAN and each.changed:
        yield f"{each.changed} predictions changed without an attack"


def impossible_settings(each: Measurement) -> Iterator[str]:
    """What of the settings of an attack cannot be."""
    if each.attack == CLEAN:
        return
    norm, eps, steps = (each.settings.get(name) for name in ("norm", "eps", "steps"))
    if norm not in LARGEST_EPS or not is_number(eps) or not 0 < eps <= LARGEST_EPS[norm]:
        yield f"eps is {eps} in the norm {norm}"
    if steps is not None and not (is_whole(steps) and steps > 0):
        yield f"steps is {steps}"
    for name, value in each.settings.items():
        if isinstance(value, float) and not is_number(value):
            yield f"{name} is {value}"


def strength(measurement: Measurement) -> tuple[str, str, str]:
    """Norm, eps and steps for a table."""
    if measurement.attack == CLEAN:
        return "-", "-", "-"
    settings = measurement.settings
    return *norm_and_eps(settings), str(settings.get("steps") or "-")


def reach(settings: Mapping) -> str:
    """How far an attack may change an image, in words: `linf, eps 8/255`, or `patch, 3% of the image`."""
    return f"{norm_and_eps(settings)[0]}, {extent(settings)}"


def extent(settings: Mapping) -> str:
    """How far an attack goes in its norm, in words: `eps 8/255`, or of a patch `3% of the image`."""
    _, eps = norm_and_eps(settings)
    return eps if is_patch(settings) else f"eps {eps}"


def norm_and_eps(settings: Mapping) -> tuple[str, str]:
    """Norm and eps of an attack; a patch, under which a pixel may become any other, has its share of the image."""
    if is_patch(settings):
        share = f"{100 * settings['area']:.2g}%" if is_number(settings.get("area")) else "a part"
        return "patch", f"{share} of the image"
    return settings["norm"], eps_text(settings["eps"])


def is_patch(settings: Mapping) -> bool:
    """Whether an attack changes a part of the pixels, by any amount."""
    return "top" in settings and settings.get("eps") == 1


def checked_eps(measurements: Sequence[Measurement]) -> float:
    """L-inf radius of the PGD of the self-checks, and of the one that a card's reader may try.

    That of the first attack on single images, as PGD is one; else of the first perturbation, which tells what it was
    crafted on.
    """
    known = (each.settings for each in measurements if each.settings.get("norm") == "linf")
    linf = [settings for settings in known if not is_patch(settings)]
    return min(linf, key=lambda settings: "encoder" in settings)["eps"] if linf else DEFAULT_EPS
