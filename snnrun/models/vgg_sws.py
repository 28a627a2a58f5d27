"""VGG of the online-training papers: fixed output scale behind each layer, optional feedback."""

from dataclasses import dataclass

from torch import Tensor, nn

from snnrun.errors import require
from snnrun.kits.between import Between, Scale
from snnrun.kits.plain import Feedback, Kit
from snnrun.models.base import Model, Shape
from snnrun.models.network import Chain, Layer


@dataclass(kw_only=True)
class VGG(Model):
    """Groups of 3x3 convolutions, a 2x2 average pool between groups, a global one last.

    Xiao et al., OTTT, NeurIPS 2022, arXiv 2210.04195, section 5: each layer is convolution,
    neurons, times ``scale``; with ``feedback`` (VGG-F) the last layer also drives the first one,
    one step later, through a convolution that starts at zero and nearest-neighbour upsampling.
    """

    channels: list[list[int]]
    scale: float
    feedback: bool

    def __post_init__(self) -> None:
        """Check the sizes."""
        widths = [width for group in self.channels for width in group]
        require(
            all(self.channels) and len(widths) > 0 and min(widths) > 0,
            f"channels: {self.channels} must be groups of positive widths, e.g. [[64,128],[256]]",
        )
        require(self.scale > 0, f"scale: {self.scale} is not positive")

    @property
    def features(self) -> frozenset[str]:
        """A chain, with feedback if asked for."""
        return frozenset({"chain", "feedback"} if self.feedback else {"chain"})

    def build(self, kit: Kit, shape: Shape, classes: int) -> Chain:
        """See Model.build."""
        depth, height, width = shape
        least = 2 ** (len(self.channels) - 1)
        require(
            min(height, width) >= least,
            f"model.channels: {len(self.channels)} groups need inputs of at least {least}x{least}, "
            f"the dataset has {height}x{width}; use fewer groups",
        )
        layers: list[Layer] = []
        last = sum(map(len, self.channels))
        for group in self.channels:
            for place, out in enumerate(group, 1):
                pool = place == len(group) and len(layers) + 1 < last
                layers.append(self._layer(kit, depth, out, first=not layers, pool=pool))
                depth = out
        readout = nn.Linear(depth, classes)
        nn.init.normal_(readout.weight, std=0.01)
        _zero(readout.bias)
        feedback = self._feedback(kit, depth, (height, width)) if self.feedback else None
        pool_all = kit.between(nn.AdaptiveAvgPool2d(1))
        return Chain(layers, kit.readout(readout), pool=pool_all, feedback=feedback)

    def _layer(self, kit: Kit, n_in: int, n_out: int, *, first: bool, pool: bool) -> Layer:
        conv = nn.Conv2d(n_in, n_out, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        _zero(conv.bias)
        post = [kit.between(Scale(self.scale))]
        post += [kit.between(nn.AvgPool2d(2))] if pool else []
        return Layer(kit.connect(conv, first=first), kit.neuron(), post)

    def _feedback(self, kit: Kit, n_in: int, size: tuple[int, int]) -> Feedback:
        conv = nn.Conv2d(n_in, self.channels[0][0], 3, padding=1)
        _zero(conv.weight, conv.bias)
        return kit.feedback(conv, Between(nn.Upsample(size=size, mode="nearest")))


def _zero(*parameters: Tensor | None) -> None:
    for parameter in parameters:
        if parameter is not None:
            nn.init.zeros_(parameter)
