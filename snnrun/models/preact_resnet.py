"""Pre-activation residual network: norm and neurons come before each convolution."""

from dataclasses import dataclass

from torch import Tensor, nn

from snnrun.errors import require
from snnrun.kits.plain import Kit
from snnrun.kits.synapse import Synapse
from snnrun.models.base import Model, Shape
from snnrun.models.network import Network
from snnrun.models.resnet import conv1x1, conv3x3


class PreActivation(nn.Module):
    """Norm and neurons on a current."""

    def __init__(self, kit: Kit, channels: int):
        super().__init__()
        self.norm = kit.prenorm(channels)
        self.neuron = kit.neuron()

    def forward(self, current: Tensor) -> Tensor:
        """What leaves the neurons, [T', B, ...]."""
        return self.neuron(self.norm(current))


class PreActivationBlock(nn.Module):
    """``a = act(x);  conv(act(conv a)) + shortcut(a)``: current in, current out.

    The shortcut takes the activated input (DSR's public code), through a 1x1 convolution where the
    shape changes.
    """

    def __init__(self, kit: Kit, n_in: int, n_out: int, stride: int):
        super().__init__()
        changes = stride != 1 or n_in != n_out
        self.before = PreActivation(kit, n_in)
        self.first = kit.connect(conv3x3(n_in, n_out, stride), normed=False)
        self.between = PreActivation(kit, n_out)
        self.second = kit.connect(conv3x3(n_out, n_out), normed=False)
        self.shortcut = (
            kit.connect(conv1x1(n_in, n_out, stride), normed=False) if changes else kit.skip()
        )

    def forward(self, current: Tensor) -> Tensor:
        """Current [T', B, ...] after the block."""
        x = self.before(current)
        return self.second(self.between(self.first(x))) + self.shortcut(x)


class PreActivationNetwork(Network):
    """Stem, blocks, last activation, global average pool, neurons on the pooled spikes, readout."""

    def __init__(
        self,
        stem: Synapse,
        blocks: list[nn.Module],
        last: nn.Module,
        pool: nn.Module,
        pooled: nn.Module,
        readout: Synapse,
    ):
        super().__init__()
        self.entry = stem
        self.blocks = nn.Sequential(*blocks)
        self.last = last
        self.pool = pool
        self.pooled = pooled
        self.readout = readout

    @property
    def stem(self) -> Synapse:
        """The first convolution."""
        return self.entry

    def body(self, current: Tensor) -> Tensor:
        """See Network.body."""
        return self.readout(self.pooled(self.pool(self.last(self.blocks(current)))))


@dataclass(kw_only=True)
class PreActResNet(Model):
    """Stages of pre-activation blocks; the first block of every later stage halves the size."""

    stem_channels: int
    channels: list[int]
    blocks: list[int]

    def __post_init__(self) -> None:
        """Check sizes."""
        require(
            len(self.channels) == len(self.blocks) > 0 and min(self.channels + self.blocks) > 0,
            f"blocks: {self.blocks} must give a positive number for each of {self.channels}",
        )

    @property
    def features(self) -> frozenset[str]:
        """Residual."""
        return frozenset({"residual"})

    def build(self, kit: Kit, shape: Shape, classes: int) -> PreActivationNetwork:
        """See Model.build."""
        stem = kit.connect(conv3x3(shape[0], self.stem_channels), first=True, normed=False)
        blocks: list[nn.Module] = []
        width = self.stem_channels
        for stage, (channels, count) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(PreActivationBlock(kit, width, channels, stride))
                width = channels
        network = PreActivationNetwork(
            stem,
            blocks,
            PreActivation(kit, width),
            kit.between(nn.AdaptiveAvgPool2d(1)),
            kit.neuron(),
            kit.readout(nn.Linear(width, classes)),
        )
        for part in network.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        return network
