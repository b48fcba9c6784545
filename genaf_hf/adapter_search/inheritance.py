"""What a child's adapter takes over from the trained adapters of its parents."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from peft import (
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import PreTrainedModel

from genaf_hf.values.provenance import model_source

CHILD, CROSSED = "default", "crossed"
FACTORS = ("lora_A.", "lora_B.")
FIRST_FACTORS = (".hada_w1_a", ".lokr_w1", ".lokr_w1_a")  # of a product that is scaled by alpha
OF_THE_MODEL = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"
NEGLIGIBLE = 1e-6  # of the largest singular value


@dataclass(frozen=True)
class Parent:
    """A trained adapter that a child starts from.

    Attributes:
        config: of the adapter.
        tensors: of adapter and head, by name; the products of LoHa and LoKr hold the scaling by their alpha already.
        share: of the child that comes from it, in (0, 1].
    """

    config: PeftConfig
    tensors: dict[str, Tensor]
    share: float

    def has(self, name: str, shape: torch.Size) -> bool:
        """Whether it has a tensor of a name and shape."""
        return name in self.tensors and self.tensors[name].shape == shape


def adapt(encoder: PreTrainedModel, config: PeftConfig, parents: Mapping[str | Path, float] | None = None) -> PeftModel:
    """A classifier with a new adapter, which starts where its parents ended as far as shapes allow.

    LoRA and its variants take the mean of the parents' updates of the weights, cut to the child's ranks by singular
    values. Of other methods a module takes the mean of those parents that have all of its tensors in the same shapes;
    so does the head. The rest stays as it was initialized; magnitudes of DoRA that no parent has are those of the
    updated weights.

    Args:
        encoder: stays as it is; what is returned shares its weights.
        config: of the child.
        parents: weight in these means by folder of an adapter for the same encoder, as `save_pretrained` writes it.
    """
    found = read_parents(parents or {})
    updates = crossed_updates(encoder, found) if config.peft_type == PeftType.LORA else {}
    model = get_peft_model(sharing_weights(encoder), config)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    for layer, names in tensors_by_layer(state, layers).items():
        related = [each for each in found if all(each.has(name, state[name].shape) for name in names)]
        whole = sum(each.share for each in related)
        for name in names if related else ():
            state[name] = sum(each.tensors[name] * (each.share / whole) for each in related)
            if name.endswith(FIRST_FACTORS):
                state[name] /= layers[layer].scaling[CHILD]
    set_peft_model_state_dict(model, state)
    for name, layer in layers.items():
        if name in updates:
            set_factors(layer.lora_A[CHILD].weight, layer.lora_B[CHILD].weight, updates[name] / layer.scaling[CHILD])
            if CHILD in layer.lora_magnitude_vector and not any(
                f"{name}.{MAGNITUDE}" in each.tensors for each in found
            ):
                set_magnitude(layer)
    return model


def tensors_by_layer(names: Iterable[str], layers: Iterable[str]) -> dict[str, list[str]]:
    """Names of the tensors that mean nothing without each other, by the name of the module; the head's by their own.

    What all modules share, as those of VeRA do, is of each of them. The factors of LoRA are left out.
    """
    names = [name for name in names if not any(factor in name for factor in FACTORS)]
    shared = [name for name in names if not name.startswith(OF_THE_MODEL)]
    found = {layer: [*(name for name in names if name.startswith(f"{layer}.")), *shared] for layer in layers}
    taken = set(chain(*found.values(), shared))
    return found | {name: [name] for name in names if name not in taken}


def read_parents(parents: Mapping[str | Path, float]) -> list[Parent]:
    """Parents from their folders, with their weights as shares."""
    whole, found = sum(parents.values()), []
    for folder, weight in parents.items():
        config = PeftConfig.from_pretrained(str(folder))
        tensors = load_peft_weights(str(folder), device="cpu")
        for name in tensors if isinstance(config, LycorisConfig) else ():
            if name.endswith(FIRST_FACTORS):
                module = name.rpartition(".")[0].removeprefix(OF_THE_MODEL)
                tensors[name] = tensors[name] * (config.alpha / config.rank_pattern.get(module, config.r))
        found.append(Parent(config, tensors, weight / whole))
    return found


def crossed_updates(encoder: PreTrainedModel, parents: Sequence[Parent]) -> dict[str, Tensor]:
    """The mean of the parents' updates of the weights, by module, where those that are no LoRA count as none."""
    related = [
        each
        for each in parents
        if each.config.peft_type == PeftType.LORA and any(FACTORS[0] in name for name in each.tensors)
    ]
    if not related:
        return {}
    names = [f"parent-{number}" for number in range(len(related))]
    model = None
    for name, parent in zip(names, related, strict=True):
        config = copy.copy(parent.config)
        config.modules_to_save = None  # heads cannot be added up; their mean is taken as that of any other tensor
        if model is None:
            model = get_peft_model(sharing_weights(encoder), config, name)
        else:
            model.add_adapter(name, config)
        own = {name: tensor for name, tensor in parent.tensors.items() if "lora_" in name}
        set_peft_model_state_dict(model, own, name)
    model.base_model.add_weighted_adapter(names, [each.share for each in related], CROSSED, combination_type="cat")
    # The factors hold the parents' scalings already; for rsLoRA, PEFT's merged adapter has one of its own.
    return {
        name: layer.get_delta_weight(CROSSED) / layer.scaling[CROSSED] for name, layer in lora_layers(model).items()
    }


def sharing_weights(encoder: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model's structure on the same weights: PEFT rebuilds it without touching the model itself.

    It goes by its public name, which PEFT writes into every file.
    """
    copied = copy.deepcopy(encoder, {id(each): each for each in chain(encoder.parameters(), encoder.buffers())})
    copied.config.name_or_path = copied.name_or_path = model_source(encoder.config)[0] or ""
    return copied


def lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """The adapted modules by their names in the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def set_factors(lora_a: Tensor, lora_b: Tensor, update: Tensor) -> None:
    """Sets B A to the closest matrix to `update` of their rank, (outputs, inputs) or (outputs, channels, h, w).

    Where the update has a lower rank, A keeps its fresh rows and B is zero there, so that they can still learn.
    """
    left, values, right = torch.linalg.svd(update.detach().flatten(1), full_matrices=False)
    rank = min(len(lora_a), int((values > NEGLIGIBLE * values[0]).sum()))
    roots = values[:rank].sqrt()
    with torch.no_grad():
        lora_a[:rank] = (roots[:, None] * right[:rank]).view_as(lora_a[:rank])
        lora_b.zero_()
        lora_b[:, :rank] = (left[:, :rank] * roots).view_as(lora_b[:, :rank])


def set_magnitude(layer: LoraLayer) -> None:
    """Sets DoRA's magnitudes to the norms of the weights with their update, so that it computes what LoRA would."""
    magnitude = layer.lora_magnitude_vector[CHILD]
    with torch.no_grad():
        update = layer.get_delta_weight(CHILD)
        magnitude.weight.copy_(magnitude.get_weight_norm(layer.get_base_layer().weight, update, scaling=1.0))
