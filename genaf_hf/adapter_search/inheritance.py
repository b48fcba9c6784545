"""What a child's adapter takes over from the trained adapters of its parents."""

import copy
from collections.abc import Sequence
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
from torch import Tensor
from transformers import PreTrainedModel

from genaf_hf.provenance import model_source

CHILD, CROSSED = "default", "crossed"
FACTORS = ("lora_A.", "lora_B.")
MAGNITUDE = "lora_magnitude_vector"
NEGLIGIBLE = 1e-6  # of the largest singular value


def adapt(encoder: PreTrainedModel, config: PeftConfig, parents: Sequence[str | Path] = ()) -> PeftModel:
    """A classifier with a new adapter, which starts where its parents ended as far as shapes allow.

    LoRA and its variants take the mean of the parents' updates of the weights, cut to the child's ranks by singular
    values. Any other tensor, the head's too, is the mean of the parents' tensors of the same name and shape. The rest
    stays as it was initialized; magnitudes of DoRA that no parent has are those of the updated weights.

    Args:
        encoder: stays as it is; what is returned shares its weights.
        config: of the child.
        parents: folders of adapters for the same encoder, as `save_pretrained` writes them.
    """
    weights = [load_peft_weights(str(parent), device="cpu") for parent in parents]
    updates = crossed_updates(encoder, parents, weights) if config.peft_type == PeftType.LORA else {}
    model = get_peft_model(sharing_weights(encoder), config)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, own in state.items():
        same = [each[name] for each in weights if name in each and each[name].shape == own.shape]
        if same and not any(factor in name for factor in FACTORS):
            state[name] = torch.stack(same).mean(0)
    set_peft_model_state_dict(model, state)
    for name, layer in lora_layers(model).items():
        if name in updates:
            update = updates[name] / layer.scaling[CHILD]
            set_factors(layer.lora_A[CHILD].weight, layer.lora_B[CHILD].weight, update)
            if CHILD in layer.lora_magnitude_vector and not any(f"{name}.{MAGNITUDE}" in each for each in weights):
                set_magnitude(layer)
    return model


def crossed_updates(
    encoder: PreTrainedModel, parents: Sequence[str | Path], weights: Sequence[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The mean of the parents' updates of the weights, by module, of those parents that are LoRA or a variant."""
    configs = [PeftConfig.from_pretrained(str(parent)) for parent in parents]
    related = [
        (config, {name: tensor for name, tensor in own.items() if "lora_" in name})
        for config, own in zip(configs, weights, strict=True)
        if config.peft_type == PeftType.LORA and any(FACTORS[0] in name for name in own)
    ]
    if not related:
        return {}
    names = [f"parent-{number}" for number in range(len(related))]
    model = None
    for name, (config, own) in zip(names, related, strict=True):
        config.modules_to_save = None  # heads cannot be added up; their mean is taken as that of any other tensor
        if model is None:
            model = get_peft_model(sharing_weights(encoder), config, name)
        else:
            model.add_adapter(name, config)
        set_peft_model_state_dict(model, own, name)
    model.base_model.add_weighted_adapter(names, [1 / len(parents)] * len(names), CROSSED, combination_type="cat")
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
