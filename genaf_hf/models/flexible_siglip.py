"""SigLIP 2 of flexible resolution, at one resolution: a native SigLIP encoder of the same features."""

import torch
from transformers import AutoModel, Siglip2Config, Siglip2VisionModel, SiglipVisionConfig, SiglipVisionModel

from genaf_hf.errors import UserError
from genaf_hf.models.soundness import on_meta
from genaf_hf.models.weights import read_weights


def load_flexible_siglip(
    model_name_or_path: str,
    source: Siglip2Config,
    config: SiglipVisionConfig,
    size: tuple[int, int],
    options: dict,
) -> tuple[SiglipVisionModel, set[str]]:
    """The vision encoder of a SigLIP 2 checkpoint of flexible resolution, which takes patches, as one of square images.

    A linear layer on patches is a convolution whose stride is its width, and the position embeddings are those that
    the original interpolates for this size (Tschannen et al., 2025, https://arxiv.org/abs/2502.14786).

    Args:
        model_name_or_path: Hub id or local folder.
        source: its configuration.
        config: of the result; gets the image size.
        size: height and width of the images.
        options: of `read_weights`.

    Returns:
        The encoder, and the names of its new weights.

    Raises:
        UserError: when the images are no squares of whole patches.
    """
    patch = config.patch_size
    if size[0] != size[1] or size[0] % patch:
        raise UserError(
            f"The image processor makes images of {size[0]} x {size[1]} pixels, expected squares whose side is a "
            f"multiple of {patch}, the encoder's patch."
        )
    on_meta(source.vision_config, AutoModel)
    original, loading = read_weights(Siglip2VisionModel, model_name_or_path, config=source.vision_config, **options)
    weights, embeddings, side = original.state_dict(), original.embeddings, size[0] // patch
    with torch.no_grad():
        weights["embeddings.patch_embedding.weight"] = embeddings.patch_embedding.weight.view(
            -1, patch, patch, config.num_channels
        ).permute(0, 3, 1, 2)
        grid = embeddings.position_embedding.weight.unflatten(0, (embeddings.position_embedding_size,) * 2)
        weights["embeddings.position_embedding.weight"] = embeddings.resize_positional_embeddings(
            grid, torch.tensor([[side, side]]), max_length=side**2
        )[0]
    config.image_size = size[0]
    encoder = AutoModel.from_config(config, dtype=original.dtype, attn_implementation=options["attn_implementation"])
    encoder.load_state_dict(weights)
    return encoder.eval(), set(loading["missing_keys"])
