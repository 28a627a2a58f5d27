"""The runs of an MLflow store and what a run logs.

Metrics leave in a thread of their own, in order, one request per epoch. When the server goes away
the training goes on: what could not be delivered is kept and sent again with the next epoch, with
one warning. A run that ends with undelivered metrics is not FINISHED; the checkpoint holds them
(`RunLog.pending`), so the same command delivers them. MLflow's own asynchronous queue is not used:
it forgets a batch that failed, delivers out of order and takes up to a second to stop.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snnrun.errors import UserError, require
from snnrun.outbox import Outbox, cause
from snnrun.tracking_store import connect, reaching, resolve_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

log = logging.getLogger(__name__)

_PARAMS_PER_REQUEST = 100  # MLflow's limit
_LARGEST_PAGE = 50_000  # MLflow's limit, above any sweep


class Stop(BaseException):
    """The run was asked to end (SIGTERM); the run is marked KILLED."""


@dataclass(kw_only=True)
class Tracking:
    """Where runs are recorded."""

    uri: str | None
    experiment: str

    def __post_init__(self) -> None:
        """Refuse an empty experiment name."""
        require(bool(self.experiment.strip()), "experiment: the name is empty")


@dataclass(frozen=True)
class Found:
    """A run of the same spec that is already in the store; `metrics` are its latest values."""

    run_id: str
    status: str
    metrics: dict[str, float]


class RunLog:
    """What one running run writes; every (metric, step) is written once, also after a resume."""

    def __init__(self, client: "MlflowClient", run_id: str, logged: set[tuple[str, int]]) -> None:
        self.run_id = run_id
        self._client = client
        self._logged = logged
        self._outbox: Outbox[list[Metric]] = Outbox(
            lambda batch: client.log_batch(run_id, metrics=batch)
        )

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Log values of one step without waiting; those of a step already logged are dropped.

        Raises:
            ValueError: a value is infinite or not a number; nothing of this call is logged.
        """
        from mlflow.entities import Metric

        if wrong := [key for key, value in values.items() if not math.isfinite(value)]:
            raise ValueError(f"step {step}: not finite: {', '.join(wrong)}")
        now = int(time.time() * 1000)
        fresh = {k: float(v) for k, v in values.items() if (k, step) not in self._logged}
        self._logged.update((key, step) for key in fresh)
        if fresh:
            self._outbox.put([Metric(key, value, now, step) for key, value in fresh.items()])

    def pending(self) -> list[tuple[int, dict[str, float]]]:
        """(step, values) not yet confirmed by the store; a checkpoint keeps it for `replay`."""
        return [
            (batch[0].step, {m.key: m.value for m in batch}) for batch in self._outbox.waiting()
        ]

    def replay(self, pending: list[tuple[int, dict[str, float]]]) -> None:
        """Log again what was pending when the checkpoint was written."""
        for step, values in pending:
            self.metrics(values, step)

    def artifact(self, path: Path) -> None:
        """Copy a file to the run's artifacts.

        Raises:
            UserError: the store cannot be reached.
        """
        with reaching(self._client.tracking_uri):
            self._client.log_artifact(self.run_id, str(path))

    def text(self, name: str, content: str) -> None:
        """Write a text artifact.

        Raises:
            UserError: the store cannot be reached.
        """
        with reaching(self._client.tracking_uri):
            self._client.log_text(self.run_id, content, name)

    def tag(self, key: str, value: str) -> None:
        """Set a tag, over an earlier value.

        Raises:
            UserError: the store cannot be reached.
        """
        with reaching(self._client.tracking_uri):
            self._client.set_tag(self.run_id, key, value)

    def close(self) -> None:
        """Try once more to deliver what is pending, then end the thread that does it."""
        self._outbox.close()

    def flush(self) -> None:
        """Wait until every metric has been delivered.

        Raises:
            UserError: the store does not take them; they stay pending.
        """
        if error := self._outbox.flush():
            raise UserError(
                f"tracking: {self._client.tracking_uri} did not take the metrics of the last "
                f"{len(self._outbox.waiting())} steps ({cause(error)}); the checkpoint has them, "
                "repeat the command when the store is back"
            )


class Store:
    """One experiment of a tracking store that is known to answer."""

    def __init__(self, client: "MlflowClient", experiment_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id

    @property
    def uri(self) -> str:
        """Absolute address, for the line that tells how to open the UI."""
        return self._client.tracking_uri

    def find(self, spec_hash: str) -> Found | None:
        """Look for a run with the tag `spec_hash`: a FINISHED one first, else the newest.

        Raises:
            UserError: the store cannot be reached.
        """
        runs = self._tagged("spec_hash", spec_hash)
        run = next((r for r in runs if r.info.status == "FINISHED"), runs[0] if runs else None)
        return Found(run.info.run_id, run.info.status, dict(run.data.metrics)) if run else None

    @contextmanager
    def run(
        self,
        *,
        name: str,
        tags: dict[str, str],
        params: dict[str, str],
        run_id: str | None = None,
        parent_id: str | None = None,
    ) -> Iterator[RunLog]:
        """Keep a run RUNNING for the body, then FINISHED, FAILED or KILLED as the body ended.

        Args:
            name: shown in the UI.
            tags: set anew when the run is resumed.
            params: written when the run is new; a param cannot change later.
            run_id: the run to resume; a new one without.
            parent_id: the sweep's parent; also the value of the tag `sweep`.

        Raises:
            UserError: the store cannot be reached, or metrics are undelivered at the end.
        """
        if parent_id:
            tags = {**tags, "mlflow.parentRunId": parent_id, "sweep": parent_id}
        with reaching(self.uri):
            run = self._resume(run_id, tags) if run_id else self._create(name, tags)
            self._add_params(run, params)
            run_log = RunLog(self._client, run.info.run_id, self._history(run))
        try:
            yield run_log
            run_log.flush()
        except BaseException as error:
            killed = isinstance(error, Stop | KeyboardInterrupt)
            self._abandon(run_log, "KILLED" if killed else "FAILED")
            raise
        finally:
            run_log.close()
        with reaching(self.uri):
            self._end(run_log.run_id, "FINISHED")

    def open_parent(self, key: str, name: str, tags: dict[str, str]) -> str:
        """Return the parent run of the sweep `key`, RUNNING; made when there is none.

        Raises:
            UserError: the store cannot be reached.
        """
        runs = self._tagged("sweep_key", key)
        with reaching(self.uri):
            if runs:
                return self._resume(runs[0].info.run_id, tags).info.run_id
            return self._create(name, {**tags, "sweep_key": key}).info.run_id

    def close_parent(self, run_id: str, status: str) -> None:
        """Set the final status of a sweep's parent run.

        Raises:
            UserError: the store cannot be reached.
        """
        with reaching(self.uri):
            self._end(run_id, status)

    def add_artifacts(self, run_id: str, folder: Path) -> None:
        """Copy a folder's content to a run's artifacts.

        Raises:
            UserError: the store cannot be reached.
        """
        with reaching(self.uri):
            self._client.log_artifacts(run_id, str(folder))

    def children(self, parent_id: str) -> list[tuple[str, str]]:
        """(name, status) of every run of a sweep, in whatever experiment it lies.

        Raises:
            UserError: the store cannot be reached.
        """
        with reaching(self.uri):
            everywhere = [e.experiment_id for e in self._client.search_experiments()]
        runs = self._tagged("sweep", parent_id, everywhere)
        return [(run.info.run_name, run.info.status) for run in runs]

    def _tagged(self, key: str, value: str, experiments: list[str] | None = None) -> list["Run"]:
        with reaching(self.uri):
            return self._client.search_runs(
                experiments or [self._experiment_id],
                f"tags.{key} = '{value}'",
                max_results=_LARGEST_PAGE,
                order_by=["attributes.start_time DESC"],
            )

    def _create(self, name: str, tags: dict[str, str]) -> "Run":
        return self._client.create_run(self._experiment_id, tags=tags, run_name=name)

    def _resume(self, run_id: str, tags: dict[str, str]) -> "Run":
        from mlflow.entities import RunTag

        self._client.update_run(run_id, status="RUNNING")
        self._client.log_batch(run_id, tags=[RunTag(*item) for item in tags.items()])
        return self._client.get_run(run_id)

    def _end(self, run_id: str, status: str) -> None:
        started = self._client.get_run(run_id).info.start_time
        # Of a clock that was set back meanwhile; the run would have taken a negative time.
        ended = max(int(time.time() * 1000), started)
        self._client.set_terminated(run_id, status, ended)

    def _add_params(self, run: "Run", params: dict[str, str]) -> None:
        from mlflow.entities import Param

        # By what is missing, not by "new": a run killed before its params were written gets them.
        missing = [Param(k, v) for k, v in params.items() if k not in run.data.params]
        for start in range(0, len(missing), _PARAMS_PER_REQUEST):
            part = missing[start : start + _PARAMS_PER_REQUEST]
            self._client.log_batch(run.info.run_id, params=part)

    def _history(self, run: "Run") -> set[tuple[str, int]]:
        history = (self._client.get_metric_history(run.info.run_id, k) for k in run.data.metrics)
        return {(m.key, m.step) for metrics in history for m in metrics}

    def _abandon(self, run_log: RunLog, status: str) -> None:
        """Close a run whose body raised; a store that is away must not hide that exception."""
        try:
            with reaching(self.uri):
                self._end(run_log.run_id, status)
        except UserError as error:
            log.warning("Run %s could not be marked %s: %s", run_log.run_id, status, error)


def prepare(tracking: Tracking, launch_dir: Path) -> Store:
    """Make the store and the experiment exist; safe for several processes at once.

    Raises:
        ConfigError: the address is of no known kind.
        UserError: the folder cannot be written, the server does not answer, or the experiment
            was deleted.
    """
    return Store(*connect(resolve_uri(tracking.uri, launch_dir), tracking.experiment))
