"""Small convolutional chain: 3x3 convolutions, each with a pool, then fully connected layers."""

from dataclasses import dataclass

from torch import nn

from snnrun.errors import choice, require
from snnrun.kits.plain import Feedback, Kit
from snnrun.models.base import Model, Shape
from snnrun.models.network import Chain, Layer

POOLS = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


@dataclass(kw_only=True)
class ConvNet(Model):
    """``channels`` = [32, 64] is 32C3-P2-64C3-P2; ``hidden`` lists the layers behind it.

    With ``feedback`` the last layer drives the first, too, through a 3x3 convolution whose small
    map is repeated to the size of the first one's.
    """

    channels: list[int]
    hidden: list[int]
    pool: str
    dropout: float
    feedback: bool = False

    def __post_init__(self) -> None:
        """Check names and sizes."""
        choice("pool", self.pool, tuple(POOLS))
        require(
            len(self.channels) > 0 and min([*self.channels, *self.hidden]) > 0,
            f"channels: {self.channels} must list at least one positive width, e.g. [32,64]",
        )
        require(0 <= self.dropout < 1, f"dropout: {self.dropout} is not in [0, 1)")
        require(
            not (self.feedback and self.hidden),
            f"feedback: true needs a convolution as last layer, not hidden: {self.hidden}",
        )

    @property
    def features(self) -> frozenset[str]:
        """A chain, with max pooling or dropout if asked for."""
        extra = {
            "max_pool": self.pool == "max",
            "dropout": self.dropout > 0,
            "feedback": self.feedback,
        }
        return frozenset({"chain"} | {name for name, there in extra.items() if there})

    def build(self, kit: Kit, shape: Shape, classes: int) -> Chain:
        """See Model.build."""
        channels, height, width = shape
        shrink = 2 ** len(self.channels)
        require(
            height >= shrink and width >= shrink,
            f"model.channels: {len(self.channels)} pools need inputs of at least {shrink}x{shrink},"
            f" the dataset has {height}x{width}; use fewer channels or model=mlp",
        )
        layers = []
        for i, out in enumerate(self.channels):
            conv = nn.Conv2d(channels, out, 3, padding=1)
            layers.append(Layer(kit.connect(conv, first=i == 0), kit.neuron(), self._post(kit)))
            channels = out
        size = channels * (height // shrink) * (width // shrink)
        for out in self.hidden:
            post = [kit.dropout(self.dropout)] if self.dropout else []
            layers.append(Layer(kit.connect(nn.Linear(size, out)), kit.neuron(), post))
            size = out
        feedback = self._feedback(kit, shape) if self.feedback else None
        return Chain(layers, kit.readout(nn.Linear(size, classes)), feedback=feedback)

    def _feedback(self, kit: Kit, shape: Shape) -> Feedback:
        shrink = 2 ** len(self.channels)
        require(
            shape[1] % shrink == 0 and shape[2] % shrink == 0,
            f"model.feedback: inputs of {shape[1]}x{shape[2]} are no multiple of {shrink}x{shrink}"
            ", so the last map cannot be repeated to the size of the first; use fewer channels",
        )
        conv = nn.Conv2d(self.channels[-1], self.channels[0], 3, padding=1, bias=False)
        return kit.feedback(conv, kit.between(nn.Upsample(scale_factor=shrink)))

    def _post(self, kit: Kit) -> list[nn.Module]:
        pool = kit.between(POOLS[self.pool](2))
        return [pool, kit.dropout(self.dropout)] if self.dropout else [pool]
