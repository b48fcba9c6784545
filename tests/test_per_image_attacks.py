"""What holds for every attack on single images, and what is particular to each."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from traces import leave_gradients_and_modes, leaves_no_trace

from genaf_hf import PixelModel, load_encoder, pgd
from genaf_hf.attacks import ATTACKS, autoattack, feature_pgd, fgsm, mi_fgsm, n_fgsm
from genaf_hf.attacks.norms import random_in_ball
from genaf_hf.errors import UserError
from genaf_hf.evaluation.evaluate import evaluate_robustness

EPS = 0.1
FEW = {"square": {"steps": 20}}  # of 500 queries
PER_IMAGE = [name for name, attack in ATTACKS.items() if not attack.universal and name != "autoattack"]


@pytest.fixture
def images():
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    images[0], images[1] = 0.0, 1.0
    return images


@pytest.fixture
def labels():
    return torch.arange(6) % 3


def attack(name, model, images, labels, seeds=None, **settings):
    given = {"model": model, "images": images, "labels": labels}
    configured = ATTACKS[name].configure(**{"eps": EPS, **FEW.get(name, {}), **settings})
    return configured(*(given[each] for each in ATTACKS[name].needs), seeds=seeds)


@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("name", PER_IMAGE)
def test_it_stays_in_its_set_and_leaves_no_trace(name, family, images, labels, request):
    model = PixelModel(*request.getfixturevalue(family))
    contents = images.clone()
    leave_gradients_and_modes(model)
    with leaves_no_trace(model):
        adversarial = attack(name, model, images, labels)
    assert torch.equal(images, contents)
    assert not adversarial.requires_grad
    assert 0 <= adversarial.amin() <= adversarial.amax() <= 1
    assert 0 < (adversarial - images).abs().amax() <= EPS + 1e-6


@pytest.mark.parametrize("name", PER_IMAGE)
def test_an_image_depends_on_its_own_seed_only(name, vit, images, labels):
    model = PixelModel(*vit).double()
    images, seeds = images.double(), [7, 3, 10**12, 4, 5, 6]
    together = attack(name, model, images, labels, seeds=seeds)
    alone = [attack(name, model, images[[i]], labels[[i]], seeds=[seeds[i]]) for i in range(len(images))]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in PER_IMAGE if name not in ("feature-pgd", "square")])
def test_it_raises_the_loss_above_noise_of_the_same_size(name, vit, images, labels):
    model = PixelModel(*vit).eval()
    adversarial = attack(name, model, images, labels)
    generator = torch.Generator().manual_seed(0)
    noisy = (images + EPS * torch.randn(images.shape, generator=generator).sign()).clamp(0, 1)
    with torch.no_grad():
        reached, clean, by_noise = (F.cross_entropy(model(each), labels) for each in (adversarial, images, noisy))
    assert reached > clean
    assert reached > by_noise


@pytest.mark.parametrize("name", PER_IMAGE)
def test_types_and_memory_of_what_it_is_given_change_nothing(name, vit, images, labels):
    model, expected = PixelModel(*vit), attack(name, PixelModel(*vit), images, labels)
    for others, ids in (
        (images.contiguous(memory_format=torch.channels_last), labels.to(torch.uint8)),
        (images.double().requires_grad_(), labels.int()),
        (images.repeat_interleave(2, dim=0)[::2], labels.tolist()),
    ):
        assert torch.equal(attack(name, model, others, ids), expected)
    seeds, eps = np.arange(len(images)), torch.tensor(EPS, dtype=torch.float64)
    assert torch.equal(attack(name, model, images, labels, seeds=seeds, eps=eps), expected)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_rounding_outside_the_unit_interval_is_taken(name, vit, images, labels):
    rounded = torch.where(images == 1, 1 + 1.2e-7, torch.where(images == 0, -3e-8, images))
    assert rounded.max() > 1
    assert rounded.min() < 0
    model = PixelModel(*vit)
    assert torch.equal(attack(name, model, rounded, labels), attack(name, model, images, labels))


def test_a_message_shows_what_is_outside(vit, images, labels):
    with pytest.raises(UserError, match=r"images span \[0, 1.00109994\]"):
        attack("pgd", PixelModel(*vit), images.where(images < 1, 1.0011), labels)


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (torch.zeros(6), r"labels are torch.float32 of shape \(6,\), expected whole numbers"),
        (torch.zeros(6, dtype=torch.bool), "labels are torch.bool"),
        (torch.zeros(6, 1, dtype=torch.long), r"of shape \(6, 1\)"),
        ([0, 1], r"of shape \(2,\)"),
        ([0, 1, 2, 0, 1, -100], "labels reach down to -100"),
    ],
)
def test_labels_that_are_no_class_ids_are_refused(labels, sentence, vit, images):
    with pytest.raises(UserError, match=sentence):
        attack("pgd", PixelModel(*vit), images, labels)


def test_a_model_that_was_made_in_inference_mode_is_refused(encoders, images, labels):
    with torch.inference_mode():
        model = PixelModel(*load_encoder(encoders["dino"], ["a", "b", "c"]))
    with pytest.raises(UserError, match=r"made inside torch\.inference_mode"):
        attack("pgd", model, images, labels)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"eps": True}, "eps is True, expected a number"),
        ({"eps": "8/255"}, 'eps is "8/255", expected a number'),
        ({"steps": 2.0}, "steps is 2.0, expected a whole number"),
        ({"restarts": True}, "restarts is True, expected a whole number"),
        ({"random_start": "False"}, 'random_start is "False", expected True or False'),
        ({"seeds": [0, 1, 2, 3, 4, 0.5]}, "seeds hold 0.5, expected whole numbers"),
    ],
)
def test_settings_of_another_kind_are_refused(setting, sentence, vit, images, labels):
    with pytest.raises(UserError, match=sentence):
        attack("pgd", PixelModel(*vit), images, labels, **setting)


@pytest.mark.parametrize("name", PER_IMAGE)
@pytest.mark.parametrize(("value", "sentence"), [(0, "eps is 0,"), (8, "eps is 8,")])
def test_eps_outside_its_range_is_refused(name, value, sentence, vit, images, labels):
    with pytest.raises(ValueError, match=sentence):
        attack(name, PixelModel(*vit), images, labels, eps=value)


@pytest.mark.parametrize("name", PER_IMAGE)
def test_images_that_are_normalised_already_are_refused(name, vit, images, labels):
    with pytest.raises(ValueError, match=r"images span \[-"):
        attack(name, PixelModel(*vit), images - 0.5, labels)


@pytest.mark.parametrize("name", ["pgd", "mi-fgsm", "feature-pgd", "square"])
def test_no_steps_are_refused(name, vit, images, labels):
    with pytest.raises(ValueError, match="steps is 0,"):
        attack(name, PixelModel(*vit), images, labels, steps=0)


def test_fgsm_is_one_step_of_pgd_from_the_images(vit, images, labels):
    model = PixelModel(*vit)
    one_step = pgd(model, images, labels, eps=EPS, steps=1, step_size=EPS, random_start=False)
    assert torch.equal(fgsm(model, images, labels, eps=EPS), one_step)


def test_fgsm_by_hand(vit, images, labels):
    model = PixelModel(*vit).eval()
    inputs = images.clone().requires_grad_()
    F.cross_entropy(model(inputs), labels).backward()
    expected = (images + EPS * inputs.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(fgsm(model, images, labels, eps=EPS), expected, rtol=0, atol=1e-7)


def test_mi_fgsm_without_decay_is_pgd_from_the_images(vit, images, labels):
    model, settings = PixelModel(*vit), {"eps": EPS, "steps": 5, "step_size": 0.03}
    without = mi_fgsm(model, images, labels, **settings, decay=0)
    torch.testing.assert_close(without, pgd(model, images, labels, **settings, random_start=False), rtol=0, atol=1e-7)
    assert not torch.equal(without, mi_fgsm(model, images, labels, **settings, decay=1))


def test_mi_fgsm_adds_up_gradients_of_one_length(vit, images, labels):
    model, eps, size = PixelModel(*vit).double().eval(), 0.1, 0.04
    images = expected = images.double()
    momentum = 0
    for _ in range(4):
        moved = expected.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(moved), labels), moved)
        momentum = 0.5 * momentum + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        expected = (expected + size * momentum.sign()).clamp(images - eps, images + eps).clamp(0, 1)
    found = mi_fgsm(model, images, labels, eps=eps, steps=4, step_size=size, decay=0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_n_fgsm_by_hand(vit, images, labels):
    model, images = PixelModel(*vit).double().eval(), images.double()
    adversarial = n_fgsm(model, images, labels, eps=0.01)
    noisy = (images + random_in_ball(images, 0.02, "linf", range(6))).clamp(0, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(noisy), labels), noisy)
    expected = (noisy.detach() + 0.01 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(adversarial, expected, rtol=0, atol=1e-9)
    clipped = n_fgsm(model, images, labels, eps=0.01, within_eps=True)
    torch.testing.assert_close(clipped, adversarial.clamp(images - 0.01, images + 0.01))


def test_of_all_restarts_the_first_that_is_misclassified_is_kept(vit, images, labels):
    model, settings = PixelModel(*vit).eval(), {"eps": EPS, "steps": 2, "step_size": 0.02}
    best = pgd(model, images, labels, **settings, restarts=3)
    single = [pgd(model, images, labels, **settings, seeds=[i + r * 2**24 for i in range(6)]) for r in range(3)]
    with torch.no_grad():
        wrong = torch.stack([model(each).argmax(1) != labels for each in single])
    for i in range(6):
        chosen = next((r for r in range(3) if wrong[r, i]), 2)
        torch.testing.assert_close(best[i], single[chosen][i], rtol=0, atol=1e-6)
    assert torch.equal(pgd(model, images, labels, **settings), single[0])
    assert not torch.equal(single[0], best)


@pytest.mark.parametrize(
    "change", [{"restarts": 0}, {"restarts": 101}, {"restarts": 1.5}, {"restarts": 2, "random_start": False}]
)
def test_restarts_that_make_no_sense_are_refused(vit, images, labels, change):
    with pytest.raises(ValueError, match=f"restarts is {change['restarts']}, expected"):
        pgd(PixelModel(*vit), images, labels, eps=EPS, steps=1, **change)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_feature_pgd_goes_further_than_noise_and_needs_no_head(norm, vit, images):
    model = PixelModel(*vit).eval()
    adversarial = feature_pgd(model, images, eps=EPS, steps=10, norm=norm)
    shift = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()
    noise = EPS * (shift if norm == "linf" else shift / shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    with torch.no_grad():
        clean, far, near = (model.features(each) for each in (images, adversarial, (images + noise).clamp(0, 1)))
        model.model.classifier.weight.fill_(torch.nan)
    assert ((far - clean).norm(dim=1) > (near - clean).norm(dim=1)).all()
    assert torch.equal(feature_pgd(model, images, eps=EPS, steps=10, norm=norm), adversarial)


# ---- AutoAttack ----

NO_AUTOATTACK = "pyautoattack is not installed: pip install -c constraints.txt '.[autoattack]'"


def four_classes(vit):
    """A classifier of four classes, whose fourth logit is the mean of the others."""
    model = PixelModel(*vit).eval()
    head = model.model.classifier
    wide = torch.nn.Linear(head.in_features, 4)
    with torch.no_grad():
        wide.weight.copy_(torch.cat([head.weight, head.weight.mean(0, keepdim=True)]) * 30)
        wide.bias.copy_(torch.cat([head.bias, head.bias.mean(0, keepdim=True)]))
    model.model.classifier = wide
    return model


@pytest.mark.slow(reason="an image that withstands it is asked 5,000 times")
@pytest.mark.parametrize(("classes", "eps"), [(3, 1.0), (4, EPS)])
def test_autoattack_stays_in_its_set_and_leaves_no_trace(vit, classes, eps, images, caplog):
    pytest.importorskip("pyautoattack", reason=NO_AUTOATTACK)
    model = PixelModel(*vit).eval() if classes == 3 else four_classes(vit)
    images = images[2:4]
    with torch.no_grad():
        labels = model(images).argmax(1)
    leave_gradients_and_modes(model)
    with leaves_no_trace(model):
        adversarial = autoattack(model, images, labels, eps=eps, seeds=[3, 4])
    assert (adversarial - images).abs().max() <= eps + 1e-6
    with torch.no_grad():
        robust = (model.eval()(adversarial).argmax(1) == labels).sum()
        by_pgd = (model(pgd(model, images, labels, eps=eps, steps=20)).argmax(1) == labels).sum()
    assert robust <= by_pgd
    assert ("needs at least 4 classes, this model has 3" in caplog.text) == (classes == 3)


def test_autoattack_is_reproducible(vit, images):
    pytest.importorskip("pyautoattack", reason=NO_AUTOATTACK)
    model = four_classes(vit)
    labels = model(images).argmax(1)
    first, again = (autoattack(model, images, labels, eps=0.5, seeds=range(6)) for _ in range(2))
    assert torch.equal(first, again)
    assert (model(first).argmax(1) != labels).all()


def test_autoattack_takes_images_in_any_memory_format(vit, images):
    pytest.importorskip("pyautoattack", reason=NO_AUTOATTACK)
    model = four_classes(vit)
    labels = model(images).argmax(1)
    channels_last = images.to(memory_format=torch.channels_last)
    first, again = (autoattack(model, each, labels, eps=8, norm="l2") for each in (images, channels_last))
    assert torch.equal(first, again)
    assert (model(first).argmax(1) != labels).all()


def test_autoattack_attacks_in_batches_of_at_least_one(vit, images, labels):
    for size in (0, -1):
        with pytest.raises(UserError, match=f"batch_size is {size}, expected at least 1"):
            autoattack(PixelModel(*vit), images, labels, eps=EPS, batch_size=size)


def test_without_the_package_autoattack_says_how_to_get_it(vit, images, labels, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    with pytest.raises(UserError, match="genaf_hf\\[autoattack\\]"):
        autoattack(PixelModel(*vit), images, labels, eps=EPS)


@pytest.mark.usefixtures("quick_checks")
def test_a_partial_of_a_registered_attack_is_called_with_what_it_needs(vit, pixels):
    attack = partial(feature_pgd, eps=EPS, steps=1)
    report = evaluate_robustness({"model": PixelModel(*vit)}, pixels["test"], {"features": attack})
    assert report.measurement("model", "features").settings["attack"] == "feature-pgd"
