"""Which class holds an encoder as an image classifier, and its configuration."""

from collections.abc import Sequence

import torch
from transformers import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoModelForImageClassification,
    CLIPConfig,
    PreTrainedConfig,
    SiglipConfig,
    SiglipVisionConfig,
    TimmWrapperConfig,
    ViTConfig,
)

from genaf_hf.encoders.encoder_classifier import EncoderClassifierConfig
from genaf_hf.encoders.position_embeddings import encoder_part
from genaf_hf.errors import UserError
from genaf_hf.head import find_head

POOLING = {  # of the native classes; the others read what the encoder's pooler gives
    **dict.fromkeys(("vit", "deit", "vit_msn"), "cls"),
    **dict.fromkeys(("ijepa", "clip", "siglip"), "mean"),
}
LABELS = ("id2label", "label2id", "label_names", "num_classes")  # the latter two in timm
TOWERS = {"clip_vision_model": CLIPConfig, "siglip_vision_model": SiglipConfig}  # published alone


def classifier_config(
    source: PreTrainedConfig, labels: Sequence[str], *, pooling: str | None = None, head: str | None = None
) -> PreTrainedConfig:
    """Configuration of a classifier that holds an encoder: a native one where there is one, else ours.

    Args:
        source: the encoder's own.
        labels: class names, in the order of their ids.
        pooling, head: as for `load_encoder`.

    Raises:
        UserError: for an unknown pooling or head, or when this is no encoder of images.
    """
    label_maps = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if isinstance(source, EncoderClassifierConfig):
        settings = {**source.to_dict(), **label_maps}
        return EncoderClassifierConfig(**settings | {"pooling": pooling or source.pooling, "head": head or source.head})
    config = clean_config(source)
    if hasattr(config, "use_mean_pooling") and pooling in ("cls", "mean"):
        config.use_mean_pooling, pooling = pooling == "mean", None
    if head in (None, "linear") and pooling in (None, POOLING.get(config.model_type)) and has_native_classifier(config):
        config.id2label, config.label2id = label_maps["id2label"], label_maps["label2id"]
        return config
    encoder_config = encoder_part(config)
    check_takes_images(encoder_config)
    return EncoderClassifierConfig(
        encoder_config=encoder_config,
        pooling=pooling or POOLING.get(config.model_type, "pooler"),
        head=head or "linear",
        **label_maps,
    )


def clean_config(source: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of an encoder's configuration; for an encoder whose weights another family's classifier holds, of that."""
    if source.model_type == "vit_mae":
        return ViTConfig(**shared_settings(source, ViTConfig()))
    if source.model_type == "timm_wrapper":  # without its way to make images, which the processor beside it tells
        return TimmWrapperConfig(**shared_settings(source, TimmWrapperConfig()))
    if source.model_type == "siglip2":
        return SiglipConfig(vision_config=shared_settings(source.vision_config, SiglipVisionConfig()))
    if source.model_type in TOWERS:
        return TOWERS[source.model_type](vision_config=source.to_dict())
    config = type(source).from_dict(source.to_dict())
    config.architectures = []
    return config


def shared_settings(source: PreTrainedConfig, target: PreTrainedConfig) -> dict:
    """The settings of one configuration that another has too, other than what it is and its labels."""
    known = target.to_dict().keys() - {"model_type", "architectures", "transformers_version", *LABELS}
    return {name: value for name, value in source.to_dict().items() if name in known}


def has_native_classifier(config: PreTrainedConfig) -> bool:
    """Whether `transformers` has a classifier for this encoder whose head can be found."""
    if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return False
    with torch.device("meta"):
        return find_head(AutoModelForImageClassification.from_config(config)) is not None


def check_takes_images(config: PreTrainedConfig) -> None:
    """Refuses what is no encoder of images.

    Raises:
        UserError: says what it takes instead.
    """
    if type(config) not in MODEL_MAPPING:
        raise UserError(f'transformers has no model that is a "{config.model_type}" encoder alone.')
    taken = MODEL_MAPPING[type(config)].main_input_name
    if taken != "pixel_values":
        raise UserError(f'A "{config.model_type}" encoder takes {taken}, expected one that takes images.')


def check_channels(config: PreTrainedConfig) -> None:
    """Refuses an encoder of other images than colored ones.

    Raises:
        UserError: names its channels.
    """
    channels = getattr(encoder_part(config), "num_channels", 3)
    if channels != 3:
        raise UserError(f'The "{config.model_type}" encoder takes images of {channels} channels, expected 3.')


def set_drop_path_rate(config: PreTrainedConfig, drop_path_rate: float) -> None:
    """Sets how often a block of the encoder is left out in training.

    Huang et al., Deep Networks with Stochastic Depth, ECCV 2016, https://arxiv.org/abs/1603.09382.

    Raises:
        UserError: when it is no share in [0, 1), or the encoder has no drop path.
    """
    if not 0 <= drop_path_rate < 1:
        raise UserError(f"drop_path_rate is {drop_path_rate}, expected a share in [0, 1).")
    encoder = encoder_part(config)
    if not hasattr(type(encoder)(), "drop_path_rate"):  # which a file may name although no module reads it
        raise UserError(
            f'drop_path_rate is {drop_path_rate}, but the "{encoder.model_type}" encoder of transformers has no drop '
            "path: leave it out."
        )
    encoder.drop_path_rate = drop_path_rate
