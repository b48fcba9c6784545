"""Masked autoencoder (He et al., CVPR 2022, https://arxiv.org/abs/2111.06377)."""

import torch
from torch import Tensor
from transformers import AutoModelForPreTraining, ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.methods.registry import Settings, register_method
from genaf_hf.pretraining.view_trainer import ViewTrainer


@register_method(
    title="a masked autoencoder (He et al., CVPR 2022, https://arxiv.org/abs/2111.06377)",
    views=(Augmentation(224, scale=(0.2, 1.0)),),
    model_types={"vit": "vit_mae"},
    auto_class=AutoModelForPreTraining,
)
def mae(config: ViTMAEConfig, settings: Settings, *others) -> ViewTrainer:
    """An autoencoder that reconstructs one view, without labels; it is kept with its decoder."""
    model = ViTMAEForPreTraining(config)
    initialize_positions(model)
    return MaskingTrainer(model, *others)


class MaskingTrainer(ViewTrainer):
    """Masks patches of each process's images by rows of what one process would draw for the images of all."""

    def beside(self, view: Tensor, inputs: dict) -> dict[str, Tensor]:
        processes, patches = self.args.world_size, self.model.vit.embeddings.position_embeddings.shape[1] - 1
        noise = torch.rand(processes * len(view), patches, device=view.device)
        return {"noise": noise.chunk(processes)[self.args.process_index]}


def initialize_positions(model: ViTMAEForPreTraining) -> None:
    """Gives a fresh autoencoder its fixed sine-cosine positions and its tokens.

    `transformers` 5.23 leaves both at zero, so that the autoencoder cannot tell patches apart and learns nothing.
    """
    encoder, decoder = model.vit.embeddings, model.decoder
    side = round((encoder.position_embeddings.shape[1] - 1) ** 0.5)
    with torch.no_grad():
        for positions in (encoder.position_embeddings, decoder.decoder_pos_embed):
            values = build_2d_sinusoidal_position_embedding(
                height=side, width=side, embed_dim=positions.shape[-1], cls_token=True
            )
            positions.copy_(values.unsqueeze(0))
        for token in (encoder.cls_token, decoder.mask_token):
            token.normal_(std=model.config.initializer_range)
