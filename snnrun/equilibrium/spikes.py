"""The backward stage of SPIDE: the implicit system solved by ternary spikes."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from snnrun.equilibrium.loop import Loop
from snnrun.equilibrium.simulation import total_weight
from snnrun.kernels.compiled.compiling import compiles


@dataclass(kw_only=True)
class BackwardStage:
    """What T_B steps leave, per layer, all tensors [1, B, ...].

    Attributes:
        betas: average output, which tends to the solution of the implicit system as 1 / T_B.
        potentials: after the last reset, before the leak.
        counts: spikes of either sign.
    """

    betas: list[Tensor]
    potentials: list[Tensor]
    counts: list[Tensor]

    def nbytes(self) -> int:
        """Size of the whole state; it does not depend on the number of steps."""
        tensors = (*self.betas, *self.potentials, *self.counts)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@torch.no_grad()
def backward_stage(
    loop: Loop, drive: Tensor, *, steps: int, threshold: float, leak: float
) -> BackwardStage:
    """Run couples of neurons, one per sign, through the transposed maps of a loop.

    A unit that reaches ``threshold`` in size sends 2 threshold with its sign and subtracts it, so
    its average output cannot exceed 2 threshold (Xiao et al., SPIDE, Neural Networks 2023,
    arXiv 2302.00232).

    Args:
        loop: maps, masks and c. The mask acts on the spikes a layer sends.
        drive: constant current into the last layer [1, B, ...], the scaled gradient of the loss.
        steps: T_B.
        threshold: V_b.
        leak: factor the potentials keep per step.
    """
    states = [
        _Couples(current, mask, loop.subtracted, threshold, leak)
        for current, mask in zip(loop.currents, loop.masks, strict=True)
    ]
    first, last = states[0], states[-1]
    for t in range(steps):
        arriving = drive
        if t > 0 and loop.net.feedback is not None:
            arriving = drive + loop.back(0, first.sent)
        last.step(arriving)
        for i in range(len(states) - 2, -1, -1):
            states[i].step(loop.back(i + 1, states[i + 1].sent))
    weight = total_weight(leak, steps)
    return BackwardStage(
        betas=[state.sum.div_(weight) for state in states],
        potentials=[state.potential for state in states],
        counts=[state.count for state in states],
    )


class _Couples:
    """A layer of ternary couples: potential, weighted sum and number of outputs, what was sent."""

    def __init__(
        self, like: Tensor, mask: Tensor, subtracted: float, threshold: float, leak: float
    ):
        self.mask, self.subtracted, self.threshold, self.leak = mask, subtracted, threshold, leak
        self.potential, self.sum, self.count = (torch.zeros_like(like) for _ in range(3))
        self.sent = torch.empty_like(like)
        self.couple: Callable[[Tensor], None] | None = None
        if compiles(self.sum[0], torch.float32, torch.float64):
            from snnrun.kernels.averages import coupling  # imports the compiler

            self.couple = coupling(
                self.potential,
                self.sum,
                self.count,
                mask,
                self.sent,
                leak=leak,
                threshold=threshold,
                subtracted=subtracted,
            )

    def step(self, current: Tensor) -> None:
        """Integrate one step, fire, and send on what was fired, masked and over c."""
        if self.couple is not None:
            self.couple(current)
            return
        u = self.potential.mul_(self.leak).add_(current)
        fired = u.abs() >= self.threshold
        output = torch.where(fired, u.sign() * (2 * self.threshold), 0.0)
        self.potential.sub_(output)
        self.sum.mul_(self.leak).add_(output)
        self.count.add_(fired)
        self.sent = self.mask * output / self.subtracted
