"""The equilibrium of a feedback chain: its maps, their adjoints, the gradients of its weights.

Rates a_i of layers 0 .. L-1 settle where a_i = clamp(z_i / c, 0, 1), with currents
z_0 = stem(x) + feedback(a_{L-1}) and z_i = synapse_i(post(a_{i-1})), c what one spike subtracts
(Xiao et al., NeurIPS 2021, arXiv 2109.14247).
"""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from snnrun.equilibrium.clamp import masked, settled, slopes
from snnrun.equilibrium.norms import operator_norm, spread
from snnrun.equilibrium.simulation import layers_of
from snnrun.models.network import Chain


class Loop:
    """All maps of a chain evaluated once at given rates, each from a leaf of its own.

    The one graph serves the adjoints, by autograd's vector-Jacobian product and hence right for
    every stride, padding, pool, upsampling and dropout mask, and the gradients of the weights.

    Args:
        net: the chain; dropout masks are those of the sequence just simulated.
        subtracted: c, threshold minus rest.
        mean_input: [1, B, ...].
        last: rate of the last layer [1, B, ...].
        inner: measured rates of the layers before it; None computes them from the currents.
        masks: derivative of the clamp, per layer, as booleans; None reads them off the currents
            (1 at both ends).

    Attributes:
        currents: z_i [1, B, ...], in a graph.
        rates: the rates from which the currents come, in the order of the layers.
        masks: see above.
        units: how many there are in all layers, of the whole batch.
    """

    def __init__(
        self,
        net: Chain,
        subtracted: float,
        mean_input: Tensor,
        last: Tensor,
        *,
        inner: list[Tensor] | None = None,
        masks: list[Tensor] | None = None,
    ):
        self.net, self.subtracted = net, subtracted
        self.layers = layers_of(net)
        self.rates: list[Tensor] = []
        self.currents: list[Tensor] = []
        last = last.detach().requires_grad_()
        with torch.enable_grad():
            current = net.stem(mean_input)
            if net.feedback is not None:
                current = current + self.map(0, last)
            self.currents.append(current)
            for i in range(1, len(self.layers)):
                rate = self._settled(i - 1) if inner is None else inner[i - 1]
                self.rates.append(rate.detach().requires_grad_())
                self.currents.append(self.map(i, self.rates[-1]))
        self.rates.append(last)
        self.units = sum(rate.numel() for rate in self.rates)
        self.masks = masks or [slopes(z.detach(), subtracted) for z in self.currents]

    def map(self, i: int, rate: Tensor) -> Tensor:
        """Current into layer i from the layer before it (the last one for i = 0, by feedback)."""
        emitted = self.layers[i - 1].post(rate)
        if i > 0:
            return self.layers[i].synapse(emitted)
        assert self.net.feedback is not None
        return self.net.feedback.post(self.net.feedback.synapse(emitted))

    def adjoint(self, i: int, beta: Tensor) -> Tensor:
        """Send ``beta`` of layer i back to the layer before it: A_i^T (m_i beta / c)."""
        return self.back(i, self.delta(i, beta))

    def back(self, i: int, delta: Tensor) -> Tensor:
        """Send a gradient at the currents of layer i to the layer before it: A_i^T delta."""
        current, source = self.currents[i], self.rates[i - 1]
        (arriving,) = torch.autograd.grad(current, source, delta, retain_graph=True)
        return arriving

    def delta(self, i: int, beta: Tensor, scale: float | Tensor = 1.0) -> Tensor:
        """Gradient at the currents of layer i, m_i beta / c, divided by ``scale``."""
        return masked(beta, self.masks[i], self.subtracted, scale)

    def chain(self, beta: Tensor) -> list[Tensor]:
        """Betas of all layers from that of the last one."""
        betas = [beta]
        for i in range(len(self.layers) - 1, 0, -1):
            betas.insert(0, self.adjoint(i, betas[0]))
        return betas

    def transposed(self, beta: Tensor) -> Tensor:
        """J^T beta: once around the loop, backwards; zero without feedback."""
        if self.net.feedback is None:
            return torch.zeros_like(beta)
        return self.adjoint(0, self.chain(beta)[0])

    def backward(self, betas: list[Tensor], scale: float | Tensor = 1.0) -> None:
        """Add the gradients of all weights for the betas of all layers, divided by ``scale``.

        Frees the graph: no adjoint can be taken afterwards.
        """
        deltas = [self.delta(i, beta, scale) for i, beta in enumerate(betas)]
        parts = [layer.synapse for layer in self.layers]
        if self.net.feedback is not None:
            parts.append(self.net.feedback.synapse)
        weights = [p for part in parts for p in part.parameters() if p.requires_grad]
        torch.autograd.backward(self.currents, deltas, inputs=weights)

    @torch.no_grad()
    def emitted(self) -> Tensor:
        """What the last layer sends on, to the readout and as feedback [1, B, ...]."""
        return self.layers[-1].post(self.rates[-1])

    @torch.no_grad()
    def residual(self) -> Tensor:
        """Mean distance of the last layer's rate from what its current makes it, |a - f(a)|."""
        return (self.rates[-1] - self._settled(-1)).abs_().mean()

    def rate(self) -> Tensor:
        """Mean rate of all units."""
        return torch.stack([r.detach().sum() for r in self.rates]).sum() / self.units

    def norm(self) -> float:
        """Product of the operator norms along the loop over c^L; below 1 it is a contraction."""
        first = 0 if self.net.feedback is not None else 1
        # A fixed start: a warning must not move the generator that dropout draws from.
        factors = [
            operator_norm(self._linear(i), spread(self.rates[i - 1]), rounds=20)[0]
            for i in range(first, len(self.layers))
        ]
        return prod(factor.item() / self.subtracted for factor in factors)

    def _linear(self, i: int) -> Callable[[Tensor], Tensor]:
        offset = self.map(i, torch.zeros_like(self.rates[i - 1])).detach()
        return lambda rate: self.map(i, rate) - offset

    def _settled(self, i: int) -> Tensor:
        return settled(self.currents[i].detach(), self.subtracted)
