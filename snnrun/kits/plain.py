"""The plain kit: spikes travel. Every method is evaluated on nets made of these parts."""

from typing import Any, ClassVar

from torch import Tensor, nn

from snnrun.errors import ConfigError, choice
from snnrun.kits.between import Between, SequenceDropout
from snnrun.kits.norm import NORMS, StandardisedWeight, TimeBatchNorm
from snnrun.kits.synapse import Op, Synapse, channels_out
from snnrun.neurons.base import Neuron, Stateful


class Feedback(Stateful):
    """A connection from a later layer's output of the previous step to an earlier layer's current.

    Absent (not zero through a bias) at the first step of a sequence.
    """

    carried = ("previous",)

    def __init__(self, synapse: Synapse, post: nn.Module | None = None, *, detach: bool = False):
        super().__init__()
        self.synapse = synapse
        self.post = post if post is not None else nn.Identity()
        self.detach = detach
        self.previous: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        """Add the feedback current to ``current`` [1, B, ...]."""
        if self.previous is None:
            return current
        return current + self.post(self.synapse(self.previous))

    def store(self, output: Tensor) -> None:
        """Keep the source layer's output [1, B, ...] of this step for the next one."""
        self.previous = output.detach() if self.detach else output


class Kit:
    """Makes the parts of a net in which spikes travel between layers, chunks [T', B, ...].

    A method whose layers exchange something else (traces, accumulations, rates) derives its kit
    from this one and overrides the parts that differ. Parameter and buffer names never depend on
    the kit.

    Args:
        neuron: what one unit computes.
        norm: normalisation of every synapse but the readout: one of ``accepted``.
    """

    accepted: ClassVar[tuple[str, ...]] = NORMS

    def __init__(self, neuron: Neuron, norm: str):
        choice("model.norm", norm, self.accepted)
        self.spec = neuron
        self.norm = norm

    def neuron(self) -> nn.Module:
        """A layer of spiking units."""
        return self.spec.build()

    def connect(
        self, op: Op, *, first: bool = False, branches: int = 1, normed: bool = True
    ) -> Synapse:
        """A weighted op with its norm.

        Args:
            op: the linear map; its initial weights are kept.
            first: whether it reads the network's input rather than a layer's output.
            branches: how many such currents are added up (2 at the end of a residual block).
            normed: false where `prenorm` acts on the sum of several currents instead.
        """
        parts = self.norms(op, branches)
        if not normed:
            parts.pop("norm", None)
        return Synapse(op, **parts)

    def prenorm(self, channels: int) -> nn.Module:
        """Normalise a sum of currents in front of a neuron (pre-activation blocks)."""
        if self.norm == "none":
            return nn.Identity()
        if self.norm != "bn":
            raise ConfigError(f"model.norm: pre-activation blocks take bn or none, not {self.norm}")
        return Between(TimeBatchNorm(channels, scale=1.0))

    def norms(self, op: Op, branches: int) -> dict[str, Any]:
        """The normalisation parts of one synapse, as keyword arguments of Synapse."""
        channels = channels_out(op)
        if self.norm == "sws":
            return {"weight_norm": StandardisedWeight(channels)}
        if self.norm == "bn":
            return {"norm": TimeBatchNorm(channels, scale=1.0)}
        if self.norm == "tdbn":
            scale = self.spec.threshold / branches**0.5
            return {"norm": TimeBatchNorm(channels, scale=scale)}
        return {}

    def readout(self, op: Op) -> Synapse:
        """The last weighted op: its currents are the network's outputs; never normalised."""
        return Synapse(op)

    def readout_of_currents(self, op: Op) -> Synapse:
        """The readout of a net in which currents reach it that no neuron has turned into spikes."""
        return self.readout(op)

    def between(self, op: nn.Module) -> nn.Module:
        """A parameter-free op on what travels."""
        return Between(op)

    def skip(self) -> nn.Module:
        """An identity connection: what travels, as a current to be added to others."""
        return nn.Identity()

    def dropout(self, p: float) -> nn.Module:
        """Dropout with one mask per sequence."""
        return SequenceDropout(p)

    def feedback(self, op: Op, post: nn.Module | None = None) -> Feedback:
        """A connection to an earlier layer, one step late; ``post`` acts on its current."""
        return Feedback(Synapse(op), post)


def reset(net: nn.Module) -> None:
    """Forget all that a net carries from step to step: membranes, masks, previous outputs."""
    for part in net.modules():
        forget = getattr(part, "reset", None)
        if part is not net and callable(forget):
            forget()
