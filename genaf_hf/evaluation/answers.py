"""What a model answers on clean and on attacked images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from genaf_hf.attacks.pgd import checked_logits, per_image_l2
from genaf_hf.evaluation.neighbors import Neighbors
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.values.numbers import class_ids

NOT_FINITE = -1  # no class


@dataclass(frozen=True)
class Answers:
    """What a model answers, image by image, in the order of the dataset.

    Attributes:
        labels: true class ids.
        predictions: class ids of the model's head; `NOT_FINITE` where its logits are not.
        neighbors: class ids by a vote of the nearest neighbors in feature space, where there is a bank of features;
            `NOT_FINITE` where the features are not.
        shift: the farthest that an image was moved, in the attack's norm; 0 without an attack.
        in_range: whether all pixels are in [0, 1].
    """

    labels: list[int]
    predictions: list[int]
    neighbors: list[int] | None
    shift: float
    in_range: bool

    @property
    def right(self) -> list[bool]:
        """Whether each prediction is."""
        return [given == label for given, label in zip(self.predictions, self.labels, strict=True)]

    def of(self, rows: Sequence[int]) -> "Answers":
        """Those on some of the images."""
        labels, predictions = ([column[row] for row in rows] for column in (self.labels, self.predictions))
        neighbors = self.neighbors and [self.neighbors[row] for row in rows]
        return Answers(labels, predictions, neighbors, self.shift, self.in_range)


def answer(
    model: PixelModel,
    dataset: Dataset,
    attack: Callable[..., Tensor] | None = None,
    *,
    norm: str = "linf",
    neighbors: Neighbors | None = None,
    batch_size: int = 64,
    seed: int = 0,
    title: str = "",
) -> Answers:
    """Asks a model about every image. Each process takes its share, and all get the whole.

    Args:
        model: in eval mode meanwhile, and left as it was.
        dataset: yields `pixel_values` and `labels`.
        attack: called as `attack(model, images, labels, seeds=...)`; None for clean images.
        norm: in which the attack is bounded.
        neighbors: classifies the features too.
        batch_size: images at a time.
        seed: image i of the dataset starts from seed + i.
        title: of the progress bar.
    """
    state = PartialState()
    mine = range(state.process_index, len(dataset), state.num_processes)
    loader = DataLoader(Subset(dataset, mine), batch_size=batch_size)
    rows: list[tuple] = []
    shift, in_range = 0.0, True
    with evaluating(model):
        for batch in tqdm(loader, desc=title, leave=False, disable=not state.is_local_main_process):
            images = model.to_images(batch["pixel_values"].to(model.mean.device))
            labels = class_ids(batch["labels"], len(images))
            indices = mine[len(rows) :][: len(labels)]
            attacked = images if attack is None else attack(model, images, labels, seeds=[seed + i for i in indices])
            shift = max(shift, distances(attacked, images, norm).max().item())
            in_range &= bool(((attacked >= 0) & (attacked <= 1)).all())
            with torch.no_grad():
                logits = checked_logits(model(attacked), int(labels.amax()))
                columns = [labels, where_finite(logits, logits.argmax(1))]
                if neighbors is not None:
                    features = model.features(attacked)
                    columns.append(where_finite(features, neighbors(features)))
            rows += zip(indices, *(column.tolist() for column in columns), strict=True)
    rows = sorted(gather_object(rows))
    _, given, predictions, *votes = (list(column) for column in zip(*rows, strict=True))
    found = gather_object([(shift, in_range)])
    far, fine = max(far for far, _ in found), all(fine for _, fine in found)
    return Answers(given, predictions, votes[0] if votes else None, far, fine)


def where_finite(values: Tensor, classes: Tensor) -> Tensor:
    """Class ids (n,) told by values (n, d); of an image whose values are not all finite it is none."""
    return classes.where(values.isfinite().all(dim=1), NOT_FINITE)


def distances(attacked: Tensor, images: Tensor, norm: str) -> Tensor:
    """How far each image was moved."""
    shift = (attacked - images).double()
    return per_image_l2(shift) if norm == "l2" else shift.abs().amax(dim=(1, 2, 3))


def feature_bank(model: PixelModel, dataset: Dataset, *, batch_size: int = 64) -> Neighbors:
    """The nearest-neighbor vote by the features that a model has of labelled images, of all its classes."""
    features, labels = [], []
    with evaluating(model), torch.no_grad():
        for batch in DataLoader(dataset, batch_size=batch_size):
            features.append(model.features(model.to_images(batch["pixel_values"].to(model.mean.device))))
            labels.append(batch["labels"])
    return Neighbors(torch.cat(features), torch.cat(labels), model.model.config.num_labels)
