"""What tells models apart, whatever they are called: SHA-256 of weights and of what is done with them."""

import hashlib
import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor

from genaf_hf.models.head import head_name, in_head
from genaf_hf.models.pixel_model import PixelModel


def architecture(model: PixelModel) -> dict:
    """What a model's configuration says but for names, labels and versions."""
    settings = model.model.config.to_dict()
    others = ("_name_or_path", "transformers_version")
    return {name: value for name, value in settings.items() if "label" not in name and name not in others}


def encoder_digest(model: PixelModel) -> str:
    """SHA-256 of everything that an encoder's features depend on; its head is nothing of it."""
    return digest((model.image_size, architecture(model)), encoder_tensors(model))


def tensors(model: PixelModel) -> dict[str, Tensor]:
    """Weights and buffers by name, those of the normalisation among them."""
    return dict((*model.named_parameters(), *model.named_buffers()))


def encoder_tensors(model: PixelModel) -> dict[str, Tensor]:
    """Those that are not the head's, which is random on a public encoder."""
    head = f"model.{head_name(model.model)}"
    return {name: tensor for name, tensor in tensors(model).items() if not in_head(name, head)}


def tensor_digest(values: Tensor) -> str:
    """SHA-256 of a tensor."""
    return digest("", {"": values})


def digest(words: object, named: Mapping[str, Tensor]) -> str:
    """SHA-256 of what JSON can hold, and of tensors by name."""
    found = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    for name, tensor in sorted(named.items()):
        found.update(save({name: tensor.detach().cpu().contiguous()}))
    return found.hexdigest()
