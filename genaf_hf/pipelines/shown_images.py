"""Some test images, and what attacks make of them, as a picture shows it."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor

from genaf_hf.data import stratified_subset, to_pixel_values
from genaf_hf.data.splits import stratified_rows
from genaf_hf.evaluation.threats import Threat, on_shown
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.sharing.figures import SHOWN, draw_gallery
from genaf_hf.sharing.layout import GALLERY

LOOKED_AT = 64  # test images, of which a few are shown


def shown_images(model: PixelModel, test: Dataset) -> tuple[Tensor, Tensor]:
    """A few test images (n, 3, h, w) in [0, 1] of as many classes as there are, and their class ids (n,).

    Of each class those come first that the model has right without an attack.

    Args:
        model: whose answers are shown.
        test: as `load_images` gives it, with the model's class ids.
    """
    some = stratified_subset(test, LOOKED_AT, seed=0)
    batch = to_pixel_values(some[:], model.processor)
    images, labels = model.to_images(batch["pixel_values"]), batch["labels"].to(model.device)
    with evaluating(model), torch.no_grad():
        wrong = (model(images).argmax(1) != labels).tolist()
    ids, right_first = labels.tolist(), sorted(range(len(wrong)), key=wrong.__getitem__)
    of_class = {label: iter([row for row in right_first if ids[row] == label]) for label in {*ids}}
    chosen = [next(of_class[ids[row]]) for row in stratified_rows(ids, SHOWN, seed=0)]
    return images[chosen], labels[chosen]


def draw_worst(
    folder: Path,
    worst: Sequence[Threat],
    name: str,
    model: PixelModel,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
) -> None:
    """A picture of what the worst threats make of some images.

    Args:
        folder: that it is put into.
        worst: the threats, crafted.
        name: the model's in their report.
        model: whose answers stand below.
        images, labels: as `shown_images` gives them.
        class_names: by class id.
    """
    attacks = {each.name: partial(on_shown, each, name, model) for each in worst}
    draw_gallery(model, images, labels, class_names, attacks, folder / GALLERY)
