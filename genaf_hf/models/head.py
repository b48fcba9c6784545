"""The classification head of a model; everything else of it is the encoder."""

from torch import nn

from genaf_hf.errors import UserError
from genaf_hf.models.families import family_in

HEAD = "classifier"  # as transformers names it


def find_head(model: nn.Module) -> nn.Module | None:
    """The head of a classifier, also of one wrapped by PEFT; None where it has another name or is a list."""
    head = getattr(model, HEAD, None)
    if head is None:
        head = family_in(model).head(model)
    return head if isinstance(head, nn.Module) and not isinstance(head, nn.ModuleList) else None


def head_of(model: nn.Module) -> nn.Module:
    """The same of a classifier that has one.

    Raises:
        UserError: when there is no head that can be found.
    """
    head = find_head(model)
    if head is None:
        raise UserError(
            f'A {type(model).__name__} has no head by the name "{HEAD}", expected a classifier that has one.'
        )
    return head


def head_name(model: nn.Module) -> str:
    """Where the head is in the module tree of a classifier, e.g. `classifier` or `timm_model.head.fc`.

    Raises:
        UserError: when there is no head that can be found.
    """
    return name_of(head_of(model), model)


def name_of(module: nn.Module, model: nn.Module) -> str:
    """The name of a module in the module tree of a model."""
    return next(name for name, each in model.named_modules() if each is module)


def head_weights(model: nn.Module) -> set[str]:
    """Names of the weights of a classifier's head.

    Raises:
        UserError: when there is no head that can be found.
    """
    head = head_name(model)
    return {name for name, _ in model.named_parameters() if in_head(name, head)}


def in_head(name: str, head: str) -> bool:
    """Whether a module or a weight of this name is the head or a part of it.

    Args:
        name: of the module or the weight.
        head: the name of the head.
    """
    return f"{name}.".startswith(f"{head}.")
