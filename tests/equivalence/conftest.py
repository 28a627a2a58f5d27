from collections.abc import Callable
from functools import cache

import pytest
import torch
from online_checks import RateKit, Trainer

from snnrun.methods.base import Method
from snnrun.models.network import Network

CLASSES, BATCH, SIDE = 4, 3, 8
NETS = {
    "mlp": ("model=mlp", "model.hidden=[14,12]"),
    "mlp-feedback-dropout": (
        "model=mlp",
        "model.hidden=[14,12]",
        "model.feedback=true",
        "model.dropout=0.3",
    ),
    "conv": ("model=convnet", "model.channels=[5,6]", "model.norm=sws", "model.dropout=0.3"),
    "vgg-feedback": ("model=vgg_sws", "model.channels=[[5,6],[6]]", "model.feedback=true"),
}


@pytest.fixture(params=NETS)
def architecture(request) -> tuple[str, ...]:
    return NETS[request.param]


@pytest.fixture(params=["static", "varying"])
def sequence(request, fp64) -> Callable[[int], torch.Tensor]:
    """Inputs [T, B, 1, 8, 8]: one image for all steps, or another at each step."""

    def make(steps: int) -> torch.Tensor:
        shape = (BATCH, 1, SIDE, SIDE)
        if request.param == "static":
            return (2 * torch.randn(shape)).expand(steps, *shape)
        return 2 * torch.randn(steps, *shape)

    return make


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(BATCH) % CLASSES


class Maker:
    """Nets of one topology and one set of weights in the coordinates of any method."""

    def __init__(self, specified, architecture: tuple[str, ...], leak: float, threshold: float):
        self.specified = specified
        neuron = (f"neuron.leak={leak}", f"neuron.threshold={threshold}")
        self.overrides = ("dataset=synthetic", *architecture, *neuron)
        self.weights = None
        self.plain = self.build("bptt", lambda method: method.plain_kit)
        with torch.no_grad():  # no part may hide behind zeros
            for p in self.plain.parameters():
                p.add_(0.1 * torch.randn_like(p))
        self.weights = self.plain.state_dict()

    def method(self, name: str, **keys) -> Method:
        changes = [f"method.{key}={value}" for key, value in keys.items()]
        return self.specified(f"method={name}", *self.overrides, *changes).method

    def build(self, name: str, kit_of: Callable) -> Network:
        norm = () if any("norm" in o for o in self.overrides) else ("model.norm=sws",)
        spec = self.specified(f"method={name}", *self.overrides, *norm)
        net = spec.model.build(
            kit_of(spec.method)(spec.neuron, spec.norm), (1, SIDE, SIDE), CLASSES
        )
        if self.weights is not None:
            net.load_state_dict(self.weights)
        return net

    def trainer(self, name: str, **keys) -> Trainer:
        method = self.method(name, **keys)
        return Trainer(method, self.build(name, lambda _: method.kit))

    def rates(self) -> Network:
        return self.build("bptt", lambda _: RateKit)


@pytest.fixture(scope="session")
def remembered(specified) -> Callable:
    """``specified``, composing each list of overrides once: that takes longer than the checks."""
    return cache(specified)


@pytest.fixture
def maker(remembered, architecture, fp64) -> Callable[..., Maker]:
    def make(leak: float = 0.5, threshold: float = 1.0) -> Maker:
        return Maker(remembered, architecture, leak, threshold)

    return make
