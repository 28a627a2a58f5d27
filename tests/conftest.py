import os

# Read when triton is first imported, by whichever test that is: kernels run on the CPU.
os.environ.setdefault("TRITON_INTERPRET", "1")

import shutil
from collections.abc import Callable
from copy import deepcopy
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from snnrun import tracking_store
from snnrun.config import CONF, RunSpec, build
from snnrun.kits.plain import Kit
from snnrun.neurons.lif import LIF
from snnrun.neurons.surrogate import Surrogate

Composer = Callable[..., DictConfig]
Specifier = Callable[..., RunSpec]


@pytest.fixture(scope="session")
def composed() -> Composer:
    """Compose a configuration from command-line overrides, in this process."""

    @cache  # Hydra reads the files again each time
    def once(*overrides: str) -> DictConfig:
        named = {override.lstrip("+~").partition("=")[0] for override in overrides}
        # A test that names neither is about something else: tet takes every net and neuron.
        free = named & {"method", "experiment"}
        chosen = list(overrides) if free else ["method=tet", *overrides]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return compose("config", overrides=chosen)

    return lambda *overrides: deepcopy(once(*overrides))


@pytest.fixture(scope="session")
def specified(composed: Composer) -> Specifier:
    """Compose and check a configuration from command-line overrides."""
    return lambda *overrides: build(composed(*overrides))


@pytest.fixture(autouse=True)
def _products():
    """Products of matrices as torch computes them by itself, whatever an earlier run had chosen."""
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An SQLite store without runs, to be copied: MLflow takes seconds to make one."""
    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    tracking_store._migrate(database)
    return database


@pytest.fixture(scope="session")
def furnished(empty_store):
    """Put a store without runs into a folder that commands will run in."""

    def furnish(folder):
        folder.mkdir(exist_ok=True)
        shutil.copyfile(empty_store, folder / "mlflow.db")
        return folder

    return furnish


@pytest.fixture
def with_store(furnished, tmp_path):
    """Saves the commands of a test the making of a store."""
    furnished(tmp_path)


@pytest.fixture
def quick_stores(empty_store, monkeypatch):
    """Fresh stores of this process are copies."""
    monkeypatch.setattr(tracking_store, "_migrate", lambda new: shutil.copyfile(empty_store, new))


@pytest.fixture
def fp64():
    """Double precision and a fixed seed for one test."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def lif():
    """Spec of a LIF neuron, keys overridden by name."""

    def make(**changes) -> LIF:
        keys = {
            "name": "lif",
            "leak": 0.5,
            "threshold": 1.0,
            "reset": "soft",
            "rest": 0.0,
            "surrogate": Surrogate(name="sigmoid", width=4.0),
            "detach_reset": True,
            "fires_at_threshold": True,
            "decay_input": False,
            "leak_reset": True,
            "delay": 0,
        }
        return LIF(**(keys | changes))

    return make


@pytest.fixture(scope="session")
def kit(lif):
    """Plain kit of a normalisation."""
    return lambda norm, **changes: Kit(lif(**changes), norm)
