"""Tests ask for ``method``, ``model``, ``experiment`` etc. and run for every file of that group."""

from collections.abc import Callable
from itertools import product

import pytest
from hydra.errors import HydraException

from snnrun.config import CONF, RunSpec
from snnrun.errors import ConfigError
from snnrun.ls import options

GROUPS = ("method", "neuron", "model", "dataset", "hardware", "experiment")

# A set that any method can learn by heart in a few updates.
TINY = (
    "dataset=synthetic",
    "dataset.size=[1,8,8]",
    "dataset.num_classes=4",
    "dataset.noise=0.1",
    "dataset.train_samples=32",
    "dataset.test_samples=8",
    "dataset.batch_size=32",
    "dataset.validation=0",
    "hardware=cpu",
)
# Small nets of each kind; the first that a method accepts is used.
NETS = {
    "dense": (
        ("model=mlp", "model.hidden=[24,24]"),
        ("model=mlp", "model.hidden=[24,24]", "model.feedback=true"),
    ),
    "convolutional": (
        ("model=convnet", "model.channels=[8,8]"),
        ("model=convnet", "model.channels=[8,8]", "model.feedback=true"),
    ),
}

Fitting = Callable[..., RunSpec]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for group in GROUPS:
        if group in metafunc.fixturenames:
            metafunc.parametrize(group, options(group), scope="session")
    if "file" in metafunc.fixturenames:
        files = sorted(CONF.rglob("*.yaml"))
        metafunc.parametrize("file", files, ids=[str(f.relative_to(CONF)) for f in files])


@pytest.fixture(scope="session")
def fitting(specified) -> Fitting:
    """The spec of the first combination of overrides that is accepted.

    Arguments are lists of alternatives, each a tuple of overrides.
    """

    def find(*alternatives) -> RunSpec:
        refusals = []
        for combination in product(*alternatives):
            overrides = [override for part in combination for override in part]
            try:
                return specified(*overrides)
            except (ConfigError, HydraException) as error:
                refusals.append(f"{' '.join(overrides)}: {error}")
        raise ConfigError("\n".join(refusals))

    return find


@pytest.fixture(scope="session")
def every_method() -> list[tuple[str, ...]]:
    """Alternatives for ``fitting``: all methods."""
    return [(f"method={name}",) for name in options("method")]


@pytest.fixture(scope="session")
def small() -> list[tuple[str, ...]]:
    """Alternatives for ``fitting``: all small nets on the tiny dataset."""
    return [(*TINY, *net) for nets in NETS.values() for net in nets]


@pytest.fixture(scope="session", params=NETS)
def tiny(request, method, specified) -> Callable[..., RunSpec]:
    """A small run of the method on a small net of one kind, further overrides added."""
    refusals = []
    for net in NETS[request.param]:
        base = (f"method={method}", *TINY, *net)
        try:
            specified(*base)
        except (ConfigError, HydraException) as error:
            refusals.append(str(error))
        else:
            return lambda *more, base=base: specified(*base, *more)
    pytest.skip(f"{method} trains no {request.param} net: {'; '.join(refusals)}")
