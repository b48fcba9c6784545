"""Learning rates of encoder and head, and their decay from layer to layer and per epoch."""

from collections import defaultdict
from collections.abc import Callable, Collection

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

from genaf_hf.errors import UserError
from genaf_hf.models.blocks import encoder_blocks
from genaf_hf.models.head import head_name, in_head
from genaf_hf.values.numbers import is_number

COUPLED = "decoupled_weight_decay=false"  # in optim_args
SMALL, SMALL_RATE = 3e6, 5e-4  # parameters up to which an encoder has this rate


def fine_tuning_rate(encoder: nn.Module) -> float:
    """AdamW's learning rate for an encoder that nobody named one for: it falls with the root of the parameters' number.

    On 462 photographs and with 2.8 million parameters 5e-5 learned hardly any robustness, 5e-4 did; what is usual for
    a ViT-B, with 86 million, is 5e-5 to 1e-4.
    """
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return SMALL_RATE * min(1.0, (SMALL / parameters) ** 0.5)


def parameter_groups(
    model: nn.Module,
    decayed: Collection[str],
    *,
    learning_rate: float,
    head_learning_rate: float,
    weight_decay: float,
    layer_decay: float,
) -> list[dict]:
    """Trainable parameters for an optimizer: encoder and head, each with and without weight decay.

    With layer-wise decay the encoder has such groups for each of its depths.

    Args:
        model: a classifier.
        decayed: names of the parameters that weight decay is for.
        learning_rate: of the encoder.
        head_learning_rate: of the head.
        weight_decay: of the decayed ones.
        layer_decay: to the power of `layer_decay_powers` it is a factor on `learning_rate`.

    Raises:
        UserError: when rates are to decay over an encoder without repeated blocks.
    """
    powers = {} if layer_decay == 1 else layer_decay_powers(model)
    groups, head = defaultdict(list), head_name(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[in_head(name, head), powers.get(name, 0), name in decayed].append(parameter)
    return [
        {
            "params": parameters,
            "lr": head_learning_rate if of_head else learning_rate * layer_decay**power,
            "weight_decay": weight_decay if decay else 0.0,
        }
        for (of_head, power, decay), parameters in sorted(groups.items())
    ]


def layer_decay_powers(model: nn.Module) -> dict[str, int]:
    """How often layer-wise decay is applied to the learning rate of each weight of the encoder, by name.

    Clark et al., ELECTRA (ICLR 2020, https://arxiv.org/abs/2003.10555), counted as in the code of BEiT (Bao et al.,
    ICLR 2022, https://arxiv.org/abs/2106.08254) and MAE: 0 for the weights above the last block, 1 for the last block,
    one more for each block before it, and again for the embeddings or the stem. What lies between two blocks, like the
    downsampling of Swin, counts as part of the first one.

    Args:
        model: a classifier, also wrapped by PEFT.

    Raises:
        UserError: when the encoder has no repeated blocks.
    """
    blocks = encoder_blocks(model).values()
    if not blocks:
        raise UserError(
            "layer_decay is not 1, but the encoder has no repeated blocks that rates could decay over: leave it out."
        )
    depths = {parameter: depth for depth, block in enumerate(blocks, start=1) for parameter in block.parameters()}
    reached, powers, head = 0, {}, head_name(model)
    for name, parameter in model.named_parameters():  # in the order of the module tree
        if not in_head(name, head):
            reached = depths.get(parameter, reached)
            above = parameter not in depths and reached == len(blocks)
            powers[name] = 0 if above else len(blocks) + 1 - reached
    return powers


def of_arguments(optimizer: type[Optimizer], args: TrainingArguments) -> type[Optimizer]:
    """The optimizer, and Adam instead of AdamW where `optim_args` couple the weight decay to the gradients."""
    coupled = COUPLED in (args.optim_args or "")
    # AdamW with an argument of its own sets its groups to decoupled whenever a state is loaded.
    return Adam if coupled and optimizer is AdamW else optimizer


def make_schedule(args: TrainingArguments, optimizer: Optimizer, steps: int, steps_per_epoch: int) -> LRScheduler:
    """The schedule of the arguments; an `epoch_decay` in `lr_scheduler_kwargs` is a factor on it after every epoch.

    Raises:
        TypeError, ValueError: when the settings do not fit the schedule.
    """
    settings = dict(args.lr_scheduler_kwargs or {})
    decay = settings.pop("epoch_decay", 1)
    if args.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
        settings.setdefault("mode", "max" if args.greater_is_better else "min")
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(steps), steps, settings)
    if decay != 1:
        decay_per_epoch(schedule, decay, steps_per_epoch)
    return schedule


def decay_per_epoch(schedule: LRScheduler, decay: float, steps_per_epoch: int) -> None:
    """Multiplies the learning rates of a schedule by `decay` after every epoch.

    Raises:
        ValueError: for a schedule that is no function of the step, or a decay that is not positive.
    """
    if not isinstance(schedule, LambdaLR):
        raise ValueError(f"a {type(schedule).__name__} takes no epoch_decay")
    if not (is_number(decay) and decay > 0):
        raise ValueError(f"epoch_decay is {decay}, expected a positive number")

    def decaying(factor: Callable[[int], float]) -> Callable[[int], float]:
        return lambda step: factor(step) * decay ** (step // steps_per_epoch)

    schedule.lr_lambdas = [decaying(factor) for factor in schedule.lr_lambdas]
