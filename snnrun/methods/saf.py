"""Spike accumulation forwarding: layers exchange leaky sums of past spikes."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrun.errors import choice, require
from snnrun.kits.accumulations import AccumulationKit, RecursiveKit
from snnrun.kits.plain import Kit
from snnrun.kits.stepwise import Conventions
from snnrun.methods.base import Method, StepOutput, Update
from snnrun.methods.stepwise import (
    NORMS,
    REFUSES,
    learn_each_step,
    learn_last_step,
    linear_neuron,
)
from snnrun.models.network import Network
from snnrun.neurons.base import Neuron


@dataclass(kw_only=True)
class SAF(Method):
    """Trains a net of accumulations whose weights are those of a LIF net with the same spikes.

    Saiin et al., TMLR 2024, arXiv 2310.02772. Variant ``e`` learns at each step and has the
    gradient of OTTT, variant ``f`` learns once at the last step from the weighted firing rates and
    has that of the spike representation. ``bias``, ``first_layer``, ``readout``: see Conventions.
    """

    norms: ClassVar[tuple[str, ...]] = NORMS
    refuses: ClassVar[dict[str, str]] = REFUSES

    variant: str
    update: str
    online_form: str
    decoding: str
    alpha: float
    bias: str
    first_layer: str
    readout: str

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        choice("variant", self.variant, ("e", "f"))
        choice("update", self.update, ("accumulate", "online"))
        choice("online_form", self.online_form, ("recursion", "closed"))
        choice("decoding", self.decoding, ("auto", "mean", "weighted"))
        require(0 <= self.alpha <= 1, f"alpha: {self.alpha} is not in [0, 1]")
        require(
            self.variant == "e" or self.update == "accumulate",
            "update: online needs a loss at each step, variant=f has one at the last; "
            "use variant=e or update=accumulate",
        )
        for key in ("bias", "first_layer", "readout"):
            choice(key, getattr(self, key), ("auto", "code", "theory"))
        self._leak = 1.0

    def _conventions(self) -> Conventions:
        auto = "code" if self.variant == "e" else "theory"
        keys = ("bias", "first_layer", "readout")
        return Conventions(**{key: getattr(self, key).replace("auto", auto) for key in keys})

    def neuron(self, neuron: Neuron) -> Neuron:
        """See Method.neuron."""
        self._leak = linear_neuron(neuron).leak
        return neuron

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """See Method.kit."""
        if self.update == "online" and self.online_form == "recursion":
            return RecursiveKit(neuron, norm, conventions=self._conventions())
        mean = self.variant == "f"
        return AccumulationKit(neuron, norm, conventions=self._conventions(), mean=mean)

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        if self.variant == "f":
            return learn_last_step(net, update, x, y, alpha=self.alpha)
        online = self.update == "online"
        return learn_each_step(net, update, x, y, alpha=self.alpha, online=online)

    def decode(self, outputs: Tensor) -> Tensor:
        """Logits [B, C] from outputs [T, B, C]: what was trained, unless chosen otherwise.

        Variant e is trained on the outputs themselves, so their mean; variant f on weighted firing
        rates, so Σ leak^{T-t} o[t] / Λ[T], which is W a[T] + b.
        """
        weighted = self.variant == "f" if self.decoding == "auto" else self.decoding == "weighted"
        if not weighted:
            return outputs.mean(0)
        ages = torch.arange(len(outputs) - 1, -1, -1, device=outputs.device)
        weights = (self._leak**ages).to(outputs.dtype)
        return torch.einsum("t,tbc->bc", weights / weights.sum(), outputs)
