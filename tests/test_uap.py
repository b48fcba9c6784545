"""Universal perturbations by a classifier, or towards an image: UAP, UAPGD, universal PGD, activation attack."""

import math

import pytest
import torch
from small_attacks import EPS, Linear, craft, images, labels
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel
from genaf_hf.attacks import ATTACKS, uap, uapgd, upgd
from genaf_hf.attacks.linear_probe import LinearProbe
from genaf_hf.attacks.uap import deepfool
from genaf_hf.errors import UserError

__all__ = ["images", "labels"]  # fixtures


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
    ("name", "settings", "sentence"),
    [
        ("uapgd", {"target": 5}, "target is 5, expected a class of the attacker's images: 0, 1, 2"),
        ("uap", {"target": 5}, "target is 5, expected a class of the attacker's images: 0, 1, 2"),
        ("upgd", {"target": 5}, "target is 5, expected one of the model's 3 classes from 0 on"),
        ("fff", {"image": 0}, 'fff has no setting "image"; it has .*restarts'),
        ("uapgd", {"target": "cat"}, 'target is "cat", expected a whole number or None'),
        ("activation-attack", {"image": 12}, "image is 12, expected one of the attacker's 12 images, counted from 0"),
        ("activation-attack", {"image": -1}, "image is -1, expected one of the attacker's 12 images"),
        ("ssp", {"image": 12}, "image is 12, expected one of the attacker's 12 images"),
        ("advencoder-pat", {"image": 12}, "image is 12, expected one of the attacker's 12 images"),
        ("l4a", {"image": "cat"}, 'image is "cat", expected a whole number or None'),
        ("l4a-fuse", {"image": 0, "layers": [1]}, r"layers is \[1\], expected two hidden states"),
        ("uapgd", {"momentum": -1.0}, "momentum is -1.0, expected 0 or more, for example 0.9"),
        ("advencoder-per", {"width": 0}, "width is 0, expected at least 1 channel"),
        ("l4a-fuse", {"image": 0, "weight": -1.0}, "weight is -1.0, expected at least 0 where images are led"),
    ],
)
def test_a_target_that_is_not_there_and_what_cannot_be_is_refused(name, settings, sentence, vit, images, labels):
    with pytest.raises(UserError, match=sentence):
        craft(name, PixelModel(*vit), images, labels, **settings)


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

    # The first step is beyond the boundary of the one image that it is made of, by the authors' overshoot.
    first = uap(encoder, images, labels, eps=0.3, steps=1, target=3).delta
    others = images[probe.classes[probe(images).argmax(1)] == 7]
    shifts = [deepfool(probe, image[None], torch.tensor([1]), 10, probe.column(3)) for image in others]
    assert first.any()
    assert min((first - 1.02 * shift).abs().max() for shift in shifts) < 1e-6
