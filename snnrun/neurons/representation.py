"""Units of differentiation on spike representation: their gradient is that of their rate.

Meng et al., CVPR 2022, arXiv 2205.00459. A unit fires at ``scale * threshold``, subtracts its
trainable ``threshold`` and emits spikes of amplitude ``threshold`` (IF), ``threshold / dt`` (LIF).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from snnrun.kernels.lif.multistep import lif
from snnrun.kernels.lif.parameters import LIFParameters, State
from snnrun.neurons.base import Neuron, SpikingNeuron
from snnrun.neurons.surrogate import Surrogate


@dataclass(kw_only=True)
class Representation(Neuron):
    """Spec of the unit; leak 1 is integrate-and-fire, which has no ``tau``.

    Attributes:
        threshold: initial value of the trainable threshold.
        scale: fraction of the threshold at which a unit fires (alpha of the paper).
        bound: the threshold is kept at or above this.
        leak: exp(-dt / tau) per step.
        tau: membrane time constant in the unit of dt.
        gradient: ``code`` as released, ``paper`` as derived (they differ for LIF only).
    """

    threshold: float
    scale: float
    bound: float
    leak: float
    tau: float
    gradient: str

    @property
    def dt(self) -> float:
        """Length of a step in the unit of tau; 1 for IF, whose amplitude is the bare threshold."""
        return 1.0 if self.leak == 1 else -self.tau * math.log(self.leak)

    def build(self) -> "RepresentationNeuron":
        """A new layer of these units, with a threshold of its own."""
        return RepresentationNeuron(self)


def weights(leak: float, steps: int, like: Tensor) -> Tensor:
    """``q_n = leak^(N-n) / sum_m leak^(N-m)`` [N]: how much step n counts in the representation."""
    q = leak ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    return (q / q.sum()).to(like)


class RepresentationNeuron(SpikingNeuron):
    """A layer of units; currents [T', B, ...] to spikes times amplitude.

    Its gradient takes a chunk for the whole sequence, so train on whole sequences.
    """

    carried = ("membrane",)
    threshold: nn.Parameter  # type: ignore[assignment]  # trained here, a constant elsewhere

    def __init__(self, spec: Representation):
        super().__init__()
        self.spec = spec
        self.threshold = nn.Parameter(torch.tensor(spec.threshold))
        self.membrane: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        """See SpikingNeuron.forward."""
        with torch.no_grad():
            self.threshold.clamp_(min=self.spec.bound)
        if self.membrane is None:
            self.membrane = torch.zeros_like(current[0])
        spikes, self.membrane = _Fire.apply(current, self.threshold, self.membrane, self.spec)
        return spikes


def _constants(spec: Representation, threshold: float) -> LIFParameters:
    """The recursion of these units, whose threshold is not where they fire; the rest is unused."""
    fires_at = spec.scale * threshold
    return LIFParameters(
        leak=spec.leak,
        threshold=fires_at,
        hard=False,
        rest=fires_at - threshold,  # a spike takes off the threshold
        surrogate=Surrogate(name="rectangular", width=1.0),
        detach_reset=True,
        fires_at_threshold=True,
        decay_input=spec.leak != 1,
        leak_reset=True,
        delay=0,
    )


class _Fire(Function):
    """Spikes forward, clamp gradient backward (equations of section 4.2 of the paper)."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, threshold: Tensor, membrane: Tensor, spec: Representation
    ) -> tuple[Tensor, Tensor]:
        # A net of shapes alone, to count its operations, has no numbers.
        value = spec.threshold if threshold.is_meta else threshold.item()
        spikes, state = lif(current, State(membrane, None), _constants(spec, value))
        q = weights(spec.leak, len(current), current)
        ctx.spec, ctx.steps = spec, len(current)
        # Only the mean current is needed, not the current of every step.
        ctx.save_for_backward(torch.tensordot(q, current, 1), threshold)
        ctx.mark_non_differentiable(state.membrane)
        return spikes.mul_(threshold / spec.dt), state.membrane

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        mean, threshold = ctx.saved_tensors
        spec: Representation = ctx.spec
        is_if = spec.leak == 1
        top = threshold if is_if else threshold * spec.tau / spec.dt
        inside = (mean >= 0) & (mean <= top) if is_if else (mean > 0) & (mean < top)
        q = weights(spec.leak, ctx.steps, grad)
        paper = spec.gradient == "paper"
        merged = grad.sum(0) if paper else ctx.steps * torch.tensordot(q, grad, 1)
        slope = merged * inside / (1.0 if is_if else spec.tau)
        if paper:
            to_current = q.view(-1, *[1] * mean.dim()) * slope
        else:  # equal shares
            to_current = (slope / ctx.steps).expand(grad.shape)
        # The released code multiplies by dt where the derivative of threshold / dt asks for 1 / dt.
        to_threshold = (merged * (mean > top)).sum() * (1 / spec.dt if paper else spec.dt)
        return to_current, to_threshold, None, None
