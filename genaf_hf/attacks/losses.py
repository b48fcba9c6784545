"""What attacks on a classifier raise: the mean over images of a loss, from logits (n, classes)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from genaf_hf.errors import UserError

LossFunction = Callable[[Tensor, Tensor], Tensor]  # of logits and class ids, a number
TARGETED_DLR = "targeted-dlr"


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """The logit of the label less the highest other one, (n,)."""
    labels = labels[:, None]
    return (logits.gather(1, labels) - logits.scatter(1, labels, -torch.inf).amax(1, keepdim=True)).squeeze(1)


def below_mean(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the logit of the label is below the mean of all, (n,).

    Its gradient is one of all classes, also where the cross-entropy's is one of the likeliest wrong class alone.
    """
    return logits.mean(1) - logits.gather(1, labels[:, None]).squeeze(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein, ICML 2020, equation 6): no scale of the logits makes it vanish.

    Raises:
        UserError: for fewer than three classes.
    """
    ordered = most_of(logits, 3, "dlr")
    return -(margin_of(logits, labels) / (ordered[:, 0] - ordered[:, 2] + 1e-12)).mean()


def targeted_dlr(logits: Tensor, labels: Tensor, *, targets: Tensor) -> Tensor:
    """The same towards classes (n,) (equation 7).

    Raises:
        UserError: for fewer than four classes.
    """
    ordered = most_of(logits, 4, TARGETED_DLR)
    gaps = (logits.gather(1, labels[:, None]) - logits.gather(1, targets[:, None])).squeeze(1)
    return -(gaps / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)).mean()


def towards(logits: Tensor, labels: Tensor, target: int | None) -> Tensor:
    """What an attack raises: the cross-entropy at the labels, or minus that at the class that all are to be taken for.

    Raises:
        UserError: when there is no such class.
    """
    if target is None:
        return F.cross_entropy(logits, labels)
    if not 0 <= target < logits.shape[1]:
        raise UserError(f"target is {target}, expected one of the model's {logits.shape[1]} classes from 0 on.")
    return -F.cross_entropy(logits, torch.full_like(labels, target))


def objective_words(loss: str, target: int | None) -> str:
    """The words for `towards`."""
    return loss if target is None else f"{loss}, lowered at class {target}"


def most_of(logits: Tensor, least: int, name: str) -> Tensor:
    """Logits in descending order.

    Raises:
        UserError: when there are fewer classes than a loss needs.
    """
    if logits.shape[1] < least:
        raise UserError(f'The loss "{name}" needs {least} classes, the model has {logits.shape[1]}: take another loss.')
    return logits.sort(dim=1, descending=True).values


LOSSES: dict[str, LossFunction] = {"cross-entropy": F.cross_entropy, "dlr": dlr}


def loss_function(loss: LossFunction | str) -> LossFunction:
    """A loss that is given by its name, or itself.

    Raises:
        UserError: for another name; lists those there are.
    """
    if isinstance(loss, str) and loss not in LOSSES:
        known = f"{', '.join(LOSSES)}, of pgd also {TARGETED_DLR}"
        raise UserError(f'loss is "{loss}", expected one of {known}, or in Python a function.')
    return LOSSES[loss] if isinstance(loss, str) else loss


def likeliest_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """All wrong classes of each image, the likeliest first, (n, classes - 1)."""
    return logits.scatter(1, labels[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :-1]
