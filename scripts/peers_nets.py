"""The contenders of bench_peers.py: the same weights, inputs and loss in each library.

Each builder takes `stages`, a list of (weighted op or None, pool or None) with neurons behind every
op but the last, and gives a function from input [T, B, ...] to outputs [T, B, C].
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LEAK, THRESHOLD, SHARPNESS = 0.5, 1.0, 4.0
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


# name -> (stages, steps, shape of one step's input)
WORKLOADS: dict[str, tuple[Callable[[], Stages], int, tuple[int, ...]]] = {
    "mlp_t16": (mlp, 16, (128, 784)),
    "mlp_t64": (mlp, 64, (128, 784)),
    "conv_t8": (conv, 8, (64, 1, 28, 28)),
    "lif_t16": (layer, 16, (128, 800)),
    "lif_t64": (layer, 64, (128, 800)),
    "lif_t16_wide": (layer, 16, (512, 16384)),  # fills a CUDA device
    "small": (mlp, 2, (4, 784)),
}


def ours(stages: Stages, **changes: object) -> tuple[nn.Module, Run]:
    """The net of this project; ``changes`` set constants of the neuron to those of a peer."""
    from snnrun.kits.plain import Kit
    from snnrun.models.network import Chain, Layer
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
    kit = Kit(LIF(**(constants | changes)), "none")  # type: ignore[arg-type]  # as in yaml
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


def relu(stages: Stages) -> tuple[nn.Module, Run]:
    """The same products with ReLU in place of the neurons: the floor of any spiking library."""
    parts = _parts(stages, lambda: nn.ReLU(inplace=True))
    net = nn.Sequential(*parts)
    return net, lambda x: net(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def spikingjelly(stages: Stages) -> tuple[nn.Module, Run]:
    from spikingjelly.activation_based import functional, neuron, surrogate

    class Folded(nn.Module):
        """One op over all steps, as SpikingJelly's own multi-step layers do it."""

        def __init__(self, op: nn.Module):
            super().__init__()
            self.op = op

        def forward(self, x: Tensor) -> Tensor:
            return self.op(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def lif() -> nn.Module:
        return neuron.LIFNode(
            tau=1 / (1 - LEAK),
            decay_input=False,
            v_threshold=THRESHOLD,
            v_reset=None,
            surrogate_function=surrogate.Sigmoid(alpha=SHARPNESS),
            detach_reset=True,
            step_mode="m",
        )

    parts = [p if isinstance(p, neuron.LIFNode) else Folded(p) for p in _parts(stages, lif)]
    net = nn.Sequential(*parts)

    def run(x: Tensor) -> Tensor:
        functional.reset_net(net)
        return net(x)

    return net, run


def snntorch(stages: Stages) -> tuple[nn.Module, Run]:
    import snntorch as snn
    from snntorch import surrogate

    slope = surrogate.sigmoid(slope=SHARPNESS)
    parts = _parts(stages, lambda: snn.Leaky(LEAK, threshold=THRESHOLD, spike_grad=slope))
    net = nn.ModuleList(parts)

    def run(x: Tensor) -> Tensor:
        states = {i: part.init_leaky() for i, part in enumerate(net) if isinstance(part, snn.Leaky)}
        outputs = []
        for step in x.unbind():
            for i, part in enumerate(net):
                if i in states:
                    step, states[i] = part(step, states[i])
                else:
                    step = part(step)
            outputs.append(step)
        return torch.stack(outputs)

    return net, run


def norse(stages: Stages) -> tuple[nn.Module, Run]:
    from norse.torch import LIFBoxCell, LIFBoxParameters

    constants = LIFBoxParameters(tau_mem_inv=torch.tensor((1 - LEAK) * 1000), alpha=SHARPNESS)
    net = nn.ModuleList(_parts(stages, lambda: LIFBoxCell(constants, dt=0.001)))

    def run(x: Tensor) -> Tensor:
        states: dict[int, object] = {}
        outputs = []
        for step in x.unbind():
            for i, part in enumerate(net):
                if isinstance(part, LIFBoxCell):
                    step, states[i] = part(step, states.get(i))
                else:
                    step = part(step)
            outputs.append(step)
        return torch.stack(outputs)

    return net, run


def _parts(stages: Stages, neuron: Callable[[], nn.Module]) -> list[nn.Module]:
    """Op, neurons, pool, ..., last op, with a flattening in front of a linear op on images."""
    *hidden, (last, _) = stages
    parts: list[nn.Module] = []
    for op, pool in hidden:
        parts += [p for p in (op, neuron(), pool) if p is not None]
    if isinstance(last, nn.Linear) and isinstance(hidden[-1][0], nn.Conv2d):
        parts.append(nn.Flatten())
    return parts if last is None else [*parts, last]


# What each peer's neuron is in ours: the loss of the first step must agree.
SAME_AS: dict[str, dict[str, object]] = {
    "spikingjelly": {},
    "snntorch": {"leak_reset": False, "fires_at_threshold": False},
    "norse": {"reset": "hard", "decay_input": True, "fires_at_threshold": False},
}
BUILDERS = {
    "ours": ours,
    "relu": relu,
    "spikingjelly": spikingjelly,
    "snntorch": snntorch,
    "norse": norse,
}
