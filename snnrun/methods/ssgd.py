"""Sparse spiking gradient descent: backpropagation through time on active events only."""

import logging
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.errors import ConfigError, choice, require
from snnrun.kernels.events import active_conv, stack
from snnrun.kernels.events.lists import Readout, Unit
from snnrun.kernels.events.stack import KERNELS, Plan
from snnrun.kernels.leaky import leaky
from snnrun.kits.plain import Kit
from snnrun.kits.synapse import Op, Synapse, fan_in, is_static
from snnrun.methods.base import Method, StepOutput, Update, sequence_step, settled
from snnrun.models.network import Chain, Layer, Network
from snnrun.neurons.base import Neuron
from snnrun.neurons.cuba_lif import CubaLIFNeuron
from snnrun.neurons.if_ import IF
from snnrun.neurons.lif import LIF, LIFNeuron
from snnrun.neurons.surrogate import Surrogate

log = logging.getLogger(__name__)

STEEPNESS = 100.0  # beta of the surrogate 1 / (beta |V - threshold| + 1)^2
REDUCTIONS = ("max", "sum")
INITS = ("normal", "uniform")


class SparseKit(Kit):
    """Plain parts without biases, with the paper's initial weights.

    Weights of linear ops are stored column by column: the event-driven kernels add up the fan-out
    of single inputs, and read it without a copy.
    """

    def __init__(self, neuron: Neuron, norm: str, init: str):
        super().__init__(neuron, norm)
        self.init = init

    def connect(
        self, op: Op, *, first: bool = False, branches: int = 1, normed: bool = True
    ) -> Synapse:
        """See Kit.connect."""
        return super().connect(self._prepared(op), first=first, branches=branches, normed=normed)

    def readout(self, op: Op) -> Synapse:
        """See Kit.readout."""
        return super().readout(self._prepared(op))

    @torch.no_grad()
    def _prepared(self, op: Op) -> Op:
        op.bias = None
        bound = fan_in(op) ** -0.5
        if self.init == "normal":
            op.weight.normal_(0, 20 * (1 - getattr(self.spec, "leak", 1.0)) * bound)
        else:
            op.weight.uniform_(-bound, bound)
        if isinstance(op, nn.Linear):
            op.weight = nn.Parameter(op.weight.t().contiguous().t())
        return op


@dataclass(kw_only=True)
class SSGD(Method):
    """Gradient of BPTT with a surrogate that is exactly 0 outside a window, on active events only.

    Perez-Nieves and Goodman, NeurIPS 2021, arXiv 2105.08810. Fully connected nets with binary input
    run event by event and keep index lists. Convolutions go backward over active units; what is
    too busy for that runs dense, with the same gradient.

    Attributes:
        backward_threshold: half-width w of the window: |V - threshold| < w carries gradient.
        readout: what is taken of the leaky readout over time.
        readout_leak: factor the readout keeps per step.
        init: ``normal`` with deviation 20 (1 - leak) / sqrt(fan-in), or ``uniform`` within
            +-1 / sqrt(fan-in).
        count_above: weight of the penalty on a layer's mean spike count over ``count_max``.
        count_max: spikes per sample and unit.
        count_below: weight of the penalty on every unit with fewer spikes than ``count_min``.
        count_min: spikes per sample.
        kernel: of the event-driven form.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"chain"})
    refuses: ClassVar[dict[str, str]] = {
        "feedback": "its gradient runs through one step of delay per layer, forwards only",
        "dropout": "its spikes travel as index lists, which carry no scale",
    }

    backward_threshold: float
    readout: str
    readout_leak: float
    init: str
    count_above: float
    count_max: float
    count_below: float
    count_min: float
    kernel: str

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        require(
            self.backward_threshold > 0,
            f"backward_threshold: {self.backward_threshold} is not above 0",
        )
        choice("readout", self.readout, REDUCTIONS)
        choice("init", self.init, INITS)
        choice("kernel", self.kernel, KERNELS)
        require(
            self.kernel != "triton" or find_spec("triton") is not None,
            "kernel: triton is not installed; pip install triton, or kernel=auto",
        )
        require(0 <= self.readout_leak < 1, f"readout_leak: {self.readout_leak} is not in [0, 1)")

    def neuron(self, neuron: Neuron) -> Neuron:
        """The neuron with one step of delay, a strict threshold and the windowed surrogate."""
        if not isinstance(neuron, LIF | IF):
            raise ConfigError(f"method={self.name} trains lif, if and cuba_lif, not {neuron.name}")
        require(neuron.reset == "soft", f"neuron.reset: {neuron.reset} (method={self.name}: soft)")
        surrogate = Surrogate(name="fast_sigmoid", width=STEEPNESS, cutoff=self.backward_threshold)
        adapted = replace(
            neuron, delay=1, fires_at_threshold=False, detach_reset=True, surrogate=surrogate
        )
        if isinstance(adapted, LIF):
            return replace(adapted, leak_reset=False, decay_input=False)
        require(
            self.init != "normal",
            f"init: normal is 0 without leak (neuron={neuron.name}); use uniform",
        )
        return adapted

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """See Method.kit."""
        return SparseKit(neuron, norm, self.init)

    def plain_kit(self, neuron: Neuron, norm: str) -> Kit:
        """See Method.plain_kit."""
        return SparseKit(neuron, norm, self.init)

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        assert isinstance(net, Chain)
        plan = self._plan(net)
        quiet = plan is not None and not is_static(x) and stack.suits(x)
        arrived = stack.gather(x, self.kernel) if quiet else None
        active: list[Tensor] = []
        if plan is None or arrived is None:
            if plan is not None:
                _say_dense()
            logits, counts = self._by_layer(net, x)
        else:
            batch, weights = x.shape[1], _weights(net)
            logits, counts, active = stack.event_stack(arrived, batch, weights, plan)
        loss = F.cross_entropy(logits, y)
        for count in counts:
            loss = loss + self._penalty(count)
        out = sequence_step(loss, update, logits)
        out.extra = {f"active/layers.{i}": share for i, share in enumerate(active)}
        return out

    def decode(self, outputs: Tensor) -> Tensor:
        """Logits [B, C] from the readout's currents [T, B, C]: max or sum of their leaky mean."""
        traces = self._traces(outputs)
        return traces.amax(0) if self.readout == "max" else traces.sum(0)

    def decision_steps(self, outputs: Tensor) -> Tensor:
        """See Method.decision_steps; all steps at once."""
        traces = self._traces(outputs)
        logits = traces.cummax(0).values if self.readout == "max" else traces.cumsum(0)
        return settled(logits.argmax(-1))

    def _traces(self, outputs: Tensor) -> Tensor:
        """O [T, B, C]: O[0] = 0, O[t+1] = leak O[t] + (1 - leak) outputs[t]."""
        zero = torch.zeros_like(outputs[0])
        delayed = torch.cat([zero[None], outputs[:-1] * (1 - self.readout_leak)])
        return leaky(delayed, zero, self.readout_leak)

    def _penalty(self, counts: Tensor) -> Tensor:
        """Regulariser of a layer's spike counts [B, units], mean over the batch."""
        above = (counts.mean(1) - self.count_max).relu()
        below = (self.count_min - counts).relu().square().mean(1)
        return (self.count_above * above + self.count_below * below).mean()

    def _plan(self, net: Chain) -> Plan | None:
        """The net for the event-driven kernels; None unless it is fully connected throughout."""
        layers = _layers(net)
        if any(len(a.post) or not isinstance(a.synapse.op, nn.Linear) for a in layers):
            return None
        readout = Readout(leak=self.readout_leak, reduce=self.readout)
        units = tuple(unit(layer.neuron) for layer in layers)
        return Plan(units=units, readout=readout, kernel=self.kernel)

    def _by_layer(self, net: Chain, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits and spike counts of every layer [B, units]; dense tensors between layers."""
        net.reset()
        counts = []
        for layer in _layers(net):
            op, constants = layer.synapse.op, unit(layer.neuron)
            if not is_static(x) and active_conv.suits(op, x, constants):
                spikes, count = active_conv.active_conv(x, cast(nn.Conv2d, op), constants)
            else:
                spikes, count = cast(LIFNeuron, layer.neuron).counted(layer.synapse(x))
            counts.append(count.flatten(1))
            x = layer.post(spikes)
        return self.decode(net.readout(net.pool(x))), counts


def _layers(net: Chain) -> list[Layer]:
    return [cast(Layer, layer) for layer in net.layers]


def _weights(net: Chain) -> list[Tensor]:
    return [synapse.op.weight for synapse in (*(a.synapse for a in _layers(net)), net.readout)]


def unit(neuron: nn.Module) -> Unit:
    """What the event-driven kernels are told of a layer of neurons."""
    assert isinstance(neuron, LIFNeuron)
    p = neuron.constants
    return Unit(
        leak=p.leak,
        synapse=neuron.synaptic_leak if isinstance(neuron, CubaLIFNeuron) else None,
        threshold=p.threshold,
        drop=-p.offset_fired,
        window=p.surrogate.cutoff or float("inf"),
        steepness=p.surrogate.width,
    )


@cache
def _say_dense() -> None:
    log.info(
        "ssgd: the input is not a few spikes of 0 and 1, so it runs dense, with the same gradient"
    )
