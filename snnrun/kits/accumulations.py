"""The kit of SAF: leaky sums of past spikes travel, A[t] = leak A[t-1] + s[t].

Saiin et al., TMLR 2024, arXiv 2310.02772. With fixed weights the potential accumulation of a layer
is P[t] = W A[t] + Λ[t] b, Λ[t] = Σ_{k<t} leak^k, and the membrane of the spiking net is
u[t] = P[t] - leak V A[t-1]. So A is the only state of a unit. Everything between a layer's A and
the next P is linear. Chunks are one step: [1, B, ...].
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from snnrun.kernels.compiled.compiling import compiles
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kits.plain import Feedback, Kit
from snnrun.kits.stepwise import (
    AccumulateAndFire,
    Conventions,
    Once,
    StepNeuron,
    StepSynapse,
    constants,
)
from snnrun.kits.synapse import Op, is_static
from snnrun.kits.traces import TraceKit, accumulate
from snnrun.neurons.base import Neuron


class AccumulationSynapse(StepSynapse):
    """From accumulations to the potential accumulation: W A[t] + Λ[t] b.

    Args:
        op: the linear map.
        leak: of the accumulations.
        bias_traced: the gradient of the bias has the factor Λ[t], too; else it is 1.
        norms: see Synapse.
    """

    def __init__(self, op: Op, *, leak: float, bias_traced: bool, **norms: Any) -> None:
        super().__init__(op, leak=leak, **norms)
        self.bias_traced = bias_traced

    def forward(self, x: Tensor) -> Tensor:
        """Potential accumulation [1, B, ...] of the accumulations ``x`` [1, B, ...]."""
        span = self.lengthen()
        return self.current(x, spans=(span, span if self.bias_traced else 1.0))


class AccumulationInput(AccumulationSynapse):
    """The first synapse: brings the input into the net as potential accumulations.

    With a traced input P[t] = W X[t] + Λ[t] b, X[t] = leak X[t-1] + x[t], else
    P[t] = leak P[t-1] + W x[t] + b without gradient to P[t-1]: same value, other gradients.
    ``before`` is X[t-1] or P[t-1].
    """

    def __init__(self, op: Op, **rest: Any) -> None:
        super().__init__(op, **rest)
        self.before: Tensor | None = None

    def reset(self) -> None:
        """Begin a new sequence."""
        super().reset()
        self.before = None

    def drive(self, x: Tensor, once: Once | None) -> Iterator[Tensor]:
        """Potential accumulations of the first layer, one [1, B, ...] per step of ``x``.

        With ``once`` a static input passes a single time; without, once per step, since the weights
        may have changed.
        """
        if once is not None and is_static(x):
            return self._repeat(once(self(x[:1])), len(x))
        return map(self._traced if self.bias_traced else self._recursive, x.split(1))

    def _repeat(self, current: Tensor, steps: int) -> Iterator[Tensor]:
        """The potential accumulations Λ[t] I for the leaf ``current``, whose value is I.

        If their gradients are those of the current, the leaf itself takes their values, so that
        they are gathered where it has its own.
        """
        span, value = 0.0, current.detach()
        for _ in range(steps):
            span = self.leak * span + 1
            if self.bias_traced:
                yield current if span == 1 else span * current
                continue
            if span > 1:
                current.data = torch.add(value, value, alpha=span - 1)
            yield current

    def _traced(self, x: Tensor) -> Tensor:
        self.before = accumulate(self.before, x, self.leak)
        return self(self.before)

    def _recursive(self, x: Tensor) -> Tensor:
        self.span = 0.0  # the bias enters once per step: this is a current
        potential = accumulate(self.before, self(x), self.leak)
        self.before = potential.detach()
        return potential


class AccumulationReadout(AccumulationSynapse):
    """The readout, without memory: outputs o[t] = P[t] - leak P[t-1] = W s[t] + b.

    P[t-1] gets no gradient, so that of the weight is taken on A[t], as in OTTT's code.
    """

    def __init__(self, op: Op, **rest: Any) -> None:
        super().__init__(op, **rest)
        self.before: Tensor | None = None

    def reset(self) -> None:
        """Begin a new sequence."""
        super().reset()
        self.before = None

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [1, B, C] of this step."""
        potential = super().forward(x)
        output = accumulate(self.before, potential, -self.leak)
        self.before = potential.detach()
        return output


class InstantReadout(AccumulationReadout):
    """The readout learning from the spikes of the step: o[t] = W (A[t] - leak A[t-1]) + b."""

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [1, B, C] of this step."""
        spikes = accumulate(self.before, x, -self.leak)
        self.before = x.detach()
        return self.current(spikes)


class MeanReadout(AccumulationSynapse):
    """The readout of the weighted firing rates so far: P[t] / Λ[t] = W a[t] + b."""

    def forward(self, x: Tensor) -> Tensor:
        """Weighted mean [1, B, C] of the outputs up to this step."""
        return super().forward(x) / self.span


class AccumulationNeuron(StepNeuron):
    """LIF units on accumulations: s[t] = Θ(P[t] - V (leak A[t-1] + 1)), A[t] = leak A[t-1] + s."""

    def __init__(self, unit: LIFParameters) -> None:
        super().__init__(unit)
        self.accumulation: Tensor | None = None

    def reset(self) -> None:
        """Start a new sequence: no spikes so far."""
        self.accumulation = None

    def forward(self, potential: Tensor) -> Tensor:
        """Accumulations for the potential accumulations [1, B, ...] of this step."""
        before, leak = self.accumulation, self.leak
        if before is not None and compiles(potential, torch.float32, torch.float64):
            unit = (leak, self.threshold, self.surrogate)
            after = AccumulateAndFire.apply(potential, before, *unit)
        else:
            u = accumulate(before, potential, -leak * self.threshold)
            after = accumulate(before, self.fire(u), leak)
        self.accumulation = after.detach()
        return after


class RecursiveNeuron(StepNeuron):
    """The same units for weights that change between steps: P[t] = leak P[t-1] + I[t] is state."""

    def __init__(self, unit: LIFParameters) -> None:
        super().__init__(unit)
        self.potential: Tensor | None = None
        self.traces: Tensor | None = None

    def reset(self) -> None:
        """Start a new sequence: no current and no spikes so far."""
        self.potential = self.traces = None

    def forward(self, current: Tensor) -> Tensor:
        """Spikes for the current [1, B, ...] of this step."""
        potential = accumulate(self.potential, current, self.leak)
        spikes = self.fire(accumulate(self.traces, potential, -self.leak * self.threshold))
        self.potential = potential.detach()
        self.traces = accumulate(self.traces, spikes.detach(), self.leak)
        return spikes


class AccumulationKit(Kit):
    """Parts of a net in which accumulations travel, one step per chunk; weights fixed meanwhile.

    Args:
        neuron: a LIF or IF neuron with linear reset.
        norm: ``sws`` or ``none``.
        conventions: see Conventions.
        mean: outputs are the weighted mean so far (SAF-F) instead of those of the step (SAF-E).
    """

    def __init__(self, neuron: Neuron, norm: str, *, conventions: Conventions, mean: bool) -> None:
        super().__init__(neuron, norm)
        self.unit = constants(neuron)
        self.conventions = conventions
        self.mean = mean
        self.how: dict[str, Any] = {
            "leak": self.unit.leak,
            "bias_traced": conventions.bias == "theory",
        }

    def neuron(self) -> StepNeuron:
        """A layer of units that send accumulations."""
        return AccumulationNeuron(self.unit)

    def connect(
        self, op: Op, *, first: bool = False, branches: int = 1, normed: bool = True
    ) -> AccumulationSynapse:
        """See Kit.connect."""
        norms = self.norms(op, branches)  # weight norms: `normed` does not concern them
        if first:
            traced = self.conventions.first_layer == "theory"
            return AccumulationInput(op, **self.how | {"bias_traced": traced}, **norms)
        return AccumulationSynapse(op, **self.how, **norms)

    def readout(self, op: Op) -> AccumulationSynapse:
        """See Kit.readout."""
        if self.mean:
            return MeanReadout(op, **self.how)
        instant = self.conventions.readout == "theory"
        return (InstantReadout if instant else AccumulationReadout)(op, **self.how)

    def feedback(self, op: Op, post: nn.Module | None = None) -> Feedback:
        """See Kit.feedback; learns from the accumulation of the step before, no gradient back."""
        return Feedback(AccumulationSynapse(op, **self.how), post, detach=True)


class RecursiveKit(TraceKit):
    """SAF for weights that change between the steps of a batch.

    Spikes s[t] = A[t] - leak A[t-1] travel, so that each step's current is added with the weights
    it was made with; past currents stay in the state P.
    """

    def neuron(self) -> StepNeuron:
        """A layer of units whose state is (P, A)."""
        return RecursiveNeuron(self.unit)
