"""Measures models, clean and attacked."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from inspect import signature

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from datasets import Dataset
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from genaf_hf.attacks import ATTACKS, UniversalPerturbation
from genaf_hf.attacks.registry import attack_name
from genaf_hf.encoders import parameter_count
from genaf_hf.pixel_model import PixelModel, evaluating
from genaf_hf.provenance import model_source
from genaf_hf.report import CLEAN, Measurement, RobustnessReport

PACKAGES = ("genaf_hf", "torch", "transformers", "datasets", "accelerate")


def evaluate_robustness(
    models: Mapping[str, PixelModel],
    dataset: Dataset,
    attacks: Mapping[str, UniversalPerturbation | Callable],
    *,
    batch_size: int = 64,
    seed: int = 0,
    dataset_info: Mapping | None = None,
) -> RobustnessReport:
    """Clean accuracy of each model, and its accuracy under each attack.

    Works under `accelerate launch`: each process takes its share of the images, the counts are those of one process.

    Args:
        models: by the names that the report will use. All take the same images.
        dataset: yields `pixel_values` and `labels`, as `with_pixel_values` makes it.
        attacks: by name, either a `UniversalPerturbation` or `functools.partial` of a per-image attack with its
            settings, as `ATTACKS[name].configure()` makes it, called as `attack(model, images, labels, seeds=...)`,
            or without labels where the attack is registered not to need them.
        batch_size: images at a time.
        seed: image i of the dataset starts from seed + i.
        dataset_info: name, split and revision, for the report.

    Returns:
        The report, the same on every process.

    Raises:
        ValueError: when there is no image, or an attack does not fit the images.
    """
    if len(dataset) == 0:
        raise ValueError("The dataset to evaluate on is empty.")
    attack_settings = {name: settings(name, attack) for name, attack in attacks.items()}
    state = PartialState()
    mine = range(state.process_index, len(dataset), state.num_processes)
    correct = {}
    for name, model in models.items():
        counts = count_correct(model, Subset(dataset, mine), attacks, batch_size, [seed + i for i in mine], name)
        totals = torch.tensor([counts[attack] for attack in (CLEAN, *attacks)], device=state.device)
        correct[name] = reduce(totals, "sum").tolist()
    measurements = [
        Measurement(
            model=name,
            attack=attack,
            knowledge="nothing" if attack == CLEAN else knowledge(attacks[attack]),
            settings=attack_settings.get(attack, {}),
            correct=correct[name][column],
            count=len(dataset),
        )
        for name in models
        for column, attack in enumerate((CLEAN, *attacks))
    ]
    return RobustnessReport(
        dataset={**(dataset_info or {}), "count": len(dataset)},
        models={name: describe(model) for name, model in models.items()},
        measurements=measurements,
        seed=seed,
        environment=environment(),
    )


def count_correct(
    model: PixelModel, dataset, attacks: Mapping[str, Callable], batch_size: int, seeds: list[int], name: str
) -> Counter:
    """Correctly classified images, clean and under each attack."""
    counts: Counter = Counter()
    device = model.mean.device
    loader = DataLoader(dataset, batch_size=batch_size)
    progress = tqdm(loader, desc=f"Attacking the {name} model", disable=not PartialState().is_local_main_process)
    with evaluating(model):
        for start, batch in enumerate(progress):
            images, labels = model.to_images(batch["pixel_values"].to(device)), batch["labels"].to(device)
            batch_seeds = seeds[start * batch_size :][: len(labels)]
            for attack_name, attack in {CLEAN: None, **attacks}.items():
                if attack is None:
                    attacked = images
                elif isinstance(attack, UniversalPerturbation):
                    attacked = attack(images, seeds=batch_seeds)
                else:
                    given = {"model": model, "images": images, "labels": labels}
                    attacked = attack(*(given[name] for name in needs(attack)), seeds=batch_seeds)
                with torch.no_grad():
                    counts[attack_name] += (model(attacked).argmax(1) == labels).sum().item()
    return counts


def knowledge(attack: UniversalPerturbation | Callable) -> str:
    """What the attacker knew."""
    return "public encoder" if isinstance(attack, UniversalPerturbation) else "model"


def needs(attack: partial) -> tuple[str, ...]:
    """What a per-image attack is called with."""
    registered = ATTACKS.get(attack_name(attack.func))
    return registered.needs if registered else ("model", "images", "labels")


def settings(name: str, attack: UniversalPerturbation | partial) -> dict:
    """What an attack is run with, for the report.

    Raises:
        ValueError: when the attack does not tell, or not in plain values.
    """
    if isinstance(attack, UniversalPerturbation):
        return {"norm": "linf", **attack.provenance}
    parameters = signature(getattr(attack, "func", attack)).parameters
    wanted = {"eps", "steps"} & parameters.keys()
    if not isinstance(attack, partial) or not wanted <= attack.keywords.keys():
        raise ValueError(
            f'The attack "{name}" is {attack!r}, expected a UniversalPerturbation or functools.partial(attack, '
            "eps=..., steps=...), so that the report can say what it was run with."
        )
    if odd := [key for key, value in attack.keywords.items() if not isinstance(value, str | int | float | None)]:
        raise ValueError(f'The setting {odd[0]} of the attack "{name}" is no plain value that a report can hold.')
    norm = parameters["norm"].default if "norm" in parameters else "linf"
    return {"attack": attack_name(attack.func), "norm": norm, **attack.keywords}


def describe(model: PixelModel) -> dict:
    """Where a model came from and what it is."""
    source, revision = model_source(model.model.config)
    return {
        "class": type(model.model).__name__,
        "source": source,
        "revision": revision,
        "parameters": parameter_count(model.model),
    }


def environment() -> dict:
    """Versions and hardware of this run."""
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "hardware": hardware,
        "processes": PartialState().num_processes,
    }
