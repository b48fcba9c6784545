import pytest
import torch
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel, l4a

EPS = 0.1


@pytest.fixture
def images():
    return torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def activation(encoder, images, delta, layer) -> float:
    with torch.no_grad():
        return encoder.eval().hidden_states((images + delta).clamp(0, 1))[layer].square().mean().item()


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_it_raises_activations_above_its_start_and_above_noise_of_the_same_size(family, layer, images, request):
    encoder = PixelModel(*request.getfixturevalue(family))
    crafted = l4a(encoder, images, eps=EPS, steps=40, layer=layer, seed=3)
    generator = torch.Generator().manual_seed(3)
    start = torch.empty(3, 8, 8).uniform_(-EPS, EPS, generator=generator)
    noises = [EPS * torch.randn(3, 8, 8, generator=generator).sign() for _ in range(10)]
    raised = activation(encoder, images, crafted.delta, layer)
    assert raised > activation(encoder, images, start, layer)
    assert raised > max(activation(encoder, images, noise, layer) for noise in noises)


@pytest.mark.parametrize("step_size", [None, 0.5])
def test_the_perturbation_stays_inside_eps(vit, images, step_size):
    delta = l4a(PixelModel(*vit), images, eps=EPS, steps=5, step_size=step_size).delta
    assert delta.shape == (3, 8, 8)
    assert delta.abs().max() <= torch.tensor(EPS)
    assert not delta.requires_grad


def test_the_same_seed_gives_the_same_perturbation_another_another(vit, images):
    encoder = PixelModel(*vit)
    first, again, other = (l4a(encoder, images, eps=EPS, steps=3, seed=seed).delta for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_it_leaves_no_trace(family, images, request):
    encoder = PixelModel(*request.getfixturevalue(family))
    contents = images.clone()
    leave_gradients_and_modes(encoder)
    with leaves_no_trace(encoder):
        l4a(encoder, images, eps=EPS, steps=3, layer=1)
    assert torch.equal(images, contents)
    assert not images.requires_grad


def test_it_needs_no_head(vit, images):
    model, processor = vit
    with_head = l4a(PixelModel(model, processor), images, eps=EPS, steps=3, layer=1).delta
    with torch.no_grad():
        model.classifier.weight.fill_(torch.nan)
    assert torch.equal(l4a(PixelModel(model, processor), images, eps=EPS, steps=3, layer=1).delta, with_head)


def test_fewer_images_than_a_batch_are_enough(vit, images):
    assert l4a(PixelModel(*vit), images[:2], eps=EPS, steps=2, batch_size=16).delta.isfinite().all()


def test_the_provenance_says_how_it_was_crafted(vit, encoders, images):
    crafted = l4a(PixelModel(*vit), images, eps=EPS, steps=2, layer=1, seed=7, data="12 random images")
    assert crafted.provenance == {
        "attack": "l4a",
        "eps": EPS,
        "norm": "linf",
        "steps": 2,
        "step_size": EPS / 50,
        "seed": 7,
        "encoder": "dino",
        "encoder_revision": None,
        "data": "12 random images",
        "objective": "mean squared activation of hidden state 1",
        "resized_from": None,
    }


@pytest.mark.parametrize("layer", [-1, 3])
def test_an_unknown_layer_is_refused(vit, images, layer):
    encoder = PixelModel(*vit).train()
    with leaves_no_trace(encoder), pytest.raises(ValueError, match=f"layer is {layer}, expected 0 to 2"):
        l4a(encoder, images, eps=EPS, steps=1, layer=layer)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"eps": 0}, "eps is 0,"),
        ({"eps": 12}, "eps is 12,"),
        ({"steps": 0}, "steps is 0,"),
        ({"step_size": -0.1}, "step_size is -0.1,"),
    ],
)
def test_settings_outside_their_range_are_refused(vit, images, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        l4a(PixelModel(*vit), images, **{"eps": EPS, "steps": 1, **change})


def test_images_that_are_normalised_already_are_refused(vit, images):
    with pytest.raises(ValueError, match=r"images span \[-"):
        l4a(PixelModel(*vit), images - 0.5, eps=EPS, steps=1)
