"""Public encoders as image classifiers."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
)
from transformers.utils import CONFIG_NAME, cached_file
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import extract_commit_hash

from genaf_hf.errors import first_line
from genaf_hf.pixel_model import HEAD, image_sizes

logger = logging.getLogger(__name__)


def load_encoder(
    model_name_or_path: str,
    labels: Sequence[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, object]:
    """A classifier and its image processor from a public ViT, MAE, DINO or ResNet checkpoint.

    The classifier is of a native `transformers` class with a clean configuration, so that what is saved loads with
    plain `from_pretrained`. Its head is new, unless the checkpoint already classifies exactly these labels. The log
    says which weights are new.

    Args:
        model_name_or_path: Hub id or local folder.
        labels: class names, in the order of their ids.
        revision: branch, tag or commit on the Hub.
        token: for private and gated repositories.
        attn_implementation: as in `from_pretrained`; `"eager"` is the faster one in bf16 on CPU.

    Returns:
        The model and the processor.

    Raises:
        ValueError: when there is no such checkpoint, no classifier for it, no encoder weights in it, fewer than two
            labels, or a processor whose image size the encoder cannot take.
    """
    labels = [str(label) for label in labels]
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels are {labels}, expected at least two different class names.")
    hub = {"revision": revision, "token": token}
    source, processor = load_configuration(model_name_or_path, **hub)
    config = classifier_config(source, labels)
    check_image_size(config, processor)

    try:
        with quiet_transformers():
            model, loading = AutoModelForImageClassification.from_pretrained(
                model_name_or_path,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                attn_implementation=attn_implementation,
                **hub,
            )
    except (OSError, SafetensorError) as error:
        raise ValueError(f'The weights of "{model_name_or_path}" cannot be read: {first_line(error)}.') from error
    model.config._commit_hash = source._commit_hash
    new = {*loading["missing_keys"], *(mismatch[0] for mismatch in loading["mismatched_keys"])}
    names = {name for name, _ in model.named_parameters()}
    head = {name for name in names if in_head(name)}
    if names - head <= new:
        raise ValueError(f'"{model_name_or_path}" holds no weights for a {type(model).__name__}.')
    if not head & new and [source.id2label[i] for i in sorted(source.id2label)] != labels:
        reset_head(model)
        new |= head
    if unexplained := sorted(new - head):
        logger.warning("%s lacks weights of its encoder, these are new: %s", model_name_or_path, ", ".join(unexplained))
    logger.info(
        "New weights in %s: %s", type(model).__name__, ", ".join(sorted(new)) or "none, its head fits the labels"
    )
    return model, processor


def load_classifier(
    model_name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[PreTrainedModel, object]:
    """A trained image classifier as it is, and its image processor.

    Raises:
        ValueError: when there is no such checkpoint, it is no classifier, or lacks weights.
    """
    hub = {"revision": revision, "token": token}
    config, processor = load_configuration(model_name_or_path, **hub)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(f'"{model_name_or_path}" is a "{config.model_type}", expected an image classifier.')
    check_image_size(config, processor)
    try:
        with quiet_transformers():
            model, loading = AutoModelForImageClassification.from_pretrained(
                model_name_or_path, config=config, dtype=torch.float32, output_loading_info=True, **hub
            )
    except (OSError, SafetensorError) as error:
        raise ValueError(f'The weights of "{model_name_or_path}" cannot be read: {first_line(error)}') from error
    model.config._commit_hash = config._commit_hash
    if missing := sorted(loading["missing_keys"]):
        raise ValueError(
            f'"{model_name_or_path}" lacks {len(missing)} weights of a {type(model).__name__}, for example '
            f"{missing[0]}: expected a trained classifier, not an encoder alone."
        )
    return model.eval(), processor


def load_configuration(
    model_name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[PreTrainedConfig, object]:
    """Configuration, with the commit it is from, and image processor of a checkpoint.

    Raises:
        ValueError: when there are none.
    """
    hub = {"revision": revision, "token": token}
    try:
        config = AutoConfig.from_pretrained(model_name_or_path, **hub)
        processor = AutoImageProcessor.from_pretrained(model_name_or_path, **hub)
        config._commit_hash = extract_commit_hash(cached_file(model_name_or_path, CONFIG_NAME, **hub), None)
    except (OSError, ValueError) as error:
        raise ValueError(
            f'"{model_name_or_path}" has no configuration and image processor that transformers can load, neither as a '
            f"local folder nor on the Hub; check its spelling, and `hf auth login` if it is private "
            f"({first_line(error)})."
        ) from error
    return config, processor


def classifier_config(source: PreTrainedConfig, labels: Sequence[str]) -> PreTrainedConfig:
    """Configuration of the native classifier that holds an encoder's weights.

    Raises:
        ValueError: when `transformers` has none for this family.
    """
    label_maps = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if source.model_type == "vit_mae":
        known = ViTConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version", *label_maps}
        shared = {name: value for name, value in source.to_dict().items() if name in known}
        return ViTConfig(**shared, **label_maps)
    if type(source) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ValueError(
            f'No image classifier of transformers takes a "{source.model_type}" encoder; expected a family such as '
            "vit, vit_mae, dinov2, beit, swin, convnext or resnet."
        )
    config = type(source).from_dict(source.to_dict())
    config.id2label, config.label2id = label_maps["id2label"], label_maps["label2id"]
    return config


def check_image_size(config: PreTrainedConfig, processor) -> None:
    """Refuses a processor that makes images of varying size, or of another size than the encoder takes.

    Raises:
        ValueError: names the sizes.
    """
    made, other = image_sizes(processor)
    if made != other:
        raise ValueError(
            f"The image processor makes images of {made[0]} x {made[1]} pixels from a wide one and {other[0]} x "
            f"{other[1]} from a high one: use a processor that resizes to a height and a width, or crops."
        )
    expected = getattr(config, "image_size", None) or made
    if made != ((expected, expected) if isinstance(expected, int) else tuple(expected)):
        raise ValueError(
            f"The image processor makes images of {made[0]} x {made[1]} pixels, the encoder takes {expected}: "
            "use the processor that was published with it."
        )


def in_head(parameter_name: str) -> bool:
    """Whether a parameter belongs to the classification head; every other one is the encoder's."""
    return HEAD in parameter_name.split(".")


def reset_head(model: PreTrainedModel) -> None:
    """Gives the head fresh weights, drawn as for a new model."""
    for module in getattr(model, HEAD).modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
            nn.init.zeros_(module.bias)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences the loading report of `transformers`, which lists every weight of a decoder that is left behind."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
