"""BatchNorm over the global batch, where torch's own synchronised one is for GPUs alone."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from genaf_hf.models.batch_norm import batch_norms, normalizing_by, passing_by
from genaf_hf.models.pixel_model import at_least_float32
from genaf_hf.training.global_batch import gather_rows, world_size


@contextmanager
def normalizing_globally(model: nn.Module) -> Iterator[None]:
    """Has BatchNorm in training mode normalise by the mean and variance of all processes' images.

    With DDP, which averages gradients, several processes then train what one does on all images. With one process
    nothing changes.
    """
    with ExitStack() as stack:
        for norm in batch_norms(model).values() if world_size() > 1 else ():
            stack.enter_context(over_all_processes(norm))
        yield


def over_all_processes(norm: _BatchNorm) -> AbstractContextManager[None]:
    """Has one layer do so; weight, bias and what a subclass does after them stay its own."""
    own = norm.forward

    def forward(features: Tensor) -> Tensor:
        if not norm.training:
            return own(features)
        wide = at_least_float32(features)
        mean, variance, count = global_moments(wide)
        if norm.track_running_stats:
            average(norm, mean.detach(), variance.detach() * count / (count - 1).clamp(min=1))
        shape = (-1, *[1] * (features.ndim - 2))
        normal = (wide - mean.view(shape)) * (variance + norm.eps).rsqrt().view(shape)
        with normalizing_by(norm, torch.zeros_like(mean), torch.ones_like(mean) - norm.eps):  # which leaves them
            return own(normal.to(features.dtype))

    return passing_by(norm, forward)


def global_moments(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means and variances (c,) of all processes' features (n, c, ...), and how many values there are of each channel.

    A process may have no rows. The gradients are of the sum of all processes' losses.
    """
    values = features.transpose(0, 1).flatten(1)
    count = gather_rows(values.new_full((1,), values.shape[1])).sum()
    mean = gather_rows(values.sum(1)[None]).sum(0) / count
    variance = gather_rows((values - mean[:, None]).square().sum(1)[None]).sum(0) / count
    return mean, variance, count


@torch.no_grad()
def average(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Updates the running statistics by those of a batch, as the layer does."""
    norm.num_batches_tracked += 1
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    norm.running_mean += share * (mean - norm.running_mean)
    norm.running_var += share * (variance - norm.running_var)
