"""Where runs are recorded: the address of an MLflow store, its set-up, and what can go wrong.

A SQLite file is made whole or not at all, under a lock; a server is given seconds to answer.
"""

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from snnrun.errors import ConfigError, UserError
from snnrun.outbox import cause

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

SQLITE = "sqlite:///"
# Without it the UI opens on its page for language-model traces, where a training run shows nothing.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
_LOCK_TIMEOUT_S = 120  # a fresh store takes about 5 s to migrate, several times that on a busy disk
# MLflow's defaults wait 4 minutes for a server that is not there; what the user set stays.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOG_LEVELS = {
    "mlflow.store.db.utils": logging.CRITICAL,  # the traceback of an error that it raises as well
    "urllib3.connectionpool": logging.ERROR,  # a line per attempt
}
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "4"}


def resolve_uri(uri: str | None, launch_dir: Path) -> str:
    """Make the address absolute: the key, else MLFLOW_TRACKING_URI, else `launch_dir`/mlflow.db.

    Raises:
        ConfigError: a folder (MLflow's old file store) or a SQLite address without a file.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
        return SQLITE + (launch_dir.resolve() / uri.removeprefix(SQLITE)).as_posix()
    if uri.startswith(("sqlite", "file:")) or not ("://" in uri or uri == "databricks"):
        raise ConfigError(
            f"tracking.uri: {uri!r} is neither sqlite:///<file> nor a server such as "
            "http://host:5000; null is mlflow.db where the command was started"
        )
    return uri


def existing(uri: str) -> Path:
    """The file of a SQLite store, for commands that make none.

    Raises:
        UserError: there is no such file.
    """
    file = Path(uri.removeprefix(SQLITE))
    if not file.is_file():
        raise UserError(f"no runs at {file}: start snnrun where they were trained, or name --store")
    return file


def set_up() -> None:
    """Let MLflow wait for seconds only, and say nothing that it raises as well."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name, level in _LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def connect(uri: str, experiment: str) -> tuple["MlflowClient", str]:
    """Make store and experiment exist; safe for several processes at once.

    Args:
        uri: absolute address, see `resolve_uri`.
        experiment: its name.

    Returns:
        The client, and the experiment's id.

    Raises:
        UserError: the folder cannot be written, the server does not answer, or the experiment
            was deleted.
    """
    set_up()
    if not uri.startswith(SQLITE):
        with _impatient():
            return _open(uri, experiment, artifacts=None)
    database = Path(uri.removeprefix(SQLITE))
    # Two processes that both find an empty database both migrate it, and one dies.
    with _sole_user(database):
        if not database.stat().st_size:
            _migrate(database)
        return _open(uri, experiment, artifacts=database.parent / "mlartifacts")


def _migrate(database: Path) -> None:
    """Make a store whole or not at all; half its tables, after a kill, would open never again."""
    from mlflow import MlflowClient

    new = database.with_name(f".{database.name}.new")
    parts = (new, new.with_name(f"{new.name}-journal"))
    for left in parts:
        left.unlink(missing_ok=True)
    try:
        with reaching(f"{SQLITE}{database}"):
            MlflowClient(tracking_uri=f"{SQLITE}{new}").search_experiments(max_results=1)
        new.replace(database)
    finally:
        for left in parts:
            left.unlink(missing_ok=True)


def _make_experiment(client: "MlflowClient", name: str, artifacts: Path | None) -> "Experiment":
    """Make an experiment, or take the one that another process has made since it was looked for."""
    from mlflow.exceptions import MlflowException

    location = artifacts.as_uri() if artifacts else None
    try:
        return client.get_experiment(
            client.create_experiment(name, location, tags=_EXPERIMENT_TAGS)
        )
    except MlflowException as error:
        found = client.get_experiment_by_name(name)
        if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
            raise
        return found


def _open(uri: str, experiment: str, artifacts: Path | None) -> tuple["MlflowClient", str]:
    from mlflow import MlflowClient

    with reaching(uri):
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            found = _make_experiment(client, experiment, artifacts)
    if found.lifecycle_stage == "deleted":
        raise UserError(
            f"tracking.experiment: {experiment!r} was deleted in {uri}; choose another name or "
            f"run: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return client, found.experiment_id


@contextmanager
def _sole_user(database: Path) -> Iterator[None]:
    """Check that the database can be written, and hold its lock."""
    from filelock import FileLock, Timeout

    hint = "set tracking.uri to a file that can be written"
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock", timeout=_LOCK_TIMEOUT_S):
            with closing(sqlite3.connect(database, timeout=20)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            yield
    except Timeout as error:
        message = f"tracking: another process has held {database}.lock for {_LOCK_TIMEOUT_S} s"
        raise UserError(message) from error
    except (OSError, sqlite3.Error) as error:
        raise UserError(f"tracking: cannot write {database} ({error}); {hint}") from error


@contextmanager
def _impatient() -> Iterator[None]:
    """Give up on a server within seconds where somebody sits in front of the terminal."""
    before = {key: os.environ[key] for key in _IMPATIENT}
    os.environ.update({k: v for k, v in _IMPATIENT.items() if before[k] == _ENVIRONMENT[k]})
    try:
        yield
    finally:
        os.environ.update(before)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn a failure of the store into one line.

    An ImportError is a missing driver, an OSError a folder of artifacts that cannot be written.

    Raises:
        UserError: naming the store, the reason and what to do.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    handled = sys.exception()
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError, OSError) as error:
        reason = cause(error, handled)
        if uri.startswith(SQLITE):
            problem, hint = "cannot be used", "mend that and repeat the command"
        else:
            problem, hint = "refuses or is not there", "start it, or set tracking.uri=null"
        raise UserError(f"tracking: {uri} {problem} ({reason}); {hint}") from error
