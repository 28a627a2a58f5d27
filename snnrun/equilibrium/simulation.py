"""The forward stage: a spiking simulation that keeps nothing but rates and final potentials."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from snnrun.kernels.compiled.compiling import compiles
from snnrun.kernels.lif.multistep import lif
from snnrun.kernels.lif.parameters import State
from snnrun.kits.norm import moments
from snnrun.kits.synapse import Synapse, apply, is_static, rows
from snnrun.models.network import Chain, Layer
from snnrun.neurons.lif import LIFNeuron


@dataclass(kw_only=True)
class Simulation:
    """What is left of T steps, per layer of neurons; all tensors [1, B, ...].

    Attributes:
        rates: leak-weighted average of the spikes, a = sum_t leak^(T - t) s[t] / Z.
        potentials: membrane after the last reset, before the leak.
        weight: Z, the sum of the weights of the average.
    """

    rates: list[Tensor]
    potentials: list[Tensor]
    weight: float


def total_weight(leak: float, steps: int) -> float:
    """Z = sum of leak^k for k = 0 .. steps - 1."""
    return float(steps) if leak == 1 else (1 - leak**steps) / (1 - leak)


def average(x: Tensor, leak: float) -> Tensor:
    """Weighted mean sum_t leak^(T - t) x[t] / Z of a sequence [T, ...], as one step [1, ...].

    A static sequence is its own mean and comes back as a view.
    """
    if len(x) == 1 or is_static(x):
        return x[:1]
    if leak == 1:
        return x.mean(0, keepdim=True)
    weights = leak ** torch.arange(len(x) - 1, -1, -1, dtype=x.dtype, device=x.device)
    return torch.tensordot(weights / total_weight(leak, len(x)), x, 1).unsqueeze(0)


@torch.no_grad()
def simulate(net: Chain, x: Tensor, leak: float) -> Simulation:
    """Run a fresh sequence ``x`` [T, B, ...] through a chain of plain spiking layers.

    Spikes pass the whole stack within a step, feedback comes one step late. Memory does not depend
    on T: neither spikes nor a graph are kept, and the net's neurons carry no state.
    Masks of dropout stay in place for the stages that follow.

    Args:
        net: chain of the plain kit, reset by the caller.
        x: input; a static one passes the stem once.
        leak: factor the membranes keep per step.
    """
    layers = layers_of(net)
    units: list[_Units] = []
    steady = net.stem(x[:1]) if is_static(x) else None
    for t in range(len(x)):
        drive = net.stem(x[t : t + 1]) if steady is None else steady
        if net.feedback is not None:
            drive = net.feedback(drive)
        for i, layer in enumerate(layers):
            current = drive if i == 0 else layer.synapse(drive)
            if t == 0:
                units.append(_Units(layer.neuron, current, leak))
            drive = layer.post(units[i].step(current))
        if net.feedback is not None:
            net.feedback.store(drive)
    if net.feedback is not None:
        net.feedback.reset()
    weight = total_weight(leak, len(x))
    return Simulation(
        rates=[layer.sum.div_(weight) for layer in units],
        potentials=[layer.membrane for layer in units],
        weight=weight,
    )


class _Units:
    """A layer of neurons without delay: membrane, last spikes, weighted sum of all spikes."""

    def __init__(self, neuron: nn.Module, like: Tensor, leak: float):
        assert isinstance(neuron, LIFNeuron) and neuron.constants.delay == 0
        self.constants, self.leak = neuron.constants, leak
        self.membrane, self.sum = torch.zeros_like(like), torch.zeros_like(like)
        self.spikes = torch.empty_like(like)
        self.fire: Callable[[Tensor], None] | None = None
        if compiles(self.sum[0], torch.float32, torch.float64):
            from snnrun.kernels.averages import firing  # imports the compiler

            self.fire = firing(self.membrane, self.sum, self.spikes, self.constants, leak=leak)

    def step(self, current: Tensor) -> Tensor:
        """Spikes [1, B, ...] for one step's current; the next step may overwrite them."""
        if self.fire is not None:
            self.fire(current)
        else:
            before = State(self.membrane[0], None)
            self.spikes, after = lif(current, before, self.constants)
            self.membrane = after.membrane.unsqueeze(0)
            self.sum.mul_(self.leak).add_(self.spikes)
        return self.spikes


def layers_of(net: Chain) -> list[Layer]:
    """The layers of a chain, with their type."""
    return [cast(Layer, layer) for layer in net.layers]


@torch.no_grad()
def steady(net: Chain, mean_input: Tensor) -> Chain:
    """The same chain with each batch norm one fixed affine map, folded into constant weights.

    Statistics that change from step to step would move the fixed point. So the inner norms use
    their running statistics, and the norm of the input those of the batch's mean input (IDE's
    protocol, Xiao et al., NeurIPS 2021).

    Returns:
        A chain that shares all other parts with ``net``; ``net`` itself if it has no such norm.
    """
    layers = layers_of(net)
    if all(layer.synapse.norm is None for layer in layers):
        return net
    statistics = [_statistics(net.stem, mean_input), *[None] * (len(layers) - 1)]
    fixed = [
        Layer(_Folded(layer.synapse, of_input), layer.neuron, list(layer.post))
        for layer, of_input in zip(layers, statistics, strict=True)
    ]
    return Chain(fixed, net.readout, pool=net.pool, feedback=net.feedback)


class _Folded(Synapse):
    """A synapse with constant weights, into which its norms are folded once."""

    def __init__(self, synapse: Synapse, statistics: tuple[Tensor, Tensor] | None):
        super().__init__(synapse.op)
        self.constants = synapse.folded(statistics)

    def weights(self) -> tuple[Tensor, Tensor | None]:
        return self.constants


def _statistics(synapse: Synapse, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel of a synapse's currents before its norm."""
    current = apply(synapse.op, rows(synapse.op, x), *synapse.weights())
    return moments(current)
