"""Evolves adapters for an encoder: what `genaf-hf evolve` runs."""

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import optuna
from optuna import Study
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy import URL

from genaf_hf.adapter_search.arguments import FRONT_DRAWN, STUDY_FILE, TRIALS, AdapterSearchArguments
from genaf_hf.adapter_search.content import encoder_content, images_content
from genaf_hf.adapter_search.front import PGD, Member, chosen_trials, evaluate_adapter, member, write_front
from genaf_hf.adapter_search.front_figure import draw_front
from genaf_hf.adapter_search.laboratory import Laboratory, open_laboratory, search_run
from genaf_hf.adapter_search.picked import pick_run
from genaf_hf.adapter_search.sampler import GenerationSampler, parents
from genaf_hf.adapter_search.search_space import HEAD_ALONE, suggest
from genaf_hf.adapter_search.storage import open_storage, parse_address, place, quiet_optuna, slot
from genaf_hf.adapter_search.study import (
    IDENTITY,
    OBJECTIVES,
    SECONDS,
    begin_or_join,
    failure,
    last_tries,
    was_trained,
    work,
)
from genaf_hf.errors import UserError
from genaf_hf.evaluation.evaluate import try_out
from genaf_hf.evaluation.threats import ImageThreat
from genaf_hf.models.identity import digest
from genaf_hf.models.weights import parameter_count
from genaf_hf.pipelines.experiment import asked_attacks
from genaf_hf.pretraining.digits_encoder import pretrain_where_named
from genaf_hf.runs.journal import write_whole
from genaf_hf.runs.run import decisive
from genaf_hf.sharing.record import balance_table, changed_settings
from genaf_hf.training.config import GenAFConfig
from genaf_hf.training.defences import DEFENCES

logger = logging.getLogger(__name__)

OWNER = "study.txt"
OF_THE_WORKER = ("study", "storage", "pick", "attn_implementation")
FOUND = ("model_revision", "dataset_revision")  # branches and tags move: the commit or the content is compared
OF_THE_REPORT = ("attacks", "attack_settings")


def evolve(arguments: AdapterSearchArguments, config: GenAFConfig) -> list[Member] | None:
    """Searches for adapters until the budget is met, and reports the front.

    Any number of processes that are given the same arguments and one storage share the work. The one that finishes the
    last genome evaluates the front; any that is started afterwards shows it. `config.output_dir`, which they share too,
    then holds each trial's adapter in a folder of the study's name, the front as `front.md`, `.csv`, `.json` and
    `.png`, and `trials.csv`.

    Returns:
        The front, smallest first, and the known configurations; None where another worker reports it.

    Raises:
        UserError: for input that cannot be worked with, before any training; when the storage is lost on the way.
    """
    check(arguments, config)
    run = search_run(arguments, config)
    run.check()
    if arguments.pick is not None:
        pick_run(arguments, config).check()
    run.folder.mkdir(parents=True, exist_ok=True)
    own = URL.create("sqlite", database=str(run.folder / STUDY_FILE))
    url = arguments.storage or own.render_as_string(hide_password=False)
    storage = open_storage(url, heartbeat_seconds=arguments.heartbeat_seconds)
    pretrain_where_named(arguments.model_name_or_path, config.use_cpu)
    laboratory = open_laboratory(arguments, config)
    if arguments.pick is not None:
        try_out(laboratory.attacks, laboratory.attacker, laboratory.public)
    logger.info("\n%s\n", balance_table(laboratory.classes))
    fitness, space = laboratory.fitness, laboratory.space
    known = space.known_configurations()
    smallest = fitness.parameters(space.genome(known[HEAD_ALONE]))
    if arguments.max_parameters is not None and smallest > arguments.max_parameters:
        raise UserError(
            f"max_parameters is {arguments.max_parameters}, but the head alone has {smallest}: allow at least those."
        )
    sampler = GenerationSampler(arguments.population, config.seed, parameter_count(laboratory.encoder))
    try:
        with quiet_optuna(), run.working():
            study = begin_or_join(
                storage,
                arguments.study,
                settings=settings_of_search(laboratory),
                budget=arguments.budget,
                known=known,
                sampler=sampler,
            )
            check_pick(arguments.pick, study)
            claim_folder(laboratory.adapters, study)
            others = any(trial.state == TrialState.RUNNING for trial in last_tries(study))
            objective = objective_of(laboratory, sampler)
            own = work(study, objective, heartbeat_seconds=arguments.heartbeat_seconds)
            if (own or others) and last_finished(study) not in own:
                return None
            warn_of_constants(study)
            return report_front(laboratory, study)
    except StorageInternalError as error:
        raise UserError(
            f"{place(parse_address(url))} was lost on the way: start the same command again when it is back."
        ) from error


def check(arguments: AdapterSearchArguments, config: GenAFConfig) -> None:
    """Refuses settings that no trial could be run with; the `UserError` names the setting."""
    if config.world_size > 1:
        raise UserError(
            "Each worker is one process with one device: start the same command once for each, with --num_processes 1 "
            "and, on a machine with several GPUs, another CUDA_VISIBLE_DEVICES each."
        )
    if DEFENCES[config.defence].head_alone:
        raise UserError(f"defence is {config.defence}, which leaves the encoder as it is: choose one that trains it.")
    adversary = config.make_defence().adversary
    if adversary is not None and adversary.changes_model:
        raise UserError(
            f"defence is {config.defence}, which changes weights or layers of the encoder while it is trained, where "
            "adapters are merged into it: choose another one, for example pgd-at."
        )
    if PGD not in asked_attacks(arguments, config):
        raise UserError(f"attacks are {arguments.attacks}, but genomes are compared by {PGD}: add it.")


def check_pick(number: int | None, study: Study) -> None:
    """Refuses, before any training, to pick a trial that is none. Those that are tried again come after the budget.

    Raises:
        UserError: names the numbers that there are.
    """
    trials = len(study.get_trials(deepcopy=False))
    if number is not None and number not in range(trials):
        raise UserError(
            f"pick is {number}, expected the number of a trial, 0 to {trials - 1}: search without it, and choose from "
            "the table."
        )


def claim_folder(folder: Path, study: Study) -> None:
    """Keeps the adapters of two studies of the same name, in two storages, apart.

    Raises:
        UserError: when the folder is another study's.
    """
    path, own = folder / OWNER, study.user_attrs[IDENTITY]
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, own)
    if path.read_text(encoding="utf-8") != own:
        raise UserError(
            f'{folder} holds the adapters of another study of the name "{study.study_name}", from another storage: '
            "choose another --study or --output_dir."
        )


def settings_of_search(laboratory: Laboratory) -> dict:
    """Everything that the trials depend on, as JSON gives it back; not what differs between workers or only reports."""
    left_out = OF_THE_WORKER + OF_THE_REPORT + FOUND
    asked = {name: value for name, value in asdict(laboratory.arguments).items() if name not in left_out}
    found = {
        "encoder": encoder_content(laboratory.encoder, laboratory.processor),
        "images": images_content(laboratory.data),
        "attack": laboratory.fitness.threat.settings("genome"),
        "methods": laboratory.space.methods,
        "targets": digest(sorted(laboratory.space.targets), {}),
    }
    return decisive({**asked, **changed_settings(laboratory.config), **found})


def objective_of(
    laboratory: Laboratory, sampler: GenerationSampler
) -> Callable[[optuna.Trial], tuple[float, float, int]]:
    """What Optuna calls for a trial: clean accuracy, robust accuracy and trainable parameters of its genome."""
    arguments, fitness = laboratory.arguments, laboratory.fitness

    def objective(trial: optuna.Trial) -> tuple[float, float, int]:
        if trial.number == arguments.population:
            warn_of_constants(trial.study)
        genome = suggest(trial, laboratory.space)
        trial.set_user_attr("genome", asdict(genome))
        trial.set_user_attr("parents", [])
        what = f"Genome {trial.number} of {arguments.budget}: {genome.method}, {len(genome.ranks)} modules"
        if arguments.max_parameters is not None:
            parameters = fitness.parameters(genome)
            trial.set_constraint("parameters", parameters - arguments.max_parameters)
            if parameters > arguments.max_parameters:
                logger.info("%s, %s parameters are too many", what, f"{parameters:,}")
                return 0.0, 0.0, parameters
        related = parents(trial.params, sampler.parent_population) if arguments.inherit else []
        related = [each for each in related if was_trained(each[0]) and laboratory.adapter(each[0].number).exists()]
        trial.set_user_attr("parents", [parent.number for parent, _ in related])
        inherited = {laboratory.adapter(parent.number): genes for parent, genes in related}
        stored = trial.study.get_trials(deepcopy=False)[trial.number]
        score = fitness(genome, laboratory.adapter(trial.number), inherited, slot(stored))
        trial.set_user_attr(SECONDS, score.seconds)
        trial.set_user_attr("correct", {"clean": score.clean.part, "robust": score.robust.part})
        if arguments.max_seconds is not None:
            trial.set_constraint("seconds", score.seconds - arguments.max_seconds)
        logger.info(
            "%s, %s parameters: clean %s, robust %s, %.0f s",
            *(what, f"{score.parameters:,}", score.clean, score.robust, score.seconds),
        )
        return score.clean.value, score.robust.value, score.parameters

    return objective


def last_finished(study: Study) -> int:
    """Number of the trial that ended the search."""
    return max(last_tries(study), key=lambda trial: (trial.datetime_complete, trial.number)).number


def warn_of_constants(study: Study) -> None:
    """Says which objective told genomes nothing."""
    trained = [trial for trial in last_tries(study) if was_trained(trial) and trial.values]
    for index, name in enumerate(OBJECTIVES):
        found = [trial.values[index] for trial in trained]
        if len(found) > 1 and len(set(found)) == 1:
            logger.warning(
                "%s is %.4g for all of %d genomes, so the search could not improve it: change eps, steps or the budget "
                "of training",
                *(name, found[0], len(found)),
            )


def report_front(laboratory: Laboratory, study: Study) -> list[Member]:
    """Evaluates the front and the known configurations on all test images, and writes them down.

    Raises:
        UserError: when no genome was feasible, or an adapter is not in the output folder.
    """
    front, others = chosen_trials(study)
    if not front:
        failed = [failure(trial) for trial in last_tries(study) if trial.state == TrialState.FAIL]
        reason = f"{len(failed)} failed, the first one: {failed[0]}" if failed else "none failed"
        raise UserError(
            f"None of {len(last_tries(study))} genomes met the constraints ({reason}): choose another --study, and "
            "raise max_parameters or max_seconds."
        )
    config, members = laboratory.config, []
    numbers = {trial.number for trial in front}
    for trial in (*front, *(each for each in others if laboratory.adapter(each.number).exists())):
        if not laboratory.adapter(trial.number).exists():
            raise UserError(
                f"The adapter of trial {trial.number}, which {trial.user_attrs['worker']} trained, is not in "
                f"{laboratory.adapter(trial.number).parent}: give all workers one shared output_dir, or copy it there "
                "and start the same command again."
            )
        report = evaluate_adapter(
            laboratory.encoder,
            laboratory.processor,
            laboratory.adapter(trial.number),
            laboratory.pixels["test"],
            ImageThreat(PGD, laboratory.attacks[PGD]),
            batch_size=config.per_device_eval_batch_size,
            seed=config.seed,
            dataset_info=laboratory.images.source,
        )
        members.append(member(trial, report, on_front=trial.number in numbers))
    write_front(laboratory.folder, members)
    draw_front(members, laboratory.folder / FRONT_DRAWN)
    study.trials_dataframe().to_csv(laboratory.folder / TRIALS, index=False)
    return members
