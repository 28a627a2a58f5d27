"""Backpropagation through time with a surrogate gradient (STBP), loss on the mean output (SDT)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from snnrun.methods.base import Method, StepOutput, Update
from snnrun.methods.segments import REFUSES, check_segments, learn_sequence
from snnrun.models.network import Network


@dataclass(kw_only=True)
class BPTT(Method):
    """Exact gradient of the surrogate graph over all steps; memory grows with T / segments.

    Loss: one cross entropy per sample on the mean output (Wu et al., 2018; tdBN: Zheng et al.,
    AAAI 2021, arXiv 2011.05280).
    """

    norms: ClassVar[tuple[str, ...]] = ("tdbn", "bn", "sws", "none")
    channels_last: ClassVar[bool] = True
    takes_bf16: ClassVar[bool] = True
    in_chunks: ClassVar[bool] = True

    segments: int

    def __post_init__(self) -> None:
        """Check the number of segments."""
        super().__post_init__()
        check_segments(self.segments, self.timesteps)

    def refusals(self) -> dict[str, str]:
        """See Method.refusals."""
        return self.refuses | (REFUSES if self.segments > 1 else {})

    def step(self, net: Network, update: Update, x: Tensor, y: Tensor) -> StepOutput:
        """See Method.step."""
        return learn_sequence(
            self,
            net,
            update,
            x,
            lambda outputs: F.cross_entropy(self.decode(outputs), y),
            segments=self.segments,
        )
