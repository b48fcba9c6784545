"""Learning rates of encoder and head, and their decay per epoch."""

from collections import defaultdict
from collections.abc import Collection

from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from genaf_hf.encoders import in_head


def parameter_groups(
    model: nn.Module,
    decayed: Collection[str],
    *,
    learning_rate: float,
    head_learning_rate: float,
    weight_decay: float,
) -> list[dict]:
    """Trainable parameters for an optimizer: encoder and head, each with and without weight decay.

    Args:
        model: a classifier.
        decayed: names of the parameters that weight decay is for.
        learning_rate: of the encoder.
        head_learning_rate: of the head.
        weight_decay: of the decayed ones.
    """
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[in_head(name), name in decayed].append(parameter)
    return [
        {
            "params": parameters,
            "lr": head_learning_rate if head else learning_rate,
            "weight_decay": weight_decay if decay else 0.0,
        }
        for (head, decay), parameters in sorted(groups.items())
    ]


def decay_per_epoch(schedule: LRScheduler, decay: float, steps_per_epoch: int) -> None:
    """Multiplies the learning rates of a schedule by `decay` after every epoch.

    Raises:
        ValueError: for a schedule that is no function of the step.
    """
    if not isinstance(schedule, LambdaLR):
        raise ValueError(
            f"lr_scheduler_type makes a {type(schedule).__name__}, which takes no epoch_decay: choose another one, or "
            "leave epoch_decay at 1."
        )
    schedule.lr_lambdas = [
        lambda step, factor=factor: factor(step) * decay ** (step // steps_per_epoch) for factor in schedule.lr_lambdas
    ]
