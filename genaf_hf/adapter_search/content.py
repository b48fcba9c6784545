"""What tells encoders and images of the same name apart, on any machine."""

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel

from genaf_hf.data import commit, to_rgb
from genaf_hf.perturbation_cache import digest, encoder_tensors
from genaf_hf.pixel_model import PixelModel
from genaf_hf.provenance import model_source

COMPARED_IMAGES = 64


def encoder_content(encoder: PreTrainedModel, processor) -> str:
    """The commit of a public encoder; else SHA-256 of its weights, without the head, and of what its processor does."""
    _, revision = model_source(encoder.config)
    if revision is not None:
        return revision
    model = PixelModel(encoder, processor)
    return digest(model.image_size, encoder_tensors(model))


def images_content(data: DatasetDict) -> str:
    """The commit of images on the Hub; else SHA-256 of all labels and of some images, evenly spread, of each split."""
    if (revision := commit(data["test"])) is not None:
        return revision
    parts = {split: split_tensors(images) for split, images in data.items()}
    tensors = {f"{split} {name}": tensor for split, part in parts.items() for name, tensor in part.items()}
    return digest(data["test"].features["label"].names, tensors)


def split_tensors(images: Dataset) -> dict[str, torch.Tensor]:
    """All labels and some images, decoded: how a file is compressed depends on the machine where it is made anew."""
    rows = range(0, len(images), -(-len(images) // COMPARED_IMAGES))
    pixels = {f"image {row}": torch.tensor(np.array(to_rgb(images[row]["image"]))) for row in rows}
    return {"labels": torch.tensor(images["label"]), **pixels}
