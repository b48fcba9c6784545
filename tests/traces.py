"""Checks that a block of code leaves a module and the random generators bit by bit as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def leaves_no_trace(module: nn.Module) -> Iterator[None]:
    before = trace(module)
    yield
    after = trace(module)
    assert before.keys() == after.keys()
    changed = [name for name in before if not same(before[name], after[name])]
    assert not changed


def trace(module: nn.Module) -> dict:
    found = {
        "torch random state": torch.get_rng_state(),
        "numpy random state": np.random.get_state()[1].tolist() + list(np.random.get_state()[2:]),
        "python random state": random.getstate(),
        "gradients are recorded": torch.is_grad_enabled(),
    }
    for name, parameter in module.named_parameters():
        found[f"{name}: value"] = parameter.detach().clone()
        found[f"{name}: gradient"] = None if parameter.grad is None else parameter.grad.clone()
        found[f"{name}: requires_grad"] = parameter.requires_grad
    for name, buffer in module.named_buffers():
        found[f"{name}: value"] = buffer.clone()
    for name, submodule in module.named_modules():
        found[f"{name}: training"] = submodule.training
    return found


def same(left, right) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return torch.equal(left, right)
    return type(left) is type(right) and left == right


def leave_gradients_and_modes(module: nn.Module) -> None:
    """Puts a module into the state that is easiest to disturb: training, in part evaluating, some gradients there."""
    module.train()
    for submodule in list(module.modules())[::3]:
        submodule.training = False
    for parameter in list(module.parameters())[::2]:
        parameter.grad = torch.ones_like(parameter)
