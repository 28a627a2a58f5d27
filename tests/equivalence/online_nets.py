"""Small networks with the connections the papers allow, written against a kit."""

import torch
from torch import Tensor, nn

from snnrun.kits.between import Scale
from snnrun.kits.plain import Kit
from snnrun.models.network import Layer, Network


class SpikingOutput(nn.Module):
    """The spikes of the last layer as outputs, whatever travels."""

    def __init__(self, leak: float | None):
        super().__init__()
        self.leak = leak  # of the accumulations; None where spikes travel
        self.before: Tensor | None = None

    def reset(self) -> None:
        self.before = None

    def forward(self, x: Tensor) -> Tensor:
        if self.leak is None:
            return x
        spikes = x if self.before is None else x - self.leak * self.before
        self.before = x.detach()
        return spikes


class SkipFeedback(Network):
    """Three layers, a skip connection over the second, feedback from the third to the first."""

    def __init__(self, kit: Kit, sizes: tuple[int, int, int], leak: float | None):
        super().__init__()
        n_in, hidden, out = sizes
        self.one = Layer(kit.connect(nn.Linear(n_in, hidden), first=True), kit.neuron())
        self.two = Layer(kit.connect(nn.Linear(hidden, hidden)), kit.neuron())
        self.three = kit.connect(nn.Linear(hidden, out))
        self.skip = kit.connect(nn.Linear(hidden, out))
        self.last = kit.neuron()
        self.feedback = kit.feedback(nn.Linear(out, hidden))
        self.output = SpikingOutput(leak)

    @property
    def stem(self):
        return self.one.synapse

    def body(self, current: Tensor) -> Tensor:
        outputs = []
        for step in current.split(1):
            x = self.one.emit(self.feedback(step))
            x = self.last(self.three(self.two(x)) + self.skip(x))
            self.feedback.store(x)
            outputs.append(self.output(x))
        return torch.cat(outputs)


class NormaliserFree(Network):
    """Convolution, a pre-activation block ``c + 0.2 gain f(c)`` with dropout, pool, readout."""

    def __init__(self, kit: Kit, channels: int, classes: int):
        super().__init__()

        def conv(n_in: int) -> nn.Conv2d:
            return nn.Conv2d(n_in, channels, 3, padding=1)

        def neurons() -> nn.Sequential:
            return nn.Sequential(kit.neuron(), kit.between(Scale(2.74)), kit.dropout(0.3))

        self.entry = kit.connect(conv(1), first=True)
        self.inner = nn.Sequential(neurons(), kit.connect(conv(channels)))
        self.outer = nn.Sequential(neurons(), kit.connect(conv(channels)))
        self.gain = nn.Parameter(torch.tensor(0.7))
        self.last = nn.Sequential(neurons(), kit.between(nn.AdaptiveAvgPool2d(1)))
        self.readout = kit.readout(nn.Linear(channels, classes))

    @property
    def stem(self):
        return self.entry

    def body(self, current: Tensor) -> Tensor:
        branch = self.outer(self.inner(current))
        return self.readout(self.last(current + 0.2 * self.gain * branch))
