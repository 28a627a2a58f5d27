"""Synaptic operations of the plain spiking form, and the energy they stand for."""

import torch
from torch import Tensor, nn

from snnrun.kits.synapse import Synapse, apply, is_static, rows
from snnrun.measure.hooks import Meter

PJ_PER_UJ = 1e6


class SynOpMeter(Meter):
    """Counts the operations of every synapse while open.

        with SynOpMeter(net) as meter:
            for x, _ in batches:
                net(x)
        meter.metrics(samples, e_ac_pj=0.9, e_mac_pj=4.6)

    Definitions as in NeuroBench 2.3 (Yik et al., Nature Communications 2025, arXiv 2304.04640):

    - *Effective* operations: pairs of a nonzero input and a nonzero weight, at the border of a
      convolution only those that exist. They are accumulates (AC) at a step at which the input is
      binary, and multiply-accumulates (MAC) otherwise. Weights are those in effect, weight-space
      norms applied.
    - *Dense* operations: all pairs, zeros included.
    - Adding the bias (hence a norm folded into weights and bias), pooling and neuron updates count
      nothing.

    Two things differ. Binary means that all nonzeros of a step, over the whole batch, have one
    magnitude, and not that it is 1: a common factor moves into the weights. And a static input
    (direct coding), whose first synapse runs once and not T times, counts once, in the dense figure
    as well: it is what inference does. The same input as a contiguous copy counts T times.

    Weights must not change while the meter is open: fan-outs are computed once.
    """

    def __init__(self, net: nn.Module):
        super().__init__(net, Synapse)
        self.fans: dict[tuple[str, torch.Size], tuple[Tensor, Tensor]] = {}
        self.totals: dict[str, Tensor] = {}  # acs, macs, dense in float64 on the device

    def see(self, name: str, part: nn.Module, x: Tensor, output: Tensor) -> None:
        """See Meter.see."""
        assert isinstance(part, Synapse)
        x = x[:1] if is_static(x) else x
        steps, batch = x.shape[:2]
        flat = rows(part.op, x)
        effective, dense = self._fans(name, part, flat.shape[1:])
        active = (flat != 0).unflatten(0, (steps, batch)).sum(1)  # [T', ...] samples per position
        ops = active.flatten(1).double() @ effective
        acs = torch.where(is_binary(x), ops, 0.0).sum()
        counted = torch.stack([acs, ops.sum() - acs, dense * (steps * batch)])
        self.totals[name] = self.totals[name] + counted if name in self.totals else counted

    def metrics(self, samples: int, *, e_ac_pj: float, e_mac_pj: float) -> dict[str, float]:
        """Operations per sample over all its steps, and their energy in microjoule.

        Args:
            samples: how many samples passed through the net while the meter was open.
            e_ac_pj: energy of one accumulate, picojoule.
            e_mac_pj: energy of one multiply-accumulate, picojoule.
        """
        total = torch.stack(list(self.totals.values())).sum(0) / samples
        acs, macs, dense = total.tolist()
        return {
            "synops/acs_per_sample": acs,
            "synops/macs_per_sample": macs,
            "synops/dense_per_sample": dense,
            "energy/inference_uj": (acs * e_ac_pj + macs * e_mac_pj) / PJ_PER_UJ,
        }

    def _fans(self, name: str, part: Synapse, shape: torch.Size) -> tuple[Tensor, Tensor]:
        key = name, shape
        if key not in self.fans:
            # fan_out differentiates, which needs normal tensors even within inference mode
            with torch.inference_mode(False), torch.no_grad():
                real = (part.weights()[0] != 0).double()
                effective = fan_out(part, real, shape).flatten()
                dense = fan_out(part, torch.ones_like(real), shape).sum()
            self.fans[key] = effective, dense
        return self.fans[key]


def fan_out(part: Synapse, weight: Tensor, shape: torch.Size) -> Tensor:
    """Summed ``weight`` of the connections that leave each position of one input of ``shape``.

    It is the gradient of the summed output: exact for every padding, stride, dilation, grouping.
    """
    with torch.enable_grad():
        x = weight.new_zeros(1, *shape).requires_grad_()
        (fan,) = torch.autograd.grad(apply(part.op, x, weight, None).sum(), x)
    return fan[0]


def is_binary(x: Tensor) -> Tensor:
    """For each step of a chunk [T', B, ...] whether all its nonzeros have one magnitude, [T']."""
    size = x.flatten(1).abs()
    return ((size == 0) | (size == size.amax(1, keepdim=True))).all(1)
