"""The CPU that gives work beside an accelerator that does it: neither is to wait for the other."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_TRUSTED = ContextVar("images and labels are trusted", default=False)


@contextmanager
def trusted() -> Iterator[None]:
    """Images in [0, 1] and class ids are taken for such in it, and not looked at.

    To look at a value of an accelerator is to wait until it has done all that it was given. A training looks at its
    batches while they are on the CPU, and attacks them in here.
    """
    token = _TRUSTED.set(True)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def are_trusted() -> bool:
    """Whether images and labels need no look."""
    return _TRUSTED.get()


def with_doubles(values: Tensor) -> Tensor:
    """The values themselves, on the CPU where their device, Apple's `mps`, has no float64."""
    return values.cpu() if values.device.type == "mps" else values


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device; those of the CPU get to an accelerator without that the CPU waits until they are there."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)
