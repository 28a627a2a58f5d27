"""Convolutional chains whose last layer drives the first, written as in the papers on them."""

import re
from dataclasses import dataclass

from torch import nn

from snnrun.errors import ConfigError, require
from snnrun.kits.plain import Kit
from snnrun.models.base import Model, Shape
from snnrun.models.network import Chain, Layer

LAYER = re.compile(
    r"(?P<channels>[1-9]\d*)C(?P<kernel>[1-9]\d*)(?P<stride>s?)(?:p(?P<padding>\d+))?"
)
FEEDBACK = re.compile(r"(?P<kernel>[1-9]\d*)(?P<up>u?)")


@dataclass(kw_only=True)
class FeedbackNet(Model):
    """Convolutions one after another; the last layer's output comes back to the first one.

    Attributes:
        structure: layers joined by ``-``: ``96C3s`` has 96 channels, 3x3 kernels and stride 2; the
            padding is half the kernel unless given, as in ``64C5sp1``.
        feedback: kernel of the feedback, ``3u`` with a transposed convolution of stride 2 where
            the first layer's map is twice as high; null for none.
        dropout: share of outputs silenced behind every layer, one mask per sequence.
    """

    structure: str
    feedback: str | None
    dropout: float

    def __post_init__(self) -> None:
        """Check the notation."""
        for layer in self.structure.split("-"):
            require(
                LAYER.fullmatch(layer) is not None,
                f"structure: {layer!r} is not a layer such as 64C5, 64C5s (stride 2) or 64C5sp1 "
                "(padding 1)",
            )
        require(
            self.feedback is None or FEEDBACK.fullmatch(self.feedback) is not None,
            f"feedback: {self.feedback!r} is not null or a kernel such as 3 or 3u (twice the size)",
        )
        require(0 <= self.dropout < 1, f"dropout: {self.dropout} is not in [0, 1)")

    @property
    def features(self) -> frozenset[str]:
        """A chain, with feedback or dropout if asked for."""
        extra = {"feedback": self.feedback is not None, "dropout": self.dropout > 0}
        return frozenset({"chain"} | {name for name, there in extra.items() if there})

    def build(self, kit: Kit, shape: Shape, classes: int) -> Chain:
        """See Model.build."""
        channels, *size = shape
        layers: list[Layer] = []
        maps: list[Shape] = []
        for i, text in enumerate(self.structure.split("-")):
            conv = convolution(text, channels)
            size = [_shrunk(conv, length) for length in size]
            require(min(size) > 0, f"model.structure: {text} has no room on inputs of {shape[1:]}")
            post = [kit.dropout(self.dropout)] if self.dropout else []
            layers.append(Layer(kit.connect(conv, first=i == 0), kit.neuron(), post))
            channels = conv.out_channels
            maps.append((channels, size[0], size[1]))
        units = channels * size[0] * size[1]
        feedback = None
        if self.feedback is not None:
            feedback = kit.feedback(back_convolution(self.feedback, maps[-1], maps[0]))
        return Chain(layers, kit.readout(nn.Linear(units, classes)), feedback=feedback)


def convolution(text: str, channels: int) -> nn.Conv2d:
    """The convolution written as ``text`` on ``channels`` channels."""
    match = LAYER.fullmatch(text)
    assert match is not None
    kernel, padding = int(match["kernel"]), match["padding"]
    return nn.Conv2d(
        channels,
        int(match["channels"]),
        kernel,
        stride=2 if match["stride"] else 1,
        padding=kernel // 2 if padding is None else int(padding),
    )


def back_convolution(text: str, last: Shape, first: Shape) -> nn.Conv2d | nn.ConvTranspose2d:
    """The map from the last layer's output to the first layer's current; has no bias.

    Raises:
        ConfigError: when it does not give a map of the first layer's size.
    """
    match = FEEDBACK.fullmatch(text)
    assert match is not None
    kernel, factor = int(match["kernel"]), 2 if match["up"] else 1
    require(kernel % 2 == 1, f"model.feedback: the kernel {kernel} must be odd")
    if any(b != factor * a for a, b in zip(last[1:], first[1:], strict=True)):
        raise ConfigError(
            f"model.feedback: {text!r} makes a map {factor} times the last layer's {last[1:]}, but "
            f"the first layer's is {first[1:]}; write {kernel}u if that is twice as high, or "
            "change model.structure"
        )
    n_in, n_out, padding = last[0], first[0], kernel // 2
    if factor == 1:
        return nn.Conv2d(n_in, n_out, kernel, padding=padding, bias=False)
    return nn.ConvTranspose2d(
        n_in, n_out, kernel, stride=2, padding=padding, output_padding=1, bias=False
    )


def _shrunk(conv: nn.Conv2d, length: int) -> int:
    padding, kernel, stride = int(conv.padding[0]), conv.kernel_size[0], conv.stride[0]
    return (length + 2 * padding - kernel) // stride + 1
