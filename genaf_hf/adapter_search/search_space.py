"""What genomes there are for an encoder, found in its module tree."""

import copy
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from peft import OFTConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from genaf_hf.adapter_search.genome import HEAD_ONLY, METHODS, Genome, Method
from genaf_hf.adapter_search.inheritance import adapt
from genaf_hf.adapter_search.merged_weights import merged_weights
from genaf_hf.errors import UserError, first_line
from genaf_hf.models.blocks import encoder_blocks, is_adaptable
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.optimization import fine_tuning_rate

logger = logging.getLogger(__name__)

QUERY_VALUE, ALL_LINEAR, HEAD_ALONE = "LoRA q, v, rank 8", "LoRA all linear, rank 8", "head only"
OFF = -1
OF_TRAINING = ("alpha", "dropout", "learning_rate", "head_learning_rate", "genetic_weight", "eps_share", "steps")
LARGEST_RANK = 5  # as a power of two
BLOCK_SHARES = {"off": 0.0, "half": 0.5, "full": 1.0, "double": 2.0}
SMALLEST_BLOCK = 2  # of OFT: blocks of one have nothing to rotate
# Swin v2 computes it from two coordinates: with it, one rank for all modules would be at most 2, and OFT would fail.
POSITION_BIAS = "position_bias"
# What the field calls them; only the known configuration of that name depends on it.
QUERY_OR_VALUE = re.compile(r"(^|[._])(q|query|v|value)(_proj)?$")


@dataclass(frozen=True)
class Target:
    """A module that can be adapted.

    Attributes:
        block: index of the repeated block that it is in.
        kind: its name inside of the block, e.g. `"attention.q_proj"`.
        inputs: features that it reads for each output (of a convolution, channels times the area of its kernel).
        outputs: features or channels.
        convolution: whether it is one.
    """

    block: int
    kind: str
    inputs: int
    outputs: int
    convolution: bool


class SearchSpace:
    """Parameters for Optuna, and the genome that each choice of them means.

    A module's rank is that of its kind times the share of its block; either can be off. Ranks are powers of two.

    Args:
        targets: modules that can be adapted, by exact name.
        config: the settings of training that genomes vary: learning rates by a factor of 10 either way, and of what its
            defence reads, the genetic weight from 0 to twice its value, eps from a quarter to 1.25 times its value, and
            from one step to all.

    Raises:
        UserError: when there is no target.
    """

    def __init__(self, targets: Mapping[str, Target], config: GenAFConfig):
        if not targets:
            raise UserError(
                "The encoder has no repeated blocks with linear layers or convolutions, so there is nothing to adapt: "
                "choose another encoder."
            )
        self.targets = dict(targets)
        self.config = config
        self.kinds = list(dict.fromkeys(target.kind for target in targets.values()))
        self.blocks = sorted({target.block for target in targets.values()})
        convolutions_alone = all(target.convolution for target in targets.values())
        self.methods = [
            name
            for name, method in METHODS.items()
            if name != HEAD_ONLY and (method.convolutions or not convolutions_alone)
        ]

    @classmethod
    def of(cls, model: PreTrainedModel, config: GenAFConfig, pixel_values: Tensor) -> "SearchSpace":
        """The space of a classifier of any family: the innermost lists of blocks of one class in its encoder.

        Methods that fail on this encoder are left out.

        Args:
            model: the classifier.
            config: see above.
            pixel_values: a few images, (n, 3, h, w), to try the methods on.

        Raises:
            UserError: when it has none with linear layers or convolutions, or no method works on them.
        """
        targets = {}
        for index, (name, block) in enumerate(encoder_blocks(model).items()):
            for kind, module in block.named_modules():
                if is_adaptable(module) and POSITION_BIAS not in kind:
                    targets[f"{name}.{kind}"] = describe(index, kind, module)
        if config.learning_rate is None:
            config = copy.copy(config)
            config.learning_rate = fine_tuning_rate(model)
        space = cls(targets, config)
        trouble = {name: space.trouble(name, model, pixel_values) for name in space.methods}
        space.methods = [name for name, reason in trouble.items() if reason is None]
        if not space.methods:
            name, reason = next(iter(trouble.items()))
            raise UserError(
                f"No adapter method works on this {type(model).__name__} ({name}: {reason}): choose another encoder."
            )
        return space

    def trouble(self, method: str, model: PreTrainedModel, pixel_values: Tensor) -> str | None:
        """Why a method cannot be put on all targets, merged, and used: PEFT does not take every module everywhere."""
        everything = self.known_configurations()[ALL_LINEAR]
        try:
            adapted = adapt(model, self.genome({**everything, "method": method}).peft_config(model)).eval()
            with torch.no_grad():
                logits = adapted(pixel_values=pixel_values).logits
                with merged_weights(adapted):
                    merged = adapted(pixel_values=pixel_values).logits
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            reason = first_line(error)
        else:
            reason = None if torch.allclose(merged, logits, atol=1e-3) else "merged, it gives other logits"
        if reason is not None:
            logger.warning("%s does not work on this encoder and is left out: %s", method, reason)
        return reason

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's parameters by name."""
        config = self.config
        return {
            "method": CategoricalDistribution(self.methods),
            **{f"rank.{kind}": IntDistribution(OFF, self.largest_rank(kind)) for kind in self.kinds},
            **{f"block.{block}": CategoricalDistribution(list(BLOCK_SHARES)) for block in self.blocks},
            "alpha": IntDistribution(1, 64, log=True),
            "dropout": FloatDistribution(0.0, 0.3),
            "learning_rate": around(config.learning_rate),
            "head_learning_rate": around(config.head_learning_rate),
            **self.of_defence(),
        }

    def of_defence(self) -> dict[str, BaseDistribution]:
        """Those that the defence reads."""
        found: dict[str, BaseDistribution] = {}
        if self.config.genetic_weight is not None:
            found["genetic_weight"] = FloatDistribution(0.0, 2 * self.config.genetic_weight)
        adversary = self.config.make_defence().adversary
        has_bank = adversary is not None and adversary.settings.get("bank")  # which another eps would craft anew
        if self.config.eps is not None and not has_bank:
            found["eps_share"] = FloatDistribution(0.25, 1.25)
        if self.config.steps is not None:
            found["steps"] = IntDistribution(1, self.config.steps)
        return found

    def largest_rank(self, kind: str) -> int:
        """Of a kind of module, as a power of two."""
        sizes = [min(target.inputs, target.outputs) for target in self.targets.values() if target.kind == kind]
        return min(LARGEST_RANK, min(sizes).bit_length() - 1)

    def genome(self, parameters: Mapping[str, object]) -> Genome:
        """What a choice of the parameters means."""
        method = METHODS[parameters["method"]]
        ranks = {}
        for name, target in self.targets.items():
            power, share = parameters[f"rank.{target.kind}"], BLOCK_SHARES[parameters[f"block.{target.block}"]]
            if power != OFF and share and (method.convolutions or not target.convolution):
                ranks[name] = max(1, min(int(share * 2**power), target.inputs, target.outputs))
        if not method.per_module:
            ranks = self.with_one_size(ranks, method)
        return Genome(
            method=parameters["method"] if ranks else HEAD_ONLY,
            ranks=ranks,
            **{name: value for name, value in parameters.items() if name in OF_TRAINING},
        )

    def with_one_size(self, ranks: Mapping[str, int], method: Method) -> dict[str, int]:
        """The same rank for all modules: their median, cut to what each can take; 1 where the method has no rank.

        OFT's blocks must divide the inputs of every module; modules with an odd number of them are left out.
        """
        if method.size is None or not ranks:
            return dict.fromkeys(ranks, 1)
        median = sorted(ranks.values())[len(ranks) // 2]
        if method.config is not OFTConfig:
            smallest = min(min(self.targets[name].inputs, self.targets[name].outputs) for name in ranks)
            return dict.fromkeys(ranks, min(median, smallest))
        even = [name for name in ranks if self.targets[name].inputs % SMALLEST_BLOCK == 0]
        size = max(SMALLEST_BLOCK, median)
        while any(self.targets[name].inputs % size for name in even):
            size //= 2
        return dict.fromkeys(even, size)

    def known_configurations(self) -> dict[str, dict[str, object]]:
        """Parameters of what one would try first, by name: those that the encoder has the modules for."""
        config = self.config
        training = {
            "alpha": 16,
            "dropout": 0.0,
            "learning_rate": config.learning_rate,
            "head_learning_rate": config.head_learning_rate,
            "genetic_weight": config.genetic_weight,
            "eps_share": 1.0,
            "steps": config.steps,
        }
        training = {name: value for name, value in training.items() if name in self.distributions}
        chosen = {
            QUERY_VALUE: [kind for kind in self.kinds if QUERY_OR_VALUE.search(kind)],
            ALL_LINEAR: self.kinds,
            HEAD_ALONE: [],
        }
        return {
            name: {
                "method": "lora",
                **{f"rank.{kind}": min(3, self.largest_rank(kind)) if kind in kinds else OFF for kind in self.kinds},
                **{f"block.{block}": "full" for block in self.blocks},
                **training,
            }
            for name, kinds in chosen.items()
            if kinds or name == HEAD_ALONE
        }


def suggest(trial: Trial, space: SearchSpace) -> Genome:
    """The genome that a trial stands for."""
    parameters = {}
    for name, distribution in space.distributions.items():
        if isinstance(distribution, CategoricalDistribution):
            parameters[name] = trial.suggest_categorical(name, distribution.choices)
        elif isinstance(distribution, IntDistribution):
            parameters[name] = trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
        else:
            parameters[name] = trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    return space.genome(parameters)


def around(value: float) -> FloatDistribution:
    """A tenth to ten times of a value, uniform in its logarithm."""
    return FloatDistribution(value / 10, value * 10, log=True)


def describe(block: int, kind: str, module: nn.Module) -> Target:
    """A layer of a block, by the shape of its weight (outputs, inputs) or (outputs, inputs, kh, kw)."""
    outputs, *rest = module.weight.shape
    return Target(block, kind, module.weight[0].numel(), outputs, convolution=len(rest) > 1)
