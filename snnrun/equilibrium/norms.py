"""Norms of feedback maps, and keeping one below a bound."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from snnrun.kits.plain import Feedback

NORMS = ("spectral", "frobenius", "operator")


def operator_norm(
    linear: Callable[[Tensor], Tensor], probe: Tensor, rounds: int
) -> tuple[Tensor, Tensor]:
    """Largest singular value of a linear map, from below, by power iteration on A^T A.

    Args:
        linear: the map, differentiable; its adjoint is autograd's.
        probe: where to start, of the shape of the map's input.
        rounds: applications of A^T A.

    Returns:
        The norm (a scalar) and the probe to go on from.
    """
    for _ in range(rounds):
        x = (probe / probe.norm().clamp(min=1e-30)).detach().requires_grad_()
        with torch.enable_grad():
            y = linear(x)
        (probe,) = torch.autograd.grad(y, x, y.detach())
    return probe.norm().sqrt(), probe


def spread(like: Tensor) -> Tensor:
    """A start for `operator_norm` of the shape of ``like``, always the same, without symmetry."""
    return 1 + torch.arange(like.numel()).to(like).sin().view_as(like)


class Bound:
    """Keeps the feedback weights of a net within a ball, by projection.

    The weights themselves are scaled back, so that every form of the net has those in effect, and
    checkpoints need nothing else.

    - ``spectral``: largest singular value of the weights as a matrix, first axis against the rest.
    - ``frobenius``: their Euclidean norm, never below the spectral one. SPIDE's public code
      estimates it by 64 random probes (Xiao et al., 2023, arXiv 2302.00232).
    - ``operator``: that of the whole map, with stride, overlap of a convolution's windows and
      upsampling. As the size of the map shows in the first batch, it is spectral before.

    Args:
        feedback: the connection.
        norm: one of the above.
        limit: largest norm.
    """

    def __init__(self, feedback: Feedback, norm: str, limit: float):
        self.feedback, self.norm, self.limit = feedback, norm, limit
        self.probes: dict[str, Tensor] = {}

    @torch.no_grad()
    def apply(self, source: Tensor | None = None) -> None:
        """Scale the weights back if their norm is above the limit.

        Args:
            source: any tensor [1, B, ...] of the shape of what the feedback reads.
        """
        norm = self.measure(source)
        self.feedback.synapse.op.weight.mul_((self.limit / norm).clamp(max=1.0))

    def measure(self, source: Tensor | None = None) -> Tensor:
        """The norm at present, sharpened by each call in the case of power iteration."""
        weight = self.feedback.synapse.op.weight.detach()
        if self.norm == "frobenius":
            return weight.norm()
        if self.norm == "operator" and source is not None:
            return self._measured("operator", self._map, torch.ones_like(source[:, :1]))
        matrix = weight.flatten(1)
        return self._measured("spectral", lambda v: matrix @ v, torch.ones_like(matrix[0]))

    def _map(self, emitted: Tensor) -> Tensor:
        return self.feedback.post(self.feedback.synapse(emitted))

    def _measured(self, kind: str, linear: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
        rounds = 1 if kind in self.probes else 30
        # A fixed start, so that nothing depends on when the norm is first asked for
        start = self.probes.get(kind, spread(like))
        norm, self.probes[kind] = operator_norm(linear, start, rounds)
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The probes, for a resumed run."""
        return dict(self.probes)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from saved probes."""
        self.probes = dict(state)
