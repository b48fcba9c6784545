"""SigLIP, its vision tower published alone, and SigLIP 2 of flexible resolution, which becomes one of square images."""

from typing import Any

import torch
from torch import Tensor

from genaf_hf.errors import UserError
from genaf_hf.models.families.family import FAMILIES, Family


def square_weights(encoder: Any, config: Any, size: tuple[int, int]) -> dict[str, Tensor]:
    """Weights of a SigLIP vision encoder whose features are those of SigLIP 2's, which takes patches.

    A linear layer on patches is a convolution whose stride is its width, and the position embeddings are those that
    the original interpolates for this size (Tschannen et al., 2025, https://arxiv.org/abs/2502.14786).

    Raises:
        UserError: when the images are no squares of whole patches.
    """
    patch = config.patch_size
    if size[0] != size[1] or size[0] % patch:
        raise UserError(
            f"The image processor makes images of {size[0]} x {size[1]} pixels, expected squares whose side is a "
            f"multiple of {patch}, the encoder's patch."
        )
    weights, embeddings, side = encoder.state_dict(), encoder.embeddings, size[0] // patch
    with torch.no_grad():
        weights["embeddings.patch_embedding.weight"] = embeddings.patch_embedding.weight.view(
            -1, patch, patch, config.num_channels
        ).permute(0, 3, 1, 2)
        grid = embeddings.position_embedding.weight.unflatten(0, (embeddings.position_embedding_size,) * 2)
        weights["embeddings.position_embedding.weight"] = embeddings.resize_positional_embeddings(
            grid, torch.tensor([[side, side]]), max_length=side**2
        )[0]
    return weights


FAMILIES.add("siglip", Family(pooling="mean"))
FAMILIES.add("siglip_vision_model", Family(classifier="siglip"))
SIGLIP_2 = Family(classifier="siglip", square_weights=square_weights)
FAMILIES.add("siglip2", SIGLIP_2)
FAMILIES.add("siglip2_vision_model", SIGLIP_2)
