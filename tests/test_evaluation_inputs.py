"""What an evaluation is given: taken for what it is, or refused in one sentence before any work."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from evaluated import attacks, model, perturbation
from torch.utils.data import Subset

from genaf_hf import PixelModel, UniversalPerturbation, pgd
from genaf_hf.errors import UserError
from genaf_hf.evaluation.evaluate import evaluate_robustness

pytestmark = pytest.mark.usefixtures("quick_checks")

__all__ = ["attacks", "model"]  # fixtures


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (pgd, "expected a UniversalPerturbation or functools.partial"),
        (partial(pgd, eps=0.1), "pgd has no default for steps: give it a value"),
        (partial(pgd, eps=0.1, steps=1, loss=torch.nn.functional.cross_entropy), "The setting loss of the attack"),
        (partial(lambda model, images, labels, *, seeds: images), "expected a UniversalPerturbation or functools"),
        ({"other": perturbation(0)}, 'No attack was crafted on "model", only on other.'),
        ({}, 'No attack was crafted on "model", only on nothing.'),
    ],
)
def test_an_attack_that_a_report_cannot_describe_is_refused_before_any_work(model, pixels, attack, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate_robustness({"model": model}, pixels["test"], {"odd": attack})
    with pytest.raises(ValueError, match=sentence):
        evaluate_robustness({"model": model}, pixels["test"], {}, sweep=[{"odd": attack}])


def test_models_that_one_dataset_is_not_for_are_refused(model, pixels, attacks):
    processor = copy.deepcopy(model.processor)
    processor.image_mean = [each / 2 for each in processor.image_mean]
    other = PixelModel(model.model, processor)
    with pytest.raises(ValueError, match='"model" and "other" take images of other sizes, or normalize'):
        evaluate_robustness({"model": model, "other": other}, pixels["test"], attacks)


def test_an_empty_dataset_is_refused(model, pixels, attacks):
    with pytest.raises(ValueError, match="empty"):
        evaluate_robustness({"model": model}, Subset(pixels["test"], []), attacks)


def test_a_perturbation_of_another_size_is_refused_and_the_mode_comes_back(model, pixels):
    larger = UniversalPerturbation(torch.zeros(3, 16, 16), attack="l4a", eps=0.1, steps=1, step_size=0.1, seed=0)
    model.train()
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), the perturbation \(3, 16, 16\)"):
        evaluate_robustness({"model": model}, pixels["test"], {"l4a": larger})
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("layer", ["classifier", "vit.layers.0.mlp.fc1"])
def test_a_model_with_nan_in_it_is_refused(model, pixels, attacks, layer):
    with torch.no_grad():
        model.model.get_submodule(layer).weight[0] = torch.nan
    with pytest.raises(UserError, match='"mine" gives logits that are not finite for 18 of 18 clean images'):
        evaluate_robustness({"mine": model}, pixels["test"], attacks)


def test_numbers_of_numpy_are_taken_for_what_they_are(model, pixels):
    ours, numpys = (
        evaluate_robustness({"tiny": model}, pixels["test"], {"pgd": partial(pgd, eps=eps, steps=steps)})
        for eps, steps in ((0.1, 2), (np.linspace(0, 0.1, 3)[2], np.int64(2)))
    )
    assert numpys.to_json() == ours.to_json()


def test_an_attack_of_a_user_that_draws_nothing_does_without_seeds(vit, pixels):
    def brighter(model, images, labels, *, eps):
        return (images + eps / 2).clamp(0, 1)

    report = evaluate_robustness({"m": PixelModel(*vit)}, pixels["test"], {"own": partial(brighter, eps=0.1)})
    assert report.measurement("m", "own").settings == {"attack": "brighter", "norm": "linf", "eps": 0.1}


def gives(found):
    def own(model, images, labels, *, eps, seeds):
        return found(images)

    return {"own": partial(own, eps=0.1)}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attacks": {"pgd": "pgd"}}, "The attack \"pgd\" is 'pgd', expected a UniversalPerturbation or functools"),
        ({"attacks": ["pgd"]}, "attacks are not by name"),
        ({"attacks": {"clean": partial(pgd, eps=0.1, steps=1)}}, 'An attack is called "clean", which means no attack'),
        (
            {"attacks": gives(lambda images: (images, True))},
            'The attack "own" gives tuple, expected',
        ),
        ({"attacks": gives(lambda images: images[:1])}, r'The attack "own" gives \(1, 3, 8, 8\), expected'),
        ({"models": {}}, "models are no PixelModels by name"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"seed": None}, "seed is None, expected a whole number"),
        ({"dataset": [(torch.zeros(3, 8, 8), 0)]}, "A row of the dataset is a tuple, expected pixel_values"),
        ({"dataset": [{"pixel_values": torch.zeros(3, 8, 8), "label": 0}]}, "A row of the dataset has pixel_values, l"),
        (
            {"dataset": [{"pixel_values": torch.zeros(3, 8, 8), "labels": 3}]},
            "labels reach up to 3, but the model has 3",
        ),
        ({"dataset": [{"pixel_values": torch.zeros(3, 8, 8), "labels": "red"}]}, "labels are list, expected the class"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_sentence(vit, pixels, change, sentence):
    given = {"models": {"m": PixelModel(*vit)}, "dataset": pixels["test"], "attacks": {}, **change}
    with pytest.raises(UserError, match=sentence):
        evaluate_robustness(**given)


def test_numbers_and_images_of_numpy_are_taken(vit, pixels):
    rows = [{**pixels["test"][row], "labels": np.int64(row % 3)} for row in range(6)]
    arrays = [{**row, "pixel_values": row["pixel_values"].numpy()} for row in rows]
    attacks = {"pgd": partial(pgd, eps=np.float32(0.1), steps=np.int64(2))}
    found = [
        evaluate_robustness({"m": PixelModel(*vit)}, dataset, attacks, batch_size=np.int64(4), seed=np.int64(1))
        for dataset in (rows, arrays)
    ]
    assert found[0].to_json() == found[1].to_json()
