"""Backpropagation through time with a surrogate gradient (STBP), loss on the mean output (SDT)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from snnrun.methods.base import Method, StepOutput, Update, sequence_step
from snnrun.models.network import Network


@dataclass(kw_only=True)
class BPTT(Method):
    """Exact gradient of the surrogate graph over all steps; memory grows with T.

    Loss: one cross entropy per sample on the mean output (Wu et al., 2018; tdBN: Zheng et al.,
    AAAI 2021, arXiv 2011.05280).
    """

    norms: ClassVar[tuple[str, ...]] = ("tdbn", "bn", "sws", "none")
    channels_last: ClassVar[bool] = True
    takes_bf16: ClassVar[bool] = True

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        logits = self.decode(net(x))
        return sequence_step(F.cross_entropy(logits, y), update, logits)
