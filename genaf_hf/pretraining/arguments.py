"""What a pre-training is asked for: its flags, and the configuration, the views and the settings that they name."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.image_processors import LONGEST
from genaf_hf.models.soundness import expected_instead, kind_and_line, on_meta
from genaf_hf.pipelines.dataset_arguments import DatasetArguments
from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.methods import METHODS, Method, Settings
from genaf_hf.pretraining.methods.registry import MODEL_TYPES
from genaf_hf.training.options import CheckedArguments
from genaf_hf.values.numbers import check_kind, check_share, is_whole
from genaf_hf.values.settings import settings_by_name

CROP_SCALE = {name: method.views[0].scale for name, method in METHODS.items()}
KNOWN_SETTINGS = "; ".join(
    f"{name}: {', '.join(method.known_settings)}" for name, method in METHODS.items() if method.known_settings
)
NOT_OF_THE_MODEL = (  # but flags of their own, or of the images and the task, which the method decides
    *("model_type", "image_size", "num_channels", "problem_type", "id2label", "label2id", "dtype"),
    *("return_dict", "output_attentions", "output_hidden_states", "is_encoder_decoder", "architectures"),
)
LOCAL_VIEWS = 8  # of DINO's paper, beside the two global ones
JITTER = ("brightness", "contrast", "saturation", "hue")
EXAMPLE = '{"hidden_size": 384, "num_attention_heads": 6}'


@dataclass
class PretrainingArguments(DatasetArguments):
    """Which encoder is trained from scratch, by which method and on which images."""

    method: str = field(metadata={"help": "How the encoder is trained.", "choices": list(METHODS)})
    dataset_name: str = field(
        metadata={"help": "Hub id, local folder (also of images, in class folders or not), or digits."}
    )
    label_column: str | None = field(
        default=None,
        kw_only=True,
        metadata={"help": "Column of class labels, which supervised alone reads; found if there is one."},
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on a subset of this size, for supervised a stratified one."}
    )
    model_type: str = field(default="vit", metadata={"help": "Kind of the encoder.", "choices": list(MODEL_TYPES)})
    model_settings: dict | str | None = field(
        default=None,
        metadata={"help": f"Its configuration where it differs from transformers' default, as JSON: {EXAMPLE}."},
    )
    image_size: int = field(default=224, metadata={"help": "Height and width of the images."})
    method_settings: dict | str | None = field(
        default=None,
        metadata={"help": f"Settings of dino or simclr that differ from the paper's, as JSON: {KNOWN_SETTINGS}"},
    )
    crop_scale: list[float] | None = field(
        default=None,
        metadata={"help": f"Smallest and largest share of an image that a (global) view shows, default {CROP_SCALE}."},
    )
    flip: bool = field(default=True, metadata={"help": "Mirror every second view; off for digits and letters."})
    color: float | None = field(
        default=None,
        metadata={
            "help": "Strength of dino's and simclr's color jitter, default 1, the paper's; 0 leaves out gray views."
        },
    )
    blur: bool = field(default=True, metadata={"help": "Blur some views of dino and simclr."})
    local_views: int | None = field(
        default=None, metadata={"help": "Small views of dino, beside the two global ones, default 8."}
    )
    local_size: int | None = field(
        default=None, metadata={"help": "Height and width of those, default 96/224 of image_size, in whole patches."}
    )


@dataclass
class PretrainingConfig(CheckedArguments):
    """`TrainingArguments` with defaults for training an encoder from scratch.

    Raises:
        UserError: for what pre-training cannot honour; names the field.
    """

    learning_rate: float = field(default=5e-4, metadata={"help": "The initial learning rate for AdamW."})
    num_train_epochs: float = field(default=100.0, metadata={"help": "Total number of training epochs to perform."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Batch size per device."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "The scheduler type to use."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Linear warm-up of the learning rate: steps, or below 1 a share of all steps."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay for AdamW."})
    save_total_limit: int | None = field(default=1, metadata={"help": "Checkpoints that are kept to go on from."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Off, because images are decoded by a transform that needs its columns."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.eval_strategy != IntervalStrategy.NO or self.eval_on_start or self.load_best_model_at_end:
            raise UserError(
                "eval_strategy, eval_on_start or load_best_model_at_end is given, but pre-training has no images to "
                "evaluate on: leave them out."
            )
        if self.save_strategy == SaveStrategy.BEST:
            raise UserError(
                'save_strategy is "best", but pre-training has no images to tell by which weights are the best: choose '
                "epoch or steps."
            )
        if self.label_smoothing_factor:
            raise UserError(
                f"label_smoothing_factor is {self.label_smoothing_factor}, but no loss of pre-training has it: leave "
                "it out."
            )


def encoder_config(arguments: PretrainingArguments) -> PreTrainedConfig:
    """Configuration of what the method trains: of the encoder, or of the autoencoder around it.

    Raises:
        UserError: for an unknown setting, or images that the encoder cannot take.
    """
    method = METHODS[arguments.method]
    if arguments.model_type not in method.model_types:
        raise UserError(
            f'model_type is "{arguments.model_type}", but {method.name} trains only {" or ".join(method.model_types)}.'
        )
    if not 1 <= arguments.image_size <= LONGEST:
        raise UserError(f"image_size is {arguments.image_size}, expected 1 to {LONGEST} pixels.")
    family = method.model_types[arguments.model_type]
    known = AutoConfig.for_model(family).to_dict().keys()
    settings = known_settings("model_settings", arguments.model_settings, known - set(NOT_OF_THE_MODEL))
    if "image_size" in known:
        settings["image_size"] = arguments.image_size
    try:
        config = AutoConfig.for_model(family, **settings)
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise UserError(f"model_settings make no {family}: {first_line(error.__cause__ or error)}.") from error
    check_model(config)
    check_divisible("image_size", arguments.image_size, config)
    try:
        on_meta(config, method.auto_class)
    except UserError as error:
        reason = kind_and_line(error.__cause__ or error)
        raise UserError(f"model_settings make no {family}: {reason}.") from error
    return config


def check_model(config: PreTrainedConfig) -> None:
    """Refuses numbers that no encoder can be made with, or only one that learns nothing.

    Raises:
        UserError: names the setting.
    """
    for name, value in config.to_dict().items():
        if expected := expected_instead(name, value):
            raise UserError(f"model_settings give {name} {value}, expected {expected}.")
    patch, heads = getattr(config, "patch_size", 1), getattr(config, "num_attention_heads", 1)
    if not (is_whole(patch) and patch > 0):
        raise UserError(f"model_settings give patch_size {patch}, expected a positive number of pixels.")
    if getattr(config, "hidden_size", heads) % heads:
        raise UserError(f"model_settings give hidden_size {config.hidden_size}, expected a multiple of {heads} heads.")
    if config.model_type == "vit_mae":
        for name in ("hidden_size", "decoder_hidden_size"):
            if (width := getattr(config, name)) % 4:
                raise UserError(f"model_settings give {name} {width}, expected a multiple of 4, for sines and cosines.")
    if not 0 < getattr(config, "mask_ratio", 0.5) < 1:
        raise UserError(f"model_settings give mask_ratio {config.mask_ratio}, expected a share in (0, 1).")
    depths, sizes = getattr(config, "depths", [1]), getattr(config, "hidden_sizes", [1])
    if not depths or len(depths) != len(sizes):
        raise UserError(f"model_settings give depths {depths}, expected one for each of hidden_sizes.")


def method_settings(arguments: PretrainingArguments) -> Settings:
    """What `method_settings` says.

    Raises:
        UserError: for an unknown setting, or a value out of its range.
    """
    method = METHODS[arguments.method]
    kind, given = method.settings, arguments.method_settings
    settings = kind(**known_settings("method_settings", given, method.known_settings))
    for each in fields(kind):
        value, name = getattr(settings, each.name), f"{each.name} in method_settings"
        check_kind(name, value, (each.type,))
        if each.name in kind.shares:
            check_share(name, value)
        if value < 0 or (value == 0 and each.type is not bool and each.name not in (*kind.shares, *kind.counts)):
            raise UserError(f"{name} is {value}, expected more.")
    return settings


def views(arguments: PretrainingArguments, config: PreTrainedConfig) -> list[Augmentation]:
    """The views of the method's paper, as far as the flags leave them.

    Raises:
        UserError: for shares, strengths or sizes out of range, or of views that the method has not.
    """
    method = METHODS[arguments.method]
    refuse_unread(method, arguments)
    scale = tuple(arguments.crop_scale or method.views[0].scale)
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise UserError(f"crop_scale is {list(scale)}, expected two shares in (0, 1], the smaller one first.")
    if not 0 <= (arguments.color or 0) < math.inf:
        raise UserError(f"color is {arguments.color}, expected 0 or more.")
    if (arguments.local_views or 0) < 0:
        raise UserError(f"local_views is {arguments.local_views}, expected 0 or more.")
    found = [asked_for(arguments, view, arguments.image_size, scale) for view in method.views]
    if (local := method.local_view) is None:
        return found
    patch, share = getattr(config, "patch_size", 1), local.size / method.views[0].size
    size = arguments.local_size
    if size is None:
        size = max(1, round(share * arguments.image_size / patch)) * patch
    check_divisible("local_size", size, config)
    small = asked_for(arguments, local, size, (min(local.scale[0], scale[0]), scale[0]))
    return [*found, *[small] * (LOCAL_VIEWS if arguments.local_views is None else arguments.local_views)]


def refuse_unread(method: Method, arguments: PretrainingArguments) -> None:
    """Refuses flags of views that the method does not have; the `UserError` names the flag and the method."""
    jitters = any(getattr(view, name) for view in method.views for name in JITTER)
    for name, read in {"color": jitters, "local_views": method.local_view, "local_size": method.local_view}.items():
        if (value := getattr(arguments, name)) is not None and not read:
            raise UserError(f"{name} is {value}, but {method.name} has no such views: leave it out.")


def asked_for(arguments: PretrainingArguments, view: Augmentation, size: int, scale: tuple) -> Augmentation:
    """A paper's view in a size, of a share of the image, as far as the flags leave flips, colors and blur."""
    strength = 1.0 if arguments.color is None else arguments.color
    colors = {name: strength * getattr(view, name) for name in JITTER}
    if not strength:
        colors |= {"grayscale": 0.0, "solarize": 0.0}
    blur = view.blur if arguments.blur else 0.0
    return replace(view, size=size, scale=scale, flip=arguments.flip, **colors, blur=blur)


def check_divisible(name: str, size: int, config: PreTrainedConfig) -> None:
    """Refuses images that cannot be cut into whole patches; the `UserError` names both sizes."""
    patch = getattr(config, "patch_size", 1)
    if size < 1 or size % patch:
        raise UserError(f"{name} is {size}, expected a positive multiple of the patch size {patch}.")


def known_settings(flag: str, given: dict | str | None, known: Collection[str]) -> dict:
    """What a flag of settings says.

    Raises:
        UserError: when it is no JSON object, or has a setting that is unknown.
    """
    settings = settings_by_name(flag, given, EXAMPLE)
    if unknown := sorted(settings.keys() - set(known)):
        raise UserError(f"{flag} have the unknown {unknown[0]}; known are {', '.join(sorted(known)) or 'none'}.")
    return settings
