"""What a loss over the global batch needs of other processes and of other micro-batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from accelerate.utils import gather
from torch import Tensor


class GatherRows(torch.autograd.Function):
    """Concatenates every process's rows; the backward pass sums the gradients and returns a process its own rows."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # other rows may have been given the same
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """All processes' rows in the order of their ranks, (world * n, ...), with gradients; with one process the rows."""
    return rows if world_size() == 1 else GatherRows.apply(rows)


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Splits rows where the first half of all processes' rows ends, each of which has as many."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    own = len(rows)
    end = min(max(world_size() * own // 2 - rank * own, 0), own)
    return rows[:end], rows[end:]


@dataclass(frozen=True)
class MicroBatch:
    """Where a micro-batch stands in its update, which is one batch to a loss.

    Attributes:
        index: of the micro-batch.
        first_row: how many rows of this process come before it.
        share: its number of rows by the mean number, so that a short one counts for less.
        attacked: pixel values (n, 3, h, w), where all micro-batches were attacked before the first one trains.
    """

    index: int = 0
    first_row: int = 0
    share: float = 1.0
    attacked: Tensor | None = None


def micro_batches(rows: Sequence[int]) -> list[MicroBatch]:
    """The micro-batches of an update, by their numbers of rows."""
    return [MicroBatch(i, sum(rows[:i]), count * len(rows) / sum(rows)) for i, count in enumerate(rows)]


@dataclass(frozen=True)
class Features:
    """What a model's head reads of images, clean and attacked as `Logits` has them, and the public encoder's of them.

    Each is (n, d), float32 or wider; `public` is of the clean images.
    """

    clean: Tensor | None
    attacked: Tensor
    public: Tensor


@dataclass(frozen=True)
class Logits:
    """What a model makes of images, clean and attacked, each (n, classes), float32 or wider, and their labels (n,).

    The clean ones are None for a loss that does not read them, and for one that passes each image once. That one is
    told by `stays_clean` (n,), 1 or 0 as floats, which of the attacked ones are not attacked. One that reads features
    has those of the own rows, and one that reads no labels may have None.
    """

    clean: Tensor | None
    attacked: Tensor
    labels: Tensor | None
    stays_clean: Tensor | None = None
    features: Features | None = None

    def accuracies(self) -> dict[str, Tensor]:
        """Whether answers to clean and to attacked images are right, 1 or 0 of each row; nothing without labels."""
        if self.labels is None:
            return {}
        right = (self.attacked.argmax(1) == self.labels).float()
        if self.stays_clean is not None:
            of_clean, of_attacked = by_kind(self.stays_clean, right)
            return {"clean_accuracy": of_clean, "robust_accuracy": of_attacked}
        if self.clean is None:
            return {"robust_accuracy": right}
        return {"clean_accuracy": (self.clean.argmax(1) == self.labels).float(), "robust_accuracy": right}


def by_kind(chosen: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen values, for which the first argument is 1, and the others, each (n,) with NaN for what it lacks."""
    return values.where(chosen > 0, torch.nan), values.where(chosen == 0, torch.nan)


def spread(first: int, count: int, share: float) -> list[bool]:
    """Which rows belong to a share of all of them, as evenly as can be: those from a row on, so many."""
    return [int((row + 1) * share) > int(row * share) for row in range(first, first + count)]


def gather_logits(own: Logits) -> Logits:
    """All processes' rows, with gradients."""
    return Logits(gather_rows(own.clean), gather_rows(own.attacked), gather(own.labels))


def with_own(parts: Sequence[Logits], index: int, own: Logits) -> Logits:
    """All rows of an update's micro-batches, of which one has gradients in the place of those it was written down with.

    Args:
        parts: of all micro-batches, without gradients.
        index: of the one.
        own: of that one.
    """
    parts = [*parts[:index], own, *parts[index + 1 :]]
    clean, attacked, labels = (
        torch.cat([getattr(each, name) for each in parts]) for name in ("clean", "attacked", "labels")
    )
    return Logits(clean, attacked, labels)
