"""What an audit is of: a classifier, the public encoder it is attacked from, and images with its class ids."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx2
import torch
from datasets import ClassLabel, Dataset, DatasetDict, NamedSplit, concatenate_datasets
from torch.nn import functional as F

from genaf_hf.attacks.inputs import Encoders, several
from genaf_hf.data import ImageSet, load_images, stratified_subset
from genaf_hf.data.labels import check_class_ids
from genaf_hf.data.splits import SPLITS
from genaf_hf.errors import UserError, first_line
from genaf_hf.evaluation.attacker import ATTACKER_IMAGES, Attacker
from genaf_hf.models.head import HEAD, find_head, head_name, in_head
from genaf_hf.models.identity import digest, encoder_digest, tensors
from genaf_hf.models.loading import load_classifier, load_encoder
from genaf_hf.models.pixel_model import PixelModel
from genaf_hf.pipelines.class_matching import match_classes
from genaf_hf.pipelines.trained_images import CHOICES, OF_STREAM, check_not_trained_on, choices_of_training, read_record
from genaf_hf.sharing.existing_card import card_metadata, read_card
from genaf_hf.values.names import some_of, told
from genaf_hf.values.provenance import public_name

logger = logging.getLogger(__name__)

UNNAMED = "model"  # what was loaded elsewhere, and may have been trained since
UNLIKE = 0.1  # cosine of a model's weights and those of the encoder that it was made from
UNUSED_LABELS = ("a", "b")  # of the public encoder's head, which no attack reads


@dataclass(frozen=True, eq=False)
class Case:
    """What an audit is of.

    Attributes:
        name: of the model in the report.
        model: that is audited.
        attacker: who has the public encoder.
        images: splits train and test, with the model's class ids.
        choices: how these were split, as far as that was asked for.
        assumed: to match the classes of model and images, empty where their names are the same.
    """

    name: str
    model: PixelModel
    attacker: Attacker
    images: ImageSet
    choices: dict
    assumed: str

    @property
    def content(self) -> dict:
        """What stands behind the names of models and images, which may have changed when an audit goes on."""
        encoder = self.attacker.encoder
        return {
            "weights of the model": digest(None, tensors(self.model))[:16],
            "content of the encoder": encoder and " ".join(encoder_digest(each)[:16] for each in several(encoder)),
            "content of the images": self.images.content,
        }


def open_case(
    model: PixelModel,
    path: str,
    revision: str | None,
    encoder: Encoders | None,
    dataset: str | DatasetDict,
    limit: int | None,
    options: Mapping,
) -> Case:
    """Loads the images, and sees that the model was not trained on those that it is tested on.

    Args:
        model: that is audited.
        path: Hub id or local folder, empty where it has none.
        revision: of the model.
        encoder: the public one, or several.
        dataset, limit: as for `audit`.
        options: for `load_images`.

    Raises:
        UserError: for images that do not fit the model, or that it was trained on.
    """
    trained_on = read_record(path, revision=revision) if path else {}
    name = public_name(path) if path else UNNAMED
    data, assumed = matched_images(dataset, model.class_names, trained_on, limit, options)
    dataset_name = dataset if isinstance(dataset, str) else ""
    images = ImageSet(dataset_name, data, options.get("config_name"), options.get("revision"))
    check_not_trained_on(trained_on, images.digests["test"], name, public_name(dataset_name))
    attacker = Attacker.of(data["train"], dataset_name, model, encoder)
    choices = {choice: options[choice] for choice in CHOICES if options.get(choice) is not None}
    return Case(name, model, attacker, images, choices, assumed)


def load_model(path: str, revision: str | None = None) -> PixelModel:
    """The classifier that is audited.

    Raises:
        UserError: when it is none, or does not tell its features.
    """
    classifier, processor = load_classifier(path, revision=revision)
    return checked_model(PixelModel(classifier, processor), path)


def checked_model(model: PixelModel, path: str = "model") -> PixelModel:
    """A classifier that tells its features.

    Raises:
        UserError: when it does not.
    """
    if not isinstance(model, PixelModel):
        raise UserError(
            f"The model is a {type(model).__name__}, expected the name of one, or PixelModel(model, processor)."
        )
    if find_head(model.model) is None:
        raise UserError(
            f'"{path}" is a {type(model.model).__name__}, expected one with a head by the name "{HEAD}", '
            "which tells the features."
        )
    return model


def public_encoders(
    encoder: str | Encoders | None,
    model: PixelModel,
    path: str,
    model_revision: str | None = None,
    revision: str | None = None,
) -> Encoders:
    """The encoder that the attacker has, or all of them.

    Args:
        encoder: as for `audit`.
        model, path, model_revision, revision: as for `public_encoder`.

    Raises:
        UserError: as `public_encoder`, and for one revision of several.
    """
    several_names = isinstance(encoder, str) and "," in encoder and not Path(encoder).exists()
    names = [name.strip() for name in encoder.split(",")] if several_names else several(encoder)
    if len(names) > 1 and revision is not None:
        raise UserError(f"encoder_revision is {revision}, but there are {len(names)} encoders: leave it out.")
    found = [public_encoder(name, model, path, model_revision, revision) for name in names]
    return found if len(found) > 1 else found[0]


def public_encoder(
    encoder: str | PixelModel | None,
    model: PixelModel,
    path: str,
    model_revision: str | None = None,
    revision: str | None = None,
) -> PixelModel:
    """The encoder that the attacker has.

    Args:
        encoder: or its Hub id or local folder; default the base_model of the model's card.
        model: that is attacked.
        path: of the model, empty where it has none.
        model_revision: of the model.
        revision: of the encoder.

    Raises:
        UserError: when nobody names one, or it cannot take images of the model's size.
    """
    if encoder is None and not path:
        raise UserError("The model is none by a name, whose card tells its public encoder: name that by encoder=...")
    name = base_model(path, model_revision) if encoder is None else encoder
    loaded = encoder
    if isinstance(name, str):
        load = partial(load_encoder, name, UNUSED_LABELS, revision=revision)
        loaded, (height, width) = PixelModel(*load()), model.image_size
        if loaded.image_size != model.image_size and height == width:
            loaded = PixelModel(*load(image_size=height))
    if loaded.image_size != model.image_size:
        sizes = [" x ".join(map(str, each.image_size)) for each in (loaded, model)]
        raise UserError(
            f'The encoder "{name if loaded is not encoder else ""}" takes images of {sizes[0]} pixels, the model '
            f'"{path}" of {sizes[1]}: a perturbation crafted on the one does not fit the other; name another with '
            "--encoder."
        )
    if encoder is None and (alike := likeness(model, loaded)) < UNLIKE:
        logger.warning(
            'The card of "%s" names the public encoder "%s", but the weights of the two are no more alike than chance '
            "(cosine %.2f): if the model was made from another one, name that by --encoder.",
            *(path, name, alike),
        )
    return loaded.to(model.device).eval()


def likeness(model: PixelModel, encoder: PixelModel) -> float:
    """Cosine of the weights that both have by name and shape, heads left out; 0 where there are none."""
    head, others = head_name(model.model), dict(encoder.model.named_parameters())
    own = {name: each for name, each in model.model.named_parameters() if each.ndim > 1 and not in_head(name, head)}
    shared = [name for name, each in own.items() if name in others and others[name].shape == each.shape]
    if not shared:
        return 0.0
    one, other = (torch.cat([held[name].detach().cpu().flatten() for name in shared]) for held in (own, others))
    return F.cosine_similarity(one.double(), other.double(), dim=0).item()


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
    names = named if isinstance(named, list) else [named] if named else []
    if len(names) != 1 or not isinstance(names[0], str):
        made_from = read_record(model_name_or_path, revision=revision, part="base_model").get("name")
        where = f' (it was made from a folder called "{public_name(made_from)}")' if isinstance(made_from, str) else ""
        raise UserError(
            f'The card of "{model_name_or_path}" names {", ".join(map(str, names)) or "no base_model"}{where}: name '
            "the public encoder with --encoder (in Python encoder=...), or leave out the attacks on it."
        )
    return names[0]


def matched_images(
    dataset: str | DatasetDict, class_names: Sequence[str], trained_on: Mapping, limit: int | None, options: Mapping
) -> tuple[DatasetDict, str]:
    """Checked splits, labelled with the model's class ids; train is cut to the attacker's, test to the limit.

    With them comes what was assumed to match the classes, empty where their names are the same.

    Args:
        dataset: as for `audit`.
        class_names: of the model.
        trained_on: as `read_record` gives it. What `options` do not say is chosen as it was for training.
        limit: images of test at most.
        options: for `load_images`.
    """
    if isinstance(dataset, str):
        choices = choices_of_training(trained_on, dataset, options.get("config_name"))
        overruled = {name for name in choices if options.get(name) is not None}
        if options.get("train_split") or options.get("test_split"):
            overruled |= choices.keys() - {"held_out_share"}
        if options.get("streaming") is False:
            overruled |= OF_STREAM.keys()
        choices = {name: value for name, value in choices.items() if name not in overruled}
        if choices:
            words = ", ".join(f"{name} {value}" for name, value in choices.items())
            level = logging.INFO if choices.keys() <= {"held_out_share"} else logging.WARNING
            logger.log(level, "The images are those that the model's own record calls for: %s", words)
        if choices.get("test_split") in SPLITS["train"]:
            raise UserError(
                f'The model\'s own record calls for a test on the split "{choices["test_split"]}", which is one to '
                "train on: name the --test_split, and the --train_split that the attacker's images are from."
            )
        limits = {"max_train_samples": ATTACKER_IMAGES, "max_eval_samples": limit}
        dataset = load_images(dataset, **{**options, **limits, **choices})
    elif not isinstance(dataset, DatasetDict) or not {"train", "test"} <= dataset.keys() or options:
        raise UserError(
            f"The dataset is a {type(dataset).__name__} with the options {options or 'none'}, expected a name, or a "
            "DatasetDict with the splits train and test as load_images gives it, and no options."
        )
    dataset = dataset.with_format(None)  # a transform of the user's is for other models
    if dataset["test"].split is not None and dataset["test"].split == dataset["train"].split:  # parts of one split
        roles = {role: concatenate_datasets([each], split=NamedSplit(role)) for role, each in dataset.items()}
        dataset = DatasetDict(roles)
    for split in ("train", "test"):
        found = dataset[split].features
        if "image" not in found or not isinstance(found.get("label"), ClassLabel):
            raise UserError(
                f"The split {split} has the columns {told(', '.join(found))}, expected image, and label as a "
                "ClassLabel: rename and cast them, or give the dataset by its name, which load_images reads."
            )
        if found["label"] != (of_train := dataset["train"].features["label"]):
            raise UserError(
                f"The label column of {split} has the classes {some_of(found['label'].names)}, that of train "
                f"{some_of(of_train.names)}: expected the same in the same order, as cast_column makes them."
            )
        check_class_ids(dataset[split]["label"], len(of_train.names), f"split {split}")
    limits = {"train": ATTACKER_IMAGES, "test": limit}
    ids, assumed = match_classes(class_names, dataset["train"].features["label"].names)
    cut = {split: relabelled(stratified_subset(dataset[split], n, seed=0), ids) for split, n in limits.items()}
    return DatasetDict(cut), assumed


def relabelled(dataset: Dataset, ids: Sequence[int]) -> Dataset:
    """The dataset with other class ids."""
    if list(ids) == list(range(len(ids))):
        return dataset
    labels = [ids[label] for label in dataset["label"]]
    return dataset.remove_columns("label").add_column("label", labels)
