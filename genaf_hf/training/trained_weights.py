"""Weights that are trained: that they change, stay finite and are precise enough."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from genaf_hf.errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def must_train(model: nn.Module, what: str) -> Iterator[Callable[[], None]]:
    """Refuses a training that leaves all trainable weights as they were.

    Gives what looks at them once more, for a training that puts the best weights back, which may be the first ones.

    Args:
        model: that is trained meanwhile.
        what: the training, in words.

    Raises:
        UserError: afterwards, when no weight changed.
    """
    before, changed = trainable_sums(model), False

    def look() -> None:
        nonlocal changed
        changed = changed or before != trainable_sums(model)

    yield look
    look()
    if not changed:
        raise UserError(
            f"{what} changed no weight: raise the learning rate, and check that some weights are trainable and that an "
            "optimizer that was given holds them."
        )


def trainable_sums(model: nn.Module) -> dict[str, float]:
    """The sum of each trainable parameter."""
    return {
        name: parameter.detach().cpu().double().sum().item()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def check_finite_weights(model: nn.Module, step: int, advice: Callable[[], str]) -> None:
    """Refuses to save weights that are not finite; the `UserError` names one, and the advice."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.isfinite().all():
            raise UserError(f"{name} is not finite after step {step}, nothing was saved. {advice()}")


def warn_of_half_precision(model: nn.Module) -> None:
    """Says so where the weights that are trained are in a precision that small steps are lost in."""
    for dtype in {each.dtype for each in model.parameters() if each.requires_grad} & {torch.float16, torch.bfloat16}:
        logger.warning(
            "Weights are %s, in which small steps of a training are lost: load the model with dtype=torch.float32, and "
            "set bf16=True to compute in half precision.",
            str(dtype).removeprefix("torch."),
        )
