"""Other libraries, imported with their own warnings; tests skip where they are not installed."""

import importlib
import warnings

import pytest


def peer(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: compiled for another torch
            pytest.skip(f"{error}; pip install snnrun[peers]")


@pytest.fixture(scope="session")
def jelly():
    """SpikingJelly: (neurons, layers, functional)."""
    base = "spikingjelly.activation_based."
    return tuple(peer(base + part) for part in ("neuron", "layer", "functional"))


@pytest.fixture(scope="session")
def snntorch_reader():
    """snnTorch's reader of NIR."""
    return peer("snntorch.import_nir")


@pytest.fixture(scope="session")
def jelly_reader():
    """SpikingJelly's reader of NIR."""
    return peer("spikingjelly.activation_based.nir_exchange")


@pytest.fixture(scope="session")
def nir():
    return peer("nir")


@pytest.fixture(scope="session")
def neurobench():
    """NeuroBench: (models, metrics of a workload)."""
    return peer("neurobench.models"), peer("neurobench.metrics.workload")
