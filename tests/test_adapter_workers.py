"""Three workers, one of them killed, meet the budget of a search exactly."""

import os
import signal
import sys
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from adapter_workers import GENERATIONS, KNOWN, POPULATION
from optuna.trial import FrozenTrial, TrialState
from postgresql import PASSWORD, binary, postgresql_server

from genaf_hf.adapter_search.storage import open_storage, slot

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
BUDGET = POPULATION * GENERATIONS
HAS_POSTGRESQL = binary("initdb") is not None and find_spec("psycopg") is not None
MISSING = "PostgreSQL's server (apt-get install postgresql) or psycopg (pip install '.[postgresql]') is missing"


@pytest.fixture(scope="module")
def server():
    """URL of a database; None where there is no server to be started."""
    with ExitStack() as stack:
        yield stack.enter_context(postgresql_server()) if HAS_POSTGRESQL else None


@pytest.fixture(scope="module")
def studies(processes, server, place) -> dict[str, list[FrozenTrial]]:
    """What three workers left on each kind of storage after one of them was killed."""
    storages = {"sqlite": f"sqlite:///{place / 'study.db'}", "postgresql": server}
    storages = {kind: url for kind, url in storages.items() if url is not None}
    done = processes.run(
        [sys.executable, Path(__file__).with_name("adapter_workers.py"), *storages.values()],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.splitlines() == [str([signal.SIGKILL.value, 0, 0])] * len(storages), done.stderr
    assert PASSWORD not in done.stderr
    return {
        kind: optuna.load_study(study_name="adapters", storage=url).get_trials(deepcopy=False)
        for kind, url in storages.items()
    }


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.skipif(
    not HAS_POSTGRESQL, reason=MISSING))])  # fmt: skip
def test_the_budget_is_met_exactly_when_one_of_three_workers_is_killed(kind, studies):
    trials = studies[kind]
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert sorted(map(slot, completed)) == list(range(BUDGET))
    (killed,) = (trial for trial in trials if trial.state == TrialState.FAIL)
    (again,) = (trial for trial in completed if slot(trial) == slot(killed))
    assert killed.params.items() <= again.params.items()
    assert again.user_attrs["worker"] != killed.user_attrs["worker"]
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED}
    assert len({trial.user_attrs["worker"] for trial in completed} - {killed.user_attrs["worker"]}) == 2
    assert [trial.params for trial in completed if trial.user_attrs.get("known")] == [KNOWN["middle"]]
    first = [trial for trial in completed if slot(trial) < POPULATION]
    assert len({tuple(trial.params.values()) for trial in first}) == POPULATION


@pytest.mark.skipif(not HAS_POSTGRESQL, reason=MISSING)
def test_a_wrong_password_is_not_repeated(server):
    with pytest.raises(ValueError, match=r"postgresql.*://genaf:\*\*\*@127\.0\.0\.1:\d+/postgres") as refusal:
        open_storage(server.replace(PASSWORD, "w0rd"))
    assert "w0rd" not in str(refusal.value)
    assert "password authentication failed" in str(refusal.value)


@pytest.mark.skipif(not HAS_POSTGRESQL, reason=MISSING)
def test_a_database_that_is_not_there_is_named(server):
    with pytest.raises(ValueError, match=r"@127\.0\.0\.1:\d+/nothing .*does not exist"):
        open_storage(server.replace("/postgres", "/nothing"))
