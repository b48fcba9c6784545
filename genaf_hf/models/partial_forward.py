"""Reading activations out of a forward pass, which goes no further than to the last one that is wanted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from torch import Tensor, nn

from genaf_hf.errors import UserError


class Done(Exception):  # noqa: N818
    """Ends a forward pass when all that was wanted is there."""


def input_of(module: nn.Module, forward: Callable) -> Tensor:
    """What `module` is given by `forward()`; neither the module nor what follows is run."""
    found = []

    def hook(_, inputs):
        found.append(inputs[0])
        raise Done

    with removing([module.register_forward_pre_hook(hook)]), suppress(Done):
        forward()
    return found[0]


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What `module` is given meanwhile, call by call, where it and what follows are run too."""
    found: list[Tensor] = []
    with removing([module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))]):
        yield found


def outputs_of(modules: Sequence[nn.Module], forward: Callable) -> tuple[Tensor, ...]:
    """What `modules`, given in their order in `forward()`, put out; what follows the last one is not run."""
    found = []

    def hook(_, inputs, output):
        found.append(first_tensor(output))
        if len(found) == len(modules):
            raise Done

    with removing([module.register_forward_hook(hook) for module in modules]), suppress(Done):
        forward()
    return tuple(found)


def producers_of(model: nn.Module, forward: Callable[[], Sequence[Tensor]]) -> list[str]:
    """Names of the submodules that put out the tensors which `forward()` returns, the outermost ones.

    Raises:
        UserError: when one of the tensors is no submodule's output.
    """
    produced = []

    def remember(name: str) -> Callable:
        def hook(_, inputs, output):
            output = first_tensor(output)
            if not any(each is output for each in inputs):  # as it is in nn.Identity, which makes nothing
                produced.append((name, output))

        return hook

    with removing([module.register_forward_hook(remember(name)) for name, module in model.named_modules() if name]):
        tensors = forward()
    names = [next((name for name, output in reversed(produced) if output is each), "") for each in tensors]
    if "" in names:
        raise UserError(
            f"Activation {names.index('')} of this {type(model).__name__} is no submodule's output, so that the "
            "forward pass cannot be stopped there."
        )
    return names


def called(model: nn.Module, names: Sequence[str], forward: Callable) -> list[str]:
    """Those of the named submodules of `model` that `forward()` calls, in the order in which it does."""
    found = []
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: found.append(name)) for name in names
    ]
    with removing(hooks):
        forward()
    return list(dict.fromkeys(found))


def first_tensor(output):
    """A module's output, or the first part of one that has several."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def removing(hooks: Sequence) -> Iterator[None]:
    """Removes hooks at the end."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
