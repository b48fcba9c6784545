"""Measures models, clean and attacked."""

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from types import MappingProxyType

import torch
from accelerate import PartialState
from datasets import Dataset

from genaf_hf.attacks import Attack, UniversalPerturbation
from genaf_hf.attacks.inputs import callers_modes_left, checked_setting
from genaf_hf.data import stratified_rows
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import Answers, feature_bank
from genaf_hf.evaluation.attacker import Attacker
from genaf_hf.evaluation.batch_size import BatchSize
from genaf_hf.evaluation.given_attacks import GivenAttack, threats_from
from genaf_hf.evaluation.measurement import CLEAN, PUBLIC_ENCODER, Check, Measurement, WorstCase, checked_eps
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.evaluation.self_checks import (
    ball_check,
    beside_undefended,
    better_than_noise,
    beyond_noise,
    collapse_checks,
    effect_check,
    no_weaker_than_twin,
)
from genaf_hf.evaluation.subject import Subject
from genaf_hf.evaluation.threats import ImageThreat, Threat, at_hand, in_turn, swept, threats_of, told_apart
from genaf_hf.models.identity import digest, tensors
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.models.weights import parameter_count
from genaf_hf.runs.journal import Journal
from genaf_hf.runs.progress import progress
from genaf_hf.values.provenance import model_source

PACKAGES = ("genaf_hf", "torch", "transformers", "datasets", "accelerate")
CHECKED_IMAGES = 64
SWEPT_IMAGES = 256


def evaluate_robustness(
    models: Mapping[str, PixelModel],
    dataset: Dataset,
    attacks: Mapping[str, GivenAttack],
    *,
    sweep: Sequence[Mapping[str, GivenAttack]] = (),
    bank: Dataset | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    dataset_info: Mapping | None = None,
    journal: Journal | None = None,
) -> RobustnessReport:
    """Clean accuracy of each model, what each attack does to its answers, and whether that can be trusted.

    Works under `accelerate launch`: each process takes its share of the images, the counts are those of one process.

    Args:
        models: by the names that the report will use. All take the same images.
        dataset: yields `pixel_values` and `labels`, as `with_pixel_values` makes it.
        attacks: by name, each a `UniversalPerturbation` crafted on the public encoder; or a mapping of one for each
            model by its name, crafted on that model itself; or a per-image attack with its settings, as
            `ATTACKS[name].configure()` or `functools.partial(function, **settings)` make it, called as
            `attack(model, images, labels, seeds=...)`, or without labels where the attack is registered not to need
            them. `autoattack` is given the images that per-image attacks before it, in its norm and of no larger eps,
            leave right, as it gives its own attacks what is left, and of these at most `max_images`.
        sweep: the same attacks at other eps, measured on a stratified part of the images.
        bank: labelled images, as `dataset`, for the nearest-neighbor accuracy of the features.
        batch_size: images at a time, default 64 on a CPU and 512 elsewhere; fewer where these do not fit into memory,
            and four times as many under attacks that ask for answers alone.
        seed: image i of the dataset starts from seed + i.
        dataset_info: name, split and revision, for the report.
        journal: remembers what was measured, so that a killed evaluation goes on where it was.

    Returns:
        The report, the same on every process.

    Raises:
        UserError: when there is no image, or an attack does not fit the images, or does not say what it is; when a
            model's answer to a clean image is not finite.
    """
    check_models(models)
    threats, *weaker = (threats_from(each, models) for each in (attacks, *sweep))
    return evaluate_threats(
        models,
        dataset,
        threats,
        sweep=weaker,
        bank=bank,
        batch_size=batch_size,
        seed=seed,
        dataset_info=dataset_info,
        journal=journal,
    )


def try_out(attacks: Mapping[str, Attack], attacker: Attacker, model: PixelModel) -> None:
    """Tries attacks before any long work, and last, as it takes the longest, crafts what the public encoder is for.

    Raises:
        UserError: for a setting that one refuses.
    """
    for attack in attacks.values():
        attacker.check(attack)
    for threat in sorted(threats_of(attacks), key=lambda each: each.knowledge == PUBLIC_ENCODER):
        threat.try_out(attacker, model)


def craft_and_evaluate(
    models: Mapping[str, PixelModel],
    dataset: Dataset,
    attacks: Mapping[str, Attack],
    attacker: Attacker,
    *,
    ready: Mapping[str, UniversalPerturbation] = MappingProxyType({}),
    factors: Sequence[float] = (),
    **settings,
) -> tuple[RobustnessReport, list[Threat]]:
    """Attacks models by attacks with their settings: crafts what is universal, and evaluates all.

    Args:
        models: by the names that the report will use.
        dataset: as for `evaluate_robustness`.
        attacks: by the names that the report will use.
        attacker: who crafts.
        ready: perturbations that need no crafting, by name.
        factors: on the eps, for the sweep.
        settings: of `evaluate_threats`.

    Returns:
        The report, and the threats as they were crafted.

    Raises:
        UserError: for a setting that an attack refuses, and as `evaluate_threats`.
    """
    rounds = [threats_of(each) for each in (attacks, *(swept(attacks, factor) for factor in factors))]
    given = at_hand(ready, models)
    told_apart([*given, *rounds[0]])
    with progress(range(sum(map(len, rounds))), "Crafting perturbations") as bar:

        def crafted(threat: Threat) -> Threat:
            found = threat.crafted(attacker, models)
            bar.update()
            return found

        threats, *weaker = ([crafted(each) for each in part] for part in rounds)
    threats = [*given, *threats]
    return evaluate_threats(models, dataset, threats, sweep=weaker, **settings), threats


@callers_modes_left()
def evaluate_threats(
    models: Mapping[str, PixelModel],
    dataset: Dataset,
    threats: Sequence[Threat],
    *,
    sweep: Sequence[Sequence[Threat]] = (),
    bank: Dataset | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    seed: int = 0,
    dataset_info: Mapping | None = None,
    journal: Journal | None = None,
) -> RobustnessReport:
    """What `evaluate_robustness` does, of threats that were crafted.

    Args:
        threats: against each model.
        sweep: the same at other eps.
        workers: processes that read images while others are attacked, on each process.
        models, dataset, bank, batch_size, seed, dataset_info, journal: as for `evaluate_robustness`.

    Raises:
        UserError: as `evaluate_robustness`.
    """
    batch_size, seed = checked_setting("batch_size", batch_size, int | None), checked_setting("seed", seed, int)
    check_dataset(dataset, batch_size)
    parts: list[Findings] = []
    for name, model in models.items():
        fits = BatchSize(batch_size, model.device)
        subject = Subject(
            name,
            model,
            dataset,
            neighbors=None if bank is None else fits.fitting(partial(feature_bank, model, bank, workers=workers)),
            batch_size=fits,
            workers=workers,
            seed=seed,
            journal=journal or Journal(),
            identity=identity(model, seed, dataset, bank),
        )
        parts.append(evaluate_model(subject, threats, sweep))
    measurements = [each for part in parts for each in part.measurements]
    largest = max(Counter(parts[0].answers[CLEAN].labels).values())
    return RobustnessReport(
        dataset={**(dataset_info or {}), "count": len(dataset), "largest_class": largest},
        models={name: describe(model) for name, model in models.items()},
        measurements=measurements,
        checks=[*(each for part in parts for each in part.checks), *beside_undefended(measurements)],
        sweep=[each for part in parts for each in part.sweep],
        worst_cases=[each for part in parts for each in part.worst_cases],
        seed=seed,
        environment=environment(),
        answers={name: part.answers for name, part in zip(models, parts, strict=True)},
    )


def check_models(models: Mapping) -> None:
    """Refuses what cannot be evaluated; the `UserError` says what is expected."""
    by_name = isinstance(models, Mapping) and models
    if not by_name or not all(hasattr(each, "to_images") for each in models.values()):
        raise UserError('models are no PixelModels by name, expected e.g. {"mine": PixelModel(model, processor)}.')
    (first, one), *others = models.items()
    for name, other in others:
        same = torch.equal(one.mean.cpu(), other.mean.cpu()) and torch.equal(one.std.cpu(), other.std.cpu())
        if not same or one.image_size != other.image_size:
            raise UserError(
                f'"{first}" and "{name}" take images of other sizes, or normalize them otherwise, so that one dataset '
                "is not for both: evaluate each by itself, on images by its own processor."
            )


def check_dataset(dataset: Dataset, batch_size: int | None) -> None:
    """Refuses images that cannot be evaluated on; the `UserError` says what was found and what is expected."""
    if batch_size is not None and batch_size < 1:
        raise UserError(f"batch_size is {batch_size}, expected at least 1.")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise UserError(f"The dataset is a {type(dataset).__name__}, expected one with a length and rows by number.")
    if len(dataset) == 0:
        raise UserError("The dataset to evaluate on is empty.")
    first = dataset[0]
    if not isinstance(first, Mapping) or not hasattr(first.get("pixel_values"), "shape") or "labels" not in first:
        found = f"has {', '.join(map(str, first))}" if isinstance(first, Mapping) else f"is a {type(first).__name__}"
        raise UserError(
            f"A row of the dataset {found}, expected pixel_values, a tensor, and labels, as with_pixel_values gives."
        )


def identity(model: PixelModel, seed: int, *datasets: Dataset | None) -> str:
    """SHA-256 of what answers depend on beside the attack: the weights, the seed, and of the images some."""
    known: list[int | str] = [seed]
    found = {f"model.{name}": tensor for name, tensor in tensors(model).items()}
    for number, dataset in enumerate(each for each in datasets if each is not None):
        for row in (0, len(dataset) // 2, len(dataset) - 1):
            found[f"{number}.{row}"] = torch.as_tensor(dataset[row]["pixel_values"])
            known += [len(dataset), str(dataset[row]["labels"])]
    return digest(known, found)


@dataclass(frozen=True)
class Findings:
    """What was found of one model, as in `RobustnessReport`; answers by attack, clean first."""

    measurements: list[Measurement]
    checks: list[Check]
    sweep: list[Measurement]
    worst_cases: list[WorstCase]
    answers: dict[str, Answers]


def evaluate_model(subject: Subject, threats: Sequence[Threat], sweep: Sequence[Sequence[Threat]]) -> Findings:
    """Asks one model under every threat.

    Raises:
        UserError: when a clean answer is not finite.
    """
    name, clean = subject.name, subject.clean()
    rows = stratified_rows(clean.labels, SWEPT_IMAGES, seed=0).tolist()
    measurements, checks = [measure(name, clean, clean)], collapse_checks(name, clean.labels, clean.predictions)
    swept, found = [], {CLEAN: clean}
    noise: dict = {}
    for threat in in_turn(threats):
        label, known = threat.name, threat.settings(name)
        if isinstance(threat, ImageThreat) and threat.on_standing:
            attacked, counts = subject.under_after(threat, found)
        else:
            attacked, counts = subject.under(threat, label), {}
        found[label] = attacked
        noisy = subject.under_noise(threat, noise)
        measured = measure(name, clean, attacked, threat, noisy, subject.under_shuffled(threat))
        measurements.append(replace(measured, settings={**measured.settings, **counts}))
        checks.append(ball_check(name, label, known, attacked))
        checks.append(effect_check(name, label, known, clean, attacked, on_standing=threat.on_standing))
        if not threat.universal:
            checks.append(better_than_noise(name, label, clean, attacked, noisy))
        if (twin := found.get(label.removesuffix(ADAPTIVE))) is not attacked and twin is not None:
            checks.append(no_weaker_than_twin(name, label, attacked, twin))
        if any(label == other.name for others in sweep for other in others):
            swept.append(measure(name, clean.of(rows), attacked.of(rows), threat))
    checked, eps = rows[:CHECKED_IMAGES], checked_eps(measurements)
    claimed = {each.name: found[each.name].of(checked).right for each in threats if each.iterates_in(eps)}
    checks += subject.checks(checked, eps, claimed)
    for number, others in enumerate(sweep):
        for threat in others:
            attacked = subject.under(threat, f"{threat.name}.sweep-{number}", rows)
            swept.append(measure(name, clean.of(rows), attacked, threat))
    return Findings(measurements, checks, swept, worst_cases(name, threats, found), found)


def worst_cases(model: str, threats: Sequence[Threat], answers: Mapping[str, Answers]) -> list[WorstCase]:
    """What all threats of attackers of each knowledge leave a model, and all threats.

    Args:
        model: its name in the report.
        threats: that it was attacked by.
        answers: by threat, and without one.
    """
    kinds = [*dict.fromkeys(each.knowledge for each in threats), *[None] * bool(threats)]
    found = []
    for kind in kinds:
        names = [CLEAN, *(each.name for each in threats if kind in (None, each.knowledge))]
        right = [all(image) for image in zip(*(answers[name].right for name in names), strict=True)]
        found.append(WorstCase(model, kind, sum(right), len(right)))
    return found


def measure(
    model: str,
    clean: Answers,
    attacked: Answers,
    threat: Threat | None = None,
    noisy: Answers | None = None,
    shuffled: Answers | None = None,
) -> Measurement:
    """Counts what a threat did to a model's answers.

    Args:
        model: its name in the report.
        clean: its answers without an attack.
        attacked: those under the threat.
        threat: None for clean images.
        noisy: its answers under noise of the threat's size.
        shuffled: those under the threat with its pixels shuffled.
    """
    controls = [each for each in (noisy, shuffled) if each is not None]
    rows = list(zip(clean.right, attacked.right, strict=True))
    votes = attacked.neighbors
    return Measurement(
        model=model,
        attack=CLEAN if threat is None else threat.name,
        knowledge="nothing" if threat is None else threat.knowledge,
        settings={} if threat is None else threat.settings(model),
        correct=sum(attacked.right),
        count=len(rows),
        clean_correct=sum(clean.right),
        fooled=sum(before and not after for before, after in rows),
        changed=sum(map(int.__ne__, clean.predictions, attacked.predictions)),
        neighbors_correct=None if votes is None else sum(map(int.__eq__, votes, attacked.labels)),
        noise_correct=None if noisy is None else sum(noisy.right),
        beyond_noise=all(beyond_noise(attacked, each) for each in controls) if controls else None,
        shuffled_correct=None if shuffled is None else sum(shuffled.right),
    )


def describe(model: PixelModel) -> dict:
    """Where a model came from and what it is."""
    source, revision = model_source(model.model.config)
    return {
        "class": type(model.model).__name__,
        "source": source,
        "revision": revision,
        "parameters": parameter_count(model.model),
        "classes": model.model.config.num_labels,
    }


def environment() -> dict:
    """Versions and hardware of this run."""
    hardware = PartialState().device.type.upper()
    if hardware == "CUDA":
        hardware = torch.cuda.get_device_name()
    elif hardware == "CPU":
        hardware = f"CPU, {os.cpu_count()} cores"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "hardware": hardware,
        "processes": PartialState().num_processes,
    }
