"""What `-m` adds: one parent run for the sweep, there before any job and closed after the last.

In the configuration: `hydra.callbacks.sweep._target_: snnrun.sweep.Sweep`. Jobs find the parent's
id in the environment variable SNNRUN_PARENT_RUN, and their number in SNNRUN_JOB. They are set where
the job runs, because Hydra sends its callbacks along with a job; so they are there whatever the
launcher does with the environment.
"""

import atexit
import hashlib
import logging
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from snnrun.config import composing
from snnrun.errors import UserError
from snnrun.folders import made

if TYPE_CHECKING:
    from snnrun.tracking import Store

log = logging.getLogger(__name__)

PARENT, JOB = "SNNRUN_PARENT_RUN", "SNNRUN_JOB"


class Sweep(Callback):
    """Hydra callback; it travels to every worker, so it holds nothing that cannot be pickled."""

    def __init__(self) -> None:
        self._parent: str | None = None
        self._place: tuple[str | None, str, Path] | None = None
        self._jobs = 0
        self._started = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the sweep's configurations, then make store, experiment and parent run.

        A sweep repeated with the same overrides takes up the parent it had.

        Raises:
            SystemExit: a value does not compose, no job is valid, or the store is out of reach.
                Hydra would turn any other exception of a callback into a warning.
        """
        try:
            with composing(list(config.hydra.overrides.task)):
                self._open(config, kwargs["config_name"])
        except UserError as error:
            raise SystemExit(f"error: {error}") from error
        atexit.register(self._close, complete=False)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Close the parent; Hydra leaves this call out when a job failed, hence the `atexit`."""
        atexit.unregister(self._close)
        self._close(complete=True)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tell the job who its parent is, and the user how far the sweep has come.

        There is no parent when the job is not part of a sweep.
        """
        if not self._parent:
            return
        os.environ[PARENT], os.environ[JOB] = self._parent, str(config.hydra.job.num)
        if config.progress != "off":
            log.info(
                "%s: %s",
                self._place_of(config.hydra.job.num),
                " ".join(config.hydra.overrides.task),
            )

    def _place_of(self, job: int) -> str:
        """Place of a job in the sweep and the time left, as if all jobs took equally long."""
        if not 0 < job < self._jobs:
            return f"run {job + 1} of {self._jobs}"
        minutes = (time.time() - self._started) / job * (self._jobs - job) / 60
        return f"run {job + 1} of {self._jobs}, about {max(1, round(minutes))} min left"

    def _open(self, config: DictConfig, config_name: str) -> None:
        params = config.hydra.sweeper.get("params") or {}
        lines = [*(f"{k}={v}" for k, v in params.items()), *config.hydra.overrides.task]
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides(lines)
        # Composed with the sweep's own values: `dataset=mnist,cifar10` must not put the parent
        # into the experiment of the default dataset.
        jobs = [compose(config_name, job) for job in _each_value_once(overrides)]
        _require_a_valid_one(jobs)
        tracking = jobs[0].tracking
        launch_dir = Path(config.hydra.runtime.cwd)
        self._place = (tracking.uri, tracking.experiment, launch_dir)
        key = hashlib.sha256("\n".join([config_name, *sorted(lines)]).encode()).hexdigest()
        self._started = time.time()
        self._jobs = _count(config, overrides)
        swept = [str(o.input_line) for o in overrides if o.is_sweep_override()]
        with made(launch_dir / jobs[0].output_dir):
            self._parent = self._store().open_parent(key, " ".join(["sweep", *swept])[:250], {})

    def _store(self) -> "Store":
        from snnrun.tracking import Tracking, prepare

        assert self._place
        uri, experiment, launch_dir = self._place
        return prepare(Tracking(uri=uri, experiment=experiment), launch_dir)

    def _close(self, *, complete: bool) -> None:
        """Set the parent's status and say which runs did not finish.

        Args:
            complete: every job was started and none raised.
        """
        for name in (PARENT, JOB):
            os.environ.pop(name, None)
        assert self._parent
        try:
            store = self._store()
            runs = store.children(self._parent)
            open_runs = [(name, status) for name, status in runs if status != "FINISHED"]
            status = "FINISHED" if complete and not open_runs else "FAILED"
            if any(status == "KILLED" for _, status in open_runs):
                status = "KILLED"
            store.close_parent(self._parent, status)
            if complete and not open_runs:
                _keep_report(store, self._parent)
        except UserError as error:
            log.warning("The sweep's parent run %s could not be closed: %s", self._parent, error)
            return
        if open_runs:
            names = ", ".join(f"{name} ({status})" for name, status in open_runs)
            log.error("%d of %d runs did not finish: %s", len(open_runs), len(runs), names)
        # Negative for an optuna study taken up again: it has the runs of earlier commands too.
        absent = self._jobs - len(runs)
        if not complete and absent > 0:
            why = "not started, refused, or finished before it"
            log.error("%d of %d jobs have no run in this sweep: %s", absent, self._jobs, why)


def _count(config: DictConfig, overrides: list[Override]) -> int:
    """Jobs of the sweep: what its sweeper is asked for, or every combination of the values."""
    if trials := config.hydra.sweeper.get("n_trials"):
        return int(trials)
    swept = [o for o in overrides if o.is_discrete_sweep()]
    return math.prod(sum(1 for _ in o.sweep_string_iterator()) for o in swept)


def _keep_report(store: "Store", parent: str) -> None:
    """Save tables and pictures with the parent; the sweep is done, whatever becomes of them."""
    from snnrun.report.sweep import keep

    try:
        keep(store, parent)
    except UserError:
        raise
    except Exception:
        log.exception("The sweep's report could not be made")


def _require_a_valid_one(jobs: list[DictConfig]) -> None:
    """Refuse a sweep that cannot run at all; one that fails in some jobs is worth the others."""
    from snnrun.config import build

    errors: list[UserError] = []
    for job in jobs:
        try:
            spec = build(job)
            spec.hardware.processes()
            spec.dataset.find()
            return
        except UserError as error:
            errors.append(error)
    raise errors[0]


def _each_value_once(overrides: list[Override]) -> list[list[str]]:
    """Overrides of one job per swept value, the first value standing for every other sweep.

    A misspelt ninth method is found before the first one has been trained. Intervals have no
    first value (a sweeper draws from them) and are left at the configuration's default.
    """
    choices: list[list[str]] = []
    for override in overrides:
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
    first = [values[0] for values in choices]
    others = [
        [*first[:place], value, *first[place + 1 :]]
        for place, values in enumerate(choices)
        for value in values[1:]
    ]
    return [first, *others]
