"""The database that workers share a study through."""

import logging
import random
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from genaf_hf.errors import UserError, first_line

logger = logging.getLogger(__name__)

SILENT_HEARTBEATS = 6
TRIES = 3
LOCKED_SECONDS = 120
ATTEMPTS = 6


def open_storage(url: str, *, heartbeat_seconds: int = 10) -> RDBStorage:
    """A storage whose trials, when their worker was killed, are given to another one, three times at most.

    Args:
        url: of an SQLite file or another database that Optuna's `RDBStorage` takes.
        heartbeat_seconds: how often workers tell that they are alive; one that is silent for six times as long is
            taken for dead.

    Raises:
        UserError: when there is no such database; names it without its password.
    """
    address = parse_address(url)
    check_connection(address)
    of_file, of_server = {"connect_args": {"timeout": LOCKED_SECONDS}}, {"pool_pre_ping": True}
    for attempt in range(ATTEMPTS):
        try:
            with quiet_optuna():
                storage = RDBStorage(
                    url,
                    engine_kwargs=of_file if address.get_backend_name() == "sqlite" else of_server,
                    heartbeat_interval=heartbeat_seconds,
                    grace_period=SILENT_HEARTBEATS * heartbeat_seconds,
                    heartbeat_stale_trial_callback=retry,
                )
            if address.get_backend_name() == "sqlite":
                lock_when_reading(storage.engine)
            return storage
        except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:  # another worker is making the tables
            failed = error
            time.sleep(attempt * random.random())
    raise UserError(f"{place(address)} cannot hold a study ({reason(failed)}): name another --storage.") from failed


def lock_when_reading(engine: Engine) -> None:
    """Makes each transaction of an SQLite file lock it from the start, or two workers could take the same trial.

    By SQLAlchemy's recipe, https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable.
    """

    @event.listens_for(engine, "connect")
    def leave_transactions_to_us(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def lock(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before know nothing of this


def check_connection(address: URL) -> None:
    """Connects and looks.

    Raises:
        UserError: when that is not possible; names the database.
    """
    try:
        inspect(create_engine(address)).get_table_names()
    except (ImportError, SQLAlchemyError) as error:
        raise UserError(
            f"There is no connection to {place(address)} ({reason(error)}): check that its driver is installed, that "
            "it runs, and that this user may write to it."
        ) from error


def reason(error: Exception) -> str:
    """What a database says, without the statement that it was asked."""
    return first_line(getattr(error, "orig", None) or error)


def parse_address(url: str) -> URL:
    """The parts of a storage's URL.

    Raises:
        UserError: when it is none; what was given is not repeated, for it may hold a password.
    """
    try:
        address = make_url(url)
    except (SQLAlchemyError, ValueError):
        raise UserError(
            "The storage is no URL of a database; expected one such as sqlite:///study.db or "
            "postgresql://user@host/database."
        ) from None
    if address.host and "@" in f"{address.host}{address.database}":
        raise UserError("The password in the storage's URL has an @ or a / in it: write them as %40 and %2F.")
    return address


def place(address: URL) -> str:
    """Where a database is, without the password."""
    return address.set(query={}).render_as_string()


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queues a trial again whose worker was killed; Optuna keeps which one it was."""
    if tries(trial) < TRIES:
        logger.warning("The worker of genome %d was killed; another one tries it again", slot(trial))
        RetryHeartbeatStaleTrialCallback()(study, trial)


def tries(trial: FrozenTrial) -> int:
    """How many workers have had a trial, this one included."""
    return 1 + len(RetryHeartbeatStaleTrialCallback.retry_history(trial))


def slot(trial: FrozenTrial) -> int:
    """The place in the budget that a trial takes: its number, or of a trial that was tried again, the first one's."""
    original = RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return trial.number if original is None else original


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences what Optuna logs of every trial, and that heartbeats are experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
