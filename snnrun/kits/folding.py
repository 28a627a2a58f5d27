"""The net as it would be deployed: norms folded into the weights, nothing left but plain ops."""

import copy

import torch
from torch import nn

from snnrun.kits.plain import reset
from snnrun.kits.synapse import Synapse


@torch.no_grad()
def folded(net: nn.Module) -> nn.Module:
    """A copy of a plain net in evaluation mode whose synapses carry no norm of their own.

    Exact but for rounding: batch norms are affine in evaluation mode, and norms of weights are
    constants. Norms in front of neurons that add several currents (pre-activation) stay: no single
    op could take them in.

    Args:
        net: any plain form; its state is forgotten.
    """
    reset(net)
    plain = copy.deepcopy(net).eval()
    for part in plain.modules():
        if isinstance(part, Synapse) and (part.norm or part.weight_norm) is not None:
            weight, bias = part.folded()
            part.op.weight = nn.Parameter(weight)
            part.op.bias = None if bias is None else nn.Parameter(bias)
            part.norm = part.weight_norm = None
    return plain
