"""How a perturbation is crafted from an objective: its settings, restarts, start, images, and several encoders."""

from functools import partial

import pytest
import torch
from conftest import SIDE
from small_attacks import EPS, PATCHES, UNIVERSAL, craft, images, labels
from traces import leaves_no_trace

from genaf_hf import PixelModel, UniversalPerturbation
from genaf_hf.attacks import ATTACKS, UniversalPatch, l4a, pgd
from genaf_hf.attacks.advencoder import direction
from genaf_hf.attacks.ascent import highest
from genaf_hf.attacks.norms import into_ball
from genaf_hf.attacks.universal import attacked, features, hidden_state, universal_attack
from genaf_hf.errors import UserError

__all__ = ["images", "labels"]  # fixtures


def test_its_objective_is_all_that_a_universal_attack_must_say(vit, images, own_registries):
    @universal_attack("images", words="sum, {weight:g} times", steps=3)
    def summing(encoder, images, *, weight: float = 2.0):
        """Raises the sum."""
        return lambda delta, batch: weight * delta.sum() + 0 * batch.sum()

    attack = ATTACKS["summing"]
    assert attack.needs == ("encoder", "images")
    assert attack.configure(eps=0.5).settings == {
        "eps": 0.5,
        "norm": "linf",
        "steps": 3,
        "step_size": 0.01,
        "restarts": 1,
        "init": None,
        "max_images": None,
        "batch_size": 16,
        "seed": 0,
        "data": None,
        "weight": 2.0,
    }
    down = summing(PixelModel(*vit), images, eps=0.5, step_size=0.4, weight=-1, data="twelve images")
    assert torch.equal(down.delta, torch.full((3, 8, 8), -0.5))
    assert (down.attack, down.steps, down.step_size, down.data) == ("summing", 3, 0.4, "twelve images")
    assert down.objective == "sum, -1 times"
    with pytest.raises(UserError, match='weight is "much", expected a number'):
        summing(PixelModel(*vit), images, weight="much")


def test_without_images_there_are_no_settings_of_images(vit, own_registries):
    @universal_attack(words="sum")
    def summing(encoder):
        return lambda delta: delta.sum()

    settings = ["eps", "norm", "steps", "step_size", "restarts", "init", "seed"]
    assert ATTACKS["summing"].setting_names == settings
    assert summing(PixelModel(*vit), eps=0.25, step_size=1.0, steps=1).delta.unique().tolist() == [0.25]


def test_in_l2_it_goes_along_the_gradient_to_the_edge_of_the_ball(vit, own_registries):
    slope = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))

    @universal_attack(words="along a slope")
    def sloping(encoder):
        return lambda delta: (slope * delta).sum()

    found = sloping(PixelModel(*vit), eps=2.0, norm="l2", steps=200)
    torch.testing.assert_close(found.delta, 2 * slope / slope.norm(), rtol=0, atol=1e-3)
    assert found.step_size == 2 / 50


@pytest.fixture
def hilly(own_registries):
    """Its objective keeps what it begins at: only the start decides how high it gets."""

    @universal_attack("images", words="hills")
    def hilly(encoder, images):
        return lambda delta, batch: (delta - delta.detach()).sum() + delta.detach()[0, 0, 2] + 0 * batch.sum()

    return hilly


def test_what_is_clamped_leaves_a_perturbation_its_gradient():
    images = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    delta = torch.tensor([-0.3, 0.1]).repeat(6).view(3, 2, 2).requires_grad_()
    changed = attacked(images, delta)
    assert torch.equal(changed, (images + delta).clamp(0, 1))
    weights = torch.rand(changed.shape, generator=torch.Generator().manual_seed(0))
    (weights * changed).sum().backward()
    torch.testing.assert_close(delta.grad, weights.sum(0))


def test_where_all_images_are_black_a_perturbation_still_moves_off_its_start(vit, own_registries):
    @universal_attack("images", words="brightness")
    def brightness(encoder, images):
        return lambda delta, batch: attacked(batch, delta).mean()

    images = torch.zeros(4, 3, SIDE, SIDE)
    found = brightness(PixelModel(*vit), images, eps=0.1, steps=200)
    assert torch.equal(found.delta, torch.full_like(found.delta, 0.1))


def test_in_l2_no_image_is_too_large_to_stay_in_the_ball():
    generator = torch.Generator().manual_seed(0)
    for side in (224, 512):
        deltas = into_ball(torch.randn(4, 3, side, side, generator=generator), 3.0, "l2")
        assert (deltas.double().flatten(1).norm(dim=1) - 3).abs().max() < 1e-6
        UniversalPerturbation(deltas[0], "l4a", 3.0, norm="l2")


def test_of_several_restarts_the_highest_is_kept(vit, images, hilly):
    settings = {"eps": EPS, "steps": 1, "step_size": 1e-6}
    seeds = [restart * 2**24 for restart in range(4)]
    alone = [hilly(PixelModel(*vit), images, seed=seed, **settings).delta for seed in seeds]
    highest = max(alone, key=lambda delta: delta[0, 0, 2])
    assert not torch.equal(highest, alone[0])
    assert torch.equal(hilly(PixelModel(*vit), images, restarts=4, **settings).delta, highest)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("uap", {"steps": 4}), *((name, {"steps": 2, "width": 8}) for name in ("advencoder-per", "advencoder-pat"))],
)
def test_whatever_the_attack_its_best_start_is_kept_and_so_many_images_are_drawn(name, settings, vit, images, labels):
    encoder, few = PixelModel(*vit), {"max_images": 6, "data": "twelve images"}

    def crafted(**others):
        return craft(name, encoder, images, labels, **settings, **few, **others)

    alone = [crafted(seed=0), crafted(restarts=2)]
    assert [each.data for each in alone] == ["6 of twelve images"] * 2
    first, best = alone
    second = ATTACKS[name].configure(**{"eps": EPS} if name != "advencoder-pat" else {}, **settings, seed=2**24)
    drawn = torch.randperm(12, generator=torch.Generator().manual_seed(0))[:6]
    given = {"encoder": encoder, "images": images[drawn], "labels": labels[drawn]}
    other = second(*(given[need] for need in ATTACKS[name].needs))
    assert not torch.equal(first.delta, other.delta)
    assert any(torch.equal(best.delta, each.delta) for each in (first, other))


BUDGET = {"steps", "restarts", "init", "max_images"}
LED = {name for name in UNIVERSAL if "image" in ATTACKS[name].settings}


def test_every_universal_attack_has_a_budget_a_beginning_and_a_target():
    """But `fff`, which has no images."""
    for name in UNIVERSAL:
        without = {"max_images"} if name == "fff" else set()
        assert BUDGET - without <= {*ATTACKS[name].settings}
    assert {*UNIVERSAL} - LED == {"fff", *(name for name in UNIVERSAL if "target" in ATTACKS[name].settings)}


@pytest.mark.parametrize("name", UNIVERSAL)
def test_every_universal_attack_begins_at_what_is_given(name, vit, images, labels, tmp_path):
    generator = torch.Generator().manual_seed(5)
    if name in PATCHES:
        begun = UniversalPatch(torch.rand(3, 4, 4, generator=generator), attack="given", eps=1.0)
    else:
        begun = UniversalPerturbation(EPS * (2 * torch.rand(3, 8, 8, generator=generator) - 1), attack="given", eps=EPS)
    begun.save_pretrained(tmp_path / "given")
    small = {"restarts": 1, **({"area": 0.25} if name in PATCHES else {"eps": EPS})}
    small |= {"learning_rate": 1e-7} if name.startswith("advencoder") else {}
    small |= {"step_size": 1e-6} if "step_size" in ATTACKS[name].settings else {}
    found = craft(name, PixelModel(*vit), images, labels, **small, steps=1, init=str(tmp_path / "given"))
    # A step of `uap` goes as far as a boundary, that of the patch is a hundredth.
    far = {"uap": 2 * EPS, "adversarial-patch": 0.01}.get(name, 1e-4)
    torch.testing.assert_close(found.delta, begun.delta, rtol=0, atol=far + 1e-6)
    assert found.objective.endswith(", from given on")


def test_what_is_begun_at_is_of_the_kind_and_size_of_what_is_crafted(vit, images, labels, tmp_path):
    UniversalPatch(torch.zeros(3, 8, 8), attack="given", eps=1.0).save_pretrained(tmp_path / "patch")
    UniversalPerturbation(torch.zeros(3, 4, 4), attack="given", eps=0.3).save_pretrained(tmp_path / "perturbation")
    with pytest.raises(UserError, match=r"a patch of shape \(3, 8, 8\), expected a perturbation of \(3, 8, 8\) as the"):
        craft("advencoder-per", PixelModel(*vit), images, labels, init=str(tmp_path / "patch"))
    for name in PATCHES:
        with pytest.raises(UserError, match=r"a perturbation of shape \(3, 4, 4\), expected a patch of \(3, 4, 4\)\."):
            craft(name, PixelModel(*vit), images, labels, area=0.25, init=str(tmp_path / "perturbation"))


def distance(encoder, images, found, read):
    """To the features of image 4, in the mean."""
    with torch.no_grad():
        return (read(encoder, found(images)) - read(encoder, images[4:5])).flatten(1).square().sum(dim=1).mean().item()


@pytest.mark.parametrize("name", sorted(LED))
def test_it_can_be_led_to_the_features_of_an_image(name, resnet, images, labels):
    """Nearer to them than what else it crafts, and than clean images, by what it reads."""
    encoder = PixelModel(*resnet).eval()
    of_features = {"activation-attack": features, "advencoder-per": direction, "advencoder-pat": direction}
    read = of_features.get(name, partial(hidden_state, layer=ATTACKS[name].defaults.get("layer", 1)))
    strong = {"area": 0.25} if name in PATCHES else {"eps": 0.3}
    strong |= {"learning_rate": 5e-3} if name.startswith("advencoder") else {}
    led = craft(name, encoder, images, labels, **strong, steps=25, image=4)
    other = craft(
        name, encoder, images, labels, **strong, steps=25, **({"image": 0} if name == "activation-attack" else {})
    )
    reached, *others = (distance(encoder, images, each, read) for each in (led, other, lambda clean: clean))
    assert reached < min(others)
    assert "image 4" in led.objective


def test_it_begins_at_a_perturbation_that_is_given(vit, images, hilly, tmp_path):
    given = UniversalPerturbation(0.3 * torch.rand(3, 8, 8), attack="ssp", eps=0.3)
    given.save_pretrained(tmp_path / "given")
    found = hilly(PixelModel(*vit), images, eps=EPS, steps=1, step_size=1e-6, init=str(tmp_path / "given"))
    torch.testing.assert_close(found.delta, given.delta.clamp(max=EPS), rtol=0, atol=1e-5)
    assert found.objective == "hills, from given on"
    UniversalPerturbation(torch.zeros(3, 4, 4), attack="ssp", eps=0.3).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match=r"of shape \(3, 4, 4\), expected a perturbation of \(3, 8, 8\) as the"):
        hilly(PixelModel(*vit), images, init=str(tmp_path / "small"))
    with pytest.raises(UserError, match=r"nothing.* is not a universal perturbation"):
        hilly(PixelModel(*vit), images, init=str(tmp_path / "nothing"))


def test_of_many_images_some_are_drawn_with_their_labels(vit, images, labels, own_registries):
    seen = []

    @universal_attack("images", "labels", words="sum")
    def peeking(encoder, images, labels):
        seen.extend(zip(images, labels.tolist(), strict=True))
        return lambda delta, batch, of_batch: delta.sum() + 0 * batch.sum()

    found = peeking(PixelModel(*vit), images, labels, eps=EPS, steps=1, max_images=5, data="twelve images")
    rows = [next(i for i, image in enumerate(images) if torch.equal(image, one)) for one, _ in seen]
    assert len({*rows}) == 5
    assert [label for _, label in seen] == labels[rows].tolist()
    assert found.data == "5 of twelve images"


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"restarts": 0}, "restarts is 0, expected 1 to 100"),
        ({"restarts": 5000}, "restarts is 5000, expected 1 to 100"),
        ({"max_images": 0}, "max_images is 0, expected at least 1, or None for all"),
        ({"norm": "l1"}, 'norm is "l1", expected one of linf, l2'),
    ],
)
def test_a_budget_that_cannot_be_spent_is_refused(setting, sentence, vit, images):
    with pytest.raises(UserError, match=sentence):
        l4a(PixelModel(*vit), images, **setting)


@pytest.mark.parametrize("name", UNIVERSAL)
def test_on_several_encoders_it_is_another_than_on_each(name, vit, resnet, images, labels):
    one, other = PixelModel(*vit), PixelModel(*resnet)
    with leaves_no_trace(one), leaves_no_trace(other):
        found = craft(name, [one, other], images, labels)
    assert found.encoder == "dino, resnet"
    alone = [craft(name, each, images, labels) for each in (one, other)]
    assert not any(torch.equal(found.delta, each.delta) for each in alone)


def test_the_best_of_restarts_is_the_best_by_what_is_usual_on_each_encoder():
    assert highest([[100.0, 1.0], [90.0, 2.0]]) == 1
    assert highest([[100.0], [90.0]]) == 0


def test_none_of_two_encoders_outweighs_the_other_by_its_scale(vit, resnet, images, own_registries):
    """Both go for the first channel, with opposite signs, and for one of their own."""

    @universal_attack("images", words="two channels")
    def opposed(encoder, images):
        is_vit = hasattr(encoder.model, "vit")
        scale, sign, own = (1e6, 3, 1) if is_vit else (1e-3, -2, 2)
        return lambda delta, batch: scale * (sign * delta[0] + delta[own]).sum() + 0 * batch.sum()

    found = opposed([PixelModel(*vit), PixelModel(*resnet)], images, eps=2.0, norm="l2", steps=40, step_size=2.0)
    # The gradients' L1 norms are 4 and 3 parts: 3/4 - 2/3 = 1/12 for the first channel, 1/4 and 1/3 for the others.
    expected = torch.tensor([1 / 12, 1 / 4, 1 / 3])[:, None, None].expand(3, 8, 8)
    torch.testing.assert_close(found.delta, 2 * expected / expected.norm(), rtol=0, atol=1e-4)


def test_encoders_of_other_sizes_and_attacks_on_one_alone_are_refused(vit, resnet, images, labels):
    class Larger(PixelModel):
        image_size = (16, 16)

    one = PixelModel(*vit)
    with pytest.raises(UserError, match="take images of 8 x 8 and of 16 x 16 pixels, expected one size"):
        l4a([one, Larger(*resnet)], images)
    with pytest.raises(UserError, match="There are 2 models to attack at once, expected one"):
        pgd([one, one], images, labels, eps=EPS, steps=1)
    with pytest.raises(UserError, match="There are 0 models to attack at once"):
        l4a([], images)
