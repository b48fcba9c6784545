"""Which adapter, where, how large, and trained how: one candidate of the search."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from peft import HRAConfig, IA3Config, LoHaConfig, LoKrConfig, LoraConfig, MissConfig, OFTConfig, PeftConfig, VeraConfig
from peft.utils.constants import DUMMY_TARGET_MODULES
from transformers import PreTrainedModel

from genaf_hf.errors import UserError
from genaf_hf.models.head import head_name

HEAD_ONLY = "head"


@dataclass(frozen=True)
class Method:
    """How PEFT is told of an adapter method.

    Attributes:
        config: PEFT's class.
        size: its field for the rank (OFT: the block size); None where the method has none.
        alpha: its field for alpha; None where the method has none.
        dropout: its field for the dropout on the adapter's input; None where the method has none.
        per_module: whether each module can have a rank of its own.
        convolutions: whether it adapts them too.
        settings: other fields.
    """

    config: type[PeftConfig]
    size: str | None = "r"
    alpha: str | None = None
    dropout: str | None = None
    per_module: bool = False
    convolutions: bool = False
    settings: dict = field(default_factory=dict)


LORA = {"alpha": "lora_alpha", "dropout": "lora_dropout", "per_module": True, "convolutions": True}
# Left out, though PEFT puts them on a ViT: PiSSA rewrites the frozen weights, which all trials share; AdaLoRA wants to
# be called after every training step; BOFT is OFT wherever its CUDA extension cannot be compiled; FourierFT has a
# number of frequencies (by default 1000), which says little beside the ranks of the others.
METHODS = {
    "lora": Method(LoraConfig, **LORA),
    "rslora": Method(LoraConfig, **LORA, settings={"use_rslora": True}),
    "dora": Method(LoraConfig, **LORA, settings={"use_dora": True}),
    "loha": Method(LoHaConfig, alpha="alpha", per_module=True),
    "lokr": Method(LoKrConfig, alpha="alpha", per_module=True),
    "oft": Method(OFTConfig, "oft_block_size", settings={"r": 0}),
    "ia3": Method(IA3Config, None, settings={"feedforward_modules": []}),
    "vera": Method(VeraConfig, dropout="vera_dropout"),
    "miss": Method(MissConfig, dropout="miss_dropout"),
    "hra": Method(HRAConfig),
    HEAD_ONLY: Method(LoraConfig, None),
}


@dataclass(frozen=True)
class Genome:
    """An adapter configuration and how it is trained. The head is always trained beside it.

    Attributes:
        method: a key of `METHODS`; `"head"` adapts nothing.
        ranks: by the exact name of each adapted module, e.g. `{"vit.layers.0.attention.q_proj": 8}`; a block size for
            OFT, 1 for methods without a rank, the same for all modules where the method knows only one.
        alpha: of the method, divided by the rank where the method scales its update.
        dropout: on the adapters' inputs, in [0, 1).
        learning_rate: of the adapters.
        head_learning_rate: of the head.
        genetic_weight: of the genetic regularization; None, as of the next two, where the defence has no such setting.
        eps_share: eps of the training adversary, as a share of the one that is defended against.
        steps: gradient steps of the training adversary.

    Raises:
        UserError: for a value that no adapter can be made or trained with; the sentence names it.
    """

    method: str
    ranks: Mapping[str, int]
    alpha: int
    dropout: float
    learning_rate: float
    head_learning_rate: float
    genetic_weight: float | None = None
    eps_share: float | None = None
    steps: int | None = None

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(f'method is "{self.method}", expected one of {", ".join(METHODS)}.')
        if (self.method == HEAD_ONLY) != (not self.ranks):
            raise UserError(f"{self.method} adapts {len(self.ranks)} modules; expected none for {HEAD_ONLY} alone.")
        for name in ("alpha", "learning_rate", "head_learning_rate", "eps_share", "steps"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise UserError(f"{name} is {value}, expected a positive number.")
        if self.genetic_weight is not None and not 0 <= self.genetic_weight < math.inf:
            raise UserError(f"genetic_weight is {self.genetic_weight}, expected 0 or more.")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}, expected a share in [0, 1).")
        sizes = set(self.ranks.values())
        if odd := [size for size in sizes if not isinstance(size, int) or size < 1]:
            raise UserError(f"A rank is {odd[0]}, expected a whole number, at least 1.")
        if len(sizes) > 1 and not METHODS[self.method].per_module:
            raise UserError(f"{self.method} takes one rank for all modules, not {sorted(sizes)}.")

    def peft_config(self, model: PreTrainedModel) -> PeftConfig:
        """The configuration by which `get_peft_model` makes this adapter for a classifier.

        Raises:
            UserError: when the model has no module of some name.
        """
        names = {name for name, _ in model.named_modules()}
        if missing := [name for name in self.ranks if name not in names]:
            raise UserError(f"The {type(model).__name__} has no module {missing[0]}: the genome is another encoder's.")
        method = METHODS[self.method]
        settings = {
            **method.settings,
            "target_modules": list(self.ranks) or DUMMY_TARGET_MODULES,
            "modules_to_save": [head_name(model)],
        }
        if method.size:
            largest = max(self.ranks.values())
            settings[method.size] = largest
            if method.per_module:
                settings["rank_pattern"] = {name: rank for name, rank in self.ranks.items() if rank != largest}
        if method.alpha:
            settings[method.alpha] = self.alpha
        if method.dropout:
            settings[method.dropout] = self.dropout
        return method.config(**settings)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Genome":
        """Reads what `to_json` wrote.

        Raises:
            UserError: when it is no genome.
        """
        try:
            return cls(**json.loads(text))
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise UserError(f"This is not a genome that genaf_hf can read: {error}") from error
