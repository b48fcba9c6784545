"""What a loss over the global batch needs of other processes and of other micro-batches."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
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
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


def gather_rows(rows: Tensor) -> Tensor:
    """All processes' rows in the order of their ranks, (world * n, ...), with gradients; with one process the rows."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    return GatherRows.apply(rows)


@dataclass
class AccumulatedBatch:
    """Logits of all micro-batches of one update, without gradients: what a micro-batch's own rows are related to."""

    benign: list[Tensor]
    adversarial: list[Tensor]
    labels: list[Tensor]

    def add(self, benign: Tensor, adversarial: Tensor, labels: Tensor) -> None:
        self.benign.append(benign)
        self.adversarial.append(adversarial)
        self.labels.append(labels)

    def with_own(self, index: int, benign: Tensor, adversarial: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All rows, those of one micro-batch replaced by ones with gradients."""
        return (
            torch.cat([*self.benign[:index], benign, *self.benign[index + 1 :]]),
            torch.cat([*self.adversarial[:index], adversarial, *self.adversarial[index + 1 :]]),
            torch.cat(self.labels),
        )
