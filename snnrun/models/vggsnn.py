"""VGG with fully connected readout on the last map, pooled or strided (VGGSNN, VGG-11, VGG-13)."""

from dataclasses import dataclass
from math import ceil

from torch import nn

from snnrun.errors import choice, require
from snnrun.kits.plain import Kit
from snnrun.models.base import Model, Shape
from snnrun.models.network import Chain, Layer

POOLS = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


@dataclass(kw_only=True)
class VGGSNN(Model):
    """Groups of 3x3 convolutions with bias, each group halving the map.

    TET, Deng et al., ICLR 2022, arXiv 2202.11946: a 2x2 average pool of the spikes behind a group,
    or (``pool: stride``) a last convolution of stride 2 in it, which keeps spikes binary.

    Attributes:
        channels: of the convolutions, group by group.
        pool: how a group halves its map.
        map: side of the map that an adaptive average pool makes for the readout; null for none.
        hidden: widths of fully connected layers in front of the readout.
        dropout: share of outputs silenced behind every layer, one mask per sequence.
    """

    channels: list[list[int]]
    pool: str
    map: int | None
    hidden: list[int]
    dropout: float

    def __post_init__(self) -> None:
        """Check names and sizes."""
        widths = [width for group in self.channels for width in group]
        require(
            all(self.channels) and len(widths) > 0 and min([*widths, *self.hidden]) > 0,
            f"channels: {self.channels} must be groups of positive widths, e.g. [[64,128],[256]], "
            f"and hidden: {self.hidden} positive widths",
        )
        choice("pool", self.pool, (*POOLS, "stride"))
        require(self.map is None or self.map > 0, f"map: {self.map} is not null or positive")
        require(0 <= self.dropout < 1, f"dropout: {self.dropout} is not in [0, 1)")

    @property
    def features(self) -> frozenset[str]:
        """A chain, with max pooling or dropout if asked for."""
        extra = {"max_pool": self.pool == "max", "dropout": self.dropout > 0}
        return frozenset({"chain"} | {name for name, there in extra.items() if there})

    def build(self, kit: Kit, shape: Shape, classes: int) -> Chain:
        """See Model.build."""
        depth, *size = shape
        least = 2 ** len(self.channels)
        require(
            self.pool == "stride" or min(size) >= least,
            f"model.channels: {len(self.channels)} pools need inputs of at least {least}x{least}, "
            f"the dataset has {size[0]}x{size[1]}; use fewer groups or pool=stride",
        )
        layers: list[Layer] = []
        for group in self.channels:
            for place, out in enumerate(group, 1):
                layers.append(
                    self._layer(kit, depth, out, halve=place == len(group), first=not layers)
                )
                depth = out
            size = [ceil(side / 2) if self.pool == "stride" else side // 2 for side in size]
        pool = None if self.map is None else kit.between(nn.AdaptiveAvgPool2d(self.map))
        if self.hidden and pool is not None:
            layers[-1].post.append(pool)
            pool = None
        units = depth * (size[0] * size[1] if self.map is None else self.map**2)
        for out in self.hidden:
            layers.append(Layer(kit.connect(nn.Linear(units, out)), kit.neuron(), self._drop(kit)))
            units = out
        return Chain(layers, kit.readout(nn.Linear(units, classes)), pool=pool)

    def _layer(self, kit: Kit, n_in: int, n_out: int, *, halve: bool, first: bool) -> Layer:
        strided = halve and self.pool == "stride"
        conv = nn.Conv2d(n_in, n_out, 3, padding=1, stride=2 if strided else 1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        post = self._drop(kit)
        if halve and not strided:
            post = [*post, kit.between(POOLS[self.pool](2))]
        return Layer(kit.connect(conv, first=first), kit.neuron(), post)

    def _drop(self, kit: Kit) -> list[nn.Module]:
        return [kit.dropout(self.dropout)] if self.dropout else []
