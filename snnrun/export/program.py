"""A net as a program of plain torch operations, which TorchScript and ONNX can record.

The number of steps is fixed, the batch is not. No part keeps a state, differentiates, chooses a
kernel or looks at its input.
"""

import copy

import torch
from torch import Tensor, nn

from snnrun.errors import require
from snnrun.export.units import constants
from snnrun.kernels.lif import eager
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kits.between import Between, Scale, SequenceDropout
from snnrun.kits.plain import Feedback
from snnrun.kits.relu import Rectifier
from snnrun.kits.synapse import Synapse
from snnrun.models.nf_resnet import SkipGain
from snnrun.neurons.base import SpikingNeuron

AS_THEY_ARE = (
    nn.Identity, nn.ModuleList, nn.Sequential, Rectifier, Scale, SequenceDropout, SkipGain,
)  # fmt: skip


class EveryStep(nn.Module):
    """An op on samples, applied to every step of ``x`` [T, B, ...]."""

    def __init__(self, op: nn.Module, steps: int):
        super().__init__()
        self.op = op
        self.steps = steps

    def forward(self, x: Tensor) -> Tensor:
        """Apply the op; a linear one takes what it gets as one row per sample."""
        flat = x.flatten(0, 1)
        flat = flat.flatten(1) if isinstance(self.op, nn.Linear) else flat
        return self.op(flat).unflatten(0, (self.steps, -1))


class Units(nn.Module):
    """A layer of integrate-and-fire units over a whole sequence of currents [T, B, ...]."""

    def __init__(self, constants: LIFParameters):
        super().__init__()
        self.constants = constants

    def forward(self, current: Tensor) -> Tensor:
        """Spikes, 0 or 1, of the shape of ``current``."""
        membrane = torch.zeros_like(current[0])
        if self.constants.delay:
            current = torch.cat([membrane[None], current[:-1]])
        spikes = []
        for x in current.unbind():
            _, fired, membrane = eager.step(x, membrane, self.constants)
            spikes.append(fired.to(x.dtype))
        return torch.stack(spikes)


def program(net: nn.Module, steps: int) -> nn.Module:
    """A copy of a folded plain net for ``steps`` steps: [T, B, ...] to outputs [T, B, classes].

    Raises:
        ConfigError: for a part that has no counterpart.
    """
    plain = copy.deepcopy(net).eval().requires_grad_(False)
    _translate(plain, steps)
    return plain


def _translate(part: nn.Module, steps: int) -> None:
    for name, child in part.named_children():
        if isinstance(child, Synapse | Between | SpikingNeuron):
            part.add_module(name, _translated(child, steps))
            continue
        require(
            not isinstance(child, Feedback),
            "nets with feedback cannot be exported; use --to state_dict",
        )
        require(
            isinstance(child, AS_THEY_ARE) or bool(list(child.children())),
            f"{type(child).__name__} cannot be exported; use --to state_dict",
        )
        _translate(child, steps)


def _translated(part: Synapse | Between | SpikingNeuron, steps: int) -> nn.Module:
    if isinstance(part, SpikingNeuron):
        return Units(constants(part))
    if isinstance(part, Synapse):
        require(
            type(part) is Synapse and part.norm is None and part.weight_norm is None,
            f"{type(part).__name__} cannot be exported; use --to state_dict",
        )
    return EveryStep(part.op, steps)
