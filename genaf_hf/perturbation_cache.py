"""Universal perturbations that were crafted before, by what they depend on."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from tempfile import TemporaryDirectory

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub.constants import HF_HOME
from safetensors.torch import save
from torch import Tensor

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.attacks.perturbation import FILE_NAME
from genaf_hf.attacks.registry import attack_name
from genaf_hf.head import head_name, in_head
from genaf_hf.pixel_model import PixelModel
from genaf_hf.provenance import model_source

logger = logging.getLogger(__name__)

CACHE = Path(HF_HOME) / "genaf_hf" / "perturbations"


def crafted_once(
    attack: partial, encoder: PixelModel, *data: Tensor, cache: Path | None = None
) -> UniversalPerturbation:
    """The perturbation that an attack crafts on an encoder; from the cache when the same one was crafted before.

    Under `accelerate launch` every process gets that of the main one.

    Args:
        attack: a universal one with its settings, as `ATTACKS[name].configure()` makes it.
        encoder: what it is crafted on.
        data: images, and labels where the attack needs them.
        cache: of a folder per perturbation, named by the SHA-256 of weights, settings and data; default `CACHE`.
    """
    cache = CACHE if cache is None else cache
    folder = cache / content(attack, encoder, *data)
    before = PartialState().is_main_process and (folder / FILE_NAME).exists()
    [found] = broadcast_object_list([UniversalPerturbation.from_pretrained(folder) if before else None])
    if found is None:
        logger.info("Crafting %s", attack_name(attack.func))
        crafted = attack(encoder, *data)
        [found] = broadcast_object_list([replace(crafted, delta=crafted.delta.cpu())])
        if PartialState().is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=cache) as draft:  # its own: another audit may be saving the same perturbation
                found.save_pretrained(draft)
                (Path(draft) / FILE_NAME).replace(folder / FILE_NAME)
    else:
        logger.info("%s was crafted before", attack_name(attack.func))
    return replace(found, delta=found.delta.to(encoder.mean.device))


def content(attack: partial, encoder: PixelModel, *data: Tensor) -> str:
    """SHA-256 of everything that a perturbation depends on; the encoder's head is nothing of it."""
    config = encoder.model.config
    settings = {
        name: value for name, value in config.to_dict().items() if "label" not in name and name != "_name_or_path"
    }
    parameters = signature(attack.func).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    words = (
        *(version("genaf_hf"), attack_name(attack.func), {**defaults, **attack.keywords}),
        *(model_source(config), settings),
    )
    return digest(words, {**encoder_tensors(encoder), **{f"data {i}": tensor for i, tensor in enumerate(data)}})


def tensors(model: PixelModel) -> dict[str, Tensor]:
    """Weights and buffers by name, those of the normalisation among them."""
    return dict((*model.named_parameters(), *model.named_buffers()))


def encoder_tensors(model: PixelModel) -> dict[str, Tensor]:
    """Those that are not the head's, which is random on a public encoder."""
    head = f"model.{head_name(model.model)}"
    return {name: tensor for name, tensor in tensors(model).items() if not in_head(name, head)}


def digest(words: object, named: Mapping[str, Tensor]) -> str:
    """SHA-256 of what JSON can hold, and of tensors by name."""
    found = hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode())
    for name, tensor in sorted(named.items()):
        found.update(save({name: tensor.detach().cpu().contiguous()}))
    return found.hexdigest()
