"""Three workers share one study, and one of them is killed in the middle of a genome.

python tests/adapter_workers.py STORAGE_URL [STORAGE_URL ...]
"""

import os
import signal
import socket
import sys
import time
import traceback

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from genaf_hf.adapter_search.sampler import GenerationSampler
from genaf_hf.adapter_search.storage import open_storage, quiet_optuna
from genaf_hf.adapter_search.study import SECONDS, begin_or_join, work

WORKERS, POPULATION, GENERATIONS = 3, 4, 3
KNOWN = {"middle": {"x": 0.5, "y": 0.5}}
LONGEST_SECONDS = 100


def kill_one_of_three(storage: str) -> list[int]:
    """How each of three workers on one storage ended: the signal, or the exit status."""
    workers = [start_worker(storage) for _ in range(WORKERS)]
    kill_in_the_middle(workers[0], storage)
    statuses = [os.waitpid(worker, 0)[1] for worker in workers]
    return [os.WTERMSIG(status) or os.WEXITSTATUS(status) for status in statuses]


def start_worker(storage: str) -> int:
    """A child process that works on the study; it saves importing everything anew."""
    worker = os.fork()
    if worker == 0:
        signal.alarm(LONGEST_SECONDS)  # never left behind, stopped or not
        try:
            join(storage)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return worker


def join(storage: str) -> None:
    with quiet_optuna():
        study = begin_or_join(
            open_storage(storage, heartbeat_seconds=1),
            "adapters",
            settings={"population": POPULATION},
            budget=POPULATION * GENERATIONS,
            known=KNOWN,
            sampler=GenerationSampler(POPULATION, seed=0, whole=1000),
        )
        work(study, objective, heartbeat_seconds=1)


def objective(trial: optuna.Trial) -> tuple[float, float, int]:
    x, y = trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)
    time.sleep(0.5)
    trial.set_user_attr(SECONDS, 0.5)
    return x, y, 1 + round(100 * (x + y))


def kill_in_the_middle(worker: int, storage: str) -> None:
    """Kills a worker that has a genome in its hands; it is stopped first, so that it cannot finish meanwhile."""
    while True:
        time.sleep(0.05)
        if is_busy(worker, storage):
            os.kill(worker, signal.SIGSTOP)
            if is_busy(worker, storage):
                os.kill(worker, signal.SIGKILL)
                return
            os.kill(worker, signal.SIGCONT)


def is_busy(worker: int, storage: str) -> bool:
    """Whether a worker has a genome in its hands; not while nobody can tell."""
    try:
        trials = optuna.load_study(study_name="adapters", storage=storage).trials
    except (KeyError, SQLAlchemyError, StorageInternalError):  # not begun yet, or the worker was stopped while writing
        return False
    name = f"{socket.gethostname()}:{worker}"
    return any(trial.state == TrialState.RUNNING and trial.user_attrs.get("worker") == name for trial in trials)


if __name__ == "__main__":
    for url in sys.argv[1:]:
        print(kill_one_of_three(url))
