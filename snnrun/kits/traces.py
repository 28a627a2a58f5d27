"""The kit of OTTT: spikes travel, and weights learn from the traces of what reaches them.

Weights act on spikes s[t] and learn from A[t] = leak A[t-1] + s[t] (Xiao et al., NeurIPS 2022,
arXiv 2210.04195, section 4). What stands between a neuron and a weight is linear and the same at
every step, so the weight can take the trace of what arrives, behind a pool a quarter as large,
instead of having the neuron's trace pass the same way. Chunks are one step: [1, B, ...].
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrun.kernels.compiled.compiling import compiles
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kits.plain import Feedback, Kit
from snnrun.kits.stepwise import (
    Conventions,
    IntegrateAndFire,
    Once,
    StepNeuron,
    StepSynapse,
    constants,
    scale_gradient,
)
from snnrun.kits.synapse import Op, is_static
from snnrun.neurons.base import Neuron


class _Instead(torch.autograd.Function):
    """``value`` forward; the gradient goes to the other argument."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, heir: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, grad


class TraceSynapse(StepSynapse):
    """A weighted op on spikes that learns from their trace.

    Args:
        op: the linear map.
        leak: of the trace.
        traced: false: a plain synapse, which learns from the spikes of the step.
        bias_traced: the bias learns from the trace of a constant one.
        twice: evaluate the op on spikes and on traces, as the published code does, instead of once.
        norms: see Synapse.

    Attributes:
        trace: of what arrived, [1, B, ...] without a graph; None at the start of a sequence.
    """

    def __init__(
        self,
        op: Op,
        *,
        leak: float,
        traced: bool = True,
        bias_traced: bool = False,
        twice: bool = False,
        **norms: Any,
    ) -> None:
        super().__init__(op, leak=leak, **norms)
        self.traced, self.bias_traced, self.twice = traced, bias_traced, twice
        self.trace: Tensor | None = None

    def reset(self) -> None:
        """Begin a new sequence."""
        super().reset()
        self.trace = None

    def forward(self, x: Tensor) -> Tensor:
        """Current [1, B, ...] caused by the spikes ``x`` [1, B, ...]."""
        if not self.traced:
            return self.current(x)
        self.trace = accumulate(self.trace, x.detach(), self.leak)
        if self.twice:
            return self._twice(x, self.trace)
        return self.current(x, self.trace, (1.0, self.lengthen() if self.bias_traced else 1.0))

    def _twice(self, spikes: Tensor, trace: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.current(spikes)
        return _Instead.apply(value, self.current(_Instead.apply(trace, spikes), trace))


class TraceInput(TraceSynapse):
    """The first synapse: brings the input into the net step by step."""

    def drive(self, x: Tensor, once: Once | None) -> Iterator[Tensor]:
        """Currents of the first layer, one [1, B, ...] per step of ``x`` [T, B, ...].

        With ``once`` a static input passes a single time; without, once per step, since the weights
        may have changed.
        """
        if once is not None and is_static(x):
            return self._repeat(once(self.current(x[:1])), len(x))
        return map(self, x.split(1))

    def _repeat(self, current: Tensor, steps: int) -> Iterator[Tensor]:
        span = 0.0
        for _ in range(steps):
            span = self.leak * span + 1
            yield scale_gradient(current, span) if self.traced else current


class TraceNeuron(StepNeuron):
    """LIF units: u[t] = leak v[t-1] + I[t], s[t] = Θ(u[t] - V), v[t] = u[t] - V s[t].

    v carries no graph.
    """

    def __init__(self, unit: LIFParameters) -> None:
        super().__init__(unit)
        self.membrane: Tensor | None = None

    def reset(self) -> None:
        """Start a new sequence: the membrane is zero."""
        self.membrane = None

    def forward(self, current: Tensor) -> Tensor:
        """Spikes of this step for ``current`` [1, B, ...]."""
        if compiles(current, torch.float32, torch.float64):
            unit = (self.leak, self.threshold, self.surrogate)
            spikes, self.membrane = IntegrateAndFire.apply(current, self.membrane, *unit)
            return spikes
        u = current if self.membrane is None else self.membrane * self.leak + current
        spikes = self.fire(u)
        self.membrane = torch.sub(u.detach(), spikes.detach(), alpha=self.threshold)
        return spikes


def accumulate(trace: Tensor | None, spikes: Tensor, leak: float) -> Tensor:
    """The next trace: leak A + s."""
    return spikes if trace is None else torch.add(spikes, trace, alpha=leak)


class TraceKit(Kit):
    """Parts of a net in which spikes travel, one step per chunk, and weights learn from traces.

    Args:
        neuron: a LIF or IF neuron with linear reset.
        norm: ``sws`` or ``none``.
        conventions: see Conventions.
        trace: false learns from the spikes of the step (SLTT).
        twice: see TraceSynapse.
    """

    def __init__(
        self,
        neuron: Neuron,
        norm: str,
        *,
        conventions: Conventions,
        trace: bool = True,
        twice: bool = False,
    ) -> None:
        super().__init__(neuron, norm)
        self.unit = constants(neuron)
        self.conventions = conventions
        self.trace = trace
        self.how: dict[str, Any] = {
            "leak": self.unit.leak,
            "traced": trace,
            "bias_traced": conventions.bias == "theory",
            "twice": twice,
        }

    def neuron(self) -> StepNeuron:
        """A layer of units."""
        return TraceNeuron(self.unit)

    def connect(
        self, op: Op, *, first: bool = False, branches: int = 1, normed: bool = True
    ) -> TraceSynapse:
        """See Kit.connect."""
        norms = self.norms(op, branches)  # weight norms: `normed` does not concern them
        if first:
            traced = self.conventions.first_layer == "theory"
            return TraceInput(op, **self.how | {"traced": traced, "bias_traced": traced}, **norms)
        return TraceSynapse(op, **self.how, **norms)

    def readout(self, op: Op) -> TraceSynapse:
        """See Kit.readout."""
        traced = self.trace and self.conventions.readout == "code"
        return TraceSynapse(op, **self.how | {"traced": traced})

    def readout_of_currents(self, op: Op) -> TraceSynapse:
        """See Kit.readout_of_currents; there are no spikes to trace."""
        return TraceSynapse(op, **self.how | {"traced": False})

    def feedback(self, op: Op, post: nn.Module | None = None) -> Feedback:
        """See Kit.feedback; learns from the trace of the step before, sends no gradient back."""
        return Feedback(TraceSynapse(op, **self.how), post, detach=True)
