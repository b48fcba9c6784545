"""What holds for every attack by one perturbation for all images, and what is particular to each."""

import math
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel, UniversalPerturbation
from genaf_hf.attacks import (
    ATTACKS,
    UniversalPatch,
    advencoder_pat,
    adversarial_patch,
    fff,
    l4a,
    l4a_fuse,
    l4a_ugs,
    registry,
    ssp,
    std,
    uap,
    uapgd,
    upgd,
)
from genaf_hf.attacks.advencoder import Generator, advencoder_per, high_pass, info_nce, seeded_generator
from genaf_hf.attacks.fff import log_energy
from genaf_hf.attacks.l4a import gaussian_images
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.attacks.uap import deepfool
from genaf_hf.attacks.universal import universal_attack
from genaf_hf.errors import UserError

EPS = 0.1
UNIVERSAL = [name for name, attack in ATTACKS.items() if attack.universal]
ON_ENCODER = [name for name in UNIVERSAL if ATTACKS[name].on_encoder]
PATCHES = ("advencoder-pat", "adversarial-patch")
BOUNDED = [name for name in UNIVERSAL if name not in PATCHES]


@pytest.fixture
def images():
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def labels():
    return torch.arange(12) % 3


def craft(name, encoder, images, labels, **settings):
    """An attack with small settings."""
    given = {"encoder": encoder, "model": encoder, "images": images, "labels": labels}
    attack = ATTACKS[name]
    small = {"steps": 3, **({} if name in PATCHES else {"eps": EPS})}
    small |= {"width": 16} if name.startswith("advencoder") else {}
    return attack.configure(**{**small, **settings})(*(given[each] for each in attack.needs))


# ---- what holds for all ----


@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("name", UNIVERSAL)
def test_it_leaves_no_trace(name, family, images, labels, request):
    encoder = PixelModel(*request.getfixturevalue(family))
    contents = images.clone()
    leave_gradients_and_modes(encoder)
    with leaves_no_trace(encoder):
        crafted = craft(name, encoder, images, labels)
    assert torch.equal(images, contents)
    assert not crafted.delta.requires_grad


@pytest.mark.parametrize("name", UNIVERSAL)
def test_the_same_seed_gives_the_same_perturbation_another_another(name, vit, images, labels):
    encoder = PixelModel(*vit)
    first, again, other = (craft(name, encoder, images, labels, seed=seed).delta for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("norm", "order"), [("linf", math.inf), ("l2", 2)])
@pytest.mark.parametrize("name", BOUNDED)
def test_it_stays_inside_eps_and_says_what_it_is(name, norm, order, vit, images, labels):
    crafted = craft(name, PixelModel(*vit), images, labels, steps=8, norm=norm)
    assert crafted.delta.shape == (3, 8, 8)
    assert 0 < crafted.delta.flatten().norm(order) <= EPS * (1 + 1e-6)
    assert (crafted.attack, crafted.eps, crafted.norm) == (name, EPS, norm)
    assert (crafted.steps, crafted.seed, crafted.encoder) == (8, 0, "dino")
    assert crafted.objective


@pytest.mark.parametrize("name", ON_ENCODER)
def test_no_head_is_needed(name, vit, images, labels):
    encoder = PixelModel(*vit)
    with_head = craft(name, encoder, images, labels).delta
    with torch.no_grad():
        encoder.model.classifier.weight.fill_(torch.nan)
    assert torch.equal(craft(name, encoder, images, labels).delta, with_head)


@pytest.mark.parametrize("name", UNIVERSAL)
def test_types_and_memory_of_what_it_is_given_change_nothing(name, vit, images, labels):
    encoder, expected = PixelModel(*vit), craft(name, PixelModel(*vit), images, labels).delta
    for others, ids in (
        (images.contiguous(memory_format=torch.channels_last), labels.to(torch.uint8)),
        (images.double().requires_grad_(), labels.int()),
        (images.repeat_interleave(2, dim=0)[::2], labels.tolist()),
    ):
        assert torch.equal(craft(name, encoder, others, ids).delta, expected)
    found = craft(name, encoder, images, labels, steps=np.int64(3), seed=torch.tensor(0))
    assert torch.equal(found.delta, expected)
    assert type(found.steps) is type(found.seed) is int


@pytest.mark.parametrize("name", UNIVERSAL)
def test_an_encoder_that_is_broken_is_refused(name, vit, images, labels):
    encoder = PixelModel(*vit)
    with torch.no_grad():
        encoder.model.vit.layers[0].mlp.fc1.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        craft(name, encoder, images, labels)


@pytest.mark.parametrize("name", ["l4a", "ssp", "uapgd"])
def test_an_encoder_that_does_not_answer_to_its_images_is_refused(name, vit, images, labels):
    encoder = PixelModel(*vit)
    with torch.no_grad():
        encoder.model.vit.embeddings.patch_embeddings.projection.weight.zero_()
    with pytest.raises(UserError, match="the gradient of its objective is 0"):
        craft(name, encoder, images, labels)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"steps": True}, "steps is True, expected a whole number"),
        ({"seed": 0.5}, "seed is 0.5, expected a whole number"),
        ({"seed": 2**64}, "seed is 18446744073709551616, expected a whole number of at most 62 bits"),
        ({"batch_size": "16"}, 'batch_size is "16", expected a whole number'),
        ({"momentum": float("nan")}, "momentum is nan, expected a number"),
        ({"step_size": True}, "step_size is True, expected a number or None"),
    ],
)
def test_settings_of_another_kind_are_refused(setting, sentence, vit, images, labels):
    with pytest.raises(UserError, match=sentence):
        craft("uapgd", PixelModel(*vit), images, labels, **setting)


def hidden(encoder, images, delta, layer=1):
    return encoder.hidden_states((images + delta).clamp(0, 1))[layer]


def features(encoder, images, delta):
    return encoder.features((images + delta).clamp(0, 1))


@lru_cache(maxsize=1)
def probe_on(encoder, images, labels):
    return LinearProbe(encoder, images, labels)


def probed(encoder, images, labels, delta):
    return probe_on(encoder, images, labels)((images + delta).clamp(0, 1)).argmax(1)


OBJECTIVES = {
    "l4a": lambda encoder, images, labels, delta: hidden(encoder, images, delta).square().mean(),
    "l4a-fuse": lambda encoder, images, labels, delta: (
        hidden(encoder, images, delta, 1).square().mean() + hidden(encoder, images, delta, 2).square().mean()
    ),
    "l4a-ugs": lambda encoder, images, labels, delta: hidden(encoder, images / 10 + 0.45, delta).square().mean(),
    "std": lambda encoder, images, labels, delta: -hidden(encoder, images, delta).flatten(1).std(dim=1).mean(),
    "ssp": lambda encoder, images, labels, delta: F.mse_loss(
        hidden(encoder, images, delta).square(), hidden(encoder, images, 0).square()
    ),
    "fff": lambda encoder, images, labels, delta: log_energy(encoder.hidden_states(encoder.mean + delta)),
    "uapgd": lambda encoder, images, labels, delta: F.cross_entropy(
        probe_on(encoder, images, labels)((images + delta).clamp(0, 1)), labels
    ),
    "uap": lambda encoder, images, labels, delta: (
        (probed(encoder, images, labels, delta) != probed(encoder, images, labels, 0)).float().mean()
    ),
    "activation-attack": lambda encoder, images, labels, delta: (
        -(features(encoder, images, delta) - features(encoder, images[:1], 0)).square().sum(dim=1).mean()
    ),
    "advencoder-per": lambda encoder, images, labels, delta: info_nce(
        features(encoder, images, 0), features(encoder, images, delta)
    ),
    "upgd": lambda model, images, labels, delta: F.cross_entropy(model((images + delta).clamp(0, 1)), labels),
}


def noise_of_size(eps, norm, generator):
    """On the surface of the ball."""
    drawn = torch.randn(3, 8, 8, generator=generator)
    return eps * (drawn.sign() if norm == "linf" else drawn / drawn.norm())


@pytest.mark.slow(reason="crafts by every attack to an end")
@pytest.mark.parametrize(("family", "norm", "eps"), [("resnet", "linf", EPS), ("vit", "l2", 1.2)])
@pytest.mark.parametrize("name", BOUNDED)
def test_it_raises_its_objective_above_its_start_and_above_noise_of_the_same_size(
    name, family, norm, eps, images, labels, request
):
    encoder = PixelModel(*request.getfixturevalue(family)).eval()
    settings = {"eps": eps, "norm": norm, **({"learning_rate": 5e-3} if name == "advencoder-per" else {})}
    crafted = craft(name, encoder, images, labels, steps=240 if name == "uap" else 60, **settings)
    start = craft(name, encoder, images, labels, steps=1, **settings)
    generator = torch.Generator().manual_seed(3)
    noises = [noise_of_size(eps, norm, generator) for _ in range(10)]
    reached, before, *by_noise = (
        OBJECTIVES[name](encoder, images, labels, delta).item() for delta in (crafted.delta, start.delta, *noises)
    )
    assert reached > before
    assert reached > max(by_noise)


@pytest.mark.parametrize("name", ["l4a", "l4a-fuse", "l4a-ugs", "std", "ssp"])
def test_no_layer_above_the_one_that_is_read_is_run(name, encoders, images, labels, vit):
    encoder = PixelModel(*vit)
    settings = {"layers": (0, 1)} if name == "l4a-fuse" else {"layer": 1}
    craft(name, encoder, images, labels, steps=1, **settings)  # finds the layers' names
    calls = []
    for each, module in encoder.model.named_modules():
        module.register_forward_hook(lambda *_, each=each: calls.append(each))
    craft(name, encoder, images, labels, **settings)
    assert "vit.layers.0.attention" in calls
    assert not [call for call in calls if call.startswith(("vit.layers.1", "vit.layernorm", "classifier"))]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"eps": 0}, "eps is 0,"), ({"eps": 12}, "eps is 12,"), ({"steps": 0}, "steps is 0,")],
)
@pytest.mark.parametrize("name", BOUNDED)
def test_settings_outside_their_range_are_refused(name, vit, images, labels, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        craft(name, PixelModel(*vit), images, labels, **change)


@pytest.mark.parametrize("name", [name for name in UNIVERSAL if name != "fff"])
def test_images_that_are_normalised_already_are_refused(name, vit, images, labels):
    with pytest.raises(ValueError, match=r"images span \[-"):
        craft(name, PixelModel(*vit), images - 0.5, labels)


@pytest.mark.parametrize("layer", [-1, 3, "vit.layers.7"])
@pytest.mark.parametrize("attack", [l4a, l4a_ugs, std, ssp, partial(l4a_fuse, layers=(0, 1))])
def test_an_unknown_layer_is_refused(attack, layer, vit, images):
    encoder = PixelModel(*vit).train()
    chosen = {"layers": (0, layer)} if isinstance(attack, partial) else {"layer": layer}
    with leaves_no_trace(encoder), pytest.raises(ValueError, match=f"layer is {layer}, expected 0 to 2"):
        attack(encoder, images, eps=EPS, steps=1, **chosen)


def test_a_layer_can_be_named(vit, images):
    encoder = PixelModel(*vit)
    by_name, by_index = (l4a(encoder, images, eps=EPS, steps=3, layer=layer) for layer in ("vit.layers.0", 1))
    assert torch.equal(by_name.delta, by_index.delta)
    assert by_name.objective == "mean squared activation of hidden state vit.layers.0"


# ---- universal PGD ----


def test_its_steps_fall_to_nothing_along_a_cosine(vit, monkeypatch):
    model, images, labels = PixelModel(*vit), torch.full((4, 3, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    monkeypatch.setattr(model, "forward", lambda batch: batch.mean((1, 2, 3))[:, None] * torch.tensor([1.0, 0, 0]))
    settings = {"eps": 0.2, "batch_size": 4, "restarts": 1}
    found = upgd(model, images, labels, **settings, steps=4, step_size=0.01)
    start = upgd(model, images, labels, **settings, steps=1, step_size=1e-9)
    taken = 0.01 * sum((1 + math.cos(math.pi * number / 4)) / 2 for number in range(4))
    assert taken == pytest.approx(0.025)
    torch.testing.assert_close(found.delta, (start.delta - taken).clamp(min=-0.2))


@pytest.mark.parametrize("target", [0, 2])
def test_universal_pgd_takes_a_linear_model_to_a_class_as_far_as_the_ball_reaches(target, vit, images, labels):
    weight = torch.randn(3, 3 * 8 * 8, generator=torch.Generator().manual_seed(0))
    weight[1] = 0  # the class that all images would be of
    model = PixelModel(*vit)
    model.forward = lambda batch: batch.flatten(1) @ weight.T + torch.tensor([0.0, 40.0, 0.0])
    middle = 0.5 + 0.1 * (images - 0.5)  # which no perturbation takes out of [0, 1]
    found = upgd(model, middle, labels, eps=0.4, steps=20, restarts=1, target=target)
    other = 2 - target
    sure = (weight[target].sign() == (weight[target] - weight[other]).sign()).view(3, 8, 8)
    torch.testing.assert_close(found.delta[sure], (0.4 * weight[target].sign()).view(3, 8, 8)[sure])
    assert (model(found(middle)).argmax(1) == target).all()
    assert found.objective == f"cross-entropy of the model, lowered at class {target}"


def test_the_start_is_kept_that_leaves_fewest_images_right(vit, labels, monkeypatch):
    """Of images around a boundary: those below a mean of one half are of class 0."""
    model, labels = PixelModel(*vit), torch.zeros_like(labels)
    images = torch.linspace(0.49, 0.51, 12)[:, None, None, None].expand(-1, 3, 8, 8)
    above = torch.tensor([0.0, 100.0])
    monkeypatch.setattr(model, "forward", lambda batch: (batch.mean((1, 2, 3)) - 0.5)[:, None] * above)

    def right(found):
        return (model(images + found.delta).argmax(1) == labels).sum().item()

    settings = {"eps": EPS, "steps": 2, "batch_size": 4, "step_size": 1e-6}
    alone = [upgd(model, images, labels, **settings, restarts=1, seed=restart * 2**24) for restart in range(5)]
    kept = upgd(model, images, labels, **settings, restarts=5)
    assert len({right(each) for each in alone}) > 1
    assert right(kept) == min(map(right, alone))
    assert any(torch.equal(kept.delta, each.delta) for each in alone[1:])
    assert (kept.seed, kept.attack, kept.objective) == (0, "upgd", "cross-entropy of the model")
    with pytest.raises(UserError, match="restarts is 0, expected 1 to 100"):
        upgd(model, images, labels, restarts=0)


# ---- an attack told by its objective ----


@pytest.fixture
def own_attacks(monkeypatch):
    """Attacks that a test adds are gone after it."""
    monkeypatch.setattr("genaf_hf.attacks.registry.ATTACKS", type(ATTACKS)(ATTACKS))


def test_its_objective_is_all_that_a_universal_attack_must_say(vit, images, own_attacks):
    @universal_attack("images", words="sum, {weight:g} times", steps=3)
    def summing(encoder, images, *, weight: float = 2.0):
        """Raises the sum."""
        return lambda delta, batch: weight * delta.sum() + 0 * batch.sum()

    attack = registry.ATTACKS["summing"]
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


def test_without_images_there_are_no_settings_of_images(vit, own_attacks):
    @universal_attack(words="sum")
    def summing(encoder):
        return lambda delta: delta.sum()

    settings = ["eps", "norm", "steps", "step_size", "restarts", "init", "seed"]
    assert registry.ATTACKS["summing"].settings == settings
    assert summing(PixelModel(*vit), eps=0.25, step_size=1.0, steps=1).delta.unique().tolist() == [0.25]


def test_in_l2_it_goes_along_the_gradient_to_the_edge_of_the_ball(vit, own_attacks):
    slope = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))

    @universal_attack(words="along a slope")
    def sloping(encoder):
        return lambda delta: (slope * delta).sum()

    found = sloping(PixelModel(*vit), eps=2.0, norm="l2", steps=200)
    torch.testing.assert_close(found.delta, 2 * slope / slope.norm(), rtol=0, atol=1e-3)
    assert found.step_size == 2 / 50


# ---- its own budget ----


@pytest.fixture
def hilly(own_attacks):
    """Its objective keeps what it begins at: only the start decides how high it gets."""

    @universal_attack("images", words="hills")
    def hilly(encoder, images):
        return lambda delta, batch: (delta - delta.detach()).sum() + delta.detach()[0, 0, 2] + 0 * batch.sum()

    return hilly


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


def test_it_begins_at_a_perturbation_that_is_given(vit, images, hilly, tmp_path):
    given = UniversalPerturbation(0.3 * torch.rand(3, 8, 8), attack="ssp", eps=0.3)
    given.save_pretrained(tmp_path / "given")
    found = hilly(PixelModel(*vit), images, eps=EPS, steps=1, step_size=1e-6, init=str(tmp_path / "given"))
    torch.testing.assert_close(found.delta, given.delta.clamp(max=EPS), rtol=0, atol=1e-5)
    assert found.objective == "hills, from given on"
    UniversalPerturbation(torch.zeros(3, 4, 4), attack="ssp", eps=0.3).save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match=r"of shape \(3, 4, 4\), expected \(3, 8, 8\) as the images are"):
        hilly(PixelModel(*vit), images, init=str(tmp_path / "small"))
    with pytest.raises(UserError, match=r"nothing.* is not a universal perturbation"):
        hilly(PixelModel(*vit), images, init=str(tmp_path / "nothing"))


def test_of_many_images_some_are_drawn_with_their_labels(vit, images, labels, own_attacks):
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


# ---- several encoders at once ----


@pytest.mark.parametrize("name", [name for name in ON_ENCODER if name != "uap"])
def test_on_several_encoders_it_is_another_than_on_each(name, vit, resnet, images, labels):
    one, other = PixelModel(*vit), PixelModel(*resnet)
    with leaves_no_trace(one), leaves_no_trace(other):
        found = craft(name, [one, other], images, labels)
    assert found.encoder == "dino, resnet"
    alone = [craft(name, each, images, labels) for each in (one, other)]
    assert not any(torch.equal(found.delta, each.delta) for each in alone)


def test_none_of_two_encoders_outweighs_the_other_by_its_scale(vit, resnet, images, own_attacks):
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
        uap([one, one], images, labels, eps=EPS)
    with pytest.raises(UserError, match="There are 0 models to attack at once"):
        l4a([], images)


# ---- L4A ----


def test_gaussian_images_are_redrawn_every_twenty_steps():
    drawn = gaussian_images((64, 3, 16, 16), torch.Generator().manual_seed(0))
    first = [next(drawn) for _ in range(20)]
    second = next(drawn)
    assert all(each is first[0] for each in first)
    assert not torch.equal(second, first[0])
    means, deviations = second.mean(dim=(2, 3)), second.std(dim=(2, 3))
    assert 0.38 < means.min() < 0.42 < 0.58 < means.max() < 0.62
    assert 0.04 < deviations.min() < 0.06 < 0.09 < deviations.max() < 0.115


def test_fusing_with_weight_zero_is_the_plain_attack_on_the_first_layer(vit, images):
    encoder = PixelModel(*vit)
    fused = l4a_fuse(encoder, images, eps=EPS, steps=4, layers=(1, 2), weight=0.0)
    alone = l4a(encoder, images, eps=EPS, steps=4, layer=1)  # of another graph, whose sums may round otherwise
    torch.testing.assert_close(fused.delta, alone.delta, rtol=0, atol=1e-6)


# ---- FFF ----


def test_fast_feature_fool_needs_no_data(vit):
    crafted = fff(PixelModel(*vit), eps=EPS, steps=3)
    assert ATTACKS["fff"].needs == ("encoder",)
    assert crafted.delta.shape == (3, 8, 8)
    assert crafted.data == "none"


def test_its_objective_by_hand():
    states = (torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    assert log_energy(states).item() == pytest.approx(math.log(5 / 2) + math.log(2 / 2))


# ---- UAP and UAPGD ----


def test_the_probe_learns_what_the_features_hold(vit, dataset, pixels):
    encoder, batch = PixelModel(*vit), pixels["train"][:]
    images, labels = encoder.to_images(batch["pixel_values"]), batch["labels"] * 10 + 5
    leave_gradients_and_modes(encoder)
    with leaves_no_trace(encoder):
        probe = LinearProbe(encoder, images, labels)
    assert probe.classes.tolist() == [5, 15, 25]
    assert (probe.eval()(images).argmax(1) == probe.targets(labels)).float().mean() > 0.9


@pytest.mark.parametrize("attack", [uap, uapgd])
@pytest.mark.parametrize(
    ("labels", "sentence"),
    [(torch.zeros(12, dtype=torch.long), "one class only"), (torch.zeros(5, dtype=torch.long), r"shape \(5,\)")],
)
def test_labels_that_no_probe_can_be_trained_on_are_refused(attack, labels, sentence, vit, images):
    with pytest.raises(ValueError, match=sentence):
        attack(PixelModel(*vit), images, labels, eps=EPS, steps=1)


class Linear(PixelModel):
    """Its features are the pixels."""

    def features(self, images):
        return images.flatten(1) + 0 * self.model.classifier.bias.sum()


@pytest.mark.parametrize("target", [3, 7])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_towards_a_class_of_a_linear_model_it_is_the_closed_form(norm, target, vit):
    """Along the difference of the two classes' weights, and it reaches the margins below eps times its dual norm."""
    images = 0.4 + 0.2 * torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.where(images[:, 0].mean(dim=(1, 2)) > 0.5, 7, 3)
    encoder = Linear(*vit)
    probe = LinearProbe(encoder, images, labels)
    slope = ((probe.weight[1] - probe.weight[0]) / probe.scale).view(3, 8, 8) * (1 if target == 7 else -1)
    logits = probe(images) * (1 if target == 7 else -1)
    margins = (logits[:, 0] - logits[:, 1]).sort().values  # of the other class over the target
    dual, unit = (slope.abs().sum(), slope.sign()) if norm == "linf" else (slope.norm(), slope / slope.norm())
    for reached in (40, 39):
        eps = ((margins[-1] if reached == 40 else margins[-2:].mean()) / dual).item() * (1.01 if reached == 40 else 1)
        found = uapgd(encoder, images, labels, eps=eps, norm=norm, steps=60, step_size=eps, target=target)
        torch.testing.assert_close(found.delta, eps * unit, rtol=0, atol=1e-5)
        answers = probe.classes[probe(found(images)).argmax(1)]
        assert (answers == target).sum() == reached
    assert found.objective == f"cross-entropy of a linear probe, lowered at class {target}"


def test_towards_the_features_of_an_image_of_a_linear_model_it_is_the_difference_to_the_mean(vit):
    images = 0.4 + 0.2 * torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    settings = {"eps": 1.0, "norm": "l2", "batch_size": 400, "steps": 150, "step_size": 0.02}
    found = ATTACKS["activation-attack"].configure(**settings, image=4)(Linear(*vit), images)
    torch.testing.assert_close(found.delta, images[4] - images.mean(0), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("name", "target", "sentence"),
    [
        ("uapgd", {"target": 5}, "target is 5, expected a class of the attacker's images: 0, 1, 2"),
        ("uap", {"target": 5}, "target is 5, expected a class of the attacker's images: 0, 1, 2"),
        ("upgd", {"target": 5}, "target is 5, expected one of the model's 3 classes from 0 on"),
        ("advencoder-per", {"init": "given"}, 'advencoder-per has no setting "init"; it has .*restarts'),
        ("uapgd", {"target": "cat"}, 'target is "cat", expected a whole number or None'),
        ("activation-attack", {"image": 12}, "image is 12, expected one of the attacker's 12 images, counted from 0"),
        ("activation-attack", {"image": -1}, "image is -1, expected one of the attacker's 12 images"),
    ],
)
def test_a_target_that_is_not_there_is_refused(name, target, sentence, vit, images, labels):
    with pytest.raises(UserError, match=sentence):
        craft(name, PixelModel(*vit), images, labels, **target)


def test_deepfool_finds_the_nearest_boundary_of_a_linear_model():
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 3.0, 4.0]])
    bias = torch.tensor([1.0, 0.0, 0.0])

    def model(image):
        return image.flatten(1) @ weight.T + bias

    image = torch.tensor([0.5, 0.01, 0.0]).view(1, 3, 1, 1)
    shift = deepfool(model, image, torch.tensor([0]), 10).flatten()
    # Class 1 is 0.5 / 1 away, class 2 is 0.97 / 5 = 0.194 away, in the direction (0, 0.6, 0.8).
    torch.testing.assert_close(shift, 0.1941 * torch.tensor([0.0, 0.6, 0.8]), rtol=0, atol=1e-6)
    towards = deepfool(model, image, torch.tensor([0]), 10, target=1).flatten()
    torch.testing.assert_close(towards, 0.5001 * torch.tensor([1.0, 0.0, 0.0]), rtol=0, atol=1e-6)
    assert not deepfool(model, image, torch.tensor([0]), 10, target=0).any()


def test_deepfool_s_steps_take_all_images_to_a_class_of_a_linear_model(vit):
    images = 0.4 + 0.2 * torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.where(images[:, 0].mean(dim=(1, 2)) > 0.5, 7, 3)
    encoder = Linear(*vit)
    probe = LinearProbe(encoder, images, labels)
    found = uap(encoder, images, labels, eps=0.3, steps=20, target=7)
    assert (probe.classes[probe(found(images)).argmax(1)] == 7).all()
    assert found.objective == "share of images that a linear probe takes for class 7"
    again = uap(encoder, images, labels, eps=0.3, steps=1, target=7, init=None)
    assert again.delta.abs().max() < found.delta.abs().max()


# ---- AdvEncoder ----


def test_info_nce_by_hand():
    queries = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    keys = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    # cosines: (0.7071, 0), (0.7071, 1); over tau 0.5: (1.4142, 0), (1.4142, 2)
    expected = (math.log(1 + math.exp(-math.sqrt(2))) + math.log(1 + math.exp(math.sqrt(2) - 2))) / 2
    assert info_nce(queries, keys, temperature=0.5).item() == pytest.approx(expected, abs=1e-6)


def test_high_pass_by_hand():
    positions = torch.arange(16) * 2 * math.pi / 16
    slow, fast = torch.cos(positions), torch.cos(3 * positions)
    image = (0.5 + slow + fast).expand(1, 3, 16, 16)
    torch.testing.assert_close(high_pass(image, radius=2), fast.expand(1, 3, 16, 16), rtol=0, atol=1e-5)
    torch.testing.assert_close(high_pass(image, radius=3), fast.expand(1, 3, 16, 16), rtol=0, atol=1e-5)
    torch.testing.assert_close(high_pass(image, radius=3.1), torch.zeros(1, 3, 16, 16), rtol=0, atol=1e-5)
    assert torch.equal(high_pass(image), high_pass(image, radius=2))


def test_the_generator_is_the_authors_at_64_pixels():
    with torch.device("meta"):
        generator = Generator((64, 64))
    kernels = [tuple(layer.weight.shape) for layer in generator.layers if isinstance(layer, torch.nn.ConvTranspose2d)]
    assert kernels == [(100, 1024, 4, 4), (1024, 512, 4, 4), (512, 256, 4, 4), (256, 128, 4, 4), (128, 3, 4, 4)]
    assert generator().shape == (3, 64, 64)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (11, 11), (32, 32), (33, 20), (224, 224)])
def test_the_generator_makes_any_size(size):
    assert seeded_generator(size, 8, 0)().shape == (3, *size)


def test_the_generator_by_hand():
    generator = Generator((8, 8), width=1, noises=2)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.fill_(1.0)
        generator.mix.weight.zero_()
        generator.mix.weight[0, :, 1, 1] = torch.tensor([2.0, -1.0])
        generator.mix.bias.fill_(0.25)
        generator.noise[0], generator.noise[1] = 1.0, -1.0
    # The first layer sums a noise to +-100 everywhere, normalised +-1 plus the bias 1: 2 and 0. The second sums four
    # of the first one's pixels, two at an edge, one in a corner: 8, 4 and 2, after tanh 2 tanh(.) - tanh(0) + 0.25.
    made = generator().detach()
    assert made.shape == (3, 8, 8)
    assert made[0, 3, 3].item() == pytest.approx(2 * math.tanh(8) + 0.25, abs=1e-4)
    assert made[1, 0, 3].item() == pytest.approx(2 * math.tanh(4) + 0.25, abs=1e-4)
    assert made[2, 7, 0].item() == pytest.approx(2 * math.tanh(2) + 0.25, abs=1e-4)


def test_batches_of_one_have_no_negatives(vit, images):
    with pytest.raises(ValueError, match="negatives"):
        advencoder_per(PixelModel(*vit), images, eps=EPS, steps=1, batch_size=1)


@pytest.mark.parametrize("place", ["fixed", "random"])
def test_the_patch_pulls_the_features_apart_more_than_a_random_one(place, vit, images):
    encoder = PixelModel(*vit).eval()
    patch = advencoder_pat(encoder, images, area=0.2, place=place, steps=60, width=16, learning_rate=5e-3)
    assert patch.delta.shape == (3, 4, 4)
    assert (patch.top, patch.left) == ((4, 4) if place == "fixed" else (None, None))
    generator = torch.Generator().manual_seed(0)

    def apart(delta):
        other = UniversalPatch(delta=delta, attack="random", eps=1.0, top=patch.top, left=patch.left)
        return info_nce(encoder.features(images), encoder.features(other(images))).item()

    assert apart(patch.delta) > max(apart(torch.rand(3, 4, 4, generator=generator)) for _ in range(10))


def test_the_patch_covers_three_percent_of_64_pixels(resnet):
    images = torch.rand(2, 3, 64, 64)
    assert advencoder_pat(PixelModel(*resnet), images, steps=1, width=8).delta.shape == (3, 11, 11)


@pytest.mark.parametrize("area", [0, -1, 1e-4, 1.5, float("nan")])
def test_a_patch_that_does_not_fit_is_refused(vit, images, area):
    with pytest.raises(ValueError, match="area is"):
        advencoder_pat(PixelModel(*vit), images, area=area, steps=1)


class Brightness(PixelModel):
    """Linear in the mean of the pixels: class 1 rises with it, class 0 falls, class 2 is never told."""

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5, 0 * mean - 9], dim=1) + 0 * self.model.classifier.bias.sum()


@pytest.mark.parametrize(("target", "color"), [(None, 1.0), (1, 1.0), (0, 0.0)])
def test_a_patch_on_a_linear_model_is_the_closed_form(target, color, vit, images):
    patch = adversarial_patch(Brightness(*vit), images, torch.zeros(12).long(), area=0.25, target=target, steps=101)
    assert torch.equal(patch.delta, torch.full((3, 4, 4), color))
    assert (patch.top, patch.shape, patch.step_size) == (None, "square", 0.01)
    assert patch.objective == "cross-entropy of the model" + ("" if target is None else f", lowered at class {target}")


def test_a_patch_is_crafted_in_the_shape_and_the_moves_that_it_attacks_in(vit, images):
    settings = {"area": 0.3, "shape": "round", "degrees": 90.0, "smallest": 0.5, "place": "fixed"}
    for attack, needed in ((advencoder_pat, (images,)), (adversarial_patch, (images, torch.zeros(12).long()))):
        small = {"width": 8} if attack is advencoder_pat else {}
        found = attack(Brightness(*vit), *needed, steps=3, **settings, **small)
        assert (found.shape, found.degrees, found.smallest, found.top) == ("round", 90.0, 0.5, 3)
        assert found.delta.shape == (3, 5, 5)
        assert (found(images)[:, :, :3] == images[:, :, :3]).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"degrees": 181.0}, "degrees is 181.0, expected 0 to 180"),
        ({"smallest": 0.0}, "smallest is 0.0, expected a share of the patch's side from 0.1 to 1"),
        ({"shape": "oval"}, 'shape is "oval", expected one of square, round'),
        ({"area": 0.9, "shape": "round"}, "area is 0.9, a patch of 9 pixels a side in images of 8 x 8"),
        ({"target": 3}, "target is 3, expected one of the model's 3 classes from 0 on"),
    ],
)
def test_a_patch_that_cannot_be_is_refused(settings, sentence, vit, images, labels):
    with pytest.raises(UserError, match=sentence):
        adversarial_patch(PixelModel(*vit), images, labels, steps=1, **settings)


def test_an_unknown_place_is_refused(vit, images):
    with pytest.raises(ValueError, match='place is "left", expected one of random, fixed'):
        advencoder_pat(PixelModel(*vit), images, place="left", steps=1)


def test_every_universal_attack_returns_a_perturbation(vit, images, labels):
    for name in UNIVERSAL:
        assert isinstance(craft(name, PixelModel(*vit), images, labels, steps=1), UniversalPerturbation)
