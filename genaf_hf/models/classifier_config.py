"""Which class holds an encoder as an image classifier, and its configuration."""

import logging
from collections.abc import Iterator, Sequence

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING, PreTrainedConfig

from genaf_hf.errors import UserError
from genaf_hf.models.encoder_classifier import EncoderClassifierConfig
from genaf_hf.models.families import encoder_part, family_of
from genaf_hf.models.head import find_head
from genaf_hf.models.soundness import on_meta

logger = logging.getLogger(__name__)

LABELS = ("id2label", "label2id", "label_names", "num_classes")  # the latter two in timm
ANSWER = {  # how a model answers, not what it is
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "chunk_size_feed_forward": 0,
    "problem_type": None,
}
FOUND = ("problem_type", "single_label_classification")  # what None becomes when a model sees its first labels
TASK = {  # of the old head, whose dropout would hide from a new one what it is to learn
    **ANSWER,
    **dict.fromkeys(("classifier_dropout", "classifier_dropout_prob", "classifier_dropout_rate"), 0.0),
    **dict.fromkeys(("dropout_rate", "final_dropout", "head_dropout", "head_dropout_prob"), 0.0),
}
LEFT_BEHIND = (  # by what is read, and by what is saved and then read by others
    *("auto_map", "custom_pipelines", "finetuning_task", "gradient_checkpointing", "label_smoothing", "loss_type"),
    *("pruned_heads", "task_specific_params", "torchscript"),
    *("compression_config", "quantization_config"),  # an empty one, for the others are refused
)
TIMM_DROPOUT = "drop_rate"  # of its heads


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
    config = clean_config(source)
    if isinstance(config, EncoderClassifierConfig):
        return ours({**config.to_dict(), **label_maps}, pooling or config.pooling, head or config.head)
    if hasattr(config, "use_mean_pooling") and pooling in ("cls", "mean"):
        config.use_mean_pooling, pooling = pooling == "mean", None
    native_pooling = family_of(config).pooling
    if head in (None, "linear") and pooling in (None, native_pooling) and has_native_classifier(config):
        config.num_labels = len(labels)  # which Pvt holds beside the names
        config.id2label, config.label2id = label_maps["id2label"], label_maps["label2id"]
        return config
    encoder_config = encoder_part(config)
    check_takes_images(encoder_config)
    settings = {"encoder_config": encoder_config, **label_maps}
    return ours(settings, pooling or native_pooling or "pooler", head or "linear")


def ours(settings: dict, pooling: str, head: str) -> EncoderClassifierConfig:
    """The configuration of a classifier of ours.

    Raises:
        UserError: for an unknown pooling or head.
    """
    try:
        return EncoderClassifierConfig(**settings | {"pooling": pooling, "head": head})
    except ValueError as error:  # its module, which is published beside weights, knows none of our errors
        raise UserError(str(error)) from error


def clean_config(source: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of an encoder's configuration without the settings of its old task; the log says which those were.

    For an encoder whose weights another family's classifier holds, it is of that family.
    """
    config = of_its_classifier(source)
    config.architectures = []
    changes = [*set_clean(config, TASK), *in_single_precision(config)]
    if changes:
        logger.warning("Settings of the old task of this encoder do not hold for its new head: %s", ", ".join(changes))
    return config


def set_clean(config: PreTrainedConfig, settings: dict) -> list[str]:
    """Sets what a configuration and those inside of it have of these settings, and removes what is to be left behind.

    Returns:
        What was changed, in words.
    """
    changes = []
    for each in parts(config):
        for name, new in settings.items():
            if (old := getattr(each, name, new)) != new:
                setattr(each, name, new)
                if (name, old) == FOUND:
                    continue
                changes.append(f"{name} is {new} instead of {old}")
        for name in LEFT_BEHIND:
            if (old := each.__dict__.pop(name, None)) and name != "auto_map":  # which our own classifiers have
                changes.append(f"{name} is left out, which was {old}")
        model_args = getattr(each, "model_args", None) or {}
        if settings is TASK and model_args.pop(TIMM_DROPOUT, 0.0):
            changes.append(f"{TIMM_DROPOUT} is left out of its model_args")
        each._attn_implementation = None  # which a file may set to code that is fetched from the Hub
    return changes


def in_single_precision(config: PreTrainedConfig) -> list[str]:
    """Sets the precision in which a model is made, and tells what was changed, in words."""
    changed = [each for each in parts(config) if each.dtype not in (None, torch.float32)]
    changes = dict.fromkeys(f"dtype is float32 instead of {str(each.dtype).removeprefix('torch.')}" for each in changed)
    for each in changed:
        each.dtype = torch.float32
    return list(changes)


def parts(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and those inside of it."""
    yield config
    for each in list(config.__dict__.values()):
        if isinstance(each, PreTrainedConfig):
            yield from parts(each)


def of_its_classifier(source: PreTrainedConfig) -> PreTrainedConfig:
    """A copy of a configuration, or for an encoder whose weights another family's classifier holds, one of that."""
    classifier = family_of(source).classifier
    if classifier is None:
        return type(source).from_dict(source.to_dict())
    kind = CONFIG_MAPPING[classifier]
    if "vision_config" not in kind.sub_configs:
        return kind(**shared_settings(source, kind()))
    if "vision_config" in source.sub_configs:
        return kind(vision_config=shared_settings(source.vision_config, kind().vision_config))
    return kind(vision_config=source.to_dict())  # of a tower that is published alone


def shared_settings(source: PreTrainedConfig, target: PreTrainedConfig) -> dict:
    """The settings of one configuration that another has too, other than what it is and its labels."""
    known = target.to_dict().keys() - {"model_type", "architectures", "transformers_version", *LABELS}
    return {name: value for name, value in source.to_dict().items() if name in known}


def has_native_classifier(config: PreTrainedConfig) -> bool:
    """Whether `transformers` has a classifier for this encoder whose head can be found."""
    return type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING and find_head(on_meta(config)) is not None


def check_takes_images(config: PreTrainedConfig) -> None:
    """Refuses what is no encoder of images; the `UserError` says what it takes instead."""
    if type(config) not in MODEL_MAPPING:
        raise UserError(f'transformers has no model that is a "{config.model_type}" encoder alone.')
    taken = MODEL_MAPPING[type(config)].main_input_name
    if taken != "pixel_values":
        raise UserError(f'A "{config.model_type}" encoder takes {taken}, expected one that takes images.')


def check_channels(config: PreTrainedConfig) -> None:
    """Refuses an encoder of other images than colored ones; the `UserError` names its channels."""
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
