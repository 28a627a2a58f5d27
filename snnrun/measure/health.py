"""Signs that a net cannot learn: layers that never or always spike, weights no gradient reaches."""

import logging
from collections.abc import Mapping

import torch
from torch import nn

log = logging.getLogger(__name__)

SATURATED_RATE = 0.95  # spikes per neuron and step; above it a layer tells next to nothing apart

ADVICE = {
    "silent": "never spiked; a lower threshold, less leak or larger initial weights may help",
    "saturated": f"spikes at over {SATURATED_RATE:.0%} of the steps; a higher threshold may help",
    "no_gradient": "receives no gradient; a silent layer or a narrow surrogate may be the cause",
}


class Health:
    """Warns once of each layer found ill, by its name in the net, and keeps it for the tags."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {problem: [] for problem in ADVICE}

    def check_spikes(self, rates: Mapping[str, float]) -> None:
        """Look for silent and saturated layers.

        Args:
            rates: spikes per neuron and step by layer, over at least one batch through the plain
                spiking form (SpikeMeter.rates).
        """
        for layer, rate in rates.items():
            if rate == 0:
                self._warn("silent", layer)
            elif rate > SATURATED_RATE:
                self._warn("saturated", layer)

    def check_gradients(self, net: nn.Module) -> None:
        """Look for trainable parameters without gradient; call between two training steps."""
        parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
        grads = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        reached: set[str] = set()
        if grads:
            alive = torch.stack([g.count_nonzero() for g in grads.values()]).tolist()
            reached = {name for name, nonzero in zip(grads, alive, strict=True) if nonzero}
        for name in parameters:
            if name not in reached:
                self._warn("no_gradient", name)

    def tags(self) -> dict[str, str]:
        """Names of what was found ill, as ``health/silent`` etc.; empty for a healthy net."""
        return {f"health/{p}": ", ".join(layers) for p, layers in self.found.items() if layers}

    def _warn(self, problem: str, layer: str) -> None:
        if layer not in self.found[problem]:
            self.found[problem].append(layer)
            log.warning("%s %s", layer, ADVICE[problem])
