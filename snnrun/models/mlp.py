"""Multilayer perceptron: fully connected layers of spiking units."""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import nn

from snnrun.errors import require
from snnrun.kits.plain import Kit
from snnrun.models.base import Model, Shape
from snnrun.models.network import Chain, Layer


@dataclass(kw_only=True)
class MLP(Model):
    """Input - hidden - classes; with ``feedback`` the last hidden layer drives the first, too."""

    hidden: list[int]
    dropout: float
    feedback: bool

    def __post_init__(self) -> None:
        """Check the sizes."""
        require(
            len(self.hidden) > 0 and min(self.hidden) > 0,
            f"hidden: {self.hidden} must list at least one positive width, e.g. [128,128]",
        )
        require(0 <= self.dropout < 1, f"dropout: {self.dropout} is not in [0, 1)")

    @property
    def features(self) -> frozenset[str]:
        """A chain, with feedback or dropout if asked for."""
        return frozenset({"chain"} | {f for f in ("feedback", "dropout") if getattr(self, f)})

    def build(self, kit: Kit, shape: Shape, classes: int) -> Chain:
        """See Model.build."""
        widths = [prod(shape), *self.hidden]
        layers = [
            Layer(
                kit.connect(nn.Linear(n_in, n_out), first=i == 0),
                kit.neuron(),
                [kit.dropout(self.dropout)] if self.dropout else [],
            )
            for i, (n_in, n_out) in enumerate(pairwise(widths))
        ]
        feedback = (
            kit.feedback(nn.Linear(widths[-1], widths[1], bias=False)) if self.feedback else None
        )
        return Chain(layers, kit.readout(nn.Linear(widths[-1], classes)), feedback=feedback)
