"""Public encoders made here."""

import shutil
from pathlib import Path

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments, ViTImageProcessor, ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from genaf_hf.data import with_pixel_values


def pretrain_mae(dataset: Dataset, config: ViTMAEConfig, processor: ViTImageProcessor, args: TrainingArguments) -> Path:
    """Pre-trains a masked autoencoder (He et al., CVPR 2022, https://arxiv.org/abs/2111.06377), without labels.

    Args:
        dataset: with an `image` column.
        config: of the autoencoder.
        processor: saved beside it.
        args: of the training; `output_dir` is where the encoder lands, as an ordinary Hub checkpoint.

    Returns:
        The folder of the encoder. One that is there already is returned as it is.
    """
    folder = Path(args.output_dir)
    if folder.exists():
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    args.output_dir = str(unfinished)
    model = ViTMAEForPreTraining(config)
    initialize_positions(model)
    pixels = with_pixel_values(dataset, processor)
    trainer = Trainer(model, args, train_dataset=pixels, data_collator=only_pixel_values, processing_class=processor)
    trainer.train()
    if trainer.is_world_process_zero():
        shutil.rmtree(unfinished, ignore_errors=True)
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        unfinished.rename(folder)
    trainer.accelerator.wait_for_everyone()
    return folder


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


def only_pixel_values(examples: list[dict]) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}
