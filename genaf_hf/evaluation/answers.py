"""What a model answers on clean and on attacked images."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate
from tqdm import tqdm

from genaf_hf.attacks.norms import lengths
from genaf_hf.attacks.pgd import checked_logits
from genaf_hf.errors import UserError, first_line
from genaf_hf.evaluation.neighbors import Neighbors
from genaf_hf.models.pixel_model import PixelModel, evaluating
from genaf_hf.values.numbers import class_ids

NOT_FINITE = -1  # no class
NAMES = pa.dictionary(pa.int32(), pa.string())
COLUMNS = {"model": NAMES, "attack": NAMES, "image": pa.int64(), "label": pa.int64(), "prediction": pa.int64(),
           "confidence": pa.float32()}  # fmt: skip
REPORT_SHA256 = "report_sha256"


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
        confidences: probability that the model gives to each prediction, nan where its logits are not finite.
    """

    labels: list[int]
    predictions: list[int]
    neighbors: list[int] | None
    shift: float
    in_range: bool
    confidences: list[float]

    def but(self, rows: Sequence[int], others: "Answers") -> "Answers":
        """The same, but on some images those of others that were asked about these alone."""

        def mixed(column: list, of_others: list) -> list:
            new = dict(zip(rows, of_others, strict=True))
            return [new.get(row, value) for row, value in enumerate(column)]

        if not rows:
            return self
        return Answers(
            self.labels,
            mixed(self.predictions, others.predictions),
            self.neighbors and others.neighbors and mixed(self.neighbors, others.neighbors),
            max(self.shift, others.shift),
            self.in_range and others.in_range,
            mixed(self.confidences, others.confidences),
        )

    @property
    def right(self) -> list[bool]:
        """Whether each prediction is."""
        return [given == label for given, label in zip(self.predictions, self.labels, strict=True)]

    def of(self, rows: Sequence[int]) -> "Answers":
        """Those on some of the images."""
        labels, predictions = ([column[row] for row in rows] for column in (self.labels, self.predictions))
        neighbors, confidences = self.neighbors and [self.neighbors[row] for row in rows], self.confidences
        return Answers(labels, predictions, neighbors, self.shift, self.in_range, [confidences[row] for row in rows])


def save_answers(answers: Mapping[str, Mapping[str, Answers]], path: str | Path, *, report_sha256: str) -> None:
    """Writes a Parquet file: a row for each model, attack and image, with label, prediction and confidence.

    Args:
        answers: by model and attack.
        path: of the file.
        report_sha256: of the report that counts them, which stands in the metadata of the file.
    """
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    for model, by_attack in answers.items():
        for attack, found in by_attack.items():
            count = len(found.labels)
            rows: tuple[Iterable, ...] = ([model] * count, [attack] * count, range(count))
            rows += (found.labels, found.predictions, found.confidences)
            for name, values in zip(COLUMNS, rows, strict=True):
                columns[name] += values
    table = pa.table(columns, schema=pa.schema(COLUMNS, metadata={REPORT_SHA256: report_sha256}))
    pq.write_table(table, path)


def right_answers(path: str | Path, *, report_sha256: str) -> dict[tuple[str, str], list[bool]]:
    """Which images a model is right about, by model and attack, as `save_answers` wrote them.

    Args:
        path: of the file.
        report_sha256: of the report that it has to belong to.

    Raises:
        UserError: when it cannot be read, or is of another report.
    """
    try:
        table = pq.read_table(path)
        columns = [table[name].to_pylist() for name in ("model", "attack", "label", "prediction")]
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"{path} holds no answers that genaf_hf can read: {first_line(error)}.") from error
    if (table.schema.metadata or {}).get(REPORT_SHA256.encode()) != report_sha256.encode():
        raise UserError(f"{path} is not of the report beside it: make both by one audit, or take it away.")
    found: dict[tuple[str, str], list[bool]] = {}
    for model, attack, label, prediction in zip(*columns, strict=True):
        found.setdefault((model, attack), []).append(label == prediction)
    return found


def answer(
    model: PixelModel,
    dataset: Dataset,
    attack: Callable[..., Tensor] | None = None,
    *,
    norm: str = "linf",
    neighbors: Neighbors | None = None,
    batch_size: int = 64,
    workers: int = 0,
    seed: int = 0,
    rows: Sequence[int] | None = None,
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
        workers: processes that read them meanwhile.
        seed: image i of the dataset starts from seed + i, whichever are asked about.
        rows: of the dataset; None for all.
        title: of the progress bar.
    """
    asked = dataset if rows is None else Subset(dataset, rows)
    found: list[tuple] = []
    shift, in_range = 0.0, True
    with evaluating(model):
        for indices, batch in my_batches(asked, batch_size, workers=workers, title=title):
            images = model.to_images(batch["pixel_values"])
            labels = class_ids(batch["labels"], len(images))
            seeds = [seed + (i if rows is None else rows[i]) for i in indices]
            attacked = images if attack is None else attack(model, images, labels, seeds=seeds)
            shift = max(shift, lengths(attacked - images, norm).max().item())
            in_range &= bool(((attacked >= 0) & (attacked <= 1)).all())
            with torch.no_grad():
                if neighbors is None:
                    logits, votes = model(attacked), []
                else:
                    logits, features = model.logits_and_features(attacked)
                    votes = [where_finite(features, neighbors(features))]
                logits = checked_logits(logits, int(labels.amax()))
                columns = [labels, where_finite(logits, logits.argmax(1)), logits.float().softmax(1).amax(1), *votes]
            found += zip(indices, *(column.tolist() for column in columns), strict=True)
    found = sorted(gather_object(found))
    _, given, predictions, confidences, *voted = (list(column) for column in zip(*found, strict=True))
    bounds = gather_object([(shift, in_range)])
    far, fine = max(far for far, _ in bounds), all(fine for _, fine in bounds)
    return Answers(given, predictions, voted[0] if voted else None, far, fine, confidences)


def my_batches(
    dataset: Dataset, batch_size: int, *, workers: int = 0, title: str = ""
) -> Iterator[tuple[Sequence[int], Mapping]]:
    """The batches of this process's share of the images, each after its indices in the dataset, under a progress bar.

    Args:
        dataset, batch_size, workers, title: as for `answer`.
    """
    state = PartialState()
    mine = range(state.process_index, len(dataset), state.num_processes)
    loader = DataLoader(Subset(dataset, mine), batch_size, num_workers=workers, collate_fn=of_one_size)
    bar = tqdm(loader, desc=title, leave=False, disable=not state.is_local_main_process)
    for first, batch in zip(range(0, len(mine), batch_size), bar, strict=True):
        yield mine[first : first + batch_size], batch


def of_one_size(rows: list[Mapping]) -> Mapping:
    """Rows as a batch.

    Raises:
        UserError: when their images are of several sizes.
    """
    sizes = sorted({tuple(row["pixel_values"].shape) for row in rows})
    if len(sizes) > 1:
        raise UserError(
            f"pixel_values are of the sizes {sizes[0]} and {sizes[1]}, expected one: prepare the images by the image "
            "processor of the model, as with_pixel_values does."
        )
    return default_collate(rows)


def where_finite(values: Tensor, classes: Tensor) -> Tensor:
    """Class ids (n,) told by values (n, d); of an image whose values are not all finite it is none."""
    return classes.where(values.isfinite().all(dim=1), NOT_FINITE)


def feature_bank(model: PixelModel, dataset: Dataset, batch_size: int, *, workers: int = 0) -> Neighbors:
    """The nearest-neighbor vote by the features that a model has of labelled images, of all its classes.

    Args:
        model, dataset, batch_size, workers: as for `answer`.
    """
    features, labels = [], []
    with evaluating(model), torch.no_grad():
        for batch in DataLoader(dataset, batch_size=batch_size, num_workers=workers):
            features.append(model.features(model.to_images(batch["pixel_values"])))
            labels.append(batch["labels"])
    return Neighbors(torch.cat(features), torch.cat(labels), model.model.config.num_labels)
