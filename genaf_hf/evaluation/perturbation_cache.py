"""Universal perturbations that were crafted before, by what they depend on."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from inspect import getsource, unwrap
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from genaf_hf.attacks import UniversalPerturbation
from genaf_hf.attacks.inputs import Encoders, several
from genaf_hf.attacks.perturbation import FILE_NAME
from genaf_hf.attacks.registry import Attack, configured
from genaf_hf.errors import UserError, first_line
from genaf_hf.models.identity import architecture, digest, encoder_tensors, tensor_digest, tensors
from genaf_hf.runs.journal import write_whole
from genaf_hf.values.provenance import model_source

logger = logging.getLogger(__name__)

CACHE = Path(HF_HOME) / "genaf_hf" / "perturbations"
CRAFTING = 3  # raised where attacks come to craft something else by the same settings
SEAL = "seal"  # in the header of a file


def crafted_once(
    attack: Attack,
    encoder: Encoders,
    *data: Tensor,
    data_digests: Sequence[str] | None = None,
    cache: Path | None = None,
) -> UniversalPerturbation:
    """The perturbation that an attack crafts on an encoder; from the cache when the same one was crafted before.

    Under `accelerate launch` every process gets that of the main one. A file that is broken, or was put there by
    somebody else, is not believed; a cache that cannot be written to is done without.

    Args:
        attack: a universal one with its settings, as `ATTACKS[name].configure()` makes it.
        encoder: what it is crafted on, one or several at once.
        data: images, and labels where the attack needs them.
        data_digests: SHA-256 of each, where they are known.
        cache: of a folder per perturbation, named by the SHA-256 of weights, settings and data; default `CACHE`.
    """
    attack = configured(attack)
    cache = CACHE if cache is None else cache
    key = content(attack, encoder, data_digests or [tensor_digest(each) for each in data])
    [found] = broadcast_object_list([read_sealed(cache / key, key) if PartialState().is_main_process else None])
    if found is None:
        logger.info("Crafting %s", attack.name)
        crafted = attack(encoder, *data)
        [found] = broadcast_object_list([replace(crafted, delta=crafted.delta.cpu())])
        if PartialState().is_main_process:
            keep(found, cache, key)
    else:
        logger.info("%s was crafted before", attack.name)
    return replace(found, delta=found.delta.to(several(encoder)[0].device))


def keep(found: UniversalPerturbation, cache: Path, key: str) -> None:
    """Writes a perturbation into the cache, with a seal by which it is known again."""
    try:
        sealed = save({"delta": found.delta.contiguous()}, {**found.header, SEAL: seal(found, key)})
        write_whole(cache / key / FILE_NAME, sealed)  # which another audit may be saving, too
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be kept in %s for the next time: %s.", found.attack, cache, first_line(error))


def read_sealed(folder: Path, key: str) -> UniversalPerturbation | None:
    """The perturbation that `keep` wrote for this key; None where there is none, or another one."""
    try:
        if not (folder / FILE_NAME).exists():
            return None
        found = UniversalPerturbation.from_pretrained(folder)
        with safe_open(folder / FILE_NAME, framework="pt") as file:
            if file.metadata().get(SEAL) == seal(found, key):
                return found
        reason = "it is not the one that was kept there"
    except (OSError, SafetensorError, UserError) as error:
        reason = first_line(error)
    logger.warning("The perturbation in %s is not used, it is crafted anew: %s.", folder, reason)
    return None


def seal(found: UniversalPerturbation, key: str) -> str:
    """SHA-256 of a perturbation with all that is said of it, and of what it was crafted from."""
    return digest((key, type(found).__name__, found.provenance), {"delta": found.delta})


def content(attack: Attack, encoder: Encoders, data_digests: Sequence[str]) -> str:
    """SHA-256 of everything that a perturbation depends on; of public encoders the heads are nothing of it."""
    encoders, init = several(encoder), attack.settings.get("init")
    known = encoder_tensors if attack.on_encoder else tensors
    words = (
        *(version("genaf_hf"), CRAFTING, version("transformers"), attack.name, written(attack), attack.settings),
        *((model_source(each.model.config), architecture(each), each.image_size) for each in encoders),
        *(each.autocast for each in encoders if each.autocast),
        *data_digests,
    )
    named = {f"{i}.{name}": tensor for i, each in enumerate(encoders) for name, tensor in known(each).items()}
    if init is not None:
        named["init"] = UniversalPerturbation.from_pretrained(init).delta
    return digest(words, named)


def written(attack: Attack) -> str:
    """The text of an attack's function, which users may change under its name; nothing where it cannot be read."""
    try:
        return getsource(unwrap(attack.function))
    except (OSError, TypeError):
        return ""
