"""Masked autoencoder (He et al., CVPR 2022, https://arxiv.org/abs/2111.06377)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainingArguments, ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from genaf_hf.pretraining.augmentation import Augmentation
from genaf_hf.pretraining.view_trainer import ViewTrainer, pretrained
from genaf_hf.sharing.eval_results import UNNAMED


def pretrain_mae(
    dataset: Dataset,
    config: ViTMAEConfig,
    processor,
    args: TrainingArguments,
    views: Sequence[Augmentation] = (),
    *,
    data: str = UNNAMED,
) -> Path:
    """Pre-trains a masked autoencoder, without labels.

    Args:
        dataset: with the column `image`.
        config: of the autoencoder.
        processor: its image processor, saved beside it.
        args: of the training; `output_dir` is where the encoder lands, as an ordinary Hub checkpoint.
        views: the one view that is reconstructed; without it, the image as the processor makes it.
        data: what the images are called in the card.

    Returns:
        The folder of the encoder. One that is there already is returned as it is.

    Raises:
        UserError: when there is an unfinished run with other settings.
    """

    def trainer(args: TrainingArguments) -> ViewTrainer:
        model = ViTMAEForPreTraining(config)
        initialize_positions(model)
        return ViewTrainer(model, args, dataset, processor, views)

    return pretrained(trainer, args, method="mae", config=config, views=views, data=data, images=dataset)


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
