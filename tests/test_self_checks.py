"""Every check fails on a model that was built to fail it, and an honest one passes them all."""

from functools import partial

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel, evaluate_robustness, pgd
from genaf_hf.attacks import ATTACKS
from genaf_hf.evaluation.answers import NOT_FINITE, Answers
from genaf_hf.evaluation.measurement import Measurement
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.evaluation.self_checks import (
    beside_undefended,
    better_than_noise,
    collapse_checks,
    disagreements,
    effect_check,
    no_weaker_than_twin,
    self_checks,
    significantly_more,
)
from genaf_hf.evaluation.threats import ImageThreat
from genaf_hf.sharing.figures import draw_sweep
from genaf_hf.sharing.model_card import model_card

pytestmark = pytest.mark.slow(reason="probes models that are honest and models that mask")

DETERMINISTIC = "the output is deterministic"
GRADIENTS = "gradients are not zero"
MORE_STEPS = "more steps help"
WHITE_BOX = "a white box beats a black box"
ONE_CLASS = "the model predicts more than one class"
ABOVE_CHANCE = "clean accuracy is above chance"
CHANCE = "accuracy falls to chance as eps grows"
EPS = 0.2


class Colors(nn.Module):
    """Says which color an image has most of: three logits, linear in the pixels."""

    def __init__(self, defence=lambda images: images):
        super().__init__()
        self.defence = defence

    def forward(self, images):
        return 10 * self.defence(images).mean((2, 3))


class Reversed(torch.autograd.Function):
    """The images, with gradients that point the wrong way."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def rounded(images):
    """Colors of 3 bits: the classic masked gradient."""
    return (images * 7).round() / 7


def without_gradient(images):
    return images.detach()


def with_infinite_gradient(images):
    return images + 0 * (images - images.detach()).sqrt()


def noisy(images):
    return images + 0.01 * torch.randn_like(images)


def shaded(*shades: float) -> torch.Tensor:
    """Two images a shade, in which red, green or blue stands out by the shade."""
    images = torch.full((2 * len(shades), 3, 8, 8), 0.4)
    for i in range(len(images)):
        images[i, i % 3] += shades[i // 2]
    return images


def failures(model, images) -> set[str]:
    checks = self_checks(model, images, torch.arange(len(images)) % 3, eps=EPS, name="model")
    assert [each.name for each in checks] == [DETERMINISTIC, GRADIENTS, MORE_STEPS, WHITE_BOX, CHANCE]
    assert {each.model for each in checks} == {"model"}
    return {each.name for each in checks if not each.passed}


@pytest.fixture
def images():
    """Twenty: some are fooled by any attack with eps 0.2, some by none."""
    return shaded(*torch.linspace(0.02, 0.5, 10).tolist())


@pytest.mark.parametrize(
    ("defence", "failed"),
    [
        (lambda images: images, set()),
        (noisy, {DETERMINISTIC}),
        (rounded, {GRADIENTS, MORE_STEPS, WHITE_BOX, CHANCE}),
        (without_gradient, {GRADIENTS, MORE_STEPS, WHITE_BOX, CHANCE}),
        (with_infinite_gradient, {GRADIENTS, MORE_STEPS, WHITE_BOX, CHANCE}),
        (Reversed.apply, {MORE_STEPS, WHITE_BOX, CHANCE}),
    ],
)
def test_what_a_defense_fails(images, defence, failed):
    torch.manual_seed(0)
    assert failures(Colors(defence), images) == failed


def test_noise_on_small_logits_is_no_rounding(images):
    class Small(Colors):
        def forward(self, images):
            return 1e-5 * super().forward(images + 0.1 * torch.randn_like(images))

    torch.manual_seed(0)
    assert DETERMINISTIC in failures(Small(), images)


@pytest.mark.parametrize(("step_size", "steps", "passes"), [(0.05, 20, True), (0.1, 4, True), (1e-6, 20, False)])
def test_an_attack_of_several_steps_that_plain_pgd_beats_is_told(images, step_size, steps, passes):
    labels = torch.arange(20) % 3
    attacked = pgd(Colors(), images, labels, eps=EPS, step_size=step_size, steps=steps, seeds=range(20))
    right = (Colors()(attacked).argmax(1) == labels).tolist()
    *_, found = self_checks(Colors(), images, labels, eps=EPS, name="model", claimed={"mine": right})
    assert (found.name, found.passed) == ("mine is no weaker than PGD of 20 steps at eps 0.2", passes)


def test_what_is_held_against_pgd_raises_the_loss_of_each_image_in_several_steps(images):
    ways = {
        "as it is": ({}, True),
        "larger": ({"eps": 0.3}, True),
        "smaller": ({"eps": 0.1}, False),
        "one step": ({"steps": 1}, False),
        "L2": ({"norm": "l2"}, False),
    }
    for settings, iterates in ways.values():
        threat = ImageThreat("pgd", ATTACKS["pgd"].configure(**{"eps": EPS, "steps": 5, **settings}))
        assert threat.iterates_in(EPS) is iterates
    others = ("fgsm", "n-fgsm", "feature-pgd", "square", "autoattack")
    assert not any(ImageThreat(name, ATTACKS[name].configure(eps=EPS)).iterates_in(EPS) for name in others)


@pytest.mark.parametrize(("masked", "failed"), [(1, set()), (2, {GRADIENTS})])
def test_one_image_of_twenty_may_lack_a_gradient(images, masked, failed):
    def defence(images):
        """Only gray images, of which there is one for each that is masked, are rounded."""
        gray = (images.std(1, keepdim=True) == 0).all(dim=(2, 3), keepdim=True)
        return torch.where(gray, rounded(images), images)

    images[:masked] = 0.4
    assert failures(Colors(defence), images) == failed


@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("eps", [0.01, 0.1, 1.0])
def test_an_honest_model_passes_every_check(family, trained, eps, pixels, request):
    model, train = PixelModel(*request.getfixturevalue(family)), pixels["train"][:]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20 * trained):
        F.cross_entropy(model.model(pixel_values=train["pixel_values"]).logits, train["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    images, labels = model.to_images(pixels["test"][:]["pixel_values"]), pixels["test"][:]["labels"]
    checks = self_checks(model, images, labels, eps=eps, name="model")
    assert [str(each) for each in checks if not each.passed] == []


def test_the_model_is_left_as_it_was(resnet, pixels):
    model = PixelModel(*resnet)
    images, labels = model.to_images(pixels["test"][:]["pixel_values"]), pixels["test"][:]["labels"]
    leave_gradients_and_modes(model)
    with leaves_no_trace(model):
        self_checks(model, images, labels, eps=EPS, name="model")


def test_results_do_not_depend_on_the_batch_size(images):
    at_once, in_parts = (
        self_checks(Colors(), images, torch.arange(20) % 3, eps=EPS, name="model", batch_size=batch_size)
        for batch_size in (64, 7)
    )
    for one, other in zip(at_once, in_parts, strict=True):
        assert (one.name, one.passed) == (other.name, other.passed)
        assert one.numbers == pytest.approx(other.numbers, rel=1e-5)


def test_each_check_tells_what_it_rests_on(images):
    found = {each.name: each.numbers for each in self_checks(Colors(), images, torch.arange(20) % 3, eps=EPS, name="m")}
    # An attack that reaches the corner of the ball brings the colors closer by 2 eps. One step from a random start
    # leaves each pixel, on average, a quarter of eps short of its side.
    shades = torch.linspace(0.02, 0.5, 10)
    reached, started = ((1 + 2 * (-10 * (shades - 2 * part * EPS)).exp()).log().mean().item() for part in (1, 0.75))
    fooled = {part: 2 * int((shades < 2 * part * EPS).sum()) for part in (1, 0.75)}
    assert found[MORE_STEPS].pop("loss after 1 step") == pytest.approx(started, rel=0.05)
    assert found[MORE_STEPS].pop("loss after 20") == pytest.approx(reached, rel=1e-5)
    assert found[MORE_STEPS] == {
        "images that only 1 step fools": 0,
        "images that only 20 fool": fooled[1] - fooled[0.75],
        "images": 20,
    }
    assert 0 <= found[WHITE_BOX].pop("images that only pgd fools") < fooled[1]
    assert found[WHITE_BOX] == {"images that only square fools": 0, "queries": 300, "images": 20}
    assert found[DETERMINISTIC] == {"largest difference of two evaluations": 0, "images": 20}
    assert found[GRADIENTS] == {"images without a gradient": 0, "images": 20}
    assert found[CHANCE] == {"accuracy at eps 1": 0, "chance": 1 / 3, "images": 20}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    # By Pascal's triangle: 1/16, 1/32, 13/4096 and 8/128 of all ways, of which 5 % are too many.
    [(4, 0, False), (5, 0, True), (11, 1, True), (6, 1, False), (0, 5, False), (3, 3, False), (0, 0, False)],
)
def test_the_sign_test(one, other, expected):
    assert significantly_more(one, other) is expected


def test_disagreements():
    """The first image both attacks fool, the second none, two only the first attack, one only the second."""
    assert disagreements([False, True, False, False, True], [False, True, True, True, False]) == (2, 1)


# ---- what a model answers, and what attacks did ----


def answers(predictions, labels, shift=0.1) -> Answers:
    return Answers(labels, predictions, None, shift, in_range=True, confidences=[0.9] * len(labels))


@pytest.mark.parametrize(
    ("labels", "predictions", "failed"),
    [
        ([0, 1, 2] * 10, [0, 1, 2] * 10, []),
        ([0, 1, 2] * 10, [1] * 30, [ONE_CLASS, ABOVE_CHANCE]),
        ([0, 1, 2] * 10, [1, 2, 0] * 10, [ABOVE_CHANCE]),
        ([0, 1, 2] * 10, [0] * 10 + [1, 2] * 10, [ABOVE_CHANCE]),
        ([0, 1, 2], [1, 1, 1], []),  # three images tell nothing
        ([0] * 19 + [1], [0] * 20, []),  # as few images of the other class
        ([0] * 95 + [1] * 5, [0] * 100, [ONE_CLASS]),
        ([0] * 950 + [1] * 50, [0] * 1000, [ONE_CLASS, ABOVE_CHANCE]),
        ([0] * 50, [0] * 50, []),
        ([0] * 100, [0, 1] * 50, []),  # of one class guessing is always right
    ],
)
def test_a_collapsed_model_fails_where_there_are_enough_images(labels, predictions, failed):
    checks = collapse_checks("model", labels, predictions)
    assert [each.name for each in checks] == [ONE_CLASS, ABOVE_CHANCE]
    assert [each.name for each in checks if not each.passed] == failed


def test_collapse_tells_its_numbers():
    one_class, above = collapse_checks("model", [0, 1, 2, 2], [2, 2, 2, 1])
    assert one_class.numbers == {"images predicted as one class": 3, "images of it": 2, "images": 4}
    assert above.numbers == {"clean accuracy": 0.25, "chance": 0.5, "images": 4}


@pytest.mark.parametrize(("correct", "passed"), [(21, False), (45, True), (80, True)])
def test_a_model_far_below_the_undefended_one_fails(correct, passed):
    clean = [
        Measurement(name, "clean", "nothing", {}, n, 100, n) for name, n in (("undefended", 82), ("mine", correct))
    ]
    [check] = beside_undefended(clean)
    assert (check.model, check.passed) == ("mine", passed)
    assert check.numbers == {"clean accuracy": correct / 100, "undefended": 0.82}
    assert beside_undefended(clean[1:]) == []


def test_an_adaptive_attack_that_is_weaker_than_its_twin_fails():
    labels = [0] * 20
    weak, strong = answers([0] * 20, labels), answers([1] * 6 + [0] * 14, labels)
    assert not no_weaker_than_twin("model", "l4a-adaptive", weak, strong).passed
    assert no_weaker_than_twin("model", "l4a-adaptive", strong, weak).passed
    assert no_weaker_than_twin("model", "l4a-adaptive", weak, answers([1] * 4 + [0] * 16, labels)).passed
    many = [0] * 1000
    by_points = [answers([1] * fooled + [0] * (1000 - fooled), many) for fooled in (200, 290, 310)]
    assert no_weaker_than_twin("model", "l4a-adaptive", by_points[0], by_points[1]).passed
    assert not no_weaker_than_twin("model", "l4a-adaptive", by_points[0], by_points[2]).passed


def test_an_attack_that_does_nothing_fails():
    clean = answers([0] * 20, [0] * 20)
    settings = {"attack": "mine", "eps": 0.1}
    assert effect_check("model", "mine", settings, clean, answers([0] * 20, [0] * 20, shift=0.1)).passed
    assert not effect_check("model", "mine", settings, clean, answers([0] * 20, [0] * 20, shift=0.0)).passed
    assert not effect_check("model", "mine", settings, clean, answers([0] * 19 + [NOT_FINITE], [0] * 20)).passed
    wrong = answers([1] * 20, [0] * 20, shift=0.0)  # nothing was left to fool
    assert effect_check("model", "mine", settings, wrong, wrong).passed


def test_an_attack_that_does_no_more_than_effective_noise_fails():
    labels = [0] * 40
    clean, noisy = answers([0] * 40, labels), answers([1] * 10 + [0] * 30, labels)
    assert not better_than_noise("model", "mine", clean, noisy, noisy).passed
    assert better_than_noise("model", "mine", clean, answers([1] * 20 + [0] * 20, labels), noisy).passed
    assert better_than_noise("model", "mine", clean, clean, clean).passed  # a robust model


# ---- the mark ----


class Rounded(PixelModel):
    """A classifier with a masked gradient."""

    def forward(self, images):
        return super().forward(rounded(images))


@pytest.fixture
def titles(monkeypatch):
    """Titles of the pictures that are drawn."""
    drawn = []
    save = Figure.savefig

    def remember(figure, *args, **settings):
        drawn.append(figure.axes[0].get_title())
        save(figure, *args, **settings)

    monkeypatch.setattr(Figure, "savefig", remember)
    return drawn


@pytest.mark.parametrize(("kind", "reliable"), [(PixelModel, True), (Rounded, False)])
def test_an_unreliable_model_is_marked_wherever_its_numbers_stand(vit, pixels, kind, reliable, titles, tmp_path):
    attacks, weaker = ({"pgd": partial(pgd, eps=eps, steps=2)} for eps in (0.1, 0.05))
    model, train = kind(*vit), pixels["train"][:]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        F.cross_entropy(model.model(pixel_values=train["pixel_values"]).logits, train["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    report = evaluate_robustness({"hardened": model.eval()}, pixels["test"], attacks, sweep=[weaker])
    report = RobustnessReport.from_json(report.to_json())
    assert (GRADIENTS in {each.name for each in report.failed_checks}) == (not reliable)
    assert report.is_reliable(report.measurement("hardened", "clean"))
    assert report.is_reliable(report.measurement("hardened", "pgd")) == reliable
    _, _, clean, attacked = report.table().splitlines()
    assert "unreliable" not in clean
    assert attacked.endswith("*unreliable* |") == (not reliable)
    card = str(model_card(report, model_name="someone/model"))
    assert ("**The robust accuracies of hardened are *unreliable*:**" in card) == (not reliable)
    assert ("Every check was passed." in card) == reliable
    draw_sweep(report, tmp_path / "sweep.png")
    assert titles[0].endswith("\nUNRELIABLE, a self-check failed") == (not reliable)


def test_one_image_that_nothing_fools_is_no_fault_where_chance_is_next_to_nothing():
    torch.manual_seed(0)
    favours_the_first = nn.Sequential(nn.Flatten(), nn.Linear(48, 1000))
    favours_the_first[1].bias.data[0] = 100.0
    images, labels = torch.rand(64, 3, 4, 4), torch.arange(64)
    found = {each.name: each for each in self_checks(favours_the_first, images, labels, eps=0.1, name="m")}
    far = found["accuracy falls to chance as eps grows"]
    assert far.passed
    assert far.numbers == {"accuracy at eps 1": 1 / 64, "chance": 0.001, "images": 64}
