"""The Hydra application behind ``snnrun train`` and ``snnrun check``."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from snnrun.config import CONF
from snnrun.errors import UserError


class Refused(CompactHydraException):
    """A user's mistake in one job of a sweep, in the form that Hydra collects while others go on."""


def launch(task: Callable[[DictConfig], float]) -> None:
    """Compose the configuration from ``sys.argv`` and give it to ``task``, job by job."""

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(cfg: DictConfig) -> float:
        _set_up_process()
        try:
            return task(cfg)
        except UserError as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise Refused(f"error: {error}") from None
            sys.exit(f"error: {error}")

    _set_up_process()  # a sweep's callback composes before the first job
    job()


def train(cfg: DictConfig) -> float:
    """Train, continue or skip one run; the value a sweeper optimises."""
    from snnrun.config import build
    from snnrun.measure.tally import NotFinite
    from snnrun.run import execute
    from snnrun.tracking import Stop

    try:
        return execute(build(cfg))
    except NotFinite as error:
        raise UserError(str(error)) from error
    except Stop as stop:
        logging.getLogger(__name__).warning("%s; repeat the command to continue", stop)
        sys.exit(130)


def check(cfg: DictConfig) -> float:
    """Compose, validate, look the data up and build the net; train nothing, write nothing."""
    from snnrun.check import report
    from snnrun.config import build

    report(build(cfg))
    return 0.0


def _set_up_process() -> None:
    # A console script does not have the current folder on its path; users' classes live there.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", force=True)
    for noisy in ("alembic", "mlflow", "numba", "urllib3", "git"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
