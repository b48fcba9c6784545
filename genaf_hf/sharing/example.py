"""An image with a model's answer to it, by which whoever loads the model sees that it is the same."""

from pathlib import Path

import torch
from datasets import Dataset

from genaf_hf.data import to_pixel_values, to_rgb
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.sharing.layout import EXAMPLE

LONGEST_SIDE = 512  # pixels


def leave_example(model: PixelModel, test: Dataset, folder: str | Path) -> dict:
    """Writes the first image of a dataset beside a model, reduced where it is large.

    Args:
        model: whose answer is told.
        test: with the columns `image` and `label` (ClassLabel), as `load_images` gives them.
        folder: of the model.

    Returns:
        The name of its `label`, and of the `answer` with its `probability`.
    """
    image, names = to_rgb(test[0]["image"]), test.features["label"].names
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    image.save(Path(folder) / EXAMPLE)
    pixel_values = to_pixel_values({"image": [image]}, model.processor)["pixel_values"]
    with evaluating(model), torch.no_grad():
        probabilities = model.model(pixel_values=pixel_values.to(model.device)).logits[0].softmax(0)
    answer = probabilities.argmax().item()
    return {"label": names[test[0]["label"]], "answer": names[answer], "probability": probabilities[answer].item()}
