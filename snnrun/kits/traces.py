"""The kit of OTTT: spikes travel together with their traces.

A layer sends the pair (s[t], A[t]), A[t] = leak A[t-1] + s[t]. Weights act on spikes, and learn
from traces (Xiao et al., NeurIPS 2022, arXiv 2210.04195, section 4). Chunks are one step: [1, B,
...].
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrun.kernels.parameters import LIFParameters
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
from snnrun.kits.synapse import Op, apply, is_static
from snnrun.neurons.base import Neuron


@dataclass(frozen=True)
class Pair:
    """Spikes [1, B, ...] with a graph, and their traces of the same shape without one."""

    spikes: Tensor
    traces: Tensor

    def detach(self) -> "Pair":
        """Both without a graph."""
        return Pair(self.spikes.detach(), self.traces)

    def __add__(self, other: "Pair") -> "Pair":
        return Pair(self.spikes + other.spikes, self.traces + other.traces)


class TracedOp(torch.autograd.Function):
    """A weighted op: value from the spikes, gradient of the weight from the traces."""

    @staticmethod
    def forward(
        ctx: Any,
        spikes: Tensor,
        traces: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        op: Op,
        span: float,
    ) -> Tensor:
        """Current [N, ...] of the spikes [N, ...].

        Args:
            ctx: of this node.
            spikes: what arrives.
            traces: its traces, same shape.
            weight: weight in effect.
            bias: bias, if any.
            op: the linear map.
            span: factor on the gradient of the bias.
        """
        ctx.save_for_backward(traces, weight)
        ctx.op, ctx.span = op, span
        return apply(op, spikes, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Input gradient by the transposed op, weight gradient with the traces."""
        traces, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        to_spikes, to_weight, to_bias = _op_backward(ctx.op, grad, traces, weight, wanted)
        if to_bias is not None and ctx.span != 1:
            to_bias = to_bias * ctx.span
        return to_spikes, None, to_weight, to_bias, None, None


def _op_backward(
    op: Op, grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of input, weight and bias of ``op`` at the input ``x``, where wanted."""
    if isinstance(op, nn.Linear):
        return (
            grad @ weight if wanted[0] else None,
            grad.t() @ x if wanted[1] else None,
            grad.sum(0) if wanted[2] else None,
        )
    transposed = isinstance(op, nn.ConvTranspose2d)
    return torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        [op.out_channels] if wanted[2] else None,
        op.stride,
        op.padding,
        op.dilation,
        transposed,
        op.output_padding,
        op.groups,
        wanted,
    )


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
    """A weighted op on a Pair; on a tensor it is a plain synapse.

    Args:
        op: the linear map.
        leak: of the traces.
        bias_traced: the bias learns from the trace of a constant one.
        twice: evaluate the op on spikes and on traces, as the published code does, instead of once.
        norms: see Synapse.
    """

    def __init__(
        self, op: Op, *, leak: float, bias_traced: bool = False, twice: bool = False, **norms: Any
    ) -> None:
        super().__init__(op, leak=leak, **norms)
        self.bias_traced = bias_traced
        self.twice = twice

    def forward(self, x: Tensor | Pair) -> Tensor:
        """Current [1, B, ...] caused by what arrives."""
        if isinstance(x, Tensor):
            return super().forward(x)
        span = self.lengthen() if self.bias_traced else 1.0
        spikes, traces = self.flat(x.spikes), self.flat(x.traces)
        y = self._twice(spikes, traces) if self.twice else self._once(spikes, traces, span)
        return y.unflatten(0, x.spikes.shape[:2])

    def _once(self, spikes: Tensor, traces: Tensor, span: float) -> Tensor:
        weight, bias = self.weights()
        return TracedOp.apply(spikes, traces, weight, bias, self.op, span)

    def _twice(self, spikes: Tensor, traces: Tensor) -> Tensor:
        with torch.no_grad():
            value = apply(self.op, spikes, *self.weights())
        graph = apply(self.op, _Instead.apply(traces, spikes), *self.weights())
        return _Instead.apply(value, graph)


class TraceInput(TraceSynapse):
    """The first synapse: brings the input into the net step by step.

    Args:
        op: the linear map.
        traced: the weights learn from the trace of the input.
        rest: see TraceSynapse.
    """

    def __init__(self, op: Op, *, traced: bool, **rest: Any) -> None:
        super().__init__(op, bias_traced=traced, **rest)
        self.traced = traced
        self.trace: Tensor | None = None

    def reset(self) -> None:
        """Begin a new sequence."""
        super().reset()
        self.trace = None

    def drive(self, x: Tensor, once: Once | None) -> Iterator[Tensor]:
        """Currents of the first layer, one [1, B, ...] per step of ``x`` [T, B, ...].

        With ``once`` a static input passes a single time; without, once per step, since the weights
        may have changed.
        """
        if once is not None and is_static(x):
            return self._repeat(once(self(x[:1])), len(x))
        return map(self._enter, x.split(1))

    def _repeat(self, current: Tensor, steps: int) -> Iterator[Tensor]:
        span = 0.0
        for _ in range(steps):
            span = self.leak * span + 1
            yield scale_gradient(current, span) if self.traced else current

    def _enter(self, x: Tensor) -> Tensor:
        if not self.traced:
            return self(x)
        self.trace = x if self.trace is None else torch.add(x, self.trace, alpha=self.leak)
        return self(Pair(x, self.trace))


class TraceReadout(TraceSynapse):
    """The readout as it is, without memory: its weights learn from the spikes of the step."""

    def forward(self, x: Tensor | Pair) -> Tensor:
        """Outputs [1, B, C]."""
        return super().forward(x.spikes if isinstance(x, Pair) else x)


class TraceNeuron(StepNeuron):
    """LIF units that send their spikes with traces, or spikes alone.

    u[t] = leak v[t-1] + I[t], s[t] = Θ(u[t] - V), v[t] = u[t] - V s[t]; v and A carry no graph.
    """

    def __init__(self, unit: LIFParameters, *, trace: bool) -> None:
        super().__init__(unit)
        self.trace = trace
        self.membrane: Tensor | None = None
        self.traces: Tensor | None = None

    def reset(self) -> None:
        """Start a new sequence: membrane and trace are zero."""
        self.membrane = self.traces = None

    def forward(self, current: Tensor) -> Tensor | Pair:
        """What leaves at this step for ``current`` [1, B, ...]."""
        if self.pays(current, self.membrane):
            unit = (self.leak, self.threshold, self.surrogate)
            spikes, self.membrane = IntegrateAndFire.apply(current, self.membrane, *unit)
        else:
            u = current if self.membrane is None else self.membrane * self.leak + current
            spikes = self.fire(u)
            self.membrane = torch.sub(u.detach(), spikes.detach(), alpha=self.threshold)
        if not self.trace:
            return spikes
        self.traces = accumulate(self.traces, spikes.detach(), self.leak)
        return Pair(spikes, self.traces)


def accumulate(trace: Tensor | None, spikes: Tensor, leak: float) -> Tensor:
    """The next trace: leak A + s."""
    return spikes if trace is None else torch.add(spikes, trace, alpha=leak)


class Both(nn.Module):
    """Applies a parameter-free linear part to spikes and traces alike."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor | Pair) -> Tensor | Pair:
        """Whatever arrives, passed through."""
        if isinstance(x, Tensor):
            return self.part(x)
        return Pair(self.part(x.spikes), self.part(x.traces))


class SpikesOf(nn.Module):
    """An identity connection: the spikes of a pair, as a current."""

    def forward(self, x: Tensor | Pair) -> Tensor:
        """Spikes [1, B, ...]."""
        return x.spikes if isinstance(x, Pair) else x


class TraceKit(Kit):
    """Parts of a net in which (spikes, traces) travel, one step per chunk.

    Args:
        neuron: a LIF or IF neuron with linear reset.
        norm: ``sws`` or ``none``.
        conventions: see Conventions.
        trace: false sends spikes alone (SLTT).
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
        self.how: dict[str, Any] = {"leak": self.unit.leak, "twice": twice}
        self.bias_traced = conventions.bias == "theory"

    def neuron(self) -> StepNeuron:
        """A layer of units that send pairs."""
        return TraceNeuron(self.unit, trace=self.trace)

    def connect(
        self, op: Op, *, first: bool = False, branches: int = 1, normed: bool = True
    ) -> TraceSynapse:
        """See Kit.connect."""
        norms = self.norms(op, branches)  # weight norms: `normed` does not concern them
        if first:
            traced = self.conventions.first_layer == "theory"
            return TraceInput(op, traced=traced, **self.how, **norms)
        return TraceSynapse(op, bias_traced=self.bias_traced, **self.how, **norms)

    def readout(self, op: Op) -> TraceSynapse:
        """See Kit.readout."""
        if self.conventions.readout == "theory":
            return TraceReadout(op, **self.how)
        return TraceSynapse(op, bias_traced=self.bias_traced, **self.how)

    def between(self, op: nn.Module) -> nn.Module:
        """See Kit.between."""
        return Both(super().between(op))

    def dropout(self, p: float) -> nn.Module:
        """One mask per sequence for spikes and traces; the membrane's reset does not see it."""
        return Both(super().dropout(p))

    def skip(self) -> nn.Module:
        """See Kit.skip."""
        return SpikesOf()

    def feedback(self, op: Op, post: nn.Module | None = None) -> Feedback:
        """See Kit.feedback; learns from the trace of the step before, sends no gradient back."""
        synapse = TraceSynapse(op, bias_traced=self.bias_traced, **self.how)
        return Feedback(synapse, post, detach=True)
