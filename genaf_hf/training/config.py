"""Settings of Gen-AF."""

import math
from dataclasses import dataclass, field, fields
from typing import get_args

from transformers.trainer_utils import IntervalStrategy

from genaf_hf.attacks.norms import NORMS
from genaf_hf.errors import UserError
from genaf_hf.training.defences import DEFENCES, Defence
from genaf_hf.training.layers import ASSESSMENTS
from genaf_hf.training.options import CheckedArguments
from genaf_hf.values.numbers import check_kind, check_share, eps_text, make_plain
from genaf_hf.values.settings import settings_by_name

ADAPT_EPOCHS = 2.0
EXAMPLE = '{"bank_steps": 150}'
# Fields that a defence may read, with defaults of its own.
OF_DEFENCE = ("eps", "steps", "step_size", "norm", "random_start", "genetic_weight", "genetic_share", "clean_share")

CLEAN_ACCURACY, ROBUST_ACCURACY = "clean_accuracy", "robust_accuracy"  # of an evaluation


def of_defence(name: str, text: str):
    """A field whose default is that of the defence; its help tells Gen-AF's, and what differs from it."""
    defaults = {each.name: each.defaults[name] for each in DEFENCES.values() if name in each.defaults}
    words = eps_text if name == "eps" else "{:g}".format
    names: dict[float, list[str]] = {}
    for other, value in defaults.items():
        names.setdefault(value, []).append(other)
    gen_afs = defaults["gen-af"]
    told = ", ".join([words(gen_afs), *(f"{' and '.join(names[v])} {words(v)}" for v in names if v != gen_afs)])
    return field(default=None, metadata={"help": f"{text}; default {told}."})


@dataclass
class GenAFConfig(CheckedArguments):
    """`TrainingArguments` with the settings of Gen-AF's two stages (Zhou et al., IEEE S&P 2024, arXiv 2403.10801).

    `learning_rate`, `num_train_epochs`, `max_steps`, the schedule and the batch size are those of stage 1, adversarial
    fine-tuning; stage 2 has its own where the name begins with `adapt_`, and shares the rest. Lengths of perturbations
    are in pixel units of images in [0, 1]. What `defence` reads and is None takes its default; what it does not read
    stays None.

    Raises:
        UserError: when a field is outside its range, or is given to a defence that does not read it; the sentence
            names it.
    """

    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of the encoder in stage 1; default by size: 5e-4 up to 3 million parameters, 9e-5 "
            "for a ViT-B."
        },
    )
    head_learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate of the head in stage 1."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Images in a batch on each device."})
    per_device_eval_batch_size: int | None = field(
        default=None,
        metadata={"help": "Images in a batch of an evaluation, default as in training; fewer where memory is short."},
    )
    num_train_epochs: float | None = field(
        default=None,
        metadata={"help": "Epochs of stage 1; default 3, of harden-encoder 1, more where that is too few steps."},
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Layer-wise decay: factor on the encoder's learning rate in stage 1 from each block to the one "
            "before it, in (0, 1]; the head keeps its rate."
        },
    )
    weight_decay: float = field(
        default=0.05, metadata={"help": "Weight decay of both stages, biases and norms excepted."}
    )
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Linear warm-up of the learning rates: steps, or below 1 a share of all steps."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Off, because images are decoded by a transform that needs its columns."}
    )

    random_flip: bool = field(
        default=False,
        metadata={
            "help": "Mirror half of the training images left to right, drawn anew in each step: for photographs, and "
            "not for letters, digits or signs; where harden takes its settings from a file of ours for an encoder "
            "that is named, that says true."
        },
    )

    defence: str = field(
        default="gen-af",
        metadata={
            "help": "What stage 1 trains on; default gen-af, of harden universal, on the digits universal-n-fgsm.",
            "choices": DEFENCES,
        },
    )
    defence_settings: dict | str | None = field(
        default=None,
        metadata={"help": f"Settings of the defence that have no flag of their own, as JSON, such as {EXAMPLE}."},
    )
    eps: float | None = of_defence("eps", "Radius of the adversary's ball in pixel units")
    steps: int | None = of_defence("steps", "Gradient steps of the training adversary")
    step_size: float | None = field(
        default=None,
        metadata={"help": "Step size of the training adversary in pixel units; default 2.5 * eps / steps, or eps / 5."},
    )
    norm: str = field(default="linf", metadata={"help": "Norm of the ball.", "choices": list(NORMS)})
    random_start: bool = field(default=True, metadata={"help": "Start the adversary at a random point of its ball."})
    eps_warmup_ratio: float = field(
        default=0.3, metadata={"help": "Share of stage 1 over which eps grows linearly to its value."}
    )
    genetic_weight: float | None = of_defence(
        "genetic_weight", "Weight of the genetic regularization, which is averaged over the rows of the global batch"
    )
    genetic_share: float | None = of_defence(
        "genetic_share",
        "The weighted regularization is at most this share of the adversarial cross-entropy, in proportion to eps "
        "while that grows; inf is no bound",
    )
    clean_share: float | None = of_defence(
        "clean_share", "Share of the loss of stage 1 that is that of clean images, 0 is the paper's"
    )

    redundant_share: float = field(
        default=0.2, metadata={"help": "Share of layers, the least robustness-bearing ones, that stage 2 fine-tunes."}
    )
    layer_assessment: str = field(
        default="first_order",
        metadata={
            "help": "How a layer's contribution to robustness is found: one backward pass for all layers, or the "
            "paper's ascent for each layer.",
            "choices": list(ASSESSMENTS),
        },
    )
    assessment_samples: int = field(
        default=1024, metadata={"help": "Training images by which layers are assessed, at most."}
    )
    adapt_epochs: float | None = field(
        default=None,
        metadata={"help": "Epochs of stage 2; default 2 where it is a part of the defence; 0 leaves it out."},
    )
    adapt_max_steps: int = field(default=-1, metadata={"help": "Steps of stage 2, instead of epochs if positive."})
    adapt_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of stage 2."})

    def __post_init__(self):
        make_plain(self)
        for name, kind in GenAFConfig.__annotations__.items():
            if (value := getattr(self, name)) != math.inf:
                check_kind(name, value, get_args(kind) or (kind,))
        if self.per_device_eval_batch_size is None:  # an attack takes no more memory than a step without checkpointing
            self.per_device_eval_batch_size = self.per_device_train_batch_size
        self._settle_defence()
        self._check_rates()
        if self.num_train_epochs is None and self.max_steps > 0:
            self.num_train_epochs = 3.0  # which max_steps overrules; the Trainer compares it all the same
        # The Trainer would have checkpoints saved at every evaluation; here the best weights are kept apart from them.
        load_best_model_at_end, self.load_best_model_at_end = self.load_best_model_at_end, False
        adversary = self.make_defence().adversary
        if load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = CLEAN_ACCURACY if adversary is None else ROBUST_ACCURACY
        best_by = (self.metric_for_best_model or "").removeprefix("eval_")
        if best_by == ROBUST_ACCURACY and adversary is not None and adversary.moves:
            raise UserError(
                f"The best weights are to be chosen by {ROBUST_ACCURACY}, but that of {self.defence} is under "
                "perturbations that grow stronger as the training goes on, so that early weights look best: leave "
                "load_best_model_at_end out, or set metric_for_best_model to clean_accuracy or loss."
            )
        super().__post_init__()
        self.load_best_model_at_end = load_best_model_at_end
        self._check_genaf_settings()

    def make_defence(self) -> Defence:
        """The defence with its settings, and a state of its own.

        Raises:
            UserError: for an unknown defence, a setting that it does not have, or a value out of its range.
        """
        known = DEFENCES[self.defence]
        ours = {name: getattr(self, name) for name in OF_DEFENCE}
        others = settings_by_name("defence_settings", self.defence_settings, EXAMPLE)
        if doubled := [name for name in others if name in ours]:
            raise UserError(f"defence_settings give {doubled[0]}, which is a setting of its own: give it as such.")
        ours = {name: value for name, value in ours.items() if value is not None and name in known.defaults}
        return known.configure(**ours, **others)

    def _settle_defence(self) -> None:
        """Gives what the defence reads the values that it gets, and refuses what it does not read."""
        known = DEFENCES[self.defence]
        if self.defence_settings is not None:
            self.defence_settings = settings_by_name("defence_settings", self.defence_settings, EXAMPLE)
        settings = self.make_defence().settings
        for each in (each for each in fields(self) if each.name in OF_DEFENCE):
            if each.name not in settings and getattr(self, each.name) != each.default:
                raise UserError(
                    f"{each.name} is {getattr(self, each.name)}, which the defence {self.defence} does not read: leave "
                    f"it out; it reads {', '.join(settings) or 'nothing'}."
                )
            setattr(self, each.name, settings.get(each.name, each.default))
        if self.adapt_epochs is None:
            self.adapt_epochs = ADAPT_EPOCHS if known.adapts else 0.0

    def _check_rates(self) -> None:
        for name in ("learning_rate", "head_learning_rate", "adapt_learning_rate", "assessment_samples"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}, expected a positive number.")
        if not 0 <= self.warmup_steps < math.inf:
            raise UserError(f"warmup_steps is {self.warmup_steps}, expected 0 or more.")

    def _check_genaf_settings(self) -> None:
        for name in ("weight_decay", "adapt_epochs"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"{name} is {getattr(self, name)}, expected 0 or more.")
        check_share("eps_warmup_ratio", self.eps_warmup_ratio)
        for name in ("redundant_share", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected a value in (0, 1].")
        if self.load_best_model_at_end and self.eval_strategy == IntervalStrategy.NO:
            raise UserError(
                'load_best_model_at_end is True but eval_strategy is "no", expected "epoch" or "steps"; or set '
                "load_best_model_at_end to False."
            )
        if self.layer_assessment not in ASSESSMENTS:
            raise UserError(f'layer_assessment is "{self.layer_assessment}", expected one of {", ".join(ASSESSMENTS)}.')
