"""Audits any image classifier: attacks on the public encoder, the same on the model itself, and task-aware ones."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import httpx2
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import Tensor

from genaf_hf.attacks import ATTACKS, ConfiguredAttack, UniversalPerturbation
from genaf_hf.data import (
    data_source,
    image_digests,
    images_content,
    load_images,
    stratified_subset,
    to_pixel_values,
    with_pixel_values,
)
from genaf_hf.errors import UserError, first_line
from genaf_hf.evaluation.answers import attack_images, attack_shown
from genaf_hf.evaluation.evaluate import evaluate_robustness, for_model
from genaf_hf.evaluation.perturbation_cache import crafted_once, digest, encoder_digest, tensors
from genaf_hf.evaluation.report import ADAPTIVE, RobustnessReport
from genaf_hf.models.head import HEAD, find_head
from genaf_hf.models.loading import load_classifier, load_encoder
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.audit_arguments import AuditArguments, check_arguments
from genaf_hf.pipelines.class_matching import class_ids
from genaf_hf.pipelines.experiment_arguments import dataset_options
from genaf_hf.pipelines.trained_images import check_not_trained_on, choices_of_training, read_record
from genaf_hf.runs.run import Run
from genaf_hf.sharing.audited_card import check_card, share_findings
from genaf_hf.sharing.existing_card import card_metadata, read_card
from genaf_hf.sharing.figures import SHOWN, draw_gallery
from genaf_hf.sharing.layout import AUDITED, CARD, GALLERY, PERTURBATIONS, RECORD, REPORT
from genaf_hf.sharing.result_folder import write_results
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

ATTACKER_IMAGES = 2048
OF_A_MODEL = (RECORD, "config.json")
UNUSED_LABELS = ("a", "b")  # of the public encoder's head, which no attack reads


def audit(arguments: AuditArguments) -> RobustnessReport:
    """Attacks a classifier and writes down what was found.

    `arguments.output_dir` then holds `report.json`, a card, `accuracy_by_eps.png`, `gallery.png` and the perturbations.
    With `update_card` the findings stand in the model's own card too, with report and pictures in `audit/` beside it.
    An audit that was killed goes on where it was when it is started again with the same settings; perturbations are
    crafted once for the same encoder, settings and images, also by other audits.

    Raises:
        UserError: for input that cannot be worked with, before anything is measured or written.
    """
    # Without an accelerator, processes find each other only when they are told that they are on CPU.
    device = PartialState(cpu=not torch.accelerator.is_available()).device
    rounds = check_arguments(arguments)
    name, folder = public_name(arguments.model_name_or_path), Path(arguments.output_dir)
    run = Run(
        folder,
        asdict(arguments),
        leaves=(CARD, REPORT),
        overwrites=AUDITED + OF_A_MODEL,
        reads={"dataset": arguments.dataset_name},
        replaceable=partial(is_earlier_audit, folder, name),
    )
    run.check()
    if arguments.update_card:
        check_card(arguments.model_name_or_path, create_pr=arguments.create_pr)
    model = load_model(arguments).to(device)
    encoder = load_public_encoder(arguments, model) if any(ATTACKS[name].universal for name in rounds[0]) else None
    class_names = [model.model.config.id2label[i] for i in range(model.model.config.num_labels)]
    trained_on = read_record(arguments.model_name_or_path, revision=arguments.model_revision)
    data = load_data(arguments, class_names, trained_on)
    digests = {split: image_digests(images) for split, images in data.items()}
    check_not_trained_on(trained_on, digests["test"], name)

    bank, pixels = (with_pixel_values(data[split], model.processor) for split in ("train", "test"))
    known = bank[:]
    attacker = {"images": model.to_images(known["pixel_values"].to(device)), "labels": known["labels"].to(device)}
    try_out(rounds[0], model, attacker["images"][:1])
    words = told(data["train"], arguments.dataset_name)
    attacks, *sweep = (craft(each, model, name, encoder, attacker, words) for each in rounds)
    loaded = {**what_was_loaded(model, encoder), "content of the images": images_content(data, digests)[:16]}
    with run.working(loaded):
        report = evaluate_robustness(
            {name: model},
            pixels,
            attacks,
            sweep=sweep,
            bank=bank,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
            dataset_info=data_source(
                data["test"],
                arguments.dataset_name,
                config_name=arguments.dataset_config_name,
                revision=arguments.dataset_revision,
            ),
            journal=run.journal("evaluation"),
        )
        if PartialState().is_main_process:
            shown = stratified_subset(data["test"], SHOWN, seed=0)
            write_findings(folder, report, model, name, attacks, shown, class_names)
    if arguments.update_card and PartialState().is_main_process:
        place = share_findings(arguments.model_name_or_path, folder, report, create_pr=arguments.create_pr)
        logger.info("The findings are in the model's card: %s", place)
    PartialState().wait_for_everyone()
    return report


def is_earlier_audit(folder: Path, name: str) -> bool:
    """Whether what a folder holds are findings of a model of this name, and none of a model itself."""
    if any((folder / each).exists() for each in OF_A_MODEL):
        return False
    try:
        return [*RobustnessReport.load(folder / REPORT).models] == [name]
    except (OSError, ValueError):
        return False


def what_was_loaded(model: PixelModel, encoder: PixelModel | None) -> dict:
    """What stands behind the models' names, which may have changed when an audit goes on."""
    return {
        "weights of the model": digest(None, tensors(model))[:16],
        "content of the encoder": encoder and encoder_digest(encoder)[:16],
    }


def load_model(arguments: AuditArguments) -> PixelModel:
    """The classifier that is audited.

    Raises:
        UserError: when it is none, or does not tell its features.
    """
    classifier, processor = load_classifier(arguments.model_name_or_path, revision=arguments.model_revision)
    if find_head(classifier) is None:
        raise UserError(
            f'"{arguments.model_name_or_path}" is a {type(classifier).__name__}, expected one with a head by the name '
            f'"{HEAD}", which tells the features.'
        )
    return PixelModel(classifier, processor)


def load_public_encoder(arguments: AuditArguments, model: PixelModel) -> PixelModel:
    """The encoder that the attacker has.

    Raises:
        UserError: when neither the flag nor the card names one, or it cannot take images of the model's size.
    """
    name = arguments.encoder or base_model(arguments.model_name_or_path, arguments.model_revision)
    load = partial(load_encoder, name, UNUSED_LABELS, revision=arguments.encoder_revision)
    encoder = PixelModel(*load())
    height, width = model.image_size
    if encoder.image_size != model.image_size and height == width:
        encoder = PixelModel(*load(image_size=height))
    if encoder.image_size != model.image_size:
        sizes = [" x ".join(map(str, each.image_size)) for each in (encoder, model)]
        raise UserError(
            f'The encoder "{name}" takes images of {sizes[0]} pixels, the model "{arguments.model_name_or_path}" of '
            f"{sizes[1]}: a perturbation crafted on the one does not fit the other; name another with --encoder."
        )
    return encoder.to(model.mean.device).eval()


def base_model(model_name_or_path: str, revision: str | None = None) -> str:
    """The public encoder that a model's card names.

    Raises:
        UserError: when it names none, or several.
    """
    try:
        named = card_metadata(read_card(model_name_or_path, revision=revision)).get("base_model")
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise UserError(
            f'The card of "{model_name_or_path}" cannot be read ({first_line(error)}): name the public encoder with '
            "--encoder."
        ) from error
    named = [named] if isinstance(named, str) else [str(each) for each in named or []]
    if len(named) != 1:
        raise UserError(
            f'The card of "{model_name_or_path}" names {", ".join(named) or "no base_model"}: name the public encoder '
            "with --encoder, or leave out the attacks on it."
        )
    return named[0]


def load_data(arguments: AuditArguments, class_names: Sequence[str], trained_on: Mapping) -> DatasetDict:
    """Checked splits, labelled with the model's class ids; train is cut to the attacker's, test to the limit.

    Args:
        trained_on: as `read_record` gives it. What flags do not say is chosen as it was for training.
    """
    options = {**dataset_options(arguments), "test_split": arguments.test_split}
    choices = choices_of_training(trained_on, arguments.dataset_name, arguments.dataset_config_name)
    if arguments.train_split or arguments.test_split:
        choices = {name: value for name, value in choices.items() if name == "held_out_share"}
    if choices:
        words = ", ".join(f"{name} {value}" for name, value in choices.items())
        logger.info("The images are split as they were for training the model: %s", words)
    data = load_images(
        arguments.dataset_name,
        **{**options, **choices},
        max_train_samples=ATTACKER_IMAGES,
        max_eval_samples=arguments.limit,
    )
    ids = class_ids(class_names, data["train"].features["label"].names)
    return DatasetDict({split: relabelled(data[split], ids) for split in ("train", "test")})


def told(train: Dataset, dataset_name: str) -> str:
    """The attacker's images in words."""
    return f"{len(train)} images of {public_name(dataset_name)}, split {train.split or 'train'}"


def relabelled(dataset: Dataset, ids: Sequence[int]) -> Dataset:
    """The dataset with other class ids."""
    if list(ids) == list(range(len(ids))):
        return dataset
    labels = [ids[label] for label in dataset["label"]]
    return dataset.remove_columns("label").add_column("label", labels)


def try_out(attacks: Mapping[str, ConfiguredAttack], model: PixelModel, image: Tensor) -> None:
    """Runs each per-image attack on one image (1, 3, h, w), so that settings that it refuses are refused early."""
    with torch.no_grad():
        wrong = model(image).argmin(1)  # what is wrong already, attacks that search give up at once
    for name, attack in attacks.items():
        if not ATTACKS[name].universal:
            attack_images(attack, model, image, wrong, seeds=[0])


def craft(
    configured: Mapping[str, ConfiguredAttack],
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
        if needed and "data" in attack.attack.settings:
            attack = attack.changed(data=f"{words}, {'with' if 'labels' in needed else 'without'} labels")
        given = [attacker[need] for need in needed]
        attacks[name] = crafted_once(attack, encoder, *given)
        attacks[name + ADAPTIVE] = {model_name: crafted_once(attack, model, *given)}
    return attacks


def write_findings(
    folder: Path,
    report: RobustnessReport,
    model: PixelModel,
    name: str,
    attacks: Mapping,
    shown: Dataset,
    class_names: Sequence[str],
) -> None:
    """The report, its pictures, the perturbations and a card."""
    batch = to_pixel_values(shown[:], model.processor)
    images, labels = model.to_images(batch["pixel_values"].to(model.mean.device)), batch["labels"].to(model.mean.device)
    on_images = {label: partial(attack_shown, for_model(attack, name), model) for label, attack in attacks.items()}
    draw_gallery(model, images, labels, class_names, on_images, folder / GALLERY)
    for label, attack in attacks.items():
        perturbation = for_model(attack, name)
        if isinstance(perturbation, UniversalPerturbation):
            perturbation.save_pretrained(folder / PERTURBATIONS / label)
    write_results(folder, report, model_name=name)
