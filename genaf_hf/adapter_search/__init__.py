"""Evolves PEFT adapters: the best trades of clean accuracy, robustness and size."""

from genaf_hf.errors import UserError

try:
    import optuna  # noqa: F401
except ModuleNotFoundError as error:
    raise UserError("The search for adapters needs Optuna: pip install 'genaf_hf[search]'.") from error

from genaf_hf.adapter_search.arguments import AdapterSearchArguments
from genaf_hf.adapter_search.fitness import Fitness, Score
from genaf_hf.adapter_search.front import Member, merged_model
from genaf_hf.adapter_search.genome import METHODS, Genome
from genaf_hf.adapter_search.inheritance import adapt
from genaf_hf.adapter_search.merged_weights import AdapterTrainer, merged_weights
from genaf_hf.adapter_search.picked import pick
from genaf_hf.adapter_search.search import evolve
from genaf_hf.adapter_search.search_space import SearchSpace, suggest

__all__ = [
    "METHODS",
    "AdapterSearchArguments",
    "AdapterTrainer",
    "Fitness",
    "Genome",
    "Member",
    "Score",
    "SearchSpace",
    "adapt",
    "evolve",
    "merged_model",
    "merged_weights",
    "pick",
    "suggest",
]
