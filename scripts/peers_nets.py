"""The contenders of bench_peers.py: the same weights, inputs and loss in each library.

A workload is a list of stages, (weighted op or None, pool or None) with neurons behind every op but
the last, or one of our own nets. Libraries differ in the neurons: each has a layer that maps
currents [T, B, ...] to spikes. Everything else acts on all steps at once, the faster way for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LEAK, THRESHOLD, SHARPNESS = 0.5, 1.0, 4.0
SCALE = 3  # on initial parameters, so that a tenth to a third of the units fire
Stages = list[tuple[nn.Module | None, nn.Module | None]]
Run = Callable[[Tensor], Tensor]


def mlp() -> Stages:
    return [(nn.Linear(784, 800), None), (nn.Linear(800, 800), None), (nn.Linear(800, 10), None)]


def conv() -> Stages:
    return [
        (nn.Conv2d(1, 32, 3, padding=1), nn.AvgPool2d(2)),
        (nn.Conv2d(32, 64, 3, padding=1), nn.AvgPool2d(2)),
        (nn.Linear(64 * 49, 10), None),
    ]


def layer() -> Stages:
    return [(None, None), (None, None)]  # neurons alone


@dataclass(frozen=True)
class Published:
    """A net of conf/model with one of the norms, all parameters times `scale`."""

    model: str
    norm: str
    scale: float

    def build(self, **changes: object) -> nn.Module:
        """The net for images of 3 x 32 x 32 and ten classes, with our neurons."""
        from hydra import compose, initialize_config_dir

        from snnrun.config import CONF, build
        from snnrun.kits.plain import Kit

        overrides = ["method=bptt", "dataset=synthetic", f"model={self.model}"]
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            model = build(compose("config", overrides=overrides)).model
        return model.build(Kit(lif(**changes), self.norm), (3, 32, 32), 10)


# name -> (what computes, steps, shape of one step's input)
WORKLOADS: dict[str, tuple[Callable[[], Stages] | Published, int, tuple[int, ...]]] = {
    "mlp_t16": (mlp, 16, (128, 784)),
    "mlp_t64": (mlp, 64, (128, 784)),
    "conv_t8": (conv, 8, (64, 1, 28, 28)),
    "lif_t16": (layer, 16, (128, 800)),
    "lif_t64": (layer, 64, (128, 800)),
    "lif_t16_wide": (layer, 16, (512, 16384)),  # fills a CUDA device
    "vgg_sws": (Published("vgg_sws", "sws", SCALE), 4, (4, 3, 32, 32)),
    "resnet19": (Published("resnet19", "tdbn", 1), 2, (4, 3, 32, 32)),
    "small": (mlp, 2, (4, 784)),
}


def build(name: str, workload: str, **changes: object) -> tuple[nn.Module, Run]:
    """The net of a library and how it runs; ``changes`` set constants of our neuron to a peer's."""
    make, scale = WORKLOADS[workload][0], float(SCALE)
    if isinstance(make, Published):
        net, scale = make.build(**changes), make.scale
        if name != "ours":
            _swap(net, NEURONS[name])
        run: Run = net
    elif name == "ours":
        net, run = _chain(make(), **changes)
    else:
        net = run = nn.Sequential(*_parts(make(), NEURONS[name]))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    return net, run


def lif(**changes: object) -> Any:
    """The neuron of this project with the constants of the comparison."""
    from snnrun.neurons.lif import LIF
    from snnrun.neurons.surrogate import Surrogate

    constants = {
        "name": "lif",
        "leak": LEAK,
        "threshold": THRESHOLD,
        "reset": "soft",
        "rest": 0.0,
        "surrogate": Surrogate(name="sigmoid", width=SHARPNESS),
        "detach_reset": True,
        "fires_at_threshold": True,
        "decay_input": False,
        "leak_reset": True,
        "delay": 0,
    }
    return LIF(**(constants | changes))  # type: ignore[arg-type]  # as in yaml


def _chain(stages: Stages, **changes: object) -> tuple[nn.Module, Run]:
    """The net of this project."""
    from snnrun.kits.plain import Kit
    from snnrun.models.network import Chain, Layer

    kit = Kit(lif(**changes), "none")
    *hidden, (last, _) = stages
    if last is None:
        neuron = kit.neuron()

        def run(x: Tensor) -> Tensor:
            neuron.reset()
            return neuron(x)

        return neuron, run
    posts = [[kit.between(pool)] if pool is not None else [] for _, pool in hidden]
    layers = [
        Layer(kit.connect(op), kit.neuron(), post)  # type: ignore[arg-type]  # weighted ops
        for (op, _), post in zip(hidden, posts, strict=True)
    ]
    net = Chain(layers, kit.readout(last))  # type: ignore[arg-type]
    return net, net


def _swap(net: nn.Module, neuron: Callable[[], nn.Module]) -> None:
    """Put other neurons in the place of ours."""
    from snnrun.neurons.base import SpikingNeuron

    for parent in list(net.modules()):
        for name, part in parent.named_children():
            if isinstance(part, SpikingNeuron):
                setattr(parent, name, neuron())


class Folded(nn.Module):
    """One op over all steps."""

    def __init__(self, op: nn.Module):
        super().__init__()
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [T, B, ...] for inputs [T, B, ...]."""
        return self.op(x.flatten(0, 1)).unflatten(0, x.shape[:2])


class OverTime(nn.Module):
    """A cell ``(current, state) -> (spikes, state)`` in a loop over the steps."""

    def __init__(self, cell: Callable[..., Any]):
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """Spikes for currents, [T, B, ...]."""
        state, spikes = None, []
        for current in x.unbind():
            fired, state = self.cell(current, state)
            spikes.append(fired)
        return torch.stack(spikes)


def spikingjelly() -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    class LIFNode(neuron.LIFNode):
        def forward(self, x: Tensor) -> Tensor:
            self.reset()
            return super().forward(x)

    return LIFNode(
        tau=1 / (1 - LEAK),
        decay_input=False,
        v_threshold=THRESHOLD,
        v_reset=None,
        surrogate_function=surrogate.Sigmoid(alpha=SHARPNESS),
        detach_reset=True,
        step_mode="m",
    )


def snntorch() -> nn.Module:
    import snntorch as snn
    from snntorch import surrogate

    slope = surrogate.sigmoid(slope=SHARPNESS)

    class Leaky(snn.Leaky):
        def forward(self, x: Tensor, mem: Tensor | None) -> Tensor:
            return super().forward(x, self.init_leaky() if mem is None else mem)

    return OverTime(Leaky(LEAK, threshold=THRESHOLD, spike_grad=slope))


def norse() -> nn.Module:
    from norse.torch import LIFBoxCell, LIFBoxParameters

    constants = LIFBoxParameters(tau_mem_inv=torch.tensor((1 - LEAK) * 1000), alpha=SHARPNESS)
    return OverTime(LIFBoxCell(constants, dt=0.001))


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y = torch.sigmoid(SHARPNESS * ctx.saved_tensors[0])
        return grad * SHARPNESS * y * (1 - y)


def plain() -> nn.Module:
    """What one would write in torch without a library."""

    def cell(current: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        u = current if before is None else LEAK * before + current
        spikes = _Spike.apply(u - THRESHOLD)
        return spikes, u - THRESHOLD * spikes.detach()

    return OverTime(cell)


def relu() -> nn.Module:
    """No neurons: the floor of any spiking library."""
    return nn.ReLU(inplace=True)


def _parts(stages: Stages, neuron: Callable[[], nn.Module]) -> list[nn.Module]:
    """Op, neurons, pool, ..., last op, with a flattening in front of a linear op on images."""
    *hidden, (last, _) = stages
    parts: list[nn.Module] = []
    for op, pool in hidden:
        parts += [Folded(op)] if op is not None else []
        parts += [neuron()]
        parts += [Folded(pool)] if pool is not None else []
    if isinstance(last, nn.Linear) and isinstance(hidden[-1][0], nn.Conv2d):
        parts.append(nn.Flatten(2))
    return parts if last is None else [*parts, Folded(last)]


# What each peer's neuron is in ours: the loss of the first step must agree.
SAME_AS: dict[str, dict[str, object]] = {
    "spikingjelly": {},
    "snntorch": {"leak_reset": False, "fires_at_threshold": False},
    "norse": {"reset": "hard", "decay_input": True, "fires_at_threshold": False},
}
NEURONS = {
    "relu": relu,
    "plain": plain,
    "spikingjelly": spikingjelly,
    "snntorch": snntorch,
    "norse": norse,
}
