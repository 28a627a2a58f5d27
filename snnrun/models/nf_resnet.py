"""Residual network without norms: scaled branches keep the variance (NF-ResNet of OTTT)."""

from dataclasses import dataclass
from functools import partial
from math import sqrt

import torch
from torch import Tensor, nn

from snnrun.errors import require
from snnrun.kits.between import Scale
from snnrun.kits.plain import Kit
from snnrun.kits.synapse import Synapse
from snnrun.models.base import Model, Shape
from snnrun.models.network import Network

BRANCH = 0.2  # what a branch is multiplied by before it is added: its variance adds 0.2²


class SkipGain(nn.Module):
    """A trained factor on a branch that starts at 0: at first a block is the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, current: Tensor) -> Tensor:
        """The scaled branch, of the shape of ``current``."""
        return current * (BRANCH * self.gain)


class NormFreeBlock(nn.Module):
    """``x / beta`` fires, convolution, fires, convolution, times 0.2 gain, plus ``x``.

    Current in, current out. Where the shape changes, a 1x1 convolution of the first spikes takes
    the place of ``x``.

    Args:
        kit: parts.
        n_in: channels of the incoming current.
        n_out: channels of the outgoing one.
        stride: of the first convolution and the shortcut.
        scale: factor on spikes.
        variance: expected of the incoming current; beta is its root.
    """

    def __init__(
        self, kit: Kit, n_in: int, n_out: int, *, stride: int, scale: float, variance: float
    ):
        super().__init__()
        changes = stride != 1 or n_in != n_out
        self.before = nn.Sequential(Scale(1 / sqrt(variance)), _firing(kit, scale))
        self.first = kit.connect(_conv(n_in, n_out, 3, stride))
        self.between = _firing(kit, scale)
        self.second = kit.connect(_conv(n_out, n_out, 3, 1))
        self.gain = SkipGain()
        self.shortcut = kit.connect(_conv(n_in, n_out, 1, stride)) if changes else None

    def forward(self, current: Tensor) -> Tensor:
        """Current [T', B, ...] after the block."""
        x = self.before(current)
        branch = self.gain(self.second(self.between(self.first(x))))
        return branch + (current if self.shortcut is None else self.shortcut(x))


def _firing(kit: Kit, scale: float) -> nn.Module:
    return nn.Sequential(kit.neuron(), kit.between(Scale(scale)))


def _conv(n_in: int, n_out: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=kernel // 2)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


class NormFreeNetwork(Network):
    """Stem and its pool without neurons, blocks, global average pool of currents, readout."""

    def __init__(
        self, entry: Synapse, entry_pool: nn.Module, blocks: list[nn.Module], pool: nn.Module,
        readout: Synapse,
    ):  # fmt: skip
        super().__init__()
        self.entry = entry
        self.entry_pool = entry_pool
        self.blocks = nn.Sequential(*blocks)
        self.pool = pool
        self.readout = readout

    @property
    def stem(self) -> Synapse:
        """The first convolution."""
        return self.entry

    def body(self, current: Tensor) -> Tensor:
        """See Network.body."""
        return self.readout(self.pool(self.blocks(self.entry_pool(current))))


@dataclass(kw_only=True)
class NFResNet(Model):
    """Stages of norm-free blocks; the first block of every later stage halves the size.

    Xiao et al., OTTT, NeurIPS 2022, arXiv 2210.04195, after Brock et al., ICLR 2021, arXiv
    2101.08692: weights are standardised, and every block divides by the root of the variance it
    expects, which grows by 0.2² per block and starts over at a block that halves the size.
    """

    stem_channels: int
    channels: list[int]
    blocks: list[int]
    scale: float

    def __post_init__(self) -> None:
        """Check sizes."""
        require(
            len(self.channels) == len(self.blocks) > 0 and min(self.channels + self.blocks) > 0,
            f"blocks: {self.blocks} must give a positive number for each of {self.channels}",
        )
        require(self.scale > 0, f"scale: {self.scale} is not positive")

    @property
    def features(self) -> frozenset[str]:
        """Residual."""
        return frozenset({"residual"})

    def build(self, kit: Kit, shape: Shape, classes: int) -> NormFreeNetwork:
        """See Model.build."""
        entry = kit.connect(_conv(shape[0], self.stem_channels, 7, 2), first=True)
        readout = nn.Linear(self.channels[-1], classes)
        nn.init.zeros_(readout.weight)
        return NormFreeNetwork(
            entry,
            kit.between(nn.AvgPool2d(3, stride=2, padding=1)),
            self._stages(kit),
            kit.between(nn.AdaptiveAvgPool2d(1)),
            kit.readout_of_currents(readout),
        )

    def _stages(self, kit: Kit) -> list[nn.Module]:
        blocks: list[nn.Module] = []
        width, variance = self.stem_channels, 1.0
        for stage, (channels, count) in enumerate(zip(self.channels, self.blocks, strict=True)):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                make = partial(NormFreeBlock, scale=self.scale, variance=variance)
                blocks.append(make(kit, width, channels, stride=stride))
                changes = stride != 1 or width != channels
                variance = (1.0 if changes else variance) + BRANCH**2
                width = channels
        return blocks
