"""Energy of training by the count of synapses that spikes and errors cross."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from snnrun.equilibrium.loop import Loop
from snnrun.hardware import Energy
from snnrun.kits.synapse import Synapse

PJ_PER_UJ = 1e6


def connections(synapse: Synapse, current: Tensor, emitted: Tensor) -> int:
    """Synapses of one sample's map from ``emitted`` to ``current``, both [1, B, ...].

    Windows that stick out over a border count in full.
    """
    op = synapse.op
    if isinstance(op, nn.Linear):
        return op.weight.numel()
    place = emitted if isinstance(op, nn.ConvTranspose2d) else current
    return op.weight.numel() * place[0, 0, 0].numel()


class Traffic:
    """Traffic of a training step over the synapses between the layers of a loop.

    Those of the feedback count, those of the input and the readout, crossed alike whatever the
    method, do not. Per sample, a spike crosses its fan-out at the cost of an accumulate, an error
    of real value every synapse at that of a multiply-accumulate (in the manner of Xiao et al.,
    2023, arXiv 2302.00232).

    Args:
        loop: maps and rates of the forward stage.
        steps: T_F.
        energy: cost of the operations.
    """

    def __init__(self, loop: Loop, steps: int, energy: Energy):
        self.energy = energy
        self.sizes = _sizes(loop)
        self.dense = sum(self.sizes.values())
        self.steps = steps
        self.forward = self._crossed(lambda i: loop.rates[i - 1].detach().mean()) * steps

    def of_spikes(self, counts: list[Tensor]) -> Tensor:
        """Microjoule of a step whose errors are spikes: ``counts`` per layer over all steps."""
        backward = self._crossed(lambda i: counts[i].mean())
        return (self.forward + backward) * (self.energy.e_ac_pj / PJ_PER_UJ)

    def of_products(self, rounds: int) -> Tensor:
        """Microjoule of a step with ``rounds`` products with the whole transposed loop."""
        errors = rounds * self.dense * self.energy.e_mac_pj
        return (self.forward * self.energy.e_ac_pj + errors) / PJ_PER_UJ

    def of_bptt(self) -> Tensor:
        """Microjoule of the same forward stage trained by surrogate gradients through time."""
        errors = self.steps * self.dense * self.energy.e_mac_pj
        return (2 * self.forward * self.energy.e_ac_pj + errors) / PJ_PER_UJ

    def _crossed(self, rate: Callable[[int], Tensor]) -> Tensor:
        parts = [size * rate(i) for i, size in self.sizes.items()]
        return torch.stack(parts).sum() if parts else torch.zeros(())


def _sizes(loop: Loop) -> dict[int, int]:
    """Synapses into each layer but from the input."""
    sizes = {}
    feedback = loop.net.feedback
    for i, layer in enumerate(loop.layers):
        synapse = layer.synapse if i > 0 else None if feedback is None else feedback.synapse
        if synapse is not None:
            with torch.no_grad():  # the shape of one sample is enough
                emitted = loop.layers[i - 1].post(loop.rates[i - 1][:, :1])
            sizes[i] = connections(synapse, loop.currents[i], emitted)
    return sizes
