"""Public encoders as image classifiers."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import CONFIG_NAME, cached_file, find_adapter_config_file
from transformers.utils.generic import is_timm_config_dict
from transformers.utils.hub import extract_commit_hash

from genaf_hf.errors import UserError
from genaf_hf.hub import why_not_loaded
from genaf_hf.models.classifier_config import (
    ANSWER,
    check_channels,
    classifier_config,
    in_single_precision,
    set_clean,
    set_drop_path_rate,
)
from genaf_hf.models.encoder_classifier import EncoderClassifierConfig
from genaf_hf.models.encoder_classifier.modeling_encoder_classifier import pooled, pooling_layer
from genaf_hf.models.families import encoder_part, family_of, timm
from genaf_hf.models.head import head_of, head_weights
from genaf_hf.models.image_processors import at_image_size, in_rgb, load_image_processor, prepared, quarters
from genaf_hf.models.pixel_model import image_sizes
from genaf_hf.models.position_embeddings import ASKED, as_pair, built_size, outputs_on_black, with_image_size
from genaf_hf.models.soundness import (
    check_answers,
    check_finite_weights,
    check_place,
    check_settings,
    kind_and_line,
    on_meta,
)
from genaf_hf.models.weights import check_fits_weights, read_weights
from genaf_hf.values.names import nearest
from genaf_hf.values.provenance import commit_of, set_commit

logger = logging.getLogger(__name__)


def load_encoder(
    model_name_or_path: str | Path,
    labels: Sequence[str],
    *,
    image_size: int | None = None,
    pooling: str | None = None,
    head: str | None = None,
    drop_path_rate: float | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, object]:
    """A classifier and its image processor from a public encoder.

    The classifier is of a native `transformers` class with a clean configuration, so that what is saved loads with
    plain `from_pretrained`; where there is none for the encoder, the pooling and the head, it is an
    `EncoderForImageClassification`. Its head is new, unless the checkpoint already classifies exactly these labels.
    The log says which weights are new. Position embeddings are interpolated to the size of the processor's images.

    Args:
        model_name_or_path: Hub id or local folder.
        labels: class names, in the order of their ids.
        image_size: height and width of the images, default those that the processor makes.
        pooling: what the head reads: `"cls"`, `"mean"` of the patches, or the encoder's own `"pooler"`; default as the
            native class does it, else the pooler, or the mean where the encoder has none.
        head: `"linear"` (the default) or `"mlp"`, the paper's.
        drop_path_rate: how often a block is left out for an image in training, in [0, 1), of the last block where the
            family raises it from block to block; default the encoder's own. The configuration keeps it.
        revision: branch, tag or commit on the Hub.
        token: for private and gated repositories.
        attn_implementation: as in `from_pretrained`; `"eager"` is the faster one in bf16 on CPU.

    Returns:
        The model and the processor.

    Raises:
        UserError: when there is no such checkpoint, no encoder of images or no weights of it inside, fewer than two
            labels, an unknown pooling or head, a drop path rate for an encoder without drop path, or a processor whose
            image size the encoder cannot take.
    """
    if isinstance(labels, (str, Mapping, Set)):
        raise UserError(f"labels are a {type(labels).__name__}, expected a list of class names, by their ids.")
    model_name_or_path, labels = str(model_name_or_path), [str(label) for label in labels]
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise UserError(f"labels are {labels}, expected at least two different class names.")
    hub: dict[str, Any] = {"revision": revision, "token": token}
    source, processor = load_configuration(model_name_or_path, **hub)
    processor, flipped = in_rgb(processor)
    if image_size is not None:
        processor = at_image_size(processor, image_size)
    size = made_size(processor)
    config = classifier_config(source, labels, pooling=pooling, head=head)
    check_channels(config)
    if drop_path_rate is not None:
        set_drop_path_rate(config, drop_path_rate)
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "new_head": True,
        "attn_implementation": attn_implementation,
        **hub,
    }
    check_fits_weights(on_meta(config), model_name_or_path, **hub)
    if type(config) is type(source) or encoder_part(config) is config:  # or of a family that takes its weights
        model, loading = read_weights(AutoModelForImageClassification, model_name_or_path, config=config, **options)
        new = new_weights(loading)
    else:
        model, new = load_parts(model_name_or_path, source, config, size, options, pooling)
    heads = head_weights(model)
    sizes = {name: each.numel() for name, each in model.named_parameters() if name not in heads}
    lacking = sizes.keys() & new
    if sum(sizes[name] for name in lacking) > sum(sizes.values()) / 2:
        found = f"only {len(sizes) - len(lacking)} of {len(sizes)} weights" if sizes.keys() - new else "no weights"
        raise UserError(f'"{model_name_or_path}" holds {found} for a {type(model).__name__}.')
    if heads - new and [source.id2label[i] for i in sorted(source.id2label)] != labels:
        reset_head(model)
        new |= heads
    model = made_sound(model, processor, flipped, size, model_name_or_path)
    set_commit(model.config, commit_of(source))
    if unexplained := sorted(new - heads):
        logger.warning("%s lacks weights of its encoder, these are new: %s", model_name_or_path, ", ".join(unexplained))
    logger.info(
        "New weights in %s: %s", type(model).__name__, ", ".join(sorted(new)) or "none, its head fits the labels"
    )
    return model, processor


def load_parts(
    model_name_or_path: str,
    source: PreTrainedConfig,
    config: PreTrainedConfig,
    size: tuple[int, int],
    options: dict,
    pooling: str | None,
) -> tuple[PreTrainedModel, set[str]]:
    """A fresh classifier around the encoder of a checkpoint, and the names of its new weights.

    Args:
        model_name_or_path: Hub id or local folder.
        source: its configuration.
        config: of the result; gets the measures of the features.
        size: height and width of the images.
        options: of `read_weights`.
        pooling: that was asked for.

    Raises:
        UserError: when the encoder takes no such images, or gives no such features.
    """
    ours, square_weights = isinstance(config, EncoderClassifierConfig), family_of(source).square_weights
    held, making = encoder_part(config), {name: options[name] for name in ("dtype", "attn_implementation")}
    if square_weights is None:
        unread: dict[str, Any] = pooling_layer(config) if ours else {}
        encoder, loading = read_weights(AutoModel, model_name_or_path, config=held, **unread, **options)
    else:
        original = encoder_part(source)
        on_meta(original, AutoModel)
        of_patches, loading = read_weights(AutoModel, model_name_or_path, config=original, **options)
        weights = square_weights(of_patches, held, size)
        held.image_size = size[0]
        encoder = AutoModel.from_config(held, **making).eval()
        encoder.load_state_dict(weights)
    if ours:
        measure_features(encoder, config, size, pooling)
    model = AutoModelForImageClassification.from_config(config, **making).eval()
    part = name_of_encoder(config)
    setattr(model, part, encoder)
    model.config.name_or_path = model_name_or_path
    encoder_part(model.config).name_or_path = ""  # which would be saved, as that of the whole is not
    return model, head_weights(model) | {f"{part}.{name}" for name in new_weights(loading)}


def name_of_encoder(config: PreTrainedConfig) -> str:
    """What a classifier that `load_parts` makes calls its encoder."""
    return "encoder" if isinstance(config, EncoderClassifierConfig) else "vision_model"


def new_weights(loading: dict) -> set[str]:
    """Names of the weights that `from_pretrained` made anew."""
    return {*loading["missing_keys"], *(mismatch[0] for mismatch in loading["mismatched_keys"])}


def measure_features(
    encoder: PreTrainedModel, config: EncoderClassifierConfig, size: tuple[int, int], pooling: str | None
) -> None:
    """Sets the tokens before those of the patches and the width of the features, by a look at black images.

    Without a pooler the mean of the tokens, or of the one output, is read where no pooling was asked for.

    Raises:
        UserError: when the encoder takes no such images, or its features are no single vector for each.
    """
    size = built_size(encoder, size)
    outputs = outputs_on_black(encoder, size)
    states, pooler = outputs.get("last_hidden_state"), outputs.get("pooler_output")
    averaged = list(outputs) == ["last_hidden_state"] or (isinstance(states, torch.Tensor) and states.ndim == 3)
    if pooling is None and config.pooling == "pooler" and pooler is None and averaged:
        config.pooling = "mean"
    read = pooler if config.pooling == "pooler" else states
    dimensions = {"cls": (3,), "mean": (3, 4), "pooler": (2, 3, 4)}[config.pooling]
    if not isinstance(read, torch.Tensor) or read.ndim not in dimensions or len(read) != ASKED:
        found = {name: tuple(each.shape) for name, each in outputs.items() if isinstance(each, torch.Tensor)}
        raise UserError(
            f'The "{encoder.config.model_type}" encoder has no features for pooling "{config.pooling}"; of {ASKED} '
            f"images it gives {', '.join(f'{name} {shape}' for name, shape in found.items()) or 'no tensor'}: choose "
            "another pooling or encoder."
        )
    tokens = states.shape[1] if isinstance(states, torch.Tensor) and states.ndim == 3 else 0
    config.prefix_tokens = tokens - patch_count(encoder.config, tokens, size)
    config.feature_size = pooled(outputs, config.pooling, config.prefix_tokens).shape[1]


def patch_count(config: PreTrainedConfig, tokens: int, size: tuple[int, int]) -> int:
    """How many of an encoder's tokens are those of patches; where these were merged, the largest square of tokens."""
    patch = as_pair(getattr(config, "patch_size", 1))
    patches = (size[0] // patch[0]) * (size[1] // patch[1])
    return patches if patches <= tokens else math.isqrt(tokens) ** 2


def load_classifier(
    model_name_or_path: str | Path, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[PreTrainedModel, object]:
    """A trained image classifier as it is, and its image processor.

    Raises:
        UserError: when there is no such checkpoint, it is no classifier, or lacks weights.
    """
    model_name_or_path = str(model_name_or_path)
    hub: dict[str, Any] = {"revision": revision, "token": token}
    config, processor = load_configuration(model_name_or_path, **hub)
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise UserError(f'"{model_name_or_path}" is a "{config.model_type}", expected an image classifier.')
    if family_of(config).square_weights is not None:
        raise UserError(
            f'"{model_name_or_path}" takes images as patches in grids of varying sides, expected a classifier of '
            "images of one size: one that was made from it by load_encoder."
        )
    check_classes(config, model_name_or_path)
    if changes := [*set_clean(config, ANSWER), *in_single_precision(config)]:
        logger.warning('"%s" is not taken as its config.json says: %s', model_name_or_path, ", ".join(changes))
    processor, flipped = in_rgb(processor)
    size = made_size(processor)
    check_channels(config)
    check_fits_weights(on_meta(config), model_name_or_path, **hub)
    model, loading = read_weights(
        AutoModelForImageClassification, model_name_or_path, config=config, dtype=torch.float32, **hub
    )
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            f'"{model_name_or_path}" lacks {len(missing)} weights of a {type(model).__name__}, for example '
            f"{missing[0]}: expected a trained classifier, not an encoder alone."
        )
    model = made_sound(model, processor, flipped, size, model_name_or_path)
    set_commit(model.config, commit_of(config))
    return model.eval(), processor


def check_classes(config: PreTrainedConfig, model_name_or_path: str) -> None:
    """Refuses a classifier that does not tell its classes from each other; the `UserError` says what it has instead."""
    classes = config.id2label
    if len(classes) < 2 or sorted(classes) != list(range(len(classes))):
        said = ", ".join(f"{i}: {classes[i]}" for i in sorted(classes)[:3])
        raise UserError(
            f'id2label of "{model_name_or_path}" begins with {said or "nothing"} and has {len(classes)} entries, '
            "expected the names of at least two classes by their ids from 0 on."
        )


def made_sound(
    model: PreTrainedModel, processor, flipped: bool, size: tuple[int, int], model_name_or_path: str
) -> PreTrainedModel:
    """A model as it was loaded, for images of its processor: in RGB and of its size.

    Args:
        model: any image classifier.
        processor: its own, in RGB.
        flipped: whether the weights are for BGR.
        size: height and width of the images.
        model_name_or_path: its name.

    Raises:
        UserError: when its weights or its logits are not finite, or it cannot take such images.
    """
    check_finite_weights(model, model_name_or_path)
    if flipped:
        flip_input(model, model_name_or_path)
    model = in_fast_layout(with_image_size(model, size))
    check_answers(model, prepared(processor, [quarters()]), model_name_or_path)
    return model


def in_fast_layout(model: PreTrainedModel) -> PreTrainedModel:
    """A model whose convolutions compute in `channels_last`, if it has others than a patch embedding.

    Forward and backward of depthwise convolutions then take 0.6 of the time on CPUs, those of others at most as much
    as before. What is saved, and what is computed up to rounding, stays the same.
    """
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    if any(each.kernel_size != each.stride for each in convolutions):
        model.to(memory_format=torch.channels_last)
    return model


def flip_input(model: PreTrainedModel, model_name_or_path: str) -> None:
    """Exchanges red and blue in the first convolution of a model, so that it answers RGB as it did BGR.

    Raises:
        UserError: when there is no such convolution.
    """
    reading = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.in_channels == 3]
    if len(reading) != 1 or reading[0].groups != 1:
        raise UserError(
            f'"{model_name_or_path}" takes BGR images, and it has {len(reading)} convolutions of three channels, '
            "expected one, which can be made one for RGB: choose another encoder."
        )
    with torch.no_grad():
        reading[0].weight.copy_(reading[0].weight.flip(1))


def load_configuration(
    model_name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[PreTrainedConfig, object]:
    """Configuration, with the commit it is from, and image processor of a checkpoint.

    Raises:
        UserError: when there are none, or they are of a model that only a timm which is not installed has; for absurd
            ones, and those that need code of the checkpoint's.
    """
    hub: dict[str, Any] = {"revision": revision, "token": token}
    check_place(model_name_or_path)
    with loading_configuration(model_name_or_path, **hub):
        adapter = find_adapter_config_file(model_name_or_path, **hub)
    if adapter is not None:
        raise UserError(f'"{model_name_or_path}" is an adapter of PEFT, expected a whole model: merge it into its own.')
    with loading_configuration(model_name_or_path, **hub):
        settings, _ = PreTrainedConfig.get_config_dict(model_name_or_path, **hub)
    check_settings(settings, model_name_or_path)
    of_timm = settings.get("model_type") == "timm_wrapper" or is_timm_config_dict(settings)
    if of_timm:
        timm.check_installed(model_name_or_path, settings.get("architecture", ""))
    with loading_configuration(model_name_or_path, **hub):
        config = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=False, **hub)
        if of_timm and config.model_args:  # where recent releases of timm write what the wrapper passes on by itself
            config.model_args.pop("num_classes", None)
        processor = load_image_processor(model_name_or_path, config, **hub)
        set_commit(config, extract_commit_hash(cached_file(model_name_or_path, CONFIG_NAME, **hub), None))
    return config, processor


@contextmanager
def loading_configuration(model_name_or_path: str, **hub) -> Iterator[None]:
    """Says what is wrong with a configuration or image processor that cannot be loaded.

    Raises:
        UserError: in place of other errors.
    """
    try:
        yield
    except Exception as error:  # whatever the files of a stranger make of the packages that read them
        raise UserError(
            why_not_loaded(error, "model", model_name_or_path, **hub)
            or f'"{model_name_or_path}" has no configuration and image processor that transformers can load '
            f"({kind_and_line(error)}){nearest(Path(model_name_or_path))}."
        ) from error


def made_size(processor) -> tuple[int, int]:
    """Height and width of the images that a processor makes.

    Raises:
        UserError: when they vary from image to image.
    """
    made, other = image_sizes(processor)
    if made != other:
        raise UserError(
            f"The image processor makes images of {made[0]} x {made[1]} pixels from a wide one and {other[0]} x "
            f"{other[1]} from a high one: use a processor that resizes to a height and a width, or crops."
        )
    return made


def reset_head(model: PreTrainedModel) -> None:
    """Gives the head fresh weights, drawn as for a new model."""
    for module in head_of(model).modules():
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # transformers' mark
        model._init_weights(module)
