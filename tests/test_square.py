import pytest
import torch
from torch import nn
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel
from genaf_hf.attacks import square
from genaf_hf.attacks.square import margin_of, side_of_square, with_square

EPS = 0.1
ZEROS = torch.zeros(5, dtype=torch.long)


class LinearModel(nn.Module):
    """Logits (w . x, bias). It remembers the images that it was asked about."""

    def __init__(self, weight, bias):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = bias
        self.asked = []

    def forward(self, images):
        self.asked.append(images)
        score = (images * self.weight).flatten(1).sum(1)
        return torch.stack([score, torch.full_like(score, self.bias)], dim=1)

    def furthest(self, images, labels, eps):
        """The images of the ball with the lowest margin."""
        toward = torch.where(labels == 0, -1, 1).view(-1, 1, 1, 1)
        return (images + eps * (toward * self.weight.detach().sign())).clamp(0, 1)


class Quantized(nn.Module):
    """Logits of images that are rounded to 8 bits, where no gradient passes and none is recorded."""

    def __init__(self, model, images):
        super().__init__()
        self.model = model
        self.average = 0.0
        with torch.no_grad():
            self.average = self.eval()(images).mean(0)  # from here on not all images are of one class

    def forward(self, images):
        if torch.is_grad_enabled() or images.requires_grad:
            raise RuntimeError("gradients are recorded")
        return self.model((images * 255).round().to(torch.uint8).to(images) / 255) - self.average


@pytest.fixture
def images():
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images[0], images[1] = 0.0, 1.0
    return images


@pytest.fixture
def linear():
    """A linear model, and a function of its bias."""

    def make(bias):
        return LinearModel(torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), bias)

    return make


def margins(model, images, labels=ZEROS):
    with torch.no_grad():
        return margin_of(model(images), labels)


@pytest.mark.parametrize(("share", "steps"), [(1 / 16, 1500), (0.8, 500)])
def test_the_optimum_of_a_linear_model_is_reached(linear, images, share, steps):
    model = linear(-100.0)
    adversarial = square(model, images, ZEROS, eps=EPS, steps=steps, share=share)
    torch.testing.assert_close(adversarial, model.furthest(images, ZEROS, EPS), rtol=0, atol=1e-12)


def test_of_all_that_was_asked_the_lowest_margin_is_kept(linear, images):
    model = linear(-100.0)
    adversarial = square(model, images, ZEROS, eps=EPS, steps=50)
    clean, *asked = (margins(model, each) for each in list(model.asked))
    assert len(asked) == 50
    reached = margins(model, adversarial)
    assert torch.equal(reached, torch.stack(asked).amin(0))
    assert (reached < clean).all()


@pytest.fixture
def crowd(linear):
    """A linear model with 40 images, and the labels that it gives them."""
    images = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    model = linear(0.0)
    with torch.no_grad():
        model.bias = model(images)[:, 0].median().item() + 1e-3
        labels = model(images).argmax(1)
    model.asked.clear()
    return model, images, labels


def test_whatever_can_be_misclassified_is_and_nothing_else(crowd):
    model, images, labels = crowd
    possible = margins(model, model.furthest(images, labels, 0.03), labels) < 0
    assert 5 < possible.sum() < 35
    adversarial = square(model, images, labels, eps=0.03, steps=500)
    assert torch.equal(margins(model, adversarial, labels) < 0, possible)


def test_an_image_is_queried_until_it_is_misclassified(crowd):
    model, images, labels = crowd
    labels[:4] = 1 - labels[:4]
    adversarial = square(model, images, labels, eps=0.03, steps=20)
    assert torch.equal(adversarial[:4], images[:4])
    left = torch.arange(40)
    for step, asked in enumerate(list(model.asked)):
        assert ((asked - images[left]).abs() <= (0.03 + 1e-12 if step else 0)).all()
        wrong = margins(model, asked, labels[left]) < 0
        assert torch.equal(adversarial[left[wrong]], asked[wrong])
        left = left[~wrong]
    assert step == 20
    assert 5 < len(left) < 35


def test_it_starts_from_vertical_stripes_of_eps(linear, images):
    model, images = linear(-100.0), images * 0.5 + 0.25
    square(model, images, ZEROS, eps=EPS, steps=1)
    _, stripes = model.asked
    shift = stripes - images
    torch.testing.assert_close(shift.abs(), torch.full_like(shift, EPS), rtol=0, atol=1e-12)
    torch.testing.assert_close(shift, shift[:, :, :1].expand_as(shift), rtol=0, atol=1e-12)
    assert all(len({tuple(image[:, 0, column].sign().tolist()) for column in range(4)}) > 1 for image in shift)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_a_model_without_gradients_is_attacked_and_left_as_it_was(family, request):
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    images[0], images[1] = 0.0, 1.0
    contents = images.clone()
    model = Quantized(PixelModel(*request.getfixturevalue(family)), images)
    with torch.no_grad():
        labels = model(images).argmax(1)
    leave_gradients_and_modes(model)
    with leaves_no_trace(model):
        adversarial = square(model, images, labels, eps=0.3, steps=100)
    assert torch.equal(images, contents)
    assert not adversarial.requires_grad
    assert 0 <= adversarial.amin() <= adversarial.amax() <= 1
    assert (adversarial - images).abs().amax() <= 0.3 + 1e-6
    with torch.no_grad():
        fooled = model.eval()(adversarial).argmax(1) != labels
    assert fooled.sum() >= 5


def test_an_image_depends_on_its_own_seed_only(vit):
    model, seeds = PixelModel(*vit).double(), [7, 3, 10**12, 4]
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        labels = model.eval()(images).argmax(1)
    settings = {"eps": 0.02, "steps": 30}
    together = square(model, images, labels, **settings, seeds=seeds)
    alone = [square(model, images[[i]], labels[[i]], **settings, seeds=[seeds[i]]) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together, square(model, images, labels, **settings))
    default = square(model, images, labels, **settings, seeds=range(4))
    assert torch.equal(default, square(model, images, labels, **settings))


def test_the_share_is_halved_as_the_authors_do():
    """Their `p_selection` with p = 0.8 of 100 x 100 pixels over 10,000 steps, before and after each change."""
    sides = {0: 89, 10: 89, 11: 63, 50: 63, 51: 45, 200: 45, 201: 32, 500: 32, 501: 22, 1000: 22, 1001: 16, 2000: 16}
    sides |= {2001: 11, 4000: 11, 4001: 8, 6000: 8, 6001: 6, 8000: 6, 8001: 4, 9999: 4}
    assert {step: side_of_square(0.8, step, 10_000, (100, 100)) for step in sides} == sides
    assert side_of_square(0.8, 0, 500, (100, 100)) == 89
    assert side_of_square(0.8, 1, 500, (100, 100)) == 63
    assert side_of_square(0.8, 499, 500, (100, 100)) == 4


def test_a_square_fits_into_its_image():
    assert side_of_square(1.0, 0, 10, (8, 8)) == 7
    assert side_of_square(1.0, 0, 10, (3, 100)) == 2
    assert side_of_square(1.0, 0, 10, (1, 1)) == 1
    assert side_of_square(0.1, 9, 10, (8, 8)) == 1


def test_every_square_of_every_color_that_changes_something_is_drawn():
    signs = -torch.ones(1, 2, 3, 2, dtype=torch.int8)
    signs[0, 1] = 1
    grid = torch.cartesian_prod(*[torch.arange(12, dtype=torch.float64) / 12] * 3)
    drawn = with_square(signs.expand(len(grid), -1, -1, -1), 1, grid)
    changed = (drawn != signs).any(dim=1)
    assert changed.flatten(1).sum(1).eq(1).all()
    found, counts = drawn.flatten(1).unique(dim=0, return_counts=True)
    # 6 places, and of the 4 colors the 3 that are not there yet.
    assert len(found) == 18
    assert counts.eq(12**3 // 18).all()


def test_all_colors_are_drawn_where_the_square_has_several():
    signs = torch.ones(1, 1, 3, 3, dtype=torch.int8)
    signs[0, 0, 1, 1] = -1
    grid = torch.cartesian_prod(*[torch.arange(4, dtype=torch.float64) / 4] * 3)
    drawn = with_square(signs.expand(len(grid), -1, -1, -1), 2, grid)
    _, counts = drawn.flatten(1).unique(dim=0, return_counts=True)
    # 4 places to make -1; 1 makes the same image at all of them.
    assert sorted(counts.tolist()) == [8, 8, 8, 8, 32]


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_outside_its_range_is_refused(linear, images, share):
    with pytest.raises(ValueError, match=f"share is {share}, expected"):
        square(linear(0.0), images, ZEROS, eps=EPS, share=share)


def test_a_seed_for_each_image_is_needed(linear, images):
    with pytest.raises(ValueError, match="There are 2 seeds for 5 images"):
        square(linear(0.0), images, ZEROS, eps=EPS, steps=2, seeds=[1, 2])
