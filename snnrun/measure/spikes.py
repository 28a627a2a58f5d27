"""Spike counts of the plain spiking form over a whole data set."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from snnrun.measure.hooks import Meter
from snnrun.neurons.base import SpikingNeuron


@dataclass
class Activity:
    """What one layer did so far."""

    spikes: Tensor  # float64 scalar on the device
    neurons: int
    chances: int  # neurons * steps * samples


class SpikeMeter(Meter):
    """Counts spikes of every layer of neurons while open.

        with SpikeMeter(net) as meter:
            for x, _ in batches:
                net(x)
        meter.metrics(samples)

    A spike is a nonzero output: neurons emit spikes times their amplitude. What counts is what
    leaves the neuron; neither the membrane nor its reset enters.
    """

    def __init__(self, net: nn.Module):
        super().__init__(net, SpikingNeuron)
        self.layers: dict[str, Activity] = {}

    def see(self, name: str, part: nn.Module, x: Tensor, output: Tensor) -> None:
        """See Meter.see."""
        spikes = output.count_nonzero().double()
        neurons = prod(output.shape[2:])
        seen = self.layers.get(name)
        if seen is None:
            self.layers[name] = Activity(spikes, neurons, output.numel())
        else:
            seen.spikes = seen.spikes + spikes
            seen.chances += output.numel()

    def counts(self) -> dict[str, float]:
        """Spikes of each layer so far, by module path; the one transfer from the device."""
        if not self.layers:
            return {}
        totals = torch.stack([layer.spikes for layer in self.layers.values()]).tolist()
        return dict(zip(self.layers, totals, strict=True))

    def rates(self) -> dict[str, float]:
        """Spikes per neuron and step of each layer, by module path."""
        return {name: n / self.layers[name].chances for name, n in self.counts().items()}

    def metrics(self, samples: int) -> dict[str, float]:
        """Spikes per sample, per neuron and sample, per neuron and step; the last per layer, too.

        Empty for a net without spiking neurons.

        Args:
            samples: how many samples passed through the net while the meter was open.
        """
        counts = self.counts()
        if not counts:
            return {}
        total = sum(counts.values())
        layers = self.layers.values()
        return {
            "spikes/per_sample": total / samples,
            "spikes/per_neuron": total / samples / sum(layer.neurons for layer in layers),
            "spikes/rate": total / sum(layer.chances for layer in layers),
        } | {f"spikes/{name}/rate": n / self.layers[name].chances for name, n in counts.items()}
