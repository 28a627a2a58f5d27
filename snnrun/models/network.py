"""Networks: a stem that turns the input into current, a body that turns current into outputs."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from snnrun.kernels.saved import saves_less, spikes_as_bits
from snnrun.kits.plain import Feedback, reset
from snnrun.kits.synapse import Synapse, is_static, repeat

# Values of the first current, the widest as a rule, that a chunk has at most: with fewer, matrix
# products are slower; with more, what lies between two ops leaves the cache.
WIDEST = 2**21
SHORTEST = 4  # steps of a chunk; what a chunk costs by itself takes over below


class Network(nn.Module, ABC):
    """Time first, chunk by chunk: ``[T', B, ...] -> outputs [T', B, classes]``.

    Called as a module it begins a new sequence; ``advance`` continues the current one. A whole
    sequence in one call and step by step give the same spikes.

    Attributes:
        in_chunks: a sequence passes in chunks that stay in the cache. Same spikes and gradients up
            to the order in which sums are taken; not for norms with statistics over all steps.
    """

    in_chunks: bool = False

    @property
    @abstractmethod
    def stem(self) -> Synapse:
        """The first weighted op, from input to the current of the first layer."""

    @abstractmethod
    def body(self, current: Tensor) -> Tensor:
        """Continue the sequence: first layer's current [T', B, ...] to outputs [T', B, classes]."""

    def reset(self) -> None:
        """Begin a new sequence: forget all state."""
        reset(self)

    def advance(self, x: Tensor) -> Tensor:
        """Continue the sequence with the chunk ``x`` [T', B, ...]."""
        return self.body(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        """Run a fresh sequence ``x`` [T, B, ...]."""
        self.reset()
        with spikes_as_bits(x):
            chunks = self._chunks(x)
            if chunks == 1:
                return self.advance(x)
            run = self.runner(x)
            return torch.cat([run(chunk) for chunk in x.tensor_split(chunks)])

    def runner(
        self, x: Tensor, once: Callable[[Tensor], Tensor] = lambda current: current
    ) -> Callable[[Tensor], Tensor]:
        """What continues the sequence ``x`` by a chunk of it; a static one passes the stem once.

        Args:
            x: [T, B, ...].
            once: applied to the current [1, B, ...] of a static sequence.
        """
        if not is_static(x):
            return self.advance
        current = once(self.stem(x[:1]))
        return lambda chunk: self.body(repeat(current, len(chunk)))

    def _chunks(self, x: Tensor) -> int:
        """How many chunks, of nearly equal length, the sequence ``x`` is cut into."""
        if not (self.in_chunks and saves_less(x)) or len(x) < 2 * SHORTEST:
            return 1
        return min(len(x) // SHORTEST, math.ceil(len(x) * self.stem.units(x) / WIDEST))


class Layer(nn.Module):
    """A synapse, the neurons it drives, and the parameter-free ops behind them."""

    def __init__(self, synapse: Synapse, neuron: nn.Module, post: Sequence[nn.Module] = ()):
        super().__init__()
        self.synapse = synapse
        self.neuron = neuron
        self.post = nn.Sequential(*post)

    def emit(self, current: Tensor) -> Tensor:
        """What leaves the layer when ``current`` [T', B, ...] drives its neurons."""
        return self.post(self.neuron(current))

    def forward(self, x: Tensor) -> Tensor:
        """From what arrives to what leaves, [T', B, ...]."""
        return self.emit(self.synapse(x))


class Chain(Network):
    """Layers one after another, then a readout; optionally feedback from last layer to first.

    Args:
        layers: at least one; the first reads the input.
        readout: the last weighted op, its currents are the outputs.
        pool: parameter-free op between the last layer and the readout (global pooling).
        feedback: connection from the last layer's output to the first layer's current, one step
            delayed.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        readout: Synapse,
        *,
        pool: nn.Module | None = None,
        feedback: Feedback | None = None,
    ):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.pool = pool if pool is not None else nn.Identity()
        self.readout = readout
        self.feedback = feedback

    @property
    def stem(self) -> Synapse:
        """The first layer's synapse."""
        return cast(Synapse, self.layers[0].synapse)

    def hidden(self, current: Tensor) -> Tensor:
        """Output of the last layer for the first layer's current, without feedback."""
        first, *rest = self.layers
        x = cast(Layer, first).emit(current)
        for layer in rest:
            x = layer(x)
        return x

    def body(self, current: Tensor) -> Tensor:
        """Outputs [T', B, classes]; with feedback the steps run one by one."""
        if self.feedback is None:
            return self.readout(self.pool(self.hidden(current)))
        outputs = []
        for step in current.split(1):
            x = self.hidden(self.feedback(step))
            self.feedback.store(x)
            outputs.append(self.readout(self.pool(x)))
        return torch.cat(outputs)
