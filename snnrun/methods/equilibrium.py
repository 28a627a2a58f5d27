"""What IDE and SPIDE share: the neurons they train, the readout on rates, the bounded feedback."""

import logging
from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun import ranks
from snnrun.equilibrium.loop import Loop
from snnrun.equilibrium.norms import NORMS, Bound
from snnrun.equilibrium.simulation import average, layers_of
from snnrun.errors import ConfigError, choice, require
from snnrun.hardware import Energy
from snnrun.kits.plain import Feedback
from snnrun.kits.synapse import Synapse, fan_in
from snnrun.methods.base import Method, Optim, Update
from snnrun.models.network import Chain
from snnrun.neurons.base import Neuron
from snnrun.neurons.if_ import IF
from snnrun.neurons.lif import LIF, LIFNeuron

log = logging.getLogger(__name__)

INITS = ("unit_rows", "he", "torch")


class EquilibriumUpdate(Update):
    """An update that keeps the feedback weights within their bound, and what was warned of."""

    def __init__(self, net: nn.Module, optim: Optim, bound: Bound | None):
        super().__init__(net, optim)
        self.bound = bound
        self.source: Tensor | None = None
        self.warned = False
        if bound is not None:
            bound.apply()

    def step(self) -> None:
        """Update the weights, then scale the feedback back into its bound."""
        super().step()
        if self.bound is not None:
            self.bound.apply(self.source)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        own = {} if self.bound is None else self.bound.state_dict()
        return {**super().state_dict(), "bound": own, "warned": self.warned}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        super().load_state_dict(state)
        self.warned = state["warned"]
        if self.bound is not None:
            self.bound.load_state_dict(state["bound"])


@dataclass(kw_only=True)
class EquilibriumMethod(Method, ABC):
    """Training at the equilibrium of average firing rates; memory does not depend on time steps.

    The answer is the readout of the last layer's average rate, so outputs of the plain form are
    averaged with the weights of that rate (all equal without leak).

    Attributes:
        init: initial weights of all but the readout: ``unit_rows`` (uniform, each row of norm 1),
            ``he`` (normal; a tenth of it for transposed convolutions) or ``torch``'s own.
        feedback_norm: which norm of the feedback weights is bounded, see `Bound`.
        feedback_bound: its bound as a share of what one spike subtracts from the membrane: below
            1, the spectral one makes a single layer a contraction.
        energy: cost of operations, for the energy of training.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"chain"})
    refuses: ClassVar[dict[str, str]] = {
        "max_pool": "the maximum of rates is not the rate of the maxima; use model.pool=average"
    }

    init: str
    feedback_norm: str
    feedback_bound: float
    energy: Energy

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        choice("init", self.init, INITS)
        choice("feedback_norm", self.feedback_norm, NORMS)
        require(self.feedback_bound > 0, f"feedback_bound: {self.feedback_bound} is not above 0")
        self.leak = 1.0

    def neuron(self, neuron: Neuron) -> Neuron:
        """The neuron, if average rates of its spikes follow from average currents."""
        where = f"neuron (for method={self.name})"
        if not isinstance(neuron, IF | LIF):
            raise ConfigError(f"{where}: {neuron.name!r} is not one of if, lif")
        require(neuron.reset == "soft", f"{where}.reset: 'hard' loses current; use soft")
        require(neuron.delay == 0, f"{where}.delay: {neuron.delay} must be 0")
        require(neuron.fires_at_threshold, f"{where}.fires_at_threshold: must be true")
        if isinstance(neuron, LIF):
            require(not neuron.decay_input, f"{where}.decay_input: must be false")
            require(neuron.leak_reset, f"{where}.leak_reset: must be true")
            require(neuron.leak > 0, f"{where}.leak: 0 keeps no membrane from step to step")
        self.leak = neuron.leak if isinstance(neuron, LIF) else 1.0
        return neuron

    def setup(self, net: Chain) -> EquilibriumUpdate:  # type: ignore[override]  # needs a chain
        """Initial weights, optimiser, bound on the feedback."""
        synapses = [layer.synapse for layer in layers_of(net)]
        feedback = net.feedback
        for synapse in synapses + ([] if feedback is None else [feedback.synapse]):
            initialise(synapse, self.init)
        return EquilibriumUpdate(net, self.optim, self._bound(net, feedback))

    def decode(self, outputs: Tensor) -> Tensor:
        """Logits [B, C] from the plain form's outputs [T, B, C]: their average as of the rates."""
        return average(outputs, self.leak)[0]

    def watch(self, update: EquilibriumUpdate, loop: Loop, residual: float, limit: float) -> None:
        """Warn once if the implicit system was not solved, as when feedback does not contract."""
        if update.bound is not None:
            update.source = loop.emitted()
        if update.warned or residual <= limit:
            return
        update.warned = True
        log.warning(
            "%s: the backward system is not solved: its residual is %.2g of the gradient "
            "(accepted: %.2g). The norm of the feedback loop is %.2f; only below 1 it surely "
            "contracts. Lower method.feedback_bound, or bound the norm of the whole map by "
            "method.feedback_norm=operator",
            self.name,
            residual,
            limit,
            loop.norm(),
        )

    def _bound(self, net: Chain, feedback: Feedback | None) -> Bound | None:
        if feedback is None:
            return None
        _, subtracted = constants(net)
        return Bound(feedback, self.feedback_norm, self.feedback_bound * subtracted)


def constants(net: Chain) -> tuple[float, float]:
    """Leak of the neurons of a net, and c, what a spike subtracts from the membrane."""
    neuron = layers_of(net)[0].neuron
    assert isinstance(neuron, LIFNeuron)
    return neuron.constants.leak, -neuron.constants.offset_fired


def classify(net: Chain, rate: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, logits [B, C] and dL/da of the last layer's rate [1, B, ...], L that of all ranks.

    Adds the gradients of the readout, of this rank's loss like all gradients of weights.
    """
    rate = rate.detach().requires_grad_()
    logits = net.readout(net.pool(layers_of(net)[-1].post(rate)))[0]
    loss = F.cross_entropy(logits, y)
    loss.backward()
    assert rate.grad is not None
    return loss.detach(), logits.detach(), ranks.unit() * rate.grad


@torch.no_grad()
def initialise(synapse: Synapse, how: str) -> None:
    """Draw the weights of a synapse, see EquilibriumMethod; biases become 0."""
    op = synapse.op
    if how == "torch":
        return
    if how == "unit_rows":
        op.weight.uniform_(-1, 1)
        rows = op.weight.flatten(1)
        op.weight.div_(rows.norm(dim=1).view(-1, *[1] * (op.weight.dim() - 1)))
    else:
        scale = 0.1 if isinstance(op, nn.ConvTranspose2d) else 1.0
        op.weight.normal_(0, scale * (2 / fan_in(op)) ** 0.5)
    if op.bias is not None:
        op.bias.zero_()
