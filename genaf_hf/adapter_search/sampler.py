"""Which genomes are tried, and who their parents are."""

from collections.abc import Mapping, Sequence

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.samplers.nsgaii import PolynomialMutation
from optuna.trial import FrozenTrial

from genaf_hf.adapter_search.hypervolume import hypervolume, point

SEEDS = 1_000_003
CROSSED = 0.5  # of the children; the others go on with the adapter of one parent
MUTATED = 0.125  # of a child's genes
LOCALITY = 5  # of the mutations of numbers, Deb's eta
ROUNDING = 1e-9


class GenerationSampler(BaseSampler):
    """NSGA-II whose draws for a trial depend on the seed and the trial's number, not on the worker that runs it.

    Deb et al., IEEE Transactions on Evolutionary Computation 2002, https://doi.org/10.1109/4235.996017. With three
    objectives and few trials nearly every trial is on the front, and the crowding distance would tell parents apart, by
    the bare number of parameters: so those survive that add the most hypervolume, as in SMS-EMOA (Beume et al.,
    European Journal of Operational Research 2007, https://doi.org/10.1016/j.ejor.2006.08.008).

    Args:
        population: trials of a generation, and those of them that become parents.
        seed: of the draws.
        whole: parameters of the whole model.

    Attributes:
        parent_population: the trials that the children of the present generation come from.
    """

    def __init__(self, population: int, seed: int, whole: int):
        self.population, self.seed, self.whole = population, seed, whole
        self.parent_population: list[FrozenTrial] = []

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.nsga = NSGAIISampler(
            population_size=self.population,
            crossover_prob=CROSSED,
            mutation=PolynomialMutation(LOCALITY),
            mutation_prob=MUTATED,
            seed=(self.seed * SEEDS + trial.number) % 2**32,
            elite_population_selection_strategy=lambda _, trials: survivors(trials, self.population, self.whole),
        )
        # Also of known configurations, for which nothing is drawn: without a generation they would have no children.
        generation = self.nsga.get_trial_generation(study, trial)
        population = self.nsga.get_parent_population(study, generation)
        self.parent_population = sorted(population, key=lambda parent: parent.number)
        self.nsga.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.nsga.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict:
        return self.nsga.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ):
        return self.nsga.sample_independent(study, trial, param_name, param_distribution)


def survivors(trials: Sequence[FrozenTrial], count: int, whole: int) -> list[FrozenTrial]:
    """Those that add the most hypervolume, one after the other; before any that breaks a constraint.

    Where none adds any, those that are left are compared among themselves, as the fronts of non-dominated sorting are.

    Args:
        trials: to choose from.
        count: of trials to choose.
        whole: parameters of the whole model.
    """
    chosen, front, left = [], [], list(trials)

    def worth(trial: FrozenTrial) -> tuple[float, float, float, float]:
        clean, robust, parameters = trial.values
        volume = hypervolume([point(each.values, whole) for each in (*front, trial)])
        return -violation(trial), volume, clean + robust, -parameters

    while left and len(chosen) < count:
        best = max(left, key=worth)
        if front and worth(best)[1] <= (1 + ROUNDING) * worth(front[-1])[1]:
            front = []
            continue
        chosen.append(best)
        front.append(best)
        left.remove(best)
    return chosen


def violation(trial: FrozenTrial) -> float:
    """By how much a trial breaks its constraints."""
    return sum(max(0.0, value) for value in trial.constraints.values())


def parents(child: Mapping[str, object], population: Sequence[FrozenTrial]) -> list[tuple[FrozenTrial, int]]:
    """The trial of a population that shares the most genes with a child, and the one that explains most of the rest.

    Optuna does not tell which trials it crossed. Of twins it is the later one, which may have gone on with the other's
    adapter.

    Args:
        child: parameters.
        population: to choose from.

    Returns:
        None, one or two trials, each with the number of genes that it explains.
    """
    found, unexplained = [], set(child)
    for _ in range(2):
        shared = {
            trial.number: {name for name in unexplained if trial.params.get(name) == child[name]}
            for trial in population
        }
        best = max(population, key=lambda trial: (len(shared[trial.number]), trial.number), default=None)
        if best is None or not shared[best.number]:
            break
        found.append((best, len(shared[best.number])))
        unexplained -= shared[best.number]
    return found
