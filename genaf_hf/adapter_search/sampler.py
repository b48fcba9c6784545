"""Which genomes are tried, and who their parents are."""

from collections.abc import Mapping, Sequence

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.trial import FrozenTrial

SEEDS = 1_000_003


class GenerationSampler(BaseSampler):
    """NSGA-II whose draws for a trial depend on the seed and the trial's number, not on the worker that runs it.

    Deb et al., IEEE Transactions on Evolutionary Computation 2002, https://doi.org/10.1109/4235.996017.

    Attributes:
        parent_population: the trials that the children of the present generation come from.
    """

    def __init__(self, population: int, seed: int):
        self.population, self.seed = population, seed
        self.parent_population: list[FrozenTrial] = []

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.nsga = NSGAIISampler(population_size=self.population, seed=(self.seed * SEEDS + trial.number) % 2**32)
        # Also of known configurations, for which nothing is drawn: without a generation they would have no children.
        generation = self.nsga.get_trial_generation(study, trial)
        self.parent_population = self.nsga.get_parent_population(study, generation)
        self.nsga.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.nsga.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict:
        return self.nsga.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ):
        return self.nsga.sample_independent(study, trial, param_name, param_distribution)


def parents(child: Mapping[str, object], population: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trial of a population that shares the most genes with a child, and the one that explains most of the rest.

    Optuna does not tell which trials it crossed.

    Args:
        child: parameters.
        population: to choose from.

    Returns:
        None, one or two trials.
    """
    found, unexplained = [], set(child)
    for _ in range(2):
        shared = {
            trial.number: {name for name in unexplained if trial.params.get(name) == child[name]}
            for trial in population
        }
        best = max(population, key=lambda trial: len(shared[trial.number]), default=None)
        if best is None or not shared[best.number]:
            break
        found.append(best)
        unexplained -= shared[best.number]
    return found
