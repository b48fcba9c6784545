"""Our attacks against those of other libraries and of AutoAttack's authors; each library is optional."""

import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import benchmark_module
from torch import nn

from genaf_hf.attacks import autoattack
from genaf_hf.attacks.norms import into_ball
from genaf_hf.attacks.uap import OVERSHOOT, deepfool

pytestmark = pytest.mark.slow(reason="trains a classifier, and other libraries take their time")

INSTALL = {
    "foolbox": "pip install -c constraints.txt '.[peers]'",
    "art": "pip install -c constraints.txt '.[peers]'",
    "torchattacks": "pip install -c constraints.txt --no-deps torchattacks",
    "pyautoattack": "pip install -c constraints.txt '.[autoattack]'",
}
PAIRS = [(library, attack) for library in ("foolbox", "torchattacks", "art")
         for attack in ("fgsm", "pgd", "pgd-l2", "mi-fgsm")]  # fmt: skip
PAIRS.remove(("foolbox", "mi-fgsm"))  # accumulates the gradients' signs; in the paper, gradients over their L1 norms


@pytest.fixture(scope="module")
def library(request):
    """The name of an installed module."""
    pytest.importorskip(request.param, reason=f"{request.param} is not installed: {INSTALL[request.param]}")
    return request.param


@pytest.fixture(scope="module")
def peers():
    """The benchmark, which prepares each library's attacks by the same names and settings."""
    return benchmark_module("peers")


@pytest.fixture(scope="module")
def classifier(peers):
    """A small ViT trained on the digits, the 500 test images and their labels."""
    return peers.digits_classifier()


def both(peers, library, attack, model, images, labels):
    """Adversarial images of ours and of theirs."""
    prepare = peers.PEERS["adversarial-robustness-toolbox" if library == "art" else library]
    eps = peers.EPS[attack]
    return [side(attack, model, eps=eps, steps=peers.STEPS, step_size=eps / 4)(images, labels)
            for side in (peers.ours, prepare)]  # fmt: skip


# In float32, rounding may turn the sign of a gradient that is almost zero. ART computes in nothing wider.
@pytest.mark.parametrize(("library", "attack"), [pair for pair in PAIRS if pair[0] != "art"], indirect=["library"])
def test_the_images_are_the_same_in_float64(library, attack, peers, classifier):
    model, images, labels = classifier
    model, images, labels = deepcopy(model).double(), images[:100].double(), labels[:100]
    ours, theirs = both(peers, library, attack, model, images, labels)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=peers.SAME)
    assert (ours - images).abs().amax() > 0.05


@pytest.mark.parametrize(("library", "attack"), PAIRS, indirect=["library"])
def test_robust_accuracy_is_the_same_within_one_image_of_500(library, attack, peers, classifier):
    model, images, labels = classifier
    ours, theirs = (
        peers.correct(model, adversarial, labels).sum().item()
        for adversarial in both(peers, library, attack, model, images, labels)
    )
    assert len(images) == 500
    assert 50 < ours < 350
    assert abs(ours - theirs) <= 1


@pytest.mark.parametrize("library", ["art"], indirect=True)
def test_steps_of_a_universal_perturbation_are_those_of_art(library, classifier):
    """One pass over images in ART's order, of which each adds what DeepFool finds to the perturbation."""
    from art.attacks.evasion import UniversalPerturbation
    from art.estimators.classification import PyTorchClassifier

    model, images, _ = classifier
    images, eps, steps = images[:24], 0.2, 10
    estimator = PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=images.shape[1:], nb_classes=10, device_type="cpu"
    )
    of_deepfool = {"epsilon": OVERSHOOT, "nb_grads": 10, "max_iter": steps, "verbose": False}
    theirs = UniversalPerturbation(
        estimator, "deepfool", of_deepfool, delta=0.0, max_iter=1, eps=eps, norm=np.inf, verbose=False
    )
    random.seed(0)
    theirs.generate(images.numpy())
    random.seed(0)
    clean, delta = model(images).argmax(1), torch.zeros(images.shape[1:])
    for row in random.sample(range(len(images)), len(images)):
        shift = deepfool(model, (images[row] + delta)[None], clean[row], steps)
        delta = into_ball((delta + (1 + OVERSHOOT) * shift)[None], eps, "linf")[0]
    torch.testing.assert_close(delta, torch.from_numpy(theirs.noise[0]), rtol=0, atol=5e-3)  # rounding, over 24 steps
    assert delta.abs().amax() > 0.19


@pytest.mark.parametrize("library", ["pyautoattack"], indirect=True)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.04), ("l2", 0.4)])
def test_autoattack_finds_the_images_of_its_authors(library, norm, eps):
    from pyautoattack import AutoAttack

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 64), nn.Tanh(), nn.Linear(64, 10)).requires_grad_(False)
    for parameter in model.parameters():
        parameter *= 3
    images = torch.rand(64, 3, 8, 8)
    labels = model(images).argmax(1)
    asked = []
    model.register_forward_hook(lambda module, inputs, logits: asked.append(len(logits)))
    authors = AutoAttack(model, norm={"linf": "Linf", "l2": "L2"}[norm], eps=eps, version="standard", seed=0)
    theirs, _ = authors.run_standard_evaluation(images, labels)
    they_asked = asked.copy()
    asked.clear()
    assert torch.equal(autoattack(model, images, labels, eps=eps, norm=norm), theirs)
    # As many restarts, targets and steps, after a look at the gradients and at how many classes there are.
    assert asked == [1, 1, *they_asked]
    # Images were left for each of the four attacks, and after the last.
    assert 0 < (model(theirs).argmax(1) == labels).sum() < 32
    few = autoattack(model, images, labels, eps=eps, norm=norm, max_images=40)
    assert torch.equal(few[40:], images[40:])
    assert not torch.equal(few[:40], images[:40])
