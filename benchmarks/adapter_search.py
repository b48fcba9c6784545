"""What evolving adapters is worth: against random search, fixed configurations and cold starts; and what workers add.

    python benchmarks/adapter_search.py genaf_hf/cli/configs/evolve_digits.yaml --generations 6 --output_dir benchmark

Takes the flags of recipes/evolve_peft.py. Every way has the same budget of training steps; a fixed configuration has
the whole of it to itself. Hypervolumes are of clean accuracy, robust accuracy and size on the validation images, with
the size as the share, on a logarithmic scale, that is saved between the whole model and its head. Searches that were
done are not done again. Prints Markdown tables.
"""

import copy
import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean

import optuna
from optuna.samplers import RandomSampler

from genaf_hf import GenAFConfig
from genaf_hf.adapter_search import AdapterSearchArguments
from genaf_hf.adapter_search.hypervolume import hypervolume, point
from genaf_hf.adapter_search.laboratory import Laboratory, open_laboratory
from genaf_hf.adapter_search.sampler import GenerationSampler
from genaf_hf.adapter_search.search import objective_of, settings_of_search
from genaf_hf.adapter_search.search_space import ALL_LINEAR, QUERY_VALUE
from genaf_hf.adapter_search.storage import open_storage, quiet_optuna
from genaf_hf.adapter_search.study import KNOWN, begin_or_join, last_tries, work
from genaf_hf.cli.command_line import parse_arguments
from genaf_hf.models.head import head_of
from genaf_hf.models.weights import parameter_count
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.runs.journal import Journal
from genaf_hf.values.markup import markdown

CONFIGS = Path(__file__).parents[1] / "genaf_hf" / "cli" / "configs"
RECIPE = Path(__file__).parents[1] / "recipes" / "evolve_peft.py"
FIXED = {"q, v": (4, 8, 16), "all linear": (8, 16)}  # ranks
WORKERS = 3


@dataclass
class BenchmarkArguments:
    """Which parts are run."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2, 3, 4])
    workers: bool = field(default=True, metadata={"help": "Also compare one worker with one for each core."})


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    benchmark, arguments, config = parse_arguments(
        (BenchmarkArguments, AdapterSearchArguments, GenAFConfig), CONFIGS / "evolve_digits.yaml"
    )
    pretrain_where_named(arguments.model_name_or_path, config.use_cpu)
    found = {seed: hypervolumes(arguments, config, seed) for seed in benchmark.seeds}
    ways = list(next(iter(found.values())))
    rows = [["seed", *ways]]
    rows += [[str(seed), *(f"{found[seed][way]:.4f}" for way in ways)] for seed in found]
    means = {way: mean(each[way] for each in found.values()) for way in ways}
    rows.append(["mean", *(f"{means[way]:.4f}" for way in ways)])
    rows.append(["evolved / this", *(f"{means['evolved'] / means[way]:.3f}" if means[way] else "-" for way in ways)])
    print(f"\n{markdown(rows)}\n")
    if benchmark.workers:
        print_workers(Path(config.output_dir))


def hypervolumes(arguments: AdapterSearchArguments, config: GenAFConfig, seed: int) -> dict[str, float]:
    """By way: the hypervolume of what it found with one seed."""
    config = copy.copy(config)
    config.seed, root = seed, Path(config.output_dir) / f"seed-{seed}"
    ways: dict[str, tuple[bool, Callable]] = {
        "evolved": (True, partial(GenerationSampler, arguments.population, seed)),
        "cold start": (False, partial(GenerationSampler, arguments.population, seed)),
        "random search": (False, lambda whole: RandomSampler(seed=seed)),
    }
    found, trials = {}, {}
    for way, (inherit, sampler) in ways.items():
        config.output_dir = str(root / way.replace(" ", "-"))
        laboratory = open_laboratory(replace(arguments, inherit=inherit), config)
        trials[way], overhead = searched(laboratory, sampler, known=way != "random search")
        found[way] = volume(laboratory, [trial.values for trial in trials[way]])
        print(f"seed {seed}, {way}: {found[way]:.4f}, search and storage took {overhead:.2%} of a trial", flush=True)
    known = [trial for trial in trials["evolved"] if KNOWN in trial.user_attrs]
    started = [*known, *trials["random search"][: arguments.budget - len(known)]]
    found["random search, known ones first"] = volume(laboratory, [trial.values for trial in started])
    config.output_dir = str(root)
    laboratory = open_laboratory(arguments, config)
    journal = Journal(root / "fixed")
    for name, values in fixed(laboratory, journal).items():
        found[name] = volume(laboratory, [values])
        print(f"seed {seed}, {name}: {found[name]:.4f}", flush=True)
    found["best fixed"] = max(found[name] for name in found if name.startswith("LoRA"))
    return found


def searched(
    laboratory: Laboratory, sampler_of: Callable[[int], optuna.samplers.BaseSampler], *, known: bool
) -> tuple[list[optuna.trial.FrozenTrial], float]:
    """All genomes that did not fail, and the time between genomes as a share of the time that they took."""
    arguments, space = laboratory.arguments, laboratory.space
    sampler = sampler_of(parameter_count(laboratory.encoder))
    laboratory.folder.mkdir(parents=True, exist_ok=True)
    with quiet_optuna():
        study = begin_or_join(
            open_storage(f"sqlite:///{laboratory.folder / 'study.db'}"),
            "benchmark",
            settings=settings_of_search(laboratory),
            budget=arguments.budget,
            known=space.known_configurations() if known else {},
            sampler=sampler,
        )
        work(study, objective_of(laboratory, sampler), heartbeat_seconds=10)
        trials = [trial for trial in last_tries(study) if trial.values is not None]
    busy = sum(trial.user_attrs["seconds"] for trial in trials)
    return trials, duration(trials) / busy - 1


def fixed(laboratory: Laboratory, journal: Journal) -> dict[str, list[float]]:
    """Values of fixed LoRA configurations, each trained for as many steps as a whole search."""
    config = copy.copy(laboratory.config)
    config.max_steps *= laboratory.arguments.budget
    space, fitness = laboratory.space, replace(laboratory, config=config).fitness
    known = space.known_configurations()
    names = {"q, v": QUERY_VALUE, "all linear": ALL_LINEAR}
    found = {}
    for where, ranks in FIXED.items():
        for rank in ranks:
            if names[where] in known:
                genome = space.genome(known[names[where]])
                genome = replace(genome, ranks=dict.fromkeys(genome.ranks, rank))
                name = f"LoRA {where}, rank {rank}"
                found[name] = journal.once(name, lambda genome=genome: values(fitness(genome)))
    return found


def values(score) -> list[float]:
    return [score.clean.value, score.robust.value, score.parameters]


def volume(laboratory: Laboratory, found: Sequence[Sequence[float]]) -> float:
    """The hypervolume of values, at most 1."""
    whole, head = parameter_count(laboratory.encoder), parameter_count(head_of(laboratory.encoder))
    return hypervolume([point(each, whole) for each in found]) / math.log(whole / head)


def duration(trials: Sequence[optuna.trial.FrozenTrial]) -> float:
    """Seconds from the first start to the last end."""
    return (
        max(each.datetime_complete for each in trials) - min(each.datetime_start for each in trials)
    ).total_seconds()


def print_workers(root: Path) -> None:
    """Trials per hour of one worker, of one for each core, at most three, and of as many searches of their own."""
    count = min(WORKERS, os.cpu_count())
    ways = {
        "1": [root / "workers-1"],
        f"{count}": [root / f"workers-{count}"] * count,
        f"{count} searches of their own, that share nothing": [root / f"own-{number}" for number in range(count)],
    }
    rows = [["workers", "cores", "trials per hour"]]
    for way, folders in ways.items():
        work_at_once(folders)
        rates = (f"{trials_per_hour(folder):.0f}" for folder in dict.fromkeys(folders))
        rows.append([way, str(os.cpu_count()), " + ".join(rates)])
    print(markdown(rows))


def work_at_once(folders: Sequence[Path]) -> None:
    """Starts a worker of one thread for each output folder, and waits for all."""
    config = next(
        (word for word in sys.argv[1:] if word.endswith((".yaml", ".yml"))), str(CONFIGS / "evolve_digits.yaml")
    )
    command = [sys.executable, str(RECIPE), config, "--output_dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, str(folder)], env=environment, stdout=subprocess.DEVNULL) for folder in folders
    ]
    if max(worker.wait() for worker in started) > 0:
        sys.exit("A worker failed.")


def trials_per_hour(folder: Path) -> float:
    trials = optuna.load_study(study_name="adapters", storage=f"sqlite:///{folder / 'study.db'}").trials
    return 3600 * len(trials) / duration(trials)


if __name__ == "__main__":
    main()
