"""Audits any image classifier: attacks on the public encoder, the same on the model itself, and task-aware ones."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from inspect import formatannotation, signature
from pathlib import Path
from types import UnionType
from typing import Union, get_args, get_origin, get_type_hints

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor

from genaf_hf.answers import attack_images
from genaf_hf.attacks import ATTACKS, UniversalPerturbation
from genaf_hf.attacks.pgd import check_attack_settings
from genaf_hf.data import commit, load_images, stratified_subset, to_pixel_values, with_pixel_values
from genaf_hf.encoders import load_classifier, load_encoder
from genaf_hf.errors import first_line
from genaf_hf.evaluation import evaluate_robustness, for_model
from genaf_hf.figures import SHOWN, draw_gallery, draw_sweep
from genaf_hf.journal import Journal
from genaf_hf.perturbation_cache import crafted_once, digest, encoder_tensors, tensors
from genaf_hf.pixel_model import HEAD, PixelModel
from genaf_hf.provenance import public_name
from genaf_hf.report import ADAPTIVE, RobustnessReport
from genaf_hf.unfinished_run import UNFINISHED_RUN, begin_or_resume, check_unfinished_run, end_run

logger = logging.getLogger(__name__)

ATTACKER_IMAGES = 2048
LARGEST_EPS = {"linf": 1.0, "l2": math.inf}
OURS = ("seeds", "data")  # settings of attacks that the audit gives
UNUSED_LABELS = ("a", "b")  # of the public encoder's head, which no attack reads
UNIONS = (Union, UnionType)
EXAMPLE = '{"l4a": {"layer": 3}}'


@dataclass
class AuditArguments:
    """Which classifier is audited on which images, and what it is attacked with."""

    model_name_or_path: str = field(metadata={"help": "Image classifier: Hub id or local folder."})
    dataset_name: str = field(metadata={"help": "Hub id, local folder (also of images in class folders), or digits."})
    attacks: str = field(
        default="l4a,pgd,square", metadata={"help": f"Names, separated by commas, of: {', '.join(ATTACKS)}."}
    )
    encoder: str | None = field(
        default=None, metadata={"help": "Public encoder, default the base_model of the model's card."}
    )
    output_dir: str = field(default="audit", metadata={"help": "Folder of the report and the pictures."})
    dae_eps: float = field(default=10 / 255, metadata={"help": "Eps of the attacks on the public encoder."})
    eps: float = field(default=8 / 255, metadata={"help": "Eps of the task-aware attacks."})
    attack_settings: dict | str | None = field(
        default=None, metadata={"help": f"Other settings by attack, as JSON: {EXAMPLE}."}
    )
    sweep: list[float] = field(
        default_factory=lambda: [0.25, 0.5, 2.0, 4.0],
        metadata={"help": "Factors on the eps for the picture of accuracy against eps."},
    )
    limit: int | None = field(default=None, metadata={"help": "Audit on a stratified subset of this size."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the model."})
    encoder_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the encoder."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration (subset) of the dataset."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the dataset."})
    image_column: str | None = field(default=None, metadata={"help": "Column of images; found if there is one."})
    label_column: str | None = field(default=None, metadata={"help": "Column of class labels; found if there is one."})
    train_split: str | None = field(default=None, metadata={"help": "Split that the attacker's images are drawn from."})
    test_split: str | None = field(default=None, metadata={"help": "Split to report."})
    batch_size: int = field(default=64, metadata={"help": "Images at a time on each process."})
    seed: int = field(default=0, metadata={"help": "Of the attacks."})


def audit(arguments: AuditArguments) -> RobustnessReport:
    """Attacks a classifier and writes down what was found.

    `arguments.output_dir` then holds `report.json`, `accuracy_by_eps.png`, `gallery.png` and the perturbations. An
    audit that was killed goes on where it was when it is started again with the same settings; perturbations are
    crafted once for the same encoder, settings and images, also by other audits.

    Raises:
        ValueError: for input that cannot be worked with, before anything is measured or written.
        ImportError: when the package of an attack is not installed, likewise.
    """
    # Without an accelerator, processes find each other only when they are told that they are on CPU.
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    rounds = check_arguments(arguments)
    settings = json.loads(json.dumps(asdict(arguments)))
    check_unfinished_run(arguments.output_dir, settings)
    model = load_model(arguments).to(device)
    encoder = load_public_encoder(arguments, model) if any(ATTACKS[name].universal for name in rounds[0]) else None
    class_names = [model.model.config.id2label[i] for i in range(model.model.config.num_labels)]
    data = load_data(arguments, class_names)

    name = public_name(arguments.model_name_or_path)
    surrogate = stratified_subset(data["train"], ATTACKER_IMAGES, seed=0)
    bank, pixels = (with_pixel_values(each, model.processor) for each in (surrogate, data["test"]))
    known = bank[:]
    attacker = {"images": model.to_images(known["pixel_values"].to(device)), "labels": known["labels"].to(device)}
    try_out(rounds[0], model, attacker["images"][:1])
    words = f"{len(surrogate)} images of {public_name(arguments.dataset_name)}, split {surrogate.split or 'train'}"
    attacks, *sweep = (craft(each, model, name, encoder, attacker, words) for each in rounds)
    begin_or_resume(arguments.output_dir, {**settings, **what_was_loaded(model, encoder, data["test"])})
    report = evaluate_robustness(
        {name: model},
        pixels,
        attacks,
        sweep=sweep,
        bank=bank,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        dataset_info={
            "name": public_name(arguments.dataset_name),
            "config": arguments.dataset_config_name,
            "revision": commit(data["test"]) or arguments.dataset_revision,
            "split": str(data["test"].split or "test"),
        },
        journal=Journal(Path(arguments.output_dir) / UNFINISHED_RUN),
    )
    if PartialState().is_main_process:
        shown = stratified_subset(data["test"], SHOWN, seed=0)
        write_results(Path(arguments.output_dir), report, model, name, attacks, shown, class_names)
        end_run(arguments.output_dir)
    PartialState().wait_for_everyone()
    return report


def what_was_loaded(model: PixelModel, encoder: PixelModel | None, test: Dataset) -> dict:
    """What stands behind the names, which may have changed when an audit goes on."""
    return {
        "weights of the model": digest(None, tensors(model))[:16],
        "weights of the encoder": encoder and digest(None, encoder_tensors(encoder))[:16],
        "images": f"{len(test)} of commit {commit(test)}",
    }


def check_arguments(arguments: AuditArguments) -> list[dict[str, partial]]:
    """The attacks at their eps, then at each factor of the sweep.

    Raises:
        ValueError: for an unknown attack or setting, or a setting out of range.
    """
    sweep = arguments.sweep
    if not isinstance(sweep, list) or not all(map(is_factor, sweep)):
        raise ValueError(f"sweep is {sweep}, expected positive numbers other than 1, such as [0.5, 2, 4].")
    for setting in ("limit", "batch_size"):
        if (value := getattr(arguments, setting)) is not None and value < 1:
            raise ValueError(f"{setting} is {value}, expected at least 1 image.")
    return [configure(arguments, factor) for factor in (1, *sweep)]


def is_factor(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf and value != 1


def attack_names(arguments: AuditArguments) -> list[str]:
    """The attacks that were asked for.

    Raises:
        ValueError: when there is none, or one twice.
    """
    given = arguments.attacks if isinstance(arguments.attacks, str) else ""
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        known = ", ".join(ATTACKS)
        raise ValueError(
            f'attacks are "{arguments.attacks}", expected different names, separated by commas, of {known}.'
        )
    return names


def other_settings(arguments: AuditArguments) -> dict[str, dict]:
    """What `attack_settings` says, by attack.

    Raises:
        ValueError: when it is no JSON object of objects, or has settings that are unknown or of another kind.
    """
    given = arguments.attack_settings or {}
    try:
        given = json.loads(given) if isinstance(given, str) else given
    except json.JSONDecodeError as error:
        raise ValueError(f"attack_settings are {given}, expected JSON such as {EXAMPLE}.") from error
    if not isinstance(given, dict) or not all(isinstance(each, dict) for each in given.values()):
        raise ValueError(f"attack_settings are {given}, expected settings by attack, such as {EXAMPLE}.")
    if unknown := [name for name in given if name not in attack_names(arguments)]:
        raise ValueError(f'attack_settings are for "{unknown[0]}", which is not among the attacks {arguments.attacks}.')
    for name, settings in given.items():
        check_kinds(name, settings)
    return given


def check_kinds(attack: str, settings: Mapping) -> None:
    """Refuses settings of an attack that JSON cannot give, or of another kind than the attack takes.

    Raises:
        ValueError: names the setting and the kind.
    """
    ATTACKS[attack].configure(**settings)
    hints = get_type_hints(ATTACKS[attack].function)
    for name, value in settings.items():
        if name in OURS:
            raise ValueError(f"attack_settings give {attack} {name}, which the audit gives itself; leave them out.")
        kind = hints.get(name, object)
        kinds = {get_origin(each) or each for each in (get_args(kind) if get_origin(kind) in UNIONS else (kind,))}
        kinds |= {int} if float in kinds else {list} if tuple in kinds else set()
        if not isinstance(value, tuple(kinds)):
            raise ValueError(
                f"attack_settings give {attack} the {name} {json.dumps(value)}, expected {formatannotation(kind)}."
            )


def load_model(arguments: AuditArguments) -> PixelModel:
    """The classifier that is audited.

    Raises:
        ValueError: when it is none, or does not tell its features.
    """
    classifier, processor = load_classifier(arguments.model_name_or_path, revision=arguments.model_revision)
    if not hasattr(classifier, HEAD):
        raise ValueError(
            f'"{arguments.model_name_or_path}" is a {type(classifier).__name__}, expected one with a head by the name '
            f'"{HEAD}", which tells the features.'
        )
    return PixelModel(classifier, processor)


def load_public_encoder(arguments: AuditArguments, model: PixelModel) -> PixelModel:
    """The encoder that the attacker has.

    Raises:
        ValueError: when neither the flag nor the card names one, or its images have another size than the model's.
    """
    name = arguments.encoder or base_model(arguments.model_name_or_path, arguments.model_revision)
    encoder, processor = load_encoder(name, UNUSED_LABELS, revision=arguments.encoder_revision)
    encoder = PixelModel(encoder, processor).to(model.mean.device).eval()
    if encoder.image_size != model.image_size:
        sizes = [" x ".join(map(str, each.image_size)) for each in (encoder, model)]
        raise ValueError(
            f'The encoder "{name}" takes images of {sizes[0]} pixels, the model "{arguments.model_name_or_path}" of '
            f"{sizes[1]}: a perturbation crafted on the one does not fit the other; name another with --encoder."
        )
    return encoder


def base_model(model_name_or_path: str, revision: str | None = None) -> str:
    """The public encoder that a model's card names.

    Raises:
        ValueError: when it names none, or several.
    """
    path = Path(model_name_or_path, "README.md")
    try:
        if not path.parent.is_dir():
            path = Path(hf_hub_download(model_name_or_path, path.name, revision=revision))
        named = ModelCard(path.read_text(encoding="utf-8-sig"), ignore_metadata_errors=True).data.base_model
    except (EntryNotFoundError, FileNotFoundError):
        named = None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f'The card of "{model_name_or_path}" cannot be read ({first_line(error)}): name the public encoder with '
            "--encoder."
        ) from error
    named = [named] if isinstance(named, str) else [str(each) for each in named or []]
    if len(named) != 1:
        raise ValueError(
            f'The card of "{model_name_or_path}" names {", ".join(named) or "no base_model"}: name the public encoder '
            "with --encoder, or leave out the attacks on it."
        )
    return named[0]


def load_data(arguments: AuditArguments, class_names: Sequence[str]) -> DatasetDict:
    """Checked splits, labelled with the model's class ids; test is cut to the limit."""
    data = load_images(
        arguments.dataset_name,
        config_name=arguments.dataset_config_name,
        image_column=arguments.image_column,
        label_column=arguments.label_column,
        train_split=arguments.train_split,
        test_split=arguments.test_split,
        revision=arguments.dataset_revision,
    )
    ids = class_ids(class_names, data["train"].features["label"].names)
    test = stratified_subset(data["test"], arguments.limit, seed=0)
    return DatasetDict(train=relabelled(data["train"], ids), test=relabelled(test, ids))


def class_ids(model_labels: Sequence[str], dataset_labels: Sequence[str]) -> list[int]:
    """The model's class id of each of the dataset's, by name.

    Raises:
        ValueError: when the model does not know a name, or has several classes of it.
    """
    if all(label == f"LABEL_{i}" for i, label in enumerate(model_labels)) and len(model_labels) == len(dataset_labels):
        logger.warning("The model does not name its classes: they are taken in the order of the dataset's.")
        return list(range(len(dataset_labels)))
    for name in (str, normal):
        ours, theirs = (Counter(map(name, labels)) for labels in (model_labels, dataset_labels))
        odd = [label for label in dataset_labels if (ours[name(label)], theirs[name(label)]) != (1, 1)]
        if not odd:
            ids = {name(label): i for i, label in enumerate(model_labels)}
            return [ids[name(label)] for label in dataset_labels]
    known = ", ".join(model_labels[:10]) + (", ..." if len(model_labels) > 10 else "")
    raise ValueError(
        f'The model has not exactly one class for "{odd[0]}" of the dataset; it has {known}. Name another '
        "--label_column, or a dataset with the model's classes."
    )


def normal(label: str) -> str:
    return str(label).strip().casefold().replace("_", " ")


def relabelled(dataset: Dataset, ids: Sequence[int]) -> Dataset:
    """The dataset with other class ids."""
    if list(ids) == list(range(len(ids))):
        return dataset
    labels = [ids[label] for label in dataset["label"]]
    return dataset.remove_columns("label").add_column("label", labels)


def configure(arguments: AuditArguments, factor: float = 1.0) -> dict[str, partial]:
    """The attacks with their settings, at `factor` times their eps; at another than 1 only those that have an eps.

    Raises:
        ValueError: for an unknown attack or setting, or a setting out of range.
    """
    others = other_settings(arguments)
    configured = {}
    for name in attack_names(arguments):
        attack, given = ATTACKS[name], dict(others.get(name, {}))
        known = signature(attack.function).parameters
        if "eps" in known:
            eps = given.get("eps", arguments.dae_eps if attack.universal else arguments.eps)
            norm = given.get("norm", "linf")
            check_attack_settings(eps=eps, steps=1, step_size=1, norm=norm)
            given["eps"] = min(factor * eps, LARGEST_EPS[norm])
        elif factor != 1:
            continue
        if attack.universal and "seed" in known:
            given.setdefault("seed", arguments.seed)
        configured[name] = attack.configure(**given)
        if "steps" in known:
            steps = configured[name].keywords.get("steps", known["steps"].default)
            check_attack_settings(eps=1, steps=steps, step_size=1)
    return configured


def try_out(attacks: Mapping[str, partial], model: PixelModel, image: Tensor) -> None:
    """Runs each attack on single images on one (1, 3, h, w), so that settings that it refuses are refused early."""
    with torch.no_grad():
        wrong = model(image).argmin(1)  # what is wrong already, attacks that search give up at once
    for name, attack in attacks.items():
        if not ATTACKS[name].universal:
            attack_images(attack, model, image, wrong, seeds=[0])


def craft(
    configured: Mapping[str, partial],
    model: PixelModel,
    model_name: str,
    encoder: PixelModel | None,
    attacker: Mapping[str, Tensor],
    words: str,
) -> dict:
    """What `evaluate_robustness` takes: the universal attacks crafted on the public encoder and on the model itself.

    Args:
        configured: attacks by name.
        model: the audited one.
        model_name: its name in the report.
        encoder: the public one; None where no attack needs it.
        attacker: the attacker's images (n, 3, h, w) in [0, 1] and their labels.
        words: what these images are.
    """
    attacks = {}
    for name, attack in configured.items():
        if not ATTACKS[name].universal:
            attacks[name] = attack
            continue
        needed = ATTACKS[name].needs[1:]
        if needed and "data" in signature(attack.func).parameters:
            attack = partial(attack, data=f"{words}, {'with' if 'labels' in needed else 'without'} labels")
        given = [attacker[need] for need in needed]
        attacks[name] = crafted_once(attack, encoder, *given)
        attacks[name + ADAPTIVE] = {model_name: crafted_once(attack, model, *given)}
    return attacks


def write_results(
    folder: Path,
    report: RobustnessReport,
    model: PixelModel,
    name: str,
    attacks: Mapping,
    shown: Dataset,
    class_names: Sequence[str],
) -> None:
    """The report, its pictures and the perturbations."""
    report.save(folder / "report.json")
    if report.sweep:
        draw_sweep(report, name, folder / "accuracy_by_eps.png")
    batch = to_pixel_values(shown[:], model.processor)
    images, labels = model.to_images(batch["pixel_values"].to(model.mean.device)), batch["labels"].to(model.mean.device)
    on_images = {label: partial(attack_shown, for_model(attack, name), model) for label, attack in attacks.items()}
    draw_gallery(model, images, labels, class_names, on_images, folder / "gallery.png")
    for label, attack in attacks.items():
        perturbation = for_model(attack, name)
        if isinstance(perturbation, UniversalPerturbation):
            perturbation.save_pretrained(folder / "perturbations" / label)


def attack_shown(attack: Callable, model: PixelModel, images: Tensor, labels: Tensor) -> Tensor:
    return attack_images(attack, model, images, labels, seeds=range(len(images)))
