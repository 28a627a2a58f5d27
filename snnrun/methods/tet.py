"""Temporal efficient training: cross entropy at every step instead of once on the mean output."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from snnrun.errors import require
from snnrun.methods.base import Method, StepOutput, Update
from snnrun.methods.segments import REFUSES, check_segments, learn_sequence
from snnrun.models.network import Network


def tet_loss(outputs: Tensor, y: Tensor, *, lamb: float, phi: float) -> Tensor:
    """``(1 - lamb) * mean_t CE(O[t], y) + lamb * mean (O - phi)^2`` for outputs [T, B, C].

    Deng, Li, Zhang, Gu, ICLR 2022, arXiv 2202.11946, eq. 7-12.
    """
    per_step = F.cross_entropy(outputs.flatten(0, 1), y.repeat(len(outputs)))
    if lamb == 0:
        return per_step
    return (1 - lamb) * per_step + lamb * (outputs - phi).square().mean()


@dataclass(kw_only=True)
class TET(Method):
    """Surrogate-gradient training with a loss on every step's output; inference on the mean.

    ``lamb`` weighs the pull of every output towards ``phi``, which keeps single steps from
    becoming outliers.
    """

    norms: ClassVar[tuple[str, ...]] = ("bn", "tdbn", "sws", "none")
    channels_last: ClassVar[bool] = True
    takes_bf16: ClassVar[bool] = True
    in_chunks: ClassVar[bool] = True

    lamb: float
    phi: float
    segments: int

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        check_segments(self.segments, self.timesteps)
        require(0 <= self.lamb <= 1, f"lamb: {self.lamb} is not in [0, 1]")

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
            lambda outputs: tet_loss(outputs, y, lamb=self.lamb, phi=self.phi),
            segments=self.segments,
        )
