"""Spike rasters and firing-rate histograms of every layer for one batch."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from snnrun.measure.hooks import Meter
from snnrun.models.network import Network
from snnrun.neurons.base import SpikingNeuron
from snnrun.report.plots import svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEURONS = 200  # rows of a raster; more cannot be told apart
WIDTH_IN, HEIGHT_IN = 7.0, 1.4


class SpikeRecorder(Meter):
    """Keeps the spikes of the first sample, and every neuron's rate over the batch, while open."""

    def __init__(self, net: nn.Module):
        super().__init__(net, SpikingNeuron)
        self.chunks: dict[str, list[Tensor]] = {}

    def see(self, name: str, part: nn.Module, x: Tensor, output: Tensor) -> None:
        """See Meter.see."""
        self.chunks.setdefault(name, []).append((output != 0).flatten(2))

    def spikes(self) -> dict[str, Tensor]:
        """Spikes [T, B, N] of each layer, bool, first to last."""
        return {name: torch.cat(chunks) for name, chunks in self.chunks.items()}


@torch.no_grad()
def draw(plain: Network, x: Tensor, folder: Path) -> list[Path]:
    """Write raster.svg and rates.svg of the plain form for one batch ``x`` [T, B, ...].

    Returns:
        The files; none for a net without spiking neurons.
    """
    plain.eval()
    with SpikeRecorder(plain) as recorder:
        plain(x)
    if not (layers := recorder.spikes()):
        return []
    files = {"raster.svg": raster(layers), "rates.svg": rates(layers)}
    for name, figure in files.items():
        (folder / name).write_bytes(svg(figure))
    return [folder / name for name in files]


def raster(layers: dict[str, Tensor]) -> "Figure":
    """Spikes of the first sample: step to the right, neurons upwards, a mark per spike."""
    figure, axes = _stacked(layers, "step")
    for ax, (name, spikes) in zip(axes, layers.items(), strict=True):
        first = spikes[:, 0]
        stride = -(-first.shape[1] // NEURONS)
        steps, neurons = first[:, ::stride].cpu().nonzero(as_tuple=True)
        ax.scatter(steps + 1, neurons * stride, s=4, marker="|", color="black", linewidths=0.8)
        ax.set_xlim(0.5, len(first) + 0.5)
        ax.set_ylim(-1, first.shape[1])
        ax.set_ylabel("neuron")
        ax.set_title(name, fontsize="small", loc="left")
    return figure


def rates(layers: dict[str, Tensor]) -> "Figure":
    """How many neurons of each layer fire how often: spikes per step, over the batch."""
    figure, axes = _stacked(layers, "spikes per step")
    for ax, (name, spikes) in zip(axes, layers.items(), strict=True):
        rate = spikes.float().mean((0, 1)).cpu()
        ax.hist(rate.numpy(), bins=40, range=(0.0, 1.0), color="#0072B2")
        ax.set_ylabel("neurons")
        silent = (rate == 0).float().mean().item()
        title = f"{name}: mean {rate.mean().item():.3f}, {silent:.0%} silent"
        ax.set_title(title, fontsize="small", loc="left")
    return figure


def _stacked(layers: dict[str, Tensor], x: str) -> tuple["Figure", list["Axes"]]:
    from matplotlib.figure import Figure

    size = (WIDTH_IN, HEIGHT_IN * len(layers) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(len(layers), sharex=True, squeeze=False)[:, 0])
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel(x)
    axes[-1].locator_params(axis="x", integer=x == "step")
    return figure, axes
