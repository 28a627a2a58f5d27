"""LeNet for spiking units: two 5x5 convolutions with a pool behind each, one hidden layer."""

from dataclasses import dataclass

from torch import nn

from snnrun.errors import require
from snnrun.kits.plain import Kit
from snnrun.models.base import Model, Shape
from snnrun.models.network import Chain, Layer


@dataclass(kw_only=True)
class LeNet(Model):
    """``channels`` = [15, 40], ``hidden`` = 300 is 15C5-P2-40C5-P2-300; average pools, no padding.

    The net SNNs are compared on for MNIST (e.g. Xiao et al., SPIDE, arXiv 2302.00232).
    """

    channels: list[int]
    hidden: int
    dropout: float

    def __post_init__(self) -> None:
        """Check the sizes."""
        require(
            len(self.channels) == 2 and min([*self.channels, self.hidden]) > 0,
            f"channels: {self.channels} must be two positive widths, e.g. [15,40]",
        )
        require(0 <= self.dropout < 1, f"dropout: {self.dropout} is not in [0, 1)")

    @property
    def features(self) -> frozenset[str]:
        """A chain, with dropout if asked for."""
        return frozenset({"chain", "dropout"} if self.dropout else {"chain"})

    def build(self, kit: Kit, shape: Shape, classes: int) -> Chain:
        """See Model.build."""
        depth, height, width = shape
        sizes = [((side - 4) // 2 - 4) // 2 for side in (height, width)]
        require(
            min(sizes) > 0,
            f"model: lenet needs inputs of at least 16x16, the dataset has {height}x{width}; "
            "use model=convnet or mlp",
        )
        first, second = self.channels
        flat = second * sizes[0] * sizes[1]
        layers = [
            Layer(kit.connect(nn.Conv2d(depth, first, 5), first=True), kit.neuron(), _pool(kit)),
            Layer(kit.connect(nn.Conv2d(first, second, 5)), kit.neuron(), _pool(kit)),
            Layer(
                kit.connect(nn.Linear(flat, self.hidden)),
                kit.neuron(),
                [kit.dropout(self.dropout)] if self.dropout else [],
            ),
        ]
        return Chain(layers, kit.readout(nn.Linear(self.hidden, classes)))


def _pool(kit: Kit) -> list[nn.Module]:
    return [kit.between(nn.AvgPool2d(2))]
