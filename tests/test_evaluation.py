import json
from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import Subset
from traces import leave_gradients_and_modes, trace

from genaf_hf import PixelModel, UniversalPerturbation, pgd
from genaf_hf.evaluation import evaluate_robustness
from genaf_hf.report import RobustnessReport

PGD = {"eps": 0.1, "steps": 3, "step_size": 0.05}


@pytest.fixture
def model(vit, pixels):
    """A classifier that is right about most images, and wrong about some."""
    model, batch = PixelModel(*vit), pixels["train"][:]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(2):
        F.cross_entropy(model.model(pixel_values=batch["pixel_values"]).logits, batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def attacks():
    delta = torch.empty(3, 8, 8).uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(0))
    perturbation = UniversalPerturbation(delta=delta, attack="l4a", eps=0.2, steps=7, step_size=0.1, seed=0)
    return {"universal": perturbation, "pgd": partial(pgd, **PGD)}


def by_hand(model, dataset, attacks, seed) -> dict[str, int]:
    """One image at a time."""
    counts = dict.fromkeys(("clean", *attacks), 0)
    for index in range(len(dataset)):
        image, label = (
            model.to_images(dataset[index]["pixel_values"][None]),
            torch.as_tensor([dataset[index]["labels"]]),
        )
        attacked = {
            "clean": image,
            "universal": (image + attacks["universal"].delta).clamp(0, 1),
            "pgd": pgd(model, image, label, **PGD, seeds=[seed + index]),
        }
        for name, each in attacked.items():
            counts[name] += int(model(each).argmax() == label)
    return counts


def counts(report: RobustnessReport, model: str = "model") -> dict[str, int]:
    return {each.attack: each.correct for each in report.measurements if each.model == model}


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("seed", [0, 100])
def test_counts_are_those_by_hand_at_any_batch_size(model, pixels, attacks, batch_size, seed):
    report = evaluate_robustness({"model": model}, pixels["test"], attacks, batch_size=batch_size, seed=seed)
    expected = by_hand(model, pixels["test"], attacks, seed)
    assert counts(report) == expected
    assert {each.count for each in report.measurements} == {18}
    assert report.seed == seed
    # Worth counting: not all, and fewer under attack.
    assert expected["pgd"] < expected["clean"]
    assert 0 < expected["clean"] < 18


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_each_image_starts_from_its_own_seed(model, pixels, batch_size):
    used = []

    def remember(model, images, labels, *, seeds, eps, steps):
        used.extend(zip(seeds, labels.tolist(), strict=True))
        return images

    attacks = {"none": partial(remember, eps=0.1, steps=1)}
    report = evaluate_robustness({"model": model}, pixels["test"], attacks, batch_size=batch_size, seed=40)
    assert used == [(40 + index, label) for index, label in enumerate(pixels["test"][:]["labels"].tolist())]
    assert counts(report)["none"] == counts(report)["clean"]
    assert report.measurement("model", "none").settings == {
        "attack": "remember",
        "norm": "linf",
        "eps": 0.1,
        "steps": 1,
    }


@pytest.mark.parametrize(
    ("attack", "sentence"),
    [
        (pgd, "expected a UniversalPerturbation or functools.partial"),
        (partial(pgd, eps=0.1), "expected a UniversalPerturbation or functools.partial"),
        (partial(pgd, eps=0.1, steps=1, loss=torch.nn.functional.cross_entropy), "The setting loss of the attack"),
    ],
)
def test_an_attack_that_a_report_cannot_describe_is_refused_before_any_work(model, pixels, attack, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate_robustness({"model": model}, pixels["test"], {"odd": attack})


def test_every_model_is_measured_under_every_attack_in_order(model, resnet, pixels, attacks):
    other = PixelModel(*resnet)
    report = evaluate_robustness({"first": model, "second": other}, pixels["test"], attacks)
    assert [(each.model, each.attack) for each in report.measurements] == [
        (name, attack) for name in ("first", "second") for attack in ("clean", "universal", "pgd")
    ]
    assert counts(report, "first") == by_hand(model, pixels["test"], attacks, 0)
    assert counts(report, "second") == by_hand(other.eval(), pixels["test"], attacks, 0)


def test_without_attacks_clean_accuracy_is_measured(model, pixels):
    report = evaluate_robustness({"model": model}, pixels["test"], {})
    assert report.attacks == ["clean"]


def test_the_report_says_what_was_measured_with_what(model, pixels, attacks, encoders):
    info = {"name": "colours", "split": "test", "revision": None}
    report = evaluate_robustness({"model": model}, pixels["test"], attacks, dataset_info=info)
    clean, universal, per_image = report.measurements
    assert (clean.knowledge, universal.knowledge, per_image.knowledge) == ("nothing", "public encoder", "model")
    assert clean.settings == {}
    assert universal.settings == {"norm": "linf", **attacks["universal"].provenance}
    assert per_image.settings == {"attack": "pgd", "norm": "linf", **PGD}
    assert report.dataset == {**info, "count": 18}
    assert report.models == {
        "model": {
            "class": "ViTForImageClassification",
            "source": "dino",
            "revision": None,
            "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        }
    }
    assert {"python", "genaf_hf", "torch", "transformers", "datasets", "accelerate", "hardware", "processes"} == set(
        report.environment
    )
    assert RobustnessReport.from_json(report.to_json()) == report
    json.loads(report.to_json())


def test_the_norm_of_the_attack_is_reported(model, pixels):
    attack = partial(pgd, eps=0.5, steps=1, step_size=0.5, norm="l2")
    report = evaluate_robustness({"model": model}, pixels["test"], {"pgd": attack})
    assert report.measurement("model", "pgd").settings["norm"] == "l2"


def test_the_model_is_left_as_it_was(resnet, pixels, attacks):
    model = PixelModel(*resnet)
    leave_gradients_and_modes(model)
    before = trace(model)
    evaluate_robustness({"model": model}, pixels["test"], attacks)
    after = trace(model)
    for name, value in before.items():
        if "random state" not in name:
            assert torch.equal(value, after[name]) if isinstance(value, torch.Tensor) else value == after[name], name


def test_an_empty_dataset_is_refused(model, pixels, attacks):
    with pytest.raises(ValueError, match="empty"):
        evaluate_robustness({"model": model}, Subset(pixels["test"], []), attacks)


def test_a_perturbation_of_another_size_is_refused_and_the_mode_comes_back(model, pixels):
    larger = UniversalPerturbation(torch.zeros(3, 16, 16), attack="l4a", eps=0.1, steps=1, step_size=0.1, seed=0)
    model.train()
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), the perturbation \(3, 16, 16\)"):
        evaluate_robustness({"model": model}, pixels["test"], {"l4a": larger})
    assert all(module.training for module in model.modules())
