"""What a loss over the global batch needs from other processes."""

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
