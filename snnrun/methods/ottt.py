"""Online training through time: one backward per step, time enters through presynaptic traces."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from snnrun.errors import require
from snnrun.kits.plain import Kit
from snnrun.kits.stepwise import Conventions
from snnrun.kits.traces import TraceKit
from snnrun.methods.base import Method, StepOutput, Update
from snnrun.methods.stepwise import NORMS, REFUSES, learn_each_step, linear_neuron
from snnrun.models.network import Network
from snnrun.neurons.base import Neuron


@dataclass(kw_only=True)
class OTTT(Method):
    """Gradient of a weight at a step = (error at that step) x (trace of the presynaptic spikes).

    Xiao, Meng, Zhang, He, Lin, NeurIPS 2022, arXiv 2210.04195: OTTT_O with ``online``, else OTTT_A.
    Without ``trace`` the spikes of the step take the place of their trace: SLTT (Meng et al.,
    ICCV 2023, arXiv 2302.14311). ``bias``, ``first_layer``, ``readout``: see Conventions.
    """

    norms: ClassVar[tuple[str, ...]] = NORMS
    refuses: ClassVar[dict[str, str]] = REFUSES

    online: bool
    trace: bool
    double_forward: bool
    alpha: float
    bias: str
    first_layer: str
    readout: str

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        require(0 <= self.alpha <= 1, f"alpha: {self.alpha} is not in [0, 1]")
        conventions = self._conventions()
        exact = conventions == Conventions(bias="code", first_layer="code", readout="code")
        require(
            exact or not self.double_forward,
            "double_forward: true is the published code; set bias, first_layer and readout to code",
        )
        require(
            exact or self.trace,
            "trace: false has no trace to learn from; set bias, first_layer and readout to code",
        )

    def _conventions(self) -> Conventions:
        return Conventions(bias=self.bias, first_layer=self.first_layer, readout=self.readout)

    def neuron(self, neuron: Neuron) -> Neuron:
        """See Method.neuron."""
        linear_neuron(neuron)
        return neuron

    def kit(self, neuron: Neuron, norm: str) -> Kit:
        """See Method.kit."""
        conventions = self._conventions()
        return TraceKit(
            neuron, norm, conventions=conventions, trace=self.trace, twice=self.double_forward
        )

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        return learn_each_step(net, update, x, y, alpha=self.alpha, online=self.online)
