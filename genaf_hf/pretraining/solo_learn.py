"""ResNets that solo-learn pre-trained without labels, as checkpoints of `transformers`.

da Costa et al., "solo-learn", JMLR 2022 (https://jmlr.org/papers/v23/21-1155.html). The encoders of Gen-AF's paper are
such files.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, ResNetConfig, ResNetModel, ViTImageProcessorPil

from genaf_hf.errors import UserError, first_line
from genaf_hf.models.classifier_config import check_channels
from genaf_hf.models.encoder_classifier import EncoderClassifierConfig, EncoderForImageClassification
from genaf_hf.models.image_processors import check_lengths
from genaf_hf.models.pixel_model import pixel_statistics
from genaf_hf.models.soundness import check_finite_weights
from genaf_hf.pretraining.encoder import LEAVES
from genaf_hf.runs.run import Run
from genaf_hf.sharing.hub_metadata import CardData, card
from genaf_hf.sharing.layout import CARD
from genaf_hf.values.markup import plain

METHODS = {
    "barlow_twins": "Barlow Twins",
    "byol": "BYOL",
    "deepclusterv2": "DeepCluster v2",
    "dino": "DINO",
    "mocov2plus": "MoCo v2+",
    "mocov3": "MoCo v3",
    "nnclr": "NNCLR",
    "ressl": "ReSSL",
    "simclr": "SimCLR",
    "supcon": "SupCon",
    "swav": "SwAV",
    "vibcreg": "VIbCReg",
    "vicreg": "VICReg",
    "wmse": "W-MSE",
}
PREFIXES = ("backbone.", "encoder.")  # of the online encoder, not of the momentum one, in newer and older versions
CONVOLUTIONS = {"basic": 2, "bottleneck": 3}  # of a block
STEM_PADDING = 2  # of solo-learn's CIFAR stem; a weight does not tell its padding
CIFAR = {
    "size": {"height": 32, "width": 32},
    "image_mean": [0.4914, 0.4822, 0.4465],
    "image_std": [0.247, 0.243, 0.261],
}
IMAGENET = {
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@dataclass(frozen=True)
class Converted:
    """What a file of solo-learn became.

    Attributes:
        method: by which the encoder was pre-trained, None where the file does not tell.
        layers: 18, 34, 50, ...
        cifar_stem: whether the stem is the one for small images.
        left_out: what else the file held, by the first part of the names, with the number of tensors.
    """

    method: str | None
    layers: int
    cifar_stem: bool
    left_out: dict[str, int]

    def __str__(self) -> str:
        stem = "CIFAR" if self.cifar_stem else "ImageNet"
        return f"ResNet-{self.layers} with {stem} stem, pre-trained by {self.method or 'an unknown method'}"


def convert_solo_learn(
    checkpoint: str | Path,
    output_dir: str | Path,
    *,
    method: str | None = None,
    stem_padding: int | None = None,
    image_size: int | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
) -> Converted:
    """Writes the encoder of a solo-learn checkpoint as a folder that the Auto classes and `load_encoder` load.

    With the ImageNet stem it is a native `ResNetModel`, with the CIFAR stem an `EncoderForImageClassification`; its
    features are those of the original. The head is left to be made by whoever loads it. Depth and stem are told by the
    tensors; the method by the flag, the `args.json` that solo-learn writes beside the file, or the file's name.

    Args:
        checkpoint: the `.ckpt` file. It is read by `torch.load(weights_only=True)`.
        output_dir: the folder to write.
        method: one of `METHODS`, where neither `args.json` nor the file's name tells.
        stem_padding: of a CIFAR stem: 2 in solo-learn, which is the default, 1 in others' ResNets.
        image_size: of the image processor, default 32 for the CIFAR stem and 224 for the ImageNet stem.
        image_mean, image_std: of the image processor, default those of CIFAR-10 or ImageNet.

    Raises:
        UserError: when something of its name is in the folder already, before anything is read; for numbers that are
            none; when the file is none of solo-learn, or holds no ResNet; for a broken `args.json`.
    """
    checkpoint = Path(checkpoint)
    Run(output_dir, {}, leaves=LEAVES).check()
    check_numbers(stem_padding, image_size, image_mean, image_std)
    state = read_state_dict(checkpoint)
    weights = online_encoder(state, checkpoint)
    config, cifar_stem = resnet_config(weights, checkpoint)
    method = known_method(method, checkpoint)
    if stem_padding is not None and not cifar_stem:
        raise UserError(f"stem_padding is {stem_padding}, but {checkpoint} holds the ImageNet stem: leave it out.")
    check_channels(config)
    processor = image_processor(cifar_stem, image_size, image_mean, image_std)
    check_lengths(processor.to_dict())
    pixel_statistics(processor)

    if cifar_stem:
        padding = STEM_PADDING if stem_padding is None else stem_padding
        settings = {"cifar_stem": True, "stem_padding": padding, "feature_size": config.hidden_sizes[-1]}
        model = EncoderForImageClassification(EncoderClassifierConfig(encoder_config=config, **settings))
        load_resnet(model.encoder, weights, checkpoint)
        headless = {name: weight for name, weight in model.state_dict().items() if name.startswith("encoder.")}
        model.save_pretrained(output_dir, state_dict=headless)
    else:
        model = ResNetModel(config)
        load_resnet(model, weights, checkpoint)
        model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)

    found = Converted(
        method=None if method is None else METHODS[method],
        layers=CONVOLUTIONS[config.layer_type] * sum(config.depths) + 2,
        cifar_stem=cifar_stem,
        left_out=dict(Counter(name.split(".")[0] for name in state if not name.startswith(online_prefix(state)))),
    )
    write_card(found, method, checkpoint.name, Path(output_dir))
    return found


def check_numbers(
    stem_padding: int | None,
    image_size: int | None,
    image_mean: Sequence[float] | None,
    image_std: Sequence[float] | None,
) -> None:
    """Refuses what no stem and no image processor can have; the `UserError` names the value."""
    if stem_padding is not None and stem_padding < 0:
        raise UserError(f"stem_padding is {stem_padding}, expected 0 or more pixels.")
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size is {image_size}, expected a positive number of pixels.")
    for name, values in {"image_mean": image_mean, "image_std": image_std}.items():
        least = 0 if name == "image_std" else -math.inf
        if values is not None and not (len(values) == 3 and all(least < value < math.inf for value in values)):
            more = ", each above 0" if name == "image_std" else ""
            raise UserError(f"{name} is {' '.join(map(str, values))}, expected three numbers{more}, for R, G and B.")


def read_state_dict(checkpoint: Path) -> dict[str, Tensor]:
    """The tensors of a Lightning checkpoint by their names.

    Raises:
        UserError: when it cannot be read without running code that it brings, or has no tensors by names.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{checkpoint} cannot be read: {first_line(error)}.") from error
    except Exception as error:  # of a file that is none of PyTorch's, whatever its first bytes make of it
        raise UserError(
            f"{checkpoint} is no file of tensors and plain values alone ({first_line(error)}): where you trust it, "
            'save it again as torch.save({"state_dict": checkpoint["state_dict"]}, path).'
        ) from error
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    by_name = isinstance(state, Mapping) and all(isinstance(name, str) for name in state)
    if not by_name or not all(isinstance(weight, Tensor) for weight in state.values()):
        raise UserError(f'{checkpoint} has no "state_dict" of tensors, expected a checkpoint of solo-learn.')
    return dict(state)


def online_prefix(state: Mapping[str, Tensor]) -> str:
    """How the names of the online encoder begin; the momentum encoder's begin otherwise. Empty without one."""
    return next((prefix for prefix in PREFIXES if any(name.startswith(prefix) for name in state)), "")


def online_encoder(state: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Tensor]:
    """The online encoder's tensors by the names that torchvision gives them, without a classifier.

    Raises:
        UserError: when there is none.
    """
    prefix = online_prefix(state)
    if not prefix:
        found = ", ".join(sorted({name.split(".")[0] for name in state})[:5])
        raise UserError(f"{checkpoint} holds {found or 'nothing'}, expected the backbone or encoder of solo-learn.")
    weights = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    return {name: weight for name, weight in weights.items() if not name.startswith("fc.")}


def resnet_config(weights: Mapping[str, Tensor], checkpoint: Path) -> tuple[ResNetConfig, bool]:
    """Configuration of the ResNet that these tensors are of, and whether it has the CIFAR stem.

    torchvision's bottlenecks have their stride in the 3 x 3 convolution, as `downsample_in_bottleneck=False` has it.

    Raises:
        UserError: when they are of no ResNet.
    """
    blocks = [match.groups() for name in weights if (match := re.match(r"layer(\d)\.(\d+)\.conv1\.weight", name))]
    depths = [sum(stage == str(number) for stage, _ in blocks) for number in range(1, 5)]
    stem = weights.get("conv1.weight")
    if stem is None or stem.ndim != 4 or stem.shape[-1] not in (3, 7) or not all(depths):
        raise UserError(
            f"{checkpoint} holds an encoder with {', '.join(list(weights)[:3])}, expected a ResNet by torchvision's "
            "names."
        )
    kind = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
    tops = [f"layer{number}.0.conv{CONVOLUTIONS[kind]}.weight" for number in range(1, 5)]
    if missing := [name for name in tops if name not in weights or weights[name].ndim != 4]:
        raise UserError(f"{checkpoint} holds no whole ResNet: it lacks {missing[0]}.")
    config = ResNetConfig(
        num_channels=stem.shape[1],
        embedding_size=stem.shape[0],
        hidden_sizes=[weights[name].shape[0] for name in tops],
        depths=depths,
        layer_type=kind,
    )
    return config, stem.shape[-1] == 3


def load_resnet(model: PreTrainedModel, weights: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Loads tensors by torchvision's names into a `ResNetModel`.

    Raises:
        UserError: when one is missing, unknown or of another shape.
    """
    modules, renamed = transformers_modules(model.config), {}
    for name, weight in weights.items():
        module, _, tensor = name.rpartition(".")
        if not weight.is_floating_point() and tensor != "num_batches_tracked":
            raise UserError(f"{checkpoint} holds {name} in {weight.dtype}, expected weights as they were trained.")
        renamed[f"{modules.get(module, module)}.{tensor}"] = weight
    try:
        model.load_state_dict(renamed, strict=True)
    except RuntimeError as error:
        raise UserError(f"{checkpoint} holds no whole ResNet: {first_line(error)}.") from error
    check_finite_weights(model, checkpoint.name)


def transformers_modules(config: ResNetConfig) -> dict[str, str]:
    """Names of the modules of `ResNetModel` by those of torchvision's ResNet."""
    pairs = {"embedder.embedder": ("conv1", "bn1")}
    for stage, depth in enumerate(config.depths):
        for block in range(depth):
            ours, theirs = f"encoder.stages.{stage}.layers.{block}", f"layer{stage + 1}.{block}"
            pairs[f"{ours}.shortcut"] = (f"{theirs}.downsample.0", f"{theirs}.downsample.1")
            for layer in range(CONVOLUTIONS[config.layer_type]):
                pairs[f"{ours}.layer.{layer}"] = (f"{theirs}.conv{layer + 1}", f"{theirs}.bn{layer + 1}")
    names: dict[str, str] = {}
    for ours, (convolution, normalization) in pairs.items():
        names |= {convolution: f"{ours}.convolution", normalization: f"{ours}.normalization"}
    return names


def known_method(method: str | None, checkpoint: Path) -> str | None:
    """The name in solo-learn of the method that made a checkpoint, None where nothing tells.

    Raises:
        UserError: for an unknown one, and for a broken `args.json`.
    """
    if method is not None and method not in METHODS:
        raise UserError(f'method is "{method}", expected one of {", ".join(METHODS)}.')
    if method is None and (record := checkpoint.with_name("args.json")).exists():
        method = recorded_method(record)
    if method in METHODS:
        return method
    words = re.split(r"[^a-z0-9]+", checkpoint.name.lower())
    return next((name for name in METHODS if set(name.split("_")) <= set(words)), None)


def recorded_method(record: Path) -> str | None:
    """The method that an `args.json` names, None where it names none.

    Raises:
        UserError: when it is no JSON object.
    """
    try:
        settings = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(
            f"{record} cannot be read as JSON ({first_line(error)}): mend it, or name the method with --method."
        ) from error
    if not isinstance(settings, dict):
        raise UserError(
            f"{record} holds a {type(settings).__name__}, expected an object: mend it, or name the method with "
            "--method."
        )
    method = settings.get("method")
    return method if isinstance(method, str) else None


def image_processor(
    cifar_stem: bool, image_size: int | None, image_mean: Sequence[float] | None, image_std: Sequence[float] | None
) -> ViTImageProcessorPil:
    """The processor of CIFAR-10 or ImageNet, by the stem, with what is given in place of its settings."""
    settings = {**(CIFAR if cifar_stem else IMAGENET)}
    if image_size is not None:
        square = {"height": image_size, "width": image_size}
        settings["size"] = square if cifar_stem else {"shortest_edge": round(image_size * 256 / 224)}
        settings |= {} if cifar_stem else {"crop_size": square}
    given = {"image_mean": image_mean, "image_std": image_std}
    return ViTImageProcessorPil(
        **settings | {name: list(values) for name, values in given.items() if values is not None}
    )


def write_card(found: Converted, method: str | None, file_name: str, folder: Path) -> None:
    """A model card that says what the encoder is."""
    tags = ["self-supervised", "solo-learn", *([method] if method else [])]
    metadata = CardData(library_name="transformers", pipeline_tag="image-feature-extraction", tags=tags)
    text = f"The online encoder of the solo-learn checkpoint {plain(file_name)}, converted by genaf_hf."
    card(metadata, f"# {found}\n\n{text}").save(folder / CARD)
