"""What holds for every attack by one perturbation for all images."""

import math
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from small_attacks import BOUNDED, EPS, ON_ENCODER, UNIVERSAL, craft, images, labels
from torch.nn import functional as F
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel, UniversalPerturbation
from genaf_hf.attacks import l4a, l4a_fuse, l4a_ugs, ssp, std
from genaf_hf.attacks.advencoder import info_nce
from genaf_hf.attacks.fff import log_energy
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.errors import UserError

__all__ = ["images", "labels"]  # fixtures


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


def test_every_universal_attack_returns_a_perturbation(vit, images, labels):
    for name in UNIVERSAL:
        assert isinstance(craft(name, PixelModel(*vit), images, labels, steps=1), UniversalPerturbation)
