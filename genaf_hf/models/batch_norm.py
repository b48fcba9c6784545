"""Batch normalization: what it needs of a batch, and the running statistics that are evaluated with."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

logger = logging.getLogger(__name__)

MOMENTUM = 0.1  # PyTorch's default
OF_ONE_BATCH = 0.5  # beyond this the last batch outweighs all before


def normalizes_over_batch(model: nn.Module) -> bool:
    """Whether the model has BatchNorm that is trained."""
    return any(parameter.requires_grad for norm in batch_norms(model).values() for parameter in norm.parameters())


def average_over_batches(model: nn.Module) -> None:
    """Has running statistics average over batches, as PyTorch's default does, where they would be the last batch's.

    TensorFlow's momentum is the share of the old statistics, PyTorch's that of the new batch. transformers gives the
    former to PyTorch in MobileNetV1 (0.9997), MobileNetV2 (0.997) and EfficientNet (0.99): a model that is trained so
    is evaluated with the mean and variance of its last batch, and what is robust in training is not afterwards.
    """
    for name, norm in batch_norms(model).items():
        if norm.momentum is not None and norm.momentum > OF_ONE_BATCH:
            logger.debug("%s is trained with momentum %g in place of %g.", name, MOMENTUM, norm.momentum)
            norm.momentum = MOMENTUM


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Layers of BatchNorm, by name."""
    return {name: each for name, each in model.named_modules() if isinstance(each, _BatchNorm)}


@contextmanager
def passing_by(norm: _BatchNorm, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Has a layer pass its features by another function, which may call what it was passed by before."""
    former = vars(norm).get("forward")
    norm.forward = forward  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del norm.forward
        if former is not None:
            norm.forward = former  # type: ignore[method-assign]


@contextmanager
def normalizing_by_batch(norms: Iterable[_BatchNorm]) -> Iterator[None]:
    """Has layers normalise by the images that pass, as in training mode, and leaves their running statistics."""
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(left_as_it_was(norm))
            norm._buffers.update({name: each if each is None else each.clone() for name, each in norm._buffers.items()})
            norm.training = True
        yield


@contextmanager
def normalizing_by(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> Iterator[None]:
    """Has a layer normalise by these, as in eval mode."""
    with left_as_it_was(norm):
        norm._buffers.update(running_mean=mean, running_var=variance)
        norm.training = False
        yield


@contextmanager
def left_as_it_was(norm: _BatchNorm) -> Iterator[None]:
    """Gives a layer its statistics and its mode back."""
    own, training = dict(norm._buffers), norm.training
    try:
        yield
    finally:
        norm._buffers.update(own)
        norm.training = training
