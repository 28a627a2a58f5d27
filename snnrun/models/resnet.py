"""Residual networks: firing after the addition (ResNet-19, spiking ResNet-34) or adding spikes."""

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from snnrun.errors import choice, require
from snnrun.kits.plain import Kit
from snnrun.kits.synapse import Synapse
from snnrun.models.base import Model, Shape
from snnrun.models.network import Layer, Network


def conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps the size (stride 1); no bias, a norm follows."""
    return nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)


def conv1x1(n_in: int, n_out: int, stride: int) -> nn.Conv2d:
    """1x1 convolution of a shortcut."""
    return nn.Conv2d(n_in, n_out, 1, stride=stride, bias=False)


class SpikingBlock(nn.Module):
    """``neuron(conv(neuron(conv x)) + shortcut)``: currents are added, then the sum fires.

    The shortcut is the identity, or a 1x1 convolution where the shape changes (TET, arXiv
    2202.11946, and tdBN, arXiv 2011.05280: the norms of both branches are scaled by 1 / sqrt(2)).
    """

    def __init__(self, kit: Kit, n_in: int, n_out: int, stride: int):
        super().__init__()
        changes = stride != 1 or n_in != n_out
        self.inner = Layer(kit.connect(conv3x3(n_in, n_out, stride)), kit.neuron())
        self.outer = kit.connect(conv3x3(n_out, n_out), branches=2)
        self.shortcut = (
            kit.connect(conv1x1(n_in, n_out, stride), branches=2) if changes else kit.skip()
        )
        self.neuron = kit.neuron()

    def forward(self, x: Tensor) -> Tensor:
        """What leaves the block for what arrives, [T', B, ...]."""
        return self.neuron(self.outer(self.inner(x)) + self.shortcut(x))


class SpikeElementWiseBlock(nn.Module):
    """``neuron(conv(neuron(conv x))) + shortcut``: spikes are added and can exceed 1.

    SEW-ResNet with the ADD connection (Fang et al., NeurIPS 2021, arXiv 2102.04159); a shortcut
    that changes the shape is a 1x1 convolution with neurons of its own.
    """

    def __init__(self, kit: Kit, n_in: int, n_out: int, stride: int):
        super().__init__()
        changes = stride != 1 or n_in != n_out
        self.inner = Layer(kit.connect(conv3x3(n_in, n_out, stride)), kit.neuron())
        self.outer = Layer(kit.connect(conv3x3(n_out, n_out)), kit.neuron())
        self.shortcut = (
            Layer(kit.connect(conv1x1(n_in, n_out, stride)), kit.neuron())
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """What leaves the block for what arrives, [T', B, ...]."""
        return self.outer(self.inner(x)) + self.shortcut(x)


BLOCKS = {"spiking": SpikingBlock, "sew": SpikeElementWiseBlock}


class ResidualNetwork(Network):
    """Stem and its neurons, residual blocks, global average pool, dense layers, readout."""

    def __init__(
        self,
        entry: Layer,
        blocks: list[nn.Module],
        pool: nn.Module,
        hidden: list[Layer],
        readout: Synapse,
    ):
        super().__init__()
        self.entry = entry
        self.blocks = nn.Sequential(*blocks)
        self.pool = pool
        self.hidden = nn.Sequential(*hidden)
        self.readout = readout

    @property
    def stem(self) -> Synapse:
        """The first convolution."""
        return self.entry.synapse

    def body(self, current: Tensor) -> Tensor:
        """See Network.body."""
        features = self.pool(self.blocks(self.entry.emit(current)))
        return self.readout(self.hidden(features))


@dataclass(kw_only=True)
class ResNet(Model):
    """A residual network by its stages; the first block of every later stage halves the size."""

    block: str
    stem: str
    stem_channels: int
    stem_pool: str
    channels: list[int]
    blocks: list[int]
    hidden: list[int]

    def __post_init__(self) -> None:
        """Check names and sizes."""
        choice("block", self.block, tuple(BLOCKS))
        choice("stem", self.stem, ("3x3", "7x7"))
        choice("stem_pool", self.stem_pool, ("none", "average", "max"))
        require(
            len(self.channels) == len(self.blocks) > 0 and min(self.channels + self.blocks) > 0,
            f"blocks: {self.blocks} must give a positive number for each of {self.channels}",
        )

    @property
    def features(self) -> frozenset[str]:
        """Residual, with max pooling in the stem if asked for."""
        return frozenset({"residual"} | ({"max_pool"} if self.stem_pool == "max" else set()))

    def build(self, kit: Kit, shape: Shape, classes: int) -> ResidualNetwork:
        """See Model.build."""
        entry = Layer(
            kit.connect(self._stem_conv(shape[0]), first=True), kit.neuron(), self._pool(kit)
        )
        pool = kit.between(nn.AdaptiveAvgPool2d(1))
        widths = [self.channels[-1], *self.hidden]
        hidden = [
            Layer(kit.connect(nn.Linear(n_in, n_out)), kit.neuron())
            for n_in, n_out in pairwise(widths)
        ]
        readout = kit.readout(nn.Linear(widths[-1], classes))
        return ResidualNetwork(entry, self._stages(kit), pool, hidden, readout)

    def _stem_conv(self, channels: int) -> nn.Conv2d:
        if self.stem == "7x7":
            return nn.Conv2d(channels, self.stem_channels, 7, stride=2, padding=3, bias=False)
        return conv3x3(channels, self.stem_channels)

    def _pool(self, kit: Kit) -> list[nn.Module]:
        pools = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}
        if self.stem_pool == "none":
            return []
        return [kit.between(pools[self.stem_pool](3, stride=2, padding=1))]

    def _stages(self, kit: Kit) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        width = self.stem_channels
        for stage, (channels, count) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(BLOCKS[self.block](kit, width, channels, stride))
                width = channels
        return blocks
