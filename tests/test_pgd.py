from types import SimpleNamespace

import pytest
import torch
from torch import nn
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel, pgd
from genaf_hf.attacks import ATTACKS
from genaf_hf.attacks.losses import dlr, targeted_dlr
from genaf_hf.attacks.norms import random_in_ball
from genaf_hf.attacks.pgd import SEEDS
from genaf_hf.errors import UserError

SETTINGS = {"eps": 0.1, "steps": 3, "step_size": 0.05}


class LinearModel(nn.Module):
    """Logits (0, w . x): the loss of class 0 rises along w everywhere."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        score = (images * self.weight).flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(0)
    return LinearModel(torch.randn(3, 4, 4, generator=generator, dtype=torch.float64) * 0.1)


def random_images(count, side=8, dtype=torch.float32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("random_start", [False, True])
def test_linf_reaches_the_optimum_of_a_linear_model(linear, random_start):
    images, labels = random_images(5, 4, torch.float64), torch.zeros(5, dtype=torch.long)
    adversarial = pgd(linear, images, labels, eps=0.3, steps=20, step_size=0.1, random_start=random_start)
    optimum = (images + 0.3 * linear.weight.sign()).clamp(0, 1)
    torch.testing.assert_close(adversarial, optimum.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("random_start", [False, True])
def test_l2_reaches_the_optimum_of_a_linear_model(linear, random_start):
    images, labels = torch.full((5, 3, 4, 4), 0.5, dtype=torch.float64), torch.zeros(5, dtype=torch.long)
    settings = {"eps": 0.4, "steps": 60, "step_size": 0.4, "norm": "l2"}
    adversarial = pgd(linear, images, labels, **settings, random_start=random_start)
    optimum = images + 0.4 * linear.weight / linear.weight.norm()
    torch.testing.assert_close(adversarial, optimum.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2)])
def test_steps_inside_the_ball_have_the_length_that_was_asked_for(linear, norm, order):
    images, labels = torch.full((2, 3, 4, 4), 0.5, dtype=torch.float64), torch.zeros(2, dtype=torch.long)
    settings = {"eps": 0.4, "step_size": 0.05, "norm": norm, "random_start": False}
    for steps in (1, 3):
        shift = pgd(linear, images, labels, steps=steps, **settings) - images
        lengths = shift.flatten(1).norm(dim=1, p=order)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.05 * steps), rtol=0, atol=1e-12)


def test_the_given_loss_is_raised(linear):
    images, labels = random_images(2, 4, torch.float64), torch.zeros(2, dtype=torch.long)
    lowered = pgd(linear, images, labels, eps=0.3, steps=9, step_size=0.1, loss=lambda logits, _: -logits[:, 1].sum())
    torch.testing.assert_close(lowered, (images - 0.3 * linear.weight.sign()).clamp(0, 1).detach())


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("linf", 0.9), ("l2", 0.5), ("l2", 20.0)])
def test_adversarial_images_stay_in_the_ball_and_in_the_unit_range(vit, norm, eps, random_start, steps):
    images = random_images(3)
    images[0], images[1] = 0.0, 1.0
    adversarial = pgd(
        PixelModel(*vit),
        images,
        torch.tensor([0, 1, 2]),
        eps=eps,
        steps=steps,
        step_size=eps,
        norm=norm,
        random_start=random_start,
    )
    lengths = (adversarial - images).flatten(1).norm(dim=1, p={"linf": torch.inf, "l2": 2}[norm])
    assert adversarial.shape == images.shape
    assert adversarial.amin() >= 0
    assert adversarial.amax() <= 1
    assert (lengths <= eps + 1e-6).all()
    assert (lengths > 0).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball(norm):
    starts = random_in_ball(torch.zeros(2000, 1, 1, 2), 0.5, norm, range(2000)).flatten(1)
    lengths = starts.norm(dim=1, p={"linf": torch.inf, "l2": 2}[norm])
    assert lengths.max() <= 0.5 + 1e-6
    # In two dimensions the inner ball of half the radius has a quarter of the area, in both norms.
    assert (lengths < 0.25).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert starts.mean(0).abs().max() < 0.02


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_the_attack_leaves_no_trace(family, norm, random_start, request):
    model = PixelModel(*request.getfixturevalue(family))
    images, labels = random_images(3), torch.tensor([0, 1, 2])
    contents = images.clone()
    leave_gradients_and_modes(model)
    with leaves_no_trace(model):
        adversarial = pgd(model, images, labels, **SETTINGS, norm=norm, random_start=random_start)
    assert torch.equal(images, contents)
    assert not images.requires_grad
    assert not adversarial.requires_grad
    assert adversarial.data_ptr() != images.data_ptr()


def test_images_that_record_gradients_keep_doing_so(vit):
    images = random_images(3).requires_grad_()
    adversarial = pgd(PixelModel(*vit), images, torch.tensor([0, 1, 2]), **SETTINGS)
    assert images.requires_grad
    assert images.grad is None
    assert not adversarial.requires_grad


def test_the_model_is_attacked_in_eval_mode_and_under_no_grad(resnet):
    model, images, labels = PixelModel(*resnet), random_images(4), torch.tensor([0, 1, 2, 0])
    expected = pgd(model.eval(), images, labels, **SETTINGS)
    with torch.no_grad(), leaves_no_trace(model.train()):
        attacked = pgd(model, images, labels, **SETTINGS)
    assert torch.equal(attacked, expected)


def test_the_mode_comes_back_after_an_error(vit):
    model = PixelModel(*vit).train()
    with leaves_no_trace(model), pytest.raises(UserError, match="The loss is no single number"):
        pgd(model, random_images(2), torch.tensor([0, 1]), **SETTINGS, loss=lambda logits, labels: logits)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_an_image_depends_on_its_own_seed_only(family, norm, request):
    model = PixelModel(*request.getfixturevalue(family)).double()
    images, labels, seeds = random_images(4, dtype=torch.float64), torch.tensor([0, 1, 2, 0]), [7, 3, 10**12, 4]
    together = pgd(model, images, labels, **SETTINGS, norm=norm, seeds=seeds)
    alone = [pgd(model, images[[i]], labels[[i]], **SETTINGS, norm=norm, seeds=[seeds[i]]) for i in range(len(images))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)


def test_seeds_count_up_from_zero_by_default_and_matter(vit):
    model, images, labels = PixelModel(*vit), random_images(3), torch.tensor([0, 1, 2])
    default = pgd(model, images, labels, **SETTINGS)
    assert torch.equal(default, pgd(model, images, labels, **SETTINGS, seeds=range(3)))
    assert not torch.equal(default, pgd(model, images, labels, **SETTINGS, seeds=range(1, 4)))


def test_the_attack_raises_the_loss(vit):
    model, images, labels = PixelModel(*vit), random_images(8), torch.arange(8) % 3
    adversarial = pgd(model, images, labels, **SETTINGS)
    with torch.no_grad():
        clean, attacked = (nn.functional.cross_entropy(model(each), labels) for each in (images, adversarial))
    assert attacked > clean


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"eps": 0}, "eps is 0,"),
        ({"eps": 1.01}, "eps is 1.01,"),
        ({"eps": -0.1}, "eps is -0.1,"),
        ({"eps": 8}, "eps is 8,"),
        ({"eps": float("nan")}, "eps is nan,"),
        ({"eps": 0, "norm": "l2"}, "eps is 0,"),
        ({"eps": float("inf"), "norm": "l2"}, "eps is inf,"),
        ({"eps": float("nan"), "norm": "l2"}, "eps is nan,"),
        ({"steps": 0}, "steps is 0,"),
        ({"steps": -1}, "steps is -1,"),
        ({"step_size": 0}, "step_size is 0,"),
        ({"step_size": -0.5}, "step_size is -0.5,"),
        ({"step_size": float("nan")}, "step_size is nan,"),
        ({"norm": "l1"}, 'norm is "l1",'),
    ],
)
def test_settings_outside_their_range_are_refused(vit, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        pgd(PixelModel(*vit), random_images(1), torch.tensor([0]), **{**SETTINGS, **change})


class Heights(nn.Module):
    """Logits (0, -h, h) of the first pixel's height above one half; remembers how many images it was asked about."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, images):
        self.asked.append(len(images))
        height = 400 * (images[:, 0, 0, 0] - 0.5)
        return torch.stack([torch.zeros_like(height), -height, height], dim=1)


def test_gradients_of_images_that_are_surely_right_do_not_vanish_in_half_precision():
    weight = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    images = torch.full((64, 3, 2, 2), 0.5, dtype=torch.float64)
    sure = torch.tensor([16.0, 0.0], dtype=torch.float64) - 0.5 * weight.sum(0)  # a margin of 16 on these images

    def classifier(dtype: torch.dtype) -> nn.Module:
        model = nn.Linear(12, 2, dtype=dtype)
        model.weight.data, model.bias.data = weight.T.to(dtype), sure.to(dtype)
        return nn.Sequential(nn.Flatten(), model).requires_grad_(False)

    class Halved(nn.Module):
        half = classifier(torch.float16)

        def forward(self, images):
            return self.half(images.half()).to(images)

    labels, settings = torch.zeros(64, dtype=torch.int64), {"eps": 0.01, "steps": 2, "random_start": False}
    expected = pgd(classifier(torch.float64), images, labels, **settings)
    assert torch.equal(pgd(Halved(), images, labels, **settings), expected)


def test_with_restarts_only_images_that_still_stand_are_attacked_again():
    """An image of class 2 stands when it begins above one half, and one of class 1 at 0.1 always."""
    images, labels = torch.full((21, 1, 1, 1), 0.5), torch.full((21,), 2)
    images[20], labels[20] = 0.1, 1
    settings = {"eps": 0.2, "steps": 1, "step_size": 1e-6}
    starts = [pgd(Heights(), images, labels, **settings, seeds=[i + r * SEEDS for i in range(21)]) for r in range(4)]
    model = Heights()
    found = pgd(model, images, labels, **settings, restarts=4)
    fooled = torch.stack([each[:, 0, 0, 0] < 0.5 for each in starts])
    standing = [21 - int(fooled[:r, :20].any(0).sum()) for r in range(4)]
    assert model.asked == [count for count in standing for _ in range(2)]
    assert 1 < standing[-1] < standing[-2] < 21
    for i in range(21):
        first = next((r for r in range(4) if i < 20 and fooled[r, i]), 3)
        torch.testing.assert_close(found[i], starts[first][i])


def test_an_image_is_left_where_it_is_misclassified_first_and_only_the_others_go_on():
    """Past 0.6 the model is right again: with long steps an image ends where it is, unless it stops on its way."""

    asked = []

    class Band(nn.Module):
        def forward(self, images):
            asked.append(len(images))
            height = images[:, 0, 0, 0]
            inside = (height > 0.5) & (height < 0.6)
            return torch.stack([0.1 - height, torch.where(inside, 1.0, -1.0) + 0 * height], dim=1)

    images, labels = torch.tensor([0.45, 0.1]).view(2, 1, 1, 1), torch.tensor([0, 0])
    settings = {"eps": 0.3, "steps": 3, "step_size": 0.1, "random_start": False}
    last, best = (pgd(Band(), images, labels, **settings, keep_best=keep).flatten() for keep in (False, True))
    torch.testing.assert_close(last, torch.tensor([0.75, 0.4]))
    torch.testing.assert_close(best, torch.tensor([0.55, 0.4]))
    assert asked == [2] * 5 + [1, 1]
    assert ATTACKS["pgd"].configure().settings["keep_best"]


# ---- losses ----


def test_the_difference_of_logits_ratio_is_that_of_its_authors():
    authors = pytest.importorskip("pyautoattack.autopgd_base")
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels, targets = torch.arange(6) % 5, (torch.arange(6) + 2) % 5
    expected = [
        authors.APGDAttack.dlr_loss(None, logits, labels).mean(),
        authors.APGDAttack_targeted.dlr_loss_targeted(SimpleNamespace(y_target=targets), logits, labels).mean(),
    ]
    torch.testing.assert_close(dlr(logits, labels), expected[0])
    torch.testing.assert_close(targeted_dlr(logits, labels, targets=targets), expected[1])
    torch.testing.assert_close(dlr(1e-3 * logits, labels), expected[0], rtol=1e-6, atol=0)


def test_with_each_restart_the_next_likeliest_class_is_the_target():
    """Four logits, linear in two pixels: which pixel moves tells the target."""

    class Plane(nn.Module):
        def forward(self, images):
            across, down = images[:, 0, 0, 0], images[:, 0, 0, 1]
            return torch.stack([0 * down + 9, 5 + across, 4 + down, 0 * down - 50], dim=1)

    images, labels = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    settings = {"eps": 0.2, "steps": 4, "step_size": 0.2, "loss": "targeted-dlr"}
    first = pgd(Plane(), images, labels, **settings).flatten()
    second = pgd(Plane(), images, labels, **settings, restarts=2).flatten()
    assert first[0] == pytest.approx(0.7)
    assert second[1] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        ("hinge", 'loss is "hinge", expected one of cross-entropy, dlr, of pgd also targeted-dlr, or in Python a fun'),
        ("targeted-dlr", 'The loss "targeted-dlr" needs 4 classes, the model has 3'),
    ],
)
def test_a_loss_that_is_not_there_or_needs_more_classes_is_refused(loss, sentence, vit):
    with pytest.raises(UserError, match=sentence):
        pgd(PixelModel(*vit), random_images(2), torch.tensor([0, 1]), **SETTINGS, loss=loss)


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (torch.full((1, 3, 8, 8), 1.5), r"\[1.5, 1.5\]"),
        (torch.full((1, 3, 8, 8), -0.25), r"\[-0.25, -0.25\]"),
        (torch.full((1, 3, 8, 8), torch.nan), r"\[nan, nan\]"),
        (torch.full((1, 3, 8, 8), torch.inf), r"\[inf, inf\]"),
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8"),
    ],
)
def test_images_outside_their_range_are_refused(vit, images, sentence):
    with pytest.raises(ValueError, match=sentence):
        pgd(PixelModel(*vit), images, torch.tensor([0]), **SETTINGS)


def test_one_nan_pixel_is_refused(vit):
    images = random_images(2)
    images[1, 2, 3, 4] = torch.nan
    with pytest.raises(ValueError, match="nan"):
        pgd(PixelModel(*vit), images, torch.tensor([0, 1]), **SETTINGS)
