"""Integrate-and-fire units that fire at most once: V[t] = V[t-1] + I[t], S[t] = Θ(V[t] - θ), once.

Information is in when a unit fires (Che et al., ICML 2026, arXiv 2410.23619). There is no leak and
no reset: after its spike a unit is silent for the rest of the sequence.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrun.errors import choice, require
from snnrun.kernels.lif.multistep import lif
from snnrun.kernels.lif.parameters import LIFParameters, State
from snnrun.neurons.base import Neuron, SpikingNeuron
from snnrun.neurons.surrogate import Surrogate

RETIRED = -1e30  # membrane after the spike: no sum of currents leads back to the threshold

Memory = tuple[Tensor, ...]


class _Above(torch.autograd.Function):
    """H = Θ(x) with the surrogate's derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * ctx.surrogate(x), None


def exact(h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """S[t] = H[t] if nothing was above before t, that condition detached: BPTT as it is usual."""
    above = h.detach()
    seen = memory[0] + above.cumsum(0)
    return h * (seen == above), (seen[-1],)


def attached(h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """S[t] = H[t] prod_{k<t} (1 - H[k]), differentiated through every factor."""
    alive = torch.cat([1 - memory[0].unsqueeze(0), 1 - h]).cumprod(0)
    return h * alive[:-1], (1 - alive[-1],)


def order(h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Double cumulative sum z of H: 0 before the first crossing, 1 at it, above 1 after it."""
    count = memory[0] + h.cumsum(0)
    z = memory[1] + count.cumsum(0)
    return z, (count[-1], z[-1])


def first_by_bump(z: Tensor) -> Tensor:
    """1[z = 1] as relu(z (1 - z) + 1) z: its derivative is 1 at z = 0, and 0 at every other z."""
    return F.relu(z * (1 - z) + 1) * z


def first_straight_through(z: Tensor) -> Tensor:
    """1[z = 1] with derivative 1 at every z."""
    return z + ((z == 1).to(z.dtype) - z).detach()


def taylor_v1(h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Gradient through the steps before the spike only (Taylor et al., 2022, first version)."""
    z, memory = order(h, memory)
    return first_by_bump(z), memory


def taylor_v2(h: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """Gradient of z passed on unchanged at every step (Taylor et al., 2022, second version)."""
    z, memory = order(h, memory)
    return first_straight_through(z), memory


Rule = Callable[[Tensor, Memory], tuple[Tensor, Memory]]
RULES: dict[str, Rule] = {f.__name__: f for f in (exact, attached, taylor_v1, taylor_v2)}


def single_spikes(
    current: Tensor, memory: Memory | None, *, threshold: float, surrogate: Surrogate, rule: Rule
) -> tuple[Tensor, Memory]:
    """First crossings of a chunk without a loop over its steps.

    Args:
        current: [T', B, ...].
        memory: what the previous chunk returned; None at the start of a sequence.
        threshold: θ.
        surrogate: derivative of H.
        rule: one of `RULES`, from H to spikes.

    Returns:
        Spikes, 0 or 1, of the current's shape, and the memory after the chunk.
    """
    if memory is None:
        memory = (torch.zeros_like(current[0]),) * 3
    # Inside the sum, not added to it: chunks are then rounded like the whole sequence.
    v = torch.cat([(memory[0] + current[0]).unsqueeze(0), current[1:]]).cumsum(0)
    spikes, after = rule(_Above.apply(v - threshold, surrogate), memory[1:])
    return spikes, (v[-1], *after)


class SingleSpikeNeuron(SpikingNeuron):
    """A layer of such units: currents [T', B, ...] to spikes, at most one per unit and sequence.

    On the CPU the exact rule runs on the multi-step kernel, as units without leak that reset so
    low that they never return; elsewhere, and for the other rules, all steps run at once.

    Attributes:
        membrane: [B, ...] after the last step, on the kernel.
        memory: [n, B, ...] what `single_spikes` returned for the last chunk.
        emitted: [B, ...] spikes so far, counted in evaluation mode.

    Raises:
        AssertionError: in evaluation mode, if a unit fired twice.
    """

    carried = ("membrane", "memory", "emitted")

    def __init__(self, threshold: float, surrogate: Surrogate, gradient: str) -> None:
        super().__init__()
        self.threshold, self.surrogate, self.gradient = threshold, surrogate, gradient
        if surrogate.cutoff is None:  # exactly nothing flows back to a retired unit
            surrogate = replace(surrogate, cutoff=-RETIRED / 2)
        self.constants = LIFParameters(
            leak=1.0,
            threshold=threshold,
            hard=True,
            rest=RETIRED,
            surrogate=surrogate,
            detach_reset=True,
            fires_at_threshold=True,
            decay_input=False,
            leak_reset=True,
            delay=0,
        )
        self.membrane: Tensor | None = None
        self.memory: Tensor | None = None
        self.emitted: Tensor | None = None

    def read(self, distances: Tensor) -> Tensor:
        """Spikes [T, B, ...] of whole sequences, from V - θ [T, B, ...] of units never reset."""
        nothing = (torch.zeros_like(distances[0]),) * 2
        return RULES[self.gradient](_Above.apply(distances, self.surrogate), nothing)[0]

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T', B, ...] of the next T' steps."""
        if self.gradient == "exact" and current.device.type == "cpu":
            before = None if self.membrane is None else State(self.membrane, None)
            spikes, (self.membrane, _) = lif(current, before, self.constants)
        else:
            spikes, memory = single_spikes(
                current,
                None if self.memory is None else self.memory.unbind(),
                threshold=self.threshold,
                surrogate=self.surrogate,
                rule=RULES[self.gradient],
            )
            self.memory = torch.stack(memory)
        if not self.training:
            self._check(spikes)
        return spikes

    def _check(self, spikes: Tensor) -> None:
        emitted = spikes.detach().sum(0)
        self.emitted = emitted if self.emitted is None else self.emitted + emitted
        assert self.emitted.max() <= 1, "a single-spike unit fired twice"

    def extra_repr(self) -> str:
        """The constants, for printing the module."""
        return f"threshold={self.threshold}, {self.surrogate}, gradient={self.gradient}"


@dataclass(kw_only=True)
class SingleSpike(Neuron):
    """Spec of the single-spike neuron; the keys are explained in conf/neuron/single_spike.yaml.

    Raises:
        ConfigError: for a value outside its range, naming the key.
    """

    threshold: float
    surrogate: Surrogate
    gradient: str

    def __post_init__(self) -> None:
        require(0 < self.threshold < math.inf, f"threshold: {self.threshold} is not positive")
        choice("gradient", self.gradient, tuple(RULES))

    def build(self) -> SingleSpikeNeuron:
        """A new layer of these units."""
        return SingleSpikeNeuron(self.threshold, self.surrogate, self.gradient)
