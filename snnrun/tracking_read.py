"""Finished runs read back from a store, for tables, pictures and reports.

MLflow's own search takes seconds for a thousand runs and its import two more, so a SQLite store is
read with one query per table, without MLflow; a server is searched page by page. A test holds the
two against each other.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from snnrun.errors import UserError
from snnrun.tracking_store import SQLITE, existing, reaching, set_up

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000
_KEPT = "r.status = 'FINISHED' and r.lifecycle_stage = 'active' and e.lifecycle_stage = 'active'"
_RUNS = f"""
    select r.run_uuid, r.name, r.start_time, r.end_time from runs r
    join experiments e on e.experiment_id = r.experiment_id
    join tags t on t.run_uuid = r.run_uuid and t.key = 'spec_hash'
    where {_KEPT} order by r.start_time, r.run_uuid
"""


@dataclass(frozen=True)
class Record:
    """One finished run: latest metrics, flattened configuration, tags; times in ms since 1970."""

    run_id: str
    name: str
    started: int
    ended: int
    metrics: dict[str, float]
    params: dict[str, str]
    tags: dict[str, str]


def finished(uri: str) -> list[Record]:
    """Every finished run of a store, oldest first; the parents of sweeps are left out.

    Args:
        uri: absolute address of the store, see `tracking_store.resolve_uri`.

    Raises:
        UserError: there is no store, or it cannot be read.
    """
    if uri.startswith(SQLITE):
        with _reading(uri) as database:
            return _from_database(database)
    with _client(uri) as client:
        return _from_search(client)


def histories(
    uri: str, run_ids: Iterable[str], keys: tuple[str, ...]
) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) in order of every logged metric, by run and key.

    Raises:
        UserError: there is no store, or it cannot be read.
    """
    chosen = set(run_ids)
    found: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    if uri.startswith(SQLITE):
        marks = ", ".join("?" * len(keys))
        query = f"select run_uuid, key, step, value from metrics where key in ({marks})"
        with _reading(uri) as database:
            for run, key, step, value in database.execute(query, keys):
                if run in chosen:
                    found[run, key].append((step, value))
    else:
        with _client(uri) as client:
            for run in chosen:
                for key in keys:
                    points = client.get_metric_history(run, key)
                    found[run, key] = [(point.step, point.value) for point in points]
    return {where: sorted(points) for where, points in found.items() if points}


def _from_database(database: sqlite3.Connection) -> list[Record]:
    runs = database.execute(_RUNS).fetchall()
    values: dict[str, dict[str, dict]] = {}
    for table in ("latest_metrics", "params", "tags"):
        of_run: dict[str, dict] = defaultdict(dict)
        for run, key, value in database.execute(f"select run_uuid, key, value from {table}"):
            of_run[run][key] = value
        values[table] = of_run
    return [
        Record(run, name, started, ended, *(dict(of_run[run]) for of_run in values.values()))
        for run, name, started, ended in runs
    ]


def _from_search(client: "MlflowClient") -> list[Record]:
    experiments = [e.experiment_id for e in client.search_experiments()]
    found: list[Run] = []
    token: str | None = None
    while token is None or token:
        page = client.search_runs(
            experiments,
            "attributes.status = 'FINISHED'",
            max_results=_PAGE,
            page_token=token,
        )
        found.extend(page)
        token = page.token or ""
    records = [
        Record(
            run.info.run_id,
            run.info.run_name,
            run.info.start_time,
            run.info.end_time,
            dict(run.data.metrics),
            dict(run.data.params),
            dict(run.data.tags),
        )
        for run in found
        if "spec_hash" in run.data.tags
    ]
    return sorted(records, key=lambda record: (record.started, record.run_id))


@contextmanager
def _reading(uri: str) -> Iterator[sqlite3.Connection]:
    """Open a database that nothing here can change."""
    file = existing(uri)
    try:
        with closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        raise UserError(f"{file} cannot be read as an MLflow store ({error})") from error


@contextmanager
def _client(uri: str) -> Iterator["MlflowClient"]:
    from mlflow import MlflowClient

    set_up()
    with reaching(uri):
        yield MlflowClient(tracking_uri=uri)
