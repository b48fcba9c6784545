"""An encoder without a head of ours, as the class of its publisher holds it."""

import copy
import logging
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from genaf_hf.errors import UserError
from genaf_hf.models.encoder_classifier import EncoderClassifierConfig
from genaf_hf.models.families import encoder_part, family_of
from genaf_hf.models.head import head_name, in_head
from genaf_hf.models.loading import load_configuration, name_of_encoder
from genaf_hf.models.position_embeddings import with_image_size
from genaf_hf.models.weights import read_weights

logger = logging.getLogger(__name__)

TOWER = "vision_model."  # before names in a model of images and text


def load_bare_encoder(
    classifier: PreTrainedModel,
    model_name_or_path: str,
    size: tuple[int, int],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> PreTrainedModel:
    """The encoder that `load_encoder` made a classifier of, as `AutoModel` loads it: of its own class and shape.

    A pooling layer that the checkpoint has no weights for is left out, unless the features go through it; and so is the
    head of a classifier, which is logged.
    Of SigLIP 2 of flexible resolution it is the vision tower at one, and of a classifier made of a model of images and
    text, which holds nothing of the latter, the vision tower alone.

    Args:
        classifier: what `load_encoder` gave.
        model_name_or_path: Hub id or local folder.
        size: height and width of the images.
        revision: branch, tag or commit on the Hub.
        token: for private and gated repositories.

    Raises:
        UserError: when the weights cannot be read.
    """
    hub: dict[str, Any] = {"revision": revision, "token": token}
    config, _ = load_configuration(model_name_or_path, **hub)
    of_tower = is_classifier(config) and hasattr(config, "vision_config")
    if family_of(config).square_weights is not None or of_tower:
        bare = copy.deepcopy(getattr(classifier, name_of_encoder(classifier.config)))
        if of_tower:
            tell_of_head(model_name_or_path, config, bare)
        return bare
    if isinstance(config, EncoderClassifierConfig):  # which is never without a head; the classifier's is a fresh one
        tell_of_head(model_name_or_path, config, classifier)
        bare = copy.deepcopy(classifier)
        bare.config.id2label = {i: f"LABEL_{i}" for i in range(bare.config.num_labels)}
        bare.config.label2id = {name: i for i, name in bare.config.id2label.items()}
        return bare
    options = {"config": config, "dtype": torch.float32, **hub}
    pooling: dict[str, Any] = {}
    bare, loading = read_weights(AutoModel, model_name_or_path, **options)
    read, own = (any("pooler." in name for name, _ in model.named_parameters()) for model in (classifier, bare))
    lacking = any(name.startswith("pooler.") for name in loading["missing_keys"])
    if read != own and (read or lacking):
        pooling = {"add_pooling_layer": read}
        bare, _ = read_weights(AutoModel, model_name_or_path, **pooling, **options)
    if is_classifier(config):
        tell_of_head(model_name_or_path, config, bare)
        bare.config.num_labels = 2  # the default, which tells nothing of the old classes
    bare = with_image_size(bare.eval(), size, **pooling)
    take_weights(bare, classifier)
    bare.config.__dict__.pop("pretrained_cfg", None)  # of timm's, which would go before the image processor beside it
    return bare


def tell_of_head(model_name_or_path: str, config: PreTrainedConfig, bare: PreTrainedModel) -> None:
    """Says that a classifier's head is dropped."""
    logger.warning(
        '"%s" is a classifier, a %s: its head is dropped, and its encoder alone is hardened, a %s.',
        *(model_name_or_path, (config.architectures or [config.architecture])[0], type(bare).__name__),
    )


def is_classifier(config: PreTrainedConfig) -> bool:
    """Whether the configuration of a checkpoint says that it holds the head of a classifier, or of several."""
    if config.architectures is None:  # as timm writes its own
        return hasattr(config, "architecture") and config.num_labels > 0
    return any("ForImageClassification" in name for name in config.architectures)


def take_weights(bare: PreTrainedModel, classifier: PreTrainedModel) -> None:
    """Gives an encoder the weights that a classifier made of it has; parts that this leaves out stay as they are.

    Args:
        bare: as `load_bare_encoder` gives it.
        classifier: of the same encoder.

    Raises:
        UserError: when the encoder has no place for some of them.
    """
    head, known = head_name(classifier), bare.state_dict()
    held = {name: tensor for name, tensor in classifier.state_dict().items() if not in_head(name, head)}
    for prefix in ("", f"{classifier.base_model_prefix}.", TOWER):
        renamed = {name.removeprefix(prefix): tensor for name, tensor in held.items()}
        if all(name in known and known[name].shape == tensor.shape for name, tensor in renamed.items()):
            bare.load_state_dict({**known, **renamed})
            return
    raise UserError(
        f"A {type(bare).__name__} has no place for what was trained as a {type(classifier).__name__}: choose another "
        "encoder, or harden a classifier, as genaf-hf harden does."
    )


def name_of_features(bare: PreTrainedModel, pixel_values: Tensor, features: Tensor) -> str | None:
    """Which of an encoder's `outputs` its features are, as code that reads them; None where they are none of the usual.

    An encoder that hides patches from itself is asked without.

    Args:
        bare: in eval mode.
        pixel_values: of some images, (n, 3, h, w).
        features: of the same, (n, d).
    """
    if hasattr(bare.config, "mask_ratio"):
        bare = copy.deepcopy(bare)
        bare.config.mask_ratio = 0.0
    with torch.no_grad():
        outputs = getattr(bare, "vision_model", bare)(pixel_values=pixel_values)
    states = outputs.get("last_hidden_state")
    found = {"outputs.pooler_output.flatten(1)": outputs.get("pooler_output")}
    if isinstance(states, Tensor) and states.ndim == 3:
        first = 1 + getattr(encoder_part(bare.config), "num_register_tokens", 0)
        cls, patches = states[:, 0], states[:, first:].mean(1)
        cls_name, patches_name = "outputs.last_hidden_state[:, 0]", f"outputs.last_hidden_state[:, {first}:].mean(1)"
        found |= {
            cls_name: cls,
            "outputs.last_hidden_state.mean(1)": states.mean(1),
            patches_name: patches,
            f"torch.cat([{cls_name}, {patches_name}], 1)": torch.cat([cls, patches], 1),
        }
    elif isinstance(states, Tensor):
        found["outputs.last_hidden_state.mean((2, 3))"] = states.mean((2, 3))
    same = [
        name
        for name, value in found.items()
        if isinstance(value, Tensor)
        and (flat := value.flatten(1)).shape == features.shape
        and torch.allclose(flat, features, rtol=1e-3, atol=1e-4)
    ]
    return same[0] if same else None
