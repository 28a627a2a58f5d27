"""Single spikes travel: normalised weights, currents of unit variance, outputs read as potentials.

Initialisation and weight normalisation of ETTFS (Che et al., ICML 2026, arXiv 2410.23619), with the
variance of what arrives taken into account where its derivation does not hold.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from snnrun.errors import ConfigError
from snnrun.kits.between import Between
from snnrun.kits.plain import Feedback, Kit
from snnrun.kits.synapse import Op, Synapse, channels_out, fan_in
from snnrun.neurons.base import Neuron
from snnrun.neurons.single_spike import SingleSpikeNeuron

STATISTICS = ("row", "layer")


class WeightNorm(nn.Module):
    """``gain * std * (W - mean W) / (std W + 1e-8)``: fixed variance, trained gain per output.

    Mean and standard deviation are those of each output's weights (``row``) or of the whole tensor
    (``layer``); gradients flow through both. Gains start at 1.

    Args:
        channels: number of outputs.
        std: standard deviation of the weights.
        statistics: ``row`` or ``layer``.
    """

    eps = 1e-8

    def __init__(self, channels: int, *, std: float, statistics: str):
        super().__init__()
        self.std, self.statistics = std, statistics
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, weight: Tensor) -> Tensor:
        """Normalise ``weight`` [out, ...]; same shape."""
        rows = weight.flatten(1)
        if self.statistics == "row":
            std, mean = torch.std_mean(rows, dim=1, keepdim=True)
        else:
            std, mean = torch.std_mean(rows)
        scale = self.gain[:, None] * (self.std / (std + self.eps))
        return ((rows - mean) * scale).view_as(weight)


class EarliestPool(nn.Module):
    """Max pooling of single spikes: a window fires when its first unit does, and only then.

    The increments over time of the pooled running counts; min-pooling on spike times.
    """

    def __init__(self, pool: nn.MaxPool2d):
        super().__init__()
        self.pool = Between(pool)
        self.reset()

    def reset(self) -> None:
        """Forget which units and windows have fired."""
        self.counts: Tensor | None = None

    def forward(self, spikes: Tensor) -> Tensor:
        """Pool a chunk [T', B, C, H, W]."""
        if self.counts is None:
            self.counts = torch.zeros_like(spikes[0])
        counts = torch.cat([(self.counts + spikes[0]).unsqueeze(0), spikes[1:]]).cumsum(0)
        pooled = self.pool(torch.cat([self.counts.unsqueeze(0), counts]))
        self.counts = counts[-1]
        return pooled.diff(dim=0)


class Potentials(Synapse):
    """The output layer: returns V - θ [T', B, classes], V the sum of its currents so far.

    No membrane is reset, so that first spikes, ties and silence can all be read off the result.
    ``neuron`` is the same units as spiking ones: the meters count what they emit.
    """

    def __init__(self, op: Op, weight_norm: nn.Module | None, neuron: SingleSpikeNeuron):
        super().__init__(op, weight_norm=weight_norm)
        self.neuron = neuron
        self.reset()

    def reset(self) -> None:
        """Begin a new sequence."""
        self.membrane: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """See Synapse.forward; the currents are summed over time."""
        current = super().forward(x)
        if not self.training:
            self.neuron(current)
        first = current[:1] if self.membrane is None else current[:1] + self.membrane
        potentials = torch.cat([first, current[1:]]).cumsum(0)
        self.membrane = potentials[-1]
        return potentials - self.neuron.threshold


class SingleSpikeKit(Kit):
    """Parts of a chain in which every unit fires at most once.

    Asked for its parts in the order in which signals meet them, it keeps the mean square q of what
    arrives at the next synapse and scales that synapse to currents of variance θ² per step:
    Var W = θ² / (N q) for N inputs. For units that fire once, at any of T steps, q = 1/T and the
    standard deviation is the paper's θ sqrt(T/N); input that is no spike train has its own q. A
    k x k average pool divides by k² what weights without mean see of its input, q - q², so that
    k² more variance makes up for it exactly.

    Args:
        neuron: the spec of a single-spike unit.
        norm: ``wn`` or ``none`` (initial weights of that variance, then free).
        timesteps: T.
        statistics: of the weight normalisation, ``row`` or ``layer``.
        input_power: q of the network's input, per step; None for one spike per input, 1/T.
        earliest_pool: turn max pooling into `EarliestPool`.
    """

    accepted: ClassVar[tuple[str, ...]] = ("wn", "none")

    def __init__(
        self,
        neuron: Neuron,
        norm: str,
        *,
        timesteps: int,
        statistics: str,
        input_power: float | None,
        earliest_pool: bool,
    ):
        super().__init__(neuron, norm)
        self.timesteps, self.statistics = timesteps, statistics
        self.power = 1 / timesteps if input_power is None else input_power
        self.earliest_pool = earliest_pool

    def connect(
        self, op: Op, *, first: bool = False, branches: int = 1, normed: bool = True
    ) -> Synapse:
        """A weighted op, initialised and normalised for what arrives at it."""
        return Synapse(op, weight_norm=self._scaled(op))

    def readout(self, op: Op) -> Synapse:
        """Output units like all others, read by their potentials."""
        neuron = self.neuron()
        assert isinstance(neuron, SingleSpikeNeuron)
        return Potentials(op, self._scaled(op), neuron)

    def between(self, op: nn.Module) -> nn.Module:
        """A parameter-free op; pools change what arrives at the next synapse.

        Raises:
            ConfigError: for max pooling, unless it stands for the earliest spike.
        """
        if isinstance(op, nn.MaxPool2d):
            if not self.earliest_pool:
                raise ConfigError(f"model: {NO_MAX_POOL}")
            return EarliestPool(op)
        if isinstance(op, nn.AvgPool2d):
            self.power /= _area(op.kernel_size)
        return super().between(op)

    def feedback(self, op: Op, post: nn.Module | None = None) -> Feedback:
        """Not there: what comes back late cannot change a spike that was fired."""
        raise ConfigError("model.feedback: units that fire once cannot use feedback")

    def _scaled(self, op: Op) -> nn.Module | None:
        """Draw W uniformly with the wanted variance, biases 0; the normalisation that keeps it."""
        std = self.spec.threshold / math.sqrt(fan_in(op) * self.power)
        nn.init.uniform_(op.weight, -math.sqrt(3) * std, math.sqrt(3) * std)
        if op.bias is not None:
            nn.init.zeros_(op.bias)
        self.power = 1 / self.timesteps
        if self.norm == "none":
            return None
        return WeightNorm(channels_out(op), std=std, statistics=self.statistics)


NO_MAX_POOL = (
    "a max pool fires once for every unit of its window that beats the earlier ones, so more than "
    "once; use model.pool=average, or method.earliest_pool=true for the pool that fires with the "
    "first of them"
)


def _area(size: int | tuple[int, int]) -> int:
    return size * size if isinstance(size, int) else size[0] * size[1]
