"""The Hydra application behind ``snnrun train`` and ``snnrun check``."""

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from snnrun.config import CONF, composing
from snnrun.errors import UserError, enough_memory
from snnrun.torchrun import fail

log = logging.getLogger(__name__)


class JobFailed(Exception):
    """A job of a sweep failed and has said why; Hydra collects it while the others go on."""


def launch(task: Callable[[DictConfig], float]) -> None:
    """Compose the configuration from ``sys.argv`` and give it to ``task``, job by job."""

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(cfg: DictConfig) -> float:
        set_up_process()
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _in_sweep(task, cfg)
        try:
            return task(cfg)
        except UserError as error:
            fail(str(error))

    set_up_process()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come through; else Hydra prints and exits
    try:
        with composing(sys.argv[1:]):
            job()
    except UserError as error:
        fail(str(error))
    except JobFailed:
        sys.exit(1)
    except BrokenExecutor:
        sys.exit(
            "error: a worker of the sweep was killed (for want of memory?); what finished is kept, "
            "repeat the command to compute the rest"
        )


def _in_sweep(task: Callable[[DictConfig], float], cfg: DictConfig) -> float:
    name = " ".join(HydraConfig.get().overrides.task)
    try:
        return task(cfg)
    except UserError as error:
        log.error("%s: %s", name, error)
    except Exception:
        log.exception("%s", name)
    raise JobFailed(name)


def train(cfg: DictConfig) -> float:
    """Train, continue or skip one run; the value a sweeper optimises."""
    from snnrun.config import build
    from snnrun.measure.tally import NotFinite
    from snnrun.run import execute
    from snnrun.tracking import Stop

    try:
        with enough_memory():
            return execute(build(cfg))
    except NotFinite as error:
        raise UserError(str(error)) from error
    except Stop as stop:
        log.warning("%s; repeat the command to continue", stop)
        sys.exit(130)


def check(cfg: DictConfig) -> float:
    """Compose, validate, look the data up and build the net; train nothing, write nothing."""
    from snnrun.check import report
    from snnrun.config import build

    with enough_memory():
        report(build(cfg))
    return 0.0


def set_up_process() -> None:
    """Make users' classes importable and logging quiet, here and in every worker of a sweep."""
    # A console script does not have the current folder on its path; users' classes live there.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s", force=True)
    noisy_ones = "alembic", "git", "hydra", "mlflow", "numba", "onnx_ir", "onnxscript", "urllib3"
    for noisy in noisy_ones:
        logging.getLogger(noisy).setLevel(logging.WARNING)
