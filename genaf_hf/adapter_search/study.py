"""A study with a fixed budget of genomes, which any number of workers share."""

import logging
import math
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import optuna
from optuna import Study
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from genaf_hf.adapter_search.storage import SILENT_HEARTBEATS, TRIES, retry, slot, tries
from genaf_hf.errors import UserError
from genaf_hf.runs.run import changes

logger = logging.getLogger(__name__)

OBJECTIVES = {"clean_accuracy": "maximize", "robust_accuracy": "maximize", "parameters": "minimize"}
SETTINGS, BUDGET, FAILURE, WORKER, KNOWN, SECONDS = "settings", "budget", "failure", "worker", "known", "seconds"
IDENTITY = "identity"
FIRST_FAILURES = 5
SETUP_SECONDS = 60


def begin_or_join(
    storage: RDBStorage,
    name: str,
    *,
    settings: Mapping,
    budget: int,
    known: Mapping[str, Mapping],
    sampler: optuna.samplers.BaseSampler,
) -> Study:
    """The study of a name: a new one with a trial for each genome of the budget, or the one that is there.

    Args:
        storage: shared by all workers.
        name: of the study.
        settings: everything that the result depends on, as JSON gives it back.
        budget: genomes to be evaluated.
        known: parameters of known configurations by name, which are evaluated first.
        sampler: chooses the others.

    Raises:
        UserError: when the study has other settings, names them; or is none of ours.
    """
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, sampler=sampler, directions=list(OBJECTIVES.values())
        )
    except DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
        check_settings(study, settings)
        return study
    try:
        study.set_metric_names(list(OBJECTIVES))
        study.set_user_attr(IDENTITY, uuid.uuid4().hex)
        study.set_user_attr(BUDGET, budget)
        for label, parameters in list(known.items())[:budget]:
            study.enqueue_trial(dict(parameters), user_attrs={KNOWN: label})
        for _ in range(budget - len(known)):
            study.enqueue_trial({})
        study.set_user_attr(SETTINGS, dict(settings))  # last: it tells other workers that the study is whole
    except BaseException:
        optuna.delete_study(storage=storage, study_name=name)
        raise
    return study


def check_settings(study: Study, settings: Mapping) -> None:
    """Refuses a study with other settings; the `UserError` names them."""
    trials, waited = 0, 0
    while (before := study.user_attrs.get(SETTINGS)) is None:
        if waited == SETUP_SECONDS:
            raise UserError(
                f'The study "{study.study_name}" in this storage was not begun by genaf_hf, or its first worker was '
                "killed before it was set up: choose another name, or delete it with `optuna delete-study`."
            )
        time.sleep(1)
        now = len(study.get_trials(deepcopy=False))
        trials, waited = now, 0 if now > trials else waited + 1
    if changed := changes(before, settings):
        raise UserError(
            f'The study "{study.study_name}" was begun with other settings ({changed}): choose another --study, or '
            "give it the settings that it was begun with."
        )


def work(study: Study, objective: Callable[[optuna.Trial], Sequence[float]], *, heartbeat_seconds: int) -> list[int]:
    """Evaluates genomes until the budget is met, by this worker or another one.

    A genome that fails is recorded with the reason, and the search goes on. One whose worker was killed is tried again.

    Args:
        study: as `begin_or_join` gives it.
        objective: of a trial; its exceptions are the failures.
        heartbeat_seconds: how often to look for killed workers when only they have genomes left.

    Returns:
        Numbers of the trials that this worker finished.

    Raises:
        UserError: when the first genomes all fail, with the reason; or when no known configuration is fast enough.
    """
    own, budget, looks = [], study.user_attrs[BUDGET], Counter()

    def attempt(trial: optuna.Trial) -> Sequence[float]:
        if trial.number >= budget and is_superfluous(trial.number, study.get_trials(deepcopy=False), budget):
            raise optuna.TrialPruned
        own.append(trial.number)
        trial.set_user_attr(WORKER, f"{socket.gethostname()}:{os.getpid()}")
        try:
            values = objective(trial)
            if not all(map(math.isfinite, values)):
                raise UserError(f"{', '.join(OBJECTIVES)} are {values}, expected finite numbers")
            return values
        except Exception as error:
            trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}")
            raise

    while True:
        trials = last_tries(study)
        refuse_if_all_fail(trials)
        refuse_if_all_are_slow(trials)
        running = [trial.number for trial in trials if trial.state == TrialState.RUNNING]
        if any(trial.state == TrialState.WAITING for trial in trials):
            run_one(study, attempt, own)
        elif running:
            time.sleep(heartbeat_seconds)
            fail_stale_trials(study)
            looks.update(running)
            begin_heartbeats(study, [number for number in running if looks[number] == SILENT_HEARTBEATS + 1])
        elif lost := [trial for trial in trials if is_lost(trial)]:
            for trial in lost:
                retry(study, trial)
        else:
            return own


def run_one(study: Study, attempt: Callable[[optuna.Trial], Sequence[float]], own: list[int]) -> None:
    """Runs the next trial. One that another worker has ended meanwhile, because this one was silent, is let go."""
    try:
        study.optimize(attempt, n_trials=1, catch=(Exception,))
    except ValueError:
        if not own or not study.get_trials(deepcopy=False)[own[-1]].state.is_finished():
            raise
        logger.warning("Genome %d was ended by another worker meanwhile; what this one found is left out", own.pop())


def begin_heartbeats(study: Study, numbers: Sequence[int]) -> None:
    """Lets trials be told apart that live and that are dead, though their worker was killed before its first heartbeat.

    Optuna takes no trial without a heartbeat for dead; a worker that lives goes on with its own.
    """
    storage, study_id = study._storage, study._study_id
    for number in numbers:
        storage.record_heartbeat(storage.get_trial_id_from_study_id_trial_number(study_id, number))


def is_superfluous(number: int, trials: Sequence[FrozenTrial], budget: int) -> bool:
    """Whether a trial is not needed: the budget was met, or two workers gave the same genome to be tried again."""
    place = slot(trials[number])
    others = [trial for trial in trials if trial.number != number and slot(trial) == place]
    return place >= budget or any(
        trial.state == TrialState.COMPLETE
        or (trial.state in (TrialState.WAITING, TrialState.RUNNING) and trial.number < number)
        for trial in others
    )


def last_tries(study: Study) -> list[FrozenTrial]:
    """What became of each genome of the budget: its completed trial, or else the last one."""
    budget, found = study.user_attrs[BUDGET], {}
    for trial in study.get_trials(deepcopy=False, states=[each for each in TrialState if each != TrialState.PRUNED]):
        place = slot(trial)
        if place < budget and (place not in found or found[place].state != TrialState.COMPLETE):
            found[place] = trial
    return [found[place] for place in sorted(found)]


def was_trained(trial: FrozenTrial) -> bool:
    """Whether there is an adapter; not of genomes with too many parameters, whatever lies in their folder."""
    return SECONDS in trial.user_attrs


def is_untried(trial: FrozenTrial) -> bool:
    """Whether a genome was not trained, because it has too many parameters."""
    return trial.state == TrialState.COMPLETE and not was_trained(trial)


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker, by the hand of a user or because two were killed at once."""
    return trial.state == TrialState.FAIL and FAILURE not in trial.user_attrs and tries(trial) < TRIES


def failure(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return trial.user_attrs.get(FAILURE, f"its workers were killed, {TRIES} of them")


def refuse_if_all_fail(trials: Sequence[FrozenTrial]) -> None:
    """Stops a search in which nothing works; the `UserError` tells the first reason."""
    finished = [trial for trial in trials if trial.state.is_finished() and not is_untried(trial)]
    if len(finished) >= min(FIRST_FAILURES, len(trials)) and all(
        trial.state == TrialState.FAIL and not is_lost(trial) for trial in finished
    ):
        raise UserError(
            f"All of the first {len(finished)} genomes failed. The first one: {failure(finished[0])}. Once the cause "
            "is mended, choose another --study."
        )


def refuse_if_all_are_slow(trials: Sequence[FrozenTrial]) -> None:
    """Stops a search of which not even the known configurations, the head alone among them, are fast enough.

    Raises:
        UserError: tells how long the fastest took.
    """
    trained = [trial for trial in trials if KNOWN in trial.user_attrs and was_trained(trial)]
    finished = all(trial.state.is_finished() for trial in trials if KNOWN in trial.user_attrs)
    excess = [trial.constraints[SECONDS] for trial in trained if SECONDS in trial.constraints]
    if finished and excess and min(excess) > 0:
        fastest = min(trial.user_attrs[SECONDS] for trial in trained)
        raise UserError(
            f"No known configuration met max_seconds, the fastest took {fastest:.3g}: choose another --study, and "
            "raise max_seconds or train for fewer steps."
        )
