"""Measures models, clean and attacked."""

import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from importlib.metadata import version
from itertools import chain

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.utils.data import Dataset, Subset

from genaf_hf.attacks import UniversalPatch, UniversalPerturbation
from genaf_hf.attacks.inputs import callers_modes_left, checked_setting
from genaf_hf.attacks.pgd import check_attack_settings
from genaf_hf.attacks.registry import ConfiguredAttack, configured
from genaf_hf.data import stratified_rows
from genaf_hf.errors import UserError
from genaf_hf.evaluation.answers import NOT_FINITE, Answers, answer, feature_bank
from genaf_hf.evaluation.metrics import load_metric
from genaf_hf.evaluation.perturbation_cache import digest, tensors
from genaf_hf.evaluation.report import ADAPTIVE, CLEAN, Check, Measurement, RobustnessReport
from genaf_hf.evaluation.self_checks import (
    ball_check,
    beside_undefended,
    better_than_noise,
    collapse_checks,
    effect_check,
    no_weaker_than_twin,
    noise,
    self_checks,
)
from genaf_hf.models.loading import parameter_count
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.runs.journal import Journal
from genaf_hf.values.numbers import class_ids
from genaf_hf.values.provenance import model_source

PACKAGES = ("genaf_hf", "torch", "transformers", "datasets", "accelerate")
CHECKED_IMAGES = 64
SWEPT_IMAGES = 256
DEFAULT_EPS = 8 / 255

Attack = UniversalPerturbation | Callable | Mapping[str, UniversalPerturbation]


@callers_modes_left()
def evaluate_robustness(
    models: Mapping[str, PixelModel],
    dataset: Dataset,
    attacks: Mapping[str, Attack],
    *,
    sweep: Sequence[Mapping[str, Attack]] = (),
    bank: Dataset | None = None,
    batch_size: int = 64,
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
            model by its name, crafted on that model itself; or `functools.partial` of a per-image attack with its
            settings, as `ATTACKS[name].configure()` makes it, called as `attack(model, images, labels, seeds=...)`,
            or without labels where the attack is registered not to need them.
        sweep: the same attacks at other eps, measured on a stratified part of the images.
        bank: labelled images, as `dataset`, for the nearest-neighbor accuracy of the features.
        batch_size: images at a time.
        seed: image i of the dataset starts from seed + i.
        dataset_info: name, split and revision, for the report.
        journal: remembers what was measured, so that a killed evaluation goes on where it was.

    Returns:
        The report, the same on every process.

    Raises:
        UserError: when there is no image, or an attack does not fit the images, or does not say what it is; when a
            model's answer to a clean image is not finite.
    """
    batch_size, seed = checked_setting("batch_size", batch_size, int), checked_setting("seed", seed, int)
    check_question(models, dataset, (attacks, *sweep), batch_size)
    for round_of_attacks in (attacks, *sweep):
        for label, attack in round_of_attacks.items():
            for name in models:
                settings(label, attack, name)
    journal = journal or Journal()
    parts, largest = [], 0
    for name, model in models.items():
        neighbors = None if bank is None else feature_bank(model, bank, batch_size=batch_size)
        ask = partial(answer, model, neighbors=neighbors, batch_size=batch_size, seed=seed)
        run_checks = partial(check, name, model, dataset, eps=checked_eps(attacks, name), batch_size=batch_size)
        of = identity(model, seed, dataset, bank)
        *part, clean = evaluate_model(name, ask, run_checks, dataset, attacks, sweep, journal, of)
        parts.append(part)
        largest = max(Counter(clean.labels).values())
    measurements, checks, swept = (list(chain.from_iterable(part)) for part in zip(*parts, strict=True))
    checks += beside_undefended(measurements)
    return RobustnessReport(
        dataset={**(dataset_info or {}), "count": len(dataset), "largest_class": largest},
        models={name: describe(model) for name, model in models.items()},
        measurements=measurements,
        checks=checks,
        sweep=swept,
        seed=seed,
        environment=environment(),
    )


def check_question(models: Mapping, dataset: Dataset, rounds: Sequence[Mapping], batch_size: int) -> None:
    """Refuses what cannot be evaluated.

    Raises:
        UserError: says what was found and what is expected.
    """
    by_name = isinstance(models, Mapping) and models
    if not by_name or not all(hasattr(each, "to_images") for each in models.values()):
        raise UserError('models are no PixelModels by name, expected e.g. {"mine": PixelModel(model, processor)}.')
    for attacks in rounds:
        if not isinstance(attacks, Mapping):
            raise UserError('attacks are not by name, expected for example {"pgd": ATTACKS["pgd"].configure()}.')
        if CLEAN in attacks:
            raise UserError(f'An attack is called "{CLEAN}", which means no attack: give it another name.')
    if batch_size < 1:
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
    known, found = [seed], {f"model.{name}": tensor for name, tensor in tensors(model).items()}
    for number, dataset in enumerate(each for each in datasets if each is not None):
        for row in (0, len(dataset) // 2, len(dataset) - 1):
            found[f"{number}.{row}"] = torch.as_tensor(dataset[row]["pixel_values"])
            known += [len(dataset), str(dataset[row]["labels"])]
    return digest(known, found)


def evaluate_model(
    name: str,
    ask: Callable,
    run_checks: Callable,
    dataset: Dataset,
    attacks: Mapping[str, Attack],
    sweep: Sequence[Mapping[str, Attack]],
    journal: Journal,
    of: str,
) -> tuple[list[Measurement], list[Check], list[Measurement], Answers]:
    """Measurements, checks, sweep and clean answers of one model; `ask` is `answer`, `run_checks` is `check`, with it.

    `of` is its `identity`.

    Raises:
        UserError: when a clean answer is not finite.
    """

    def ask_once(step: str, images: Dataset, attack=None, known: Mapping = {"norm": "linf"}) -> Answers:
        crafted = {"delta": attack.delta} if isinstance(attack, UniversalPerturbation) else {}
        found = journal.once(
            f"answers.{name}.{step}",
            lambda: asdict(ask(images, attack, norm=known["norm"] if known else "linf", title=f"{name}: {step}")),
            of=digest((of, len(images), known), crafted),
        )
        return Answers(**found)

    @cache
    def under_noise(eps: float, norm: str) -> Answers:
        return ask_once(f"noise.{norm}.{eps}", dataset, partial(noise, eps=eps, norm=norm), {"eps": eps, "norm": norm})

    clean = ask_once(CLEAN, dataset)
    if broken := clean.predictions.count(NOT_FINITE):
        raise UserError(
            f'"{name}" gives logits that are not finite for {broken} of {len(dataset)} clean images: check its weights '
            "for NaN, no accuracy of it can be told."
        )
    measurements = [measure(name, CLEAN, "nothing", {}, clean, clean)]
    checks, swept, found = collapse_checks(name, clean.labels, clean.predictions), [], {}
    rows = stratified_rows(clean.labels, SWEPT_IMAGES, seed=0).tolist()
    for label, attack in attacks.items():
        known = settings(label, attack, name)
        found[label] = attacked = ask_once(label, dataset, for_model(attack, name), known)
        measurements.append(measure(name, label, knowledge(attack), known, clean, attacked))
        checks += [ball_check(name, label, known, attacked), effect_check(name, label, known, clean, attacked)]
        if not isinstance(for_model(attack, name), UniversalPerturbation):
            checks.append(better_than_noise(name, label, clean, attacked, under_noise(known["eps"], known["norm"])))
        if (twin := found.get(label.removesuffix(ADAPTIVE))) is not attacked and twin is not None:
            checks.append(no_weaker_than_twin(name, label, attacked, twin))
        if any(label in others for others in sweep):
            swept.append(measure(name, label, knowledge(attack), known, clean.of(rows), attacked.of(rows)))
    radius = run_checks.keywords["eps"]
    general = journal.once(f"checks.{name}", lambda: run_checks(rows[:CHECKED_IMAGES]), of=digest((of, radius), {}))
    checks += [Check(**each) for each in general]
    for number, others in enumerate(sweep):
        for label, attack in others.items():
            known = settings(label, attack, name)
            step = f"{label}.sweep-{number}"
            attacked = ask_once(step, Subset(dataset, rows), for_model(attack, name), known)
            swept.append(measure(name, label, knowledge(attack), known, clean.of(rows), attacked))
    return measurements, checks, swept, clean


def measure(model: str, attack: str, knowledge: str, settings: dict, clean: Answers, attacked: Answers) -> Measurement:
    """Counts what an attack did to a model's answers, by the metrics that are shared on the Hub."""
    of_labels = {"references": clean.labels}
    accuracy = load_metric("robust_accuracy").compute(predictions=attacked.predictions, **of_labels)
    success = load_metric("attack_success_rate").compute(
        predictions=attacked.predictions, clean_predictions=clean.predictions, **of_labels
    )
    fooling = load_metric("fooling_rate").compute(predictions=attacked.predictions, references=clean.predictions)
    neighbors = None
    if attacked.neighbors is not None:
        neighbors = load_metric("robust_accuracy").compute(predictions=attacked.neighbors, **of_labels)["correct"]
    return Measurement(
        model=model,
        attack=attack,
        knowledge=knowledge,
        settings=settings,
        correct=accuracy["correct"],
        count=accuracy["count"],
        clean_correct=success["count"],
        fooled=success["fooled"],
        changed=fooling["changed"],
        neighbors_correct=neighbors,
    )


def check(
    name: str, model: PixelModel, dataset: Dataset, rows: list[int], *, eps: float, batch_size: int
) -> list[dict]:
    """The self-checks of a model on some of the images, as JSON holds them; every process gets the main one's."""
    examples = [dataset[row] for row in rows]
    pixel_values = torch.stack([torch.as_tensor(each["pixel_values"]) for each in examples])
    images = model.to_images(pixel_values.to(model.mean.device))
    labels = class_ids([each["labels"] for each in examples], len(images)).to(images.device)
    [found] = broadcast_object_list([self_checks(model, images, labels, eps=eps, name=name, batch_size=batch_size)])
    return [asdict(each) for each in found]


def checked_eps(attacks: Mapping[str, Attack], model: str) -> float:
    """Radius of the L-inf ball for the self-checks: that of a per-image attack, else of a perturbation."""
    found = [(for_model(attack, model), settings(label, attack, model)) for label, attack in attacks.items()]
    linf = [pair for pair in found if pair[1]["norm"] == "linf" and not isinstance(pair[0], UniversalPatch)]
    first = sorted(linf, key=lambda pair: isinstance(pair[0], UniversalPerturbation))[:1]
    return first[0][1]["eps"] if first else DEFAULT_EPS


def for_model(attack: Attack, model: str) -> UniversalPerturbation | Callable:
    """An attack, or the one that was crafted on this model.

    Raises:
        UserError: when none was.
    """
    if not isinstance(attack, Mapping):
        return attack
    if model not in attack:
        raise UserError(f'No attack was crafted on "{model}", only on {", ".join(attack) or "nothing"}.')
    return attack[model]


def knowledge(attack: Attack) -> str:
    """What the attacker knew."""
    return "public encoder" if isinstance(attack, UniversalPerturbation) else "model"


def settings(name: str, attack: Attack, model: str) -> dict:
    """What an attack on a model is run with, for the report.

    Raises:
        UserError: when the attack does not tell, or not in plain values, or was not crafted on the model.
    """
    crafted_on_model = {"encoder": model} if isinstance(attack, Mapping) else {}
    attack = for_model(attack, model)
    if isinstance(attack, UniversalPerturbation):
        check_attack_settings(eps=attack.eps, steps=1, step_size=1)
        return {"norm": "linf", **attack.provenance, **crafted_on_model}
    attack = configured(attack) if isinstance(attack, ConfiguredAttack | partial) else None
    if attack is None or "eps" not in attack.settings:
        raise UserError(
            f'The attack "{name}" is {attack!r}, expected a UniversalPerturbation or functools.partial(attack, '
            "eps=..., steps=...), so that the report can say what it was run with."
        )
    given = attack.settings
    if odd := [key for key, value in given.items() if not isinstance(value, str | int | float | None)]:
        raise UserError(f'The setting {odd[0]} of the attack "{name}" is no plain value that a report can hold.')
    check_attack_settings(eps=given["eps"], steps=given.get("steps") or 1, step_size=1, norm=attack.norm)
    return {"attack": attack.attack.name, "norm": attack.norm, **given}


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
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "hardware": hardware,
        "processes": PartialState().num_processes,
    }
