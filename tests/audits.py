"""A small audit with every kind of attack: fixtures that a file of tests imports by name."""

from pathlib import Path

import pytest
import torch
from conftest import CLASSES
from datasets import Dataset
from torch.nn import functional as F

from genaf_hf import load_encoder, with_pixel_values
from genaf_hf.audit import audit
from genaf_hf.evaluation.report import RobustnessReport
from genaf_hf.pipelines.audit_arguments import AuditArguments

RECIPE = Path(__file__).parents[1] / "recipes" / "audit.py"
PATCH = {"steps": 1, "width": 8, "batch_size": 4, "area": 0.1}
QUICK = {"l4a": {"steps": 2}, "advencoder-pat": PATCH, "pgd": {"steps": 2}, "square": {"steps": 5}}
ALL = "l4a,advencoder-pat,pgd,square"
STRONG = {"dae_eps": 0.3, "eps": 0.15, "sweep": [0.5, 2.0]}


def save_trained(folder: Path, encoder: str, classes: list[str], images: Dataset, steps: int) -> None:
    """Fine-tunes an encoder by so many steps on all images, and saves the classifier with its processor."""
    torch.manual_seed(0)
    classifier, processor = load_encoder(encoder, classes)
    batch = with_pixel_values(images, processor)[:]
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for _ in range(steps):
        F.cross_entropy(classifier(pixel_values=batch["pixel_values"]).logits, batch["labels"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    for part in (classifier, processor):
        part.save_pretrained(folder)


@pytest.fixture(scope="module")
def images(place, dataset) -> str:
    dataset.save_to_disk(place / "colours")
    return str(place / "colours")


@pytest.fixture(scope="module")
def model(place, dataset, encoders) -> str:
    """The folder of a classifier that is right about most images, with a card that names its encoder."""
    save_trained(place / "model", encoders["dino"], CLASSES, dataset["train"], steps=2)
    (place / "model/README.md").write_text(f"---\nbase_model: {encoders['dino']}\n---\n# A model\n")
    return str(place / "model")


@pytest.fixture(scope="module")
def arguments(model, images):
    """A function that makes arguments of a quick audit, changed by keyword."""

    def make(output_dir, attacks=ALL, **changes) -> AuditArguments:
        settings = {"attack_settings": {name: QUICK[name] for name in QUICK if name in attacks}, **STRONG}
        given = {"model_name_or_path": model, "dataset_name": images, **settings, **changes}
        return AuditArguments(output_dir=str(output_dir), attacks=attacks, **given)

    return make


@pytest.fixture(scope="module")
def whole(arguments, place) -> Path:
    """The folder of an audit with every kind of attack."""
    audit(arguments(place / "whole", answers=True))
    return place / "whole"


@pytest.fixture(scope="module")
def report(whole) -> RobustnessReport:
    return RobustnessReport.load(whole / "report.json")


def counts(report: RobustnessReport) -> list[tuple]:
    names = ("attack", "count", "correct", "clean_correct", "fooled", "changed", "neighbors_correct")
    return [
        (each.settings.get("eps"), *(getattr(each, name) for name in names))
        for each in (*report.measurements, *report.sweep)
    ]


def flags(arguments: AuditArguments) -> list[str]:
    """For the recipe."""
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    lists = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    return [word for name, values in lists.items() for word in (f"--{name}", *map(str, values))]
