"""SPIDE: the implicit gradient at the equilibrium computed by spikes in both stages."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from snnrun import ranks
from snnrun.equilibrium.energy import Traffic
from snnrun.equilibrium.loop import Loop
from snnrun.equilibrium.simulation import Simulation, average, simulate
from snnrun.equilibrium.spikes import BackwardStage, backward_stage
from snnrun.errors import choice, require
from snnrun.methods.base import StepOutput
from snnrun.methods.equilibrium import (
    EquilibriumMethod,
    EquilibriumUpdate,
    classify,
    constants,
)
from snnrun.models.network import Chain
from snnrun.neurons.base import Neuron

MASKS = ("local", "paper")
UNSOLVED = 0.5  # relative residual; rounding by few steps alone stays well below it


@dataclass(kw_only=True)
class SPIDE(EquilibriumMethod):
    """IDE whose linear system is solved by a second simulation with ternary spikes.

    Weights change by the product of the sender's rate in the first and the receiver's in the
    second stage (Xiao et al., Neural Networks 2023, arXiv 2302.00232). Two things differ from the
    paper unless asked for: the gradient is scaled to the range in which the second stage resolves
    it (``loss_scale`` null), and the derivative mask is read off a unit's mean current instead of
    its rate (``mask`` local), which start-up spikes do not spoil.
    """

    norms: ClassVar[tuple[str, ...]] = ("none", "sws")

    backward_steps: int
    backward_threshold: float
    backward_leak: float
    loss_scale: float | None
    drive: float
    mask: str
    symmetric_reset: bool

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        choice("mask", self.mask, MASKS)
        require(self.backward_steps >= 1, f"backward_steps: {self.backward_steps} is not above 0")
        require(
            self.backward_threshold > 0,
            f"backward_threshold: {self.backward_threshold} is not above 0",
        )
        require(
            0 < self.backward_leak <= 1, f"backward_leak: {self.backward_leak} is not in (0, 1]"
        )
        require(
            self.loss_scale is None or self.loss_scale > 0,
            f"loss_scale: {self.loss_scale} is not null or a positive number",
        )
        require(0 < self.drive <= 1, f"drive: {self.drive} is not in (0, 1]")

    def neuron(self, neuron: Neuron) -> Neuron:
        """The neuron, with a reset towards minus the threshold if asked for."""
        neuron = super().neuron(neuron)
        if self.symmetric_reset:
            return replace(neuron, rest=-neuron.threshold)  # type: ignore[call-arg]
        return neuron

    def step(self, net: Chain, update: EquilibriumUpdate, x: Tensor, y: Tensor) -> StepOutput:  # type: ignore[override]
        """See Method.step."""
        update.zero()
        loss, logits, g, loop = self.linearised(net, x, y)
        scale = self.scale(g)
        backward = self.second_stage(loop, scale * g)
        residual = backward_residual(loop, backward, scale * g)
        self.watch(update, loop, residual.item(), UNSOLVED)
        extra = self._figures(loop, backward, residual, len(x))
        kept = backward.nbytes() + sum(mask.nbytes for mask in loop.masks)
        loop.backward(backward.betas, scale * ranks.unit())
        update.step()
        return StepOutput(loss=loss, logits=logits, extra=extra, kept_bytes=kept)

    def linearised(self, net: Chain, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Loop]:
        """The first stage: loss, logits, and the system beta = J^T beta + g as g and its loop."""
        net.reset()
        leak, subtracted = constants(net)
        forward = simulate(net, x, leak)
        loss, logits, g = classify(net, forward.rates[-1], y)
        loop = Loop(
            net,
            subtracted,
            average(x, leak),
            forward.rates[-1],
            inner=forward.rates[:-1],
            masks=self.masks(forward, subtracted),
        )
        return loss, logits, g, loop

    def second_stage(self, loop: Loop, drive: Tensor) -> BackwardStage:
        """Solve the system for the right-hand side ``drive`` [1, B, ...] with ternary spikes."""
        return backward_stage(
            loop,
            drive,
            steps=self.backward_steps,
            threshold=self.backward_threshold,
            leak=self.backward_leak,
        )

    def masks(self, forward: Simulation, subtracted: float) -> list[Tensor]:
        """Where the clamp has slope 1, per layer: inside (0, 1)."""
        inside = forward.rates
        if self.mask == "local":  # a + v / (c Z) is the unit's mean current over c
            per_spike = subtracted * forward.weight
            inside = [a + v / per_spike for a, v in zip(inside, forward.potentials, strict=True)]
        return [(a > 0) & (a < 1) for a in inside]

    def scale(self, g: Tensor) -> Tensor:
        """What the gradient of the batch is multiplied by before the backward stage."""
        if self.loss_scale is not None:
            return g.new_tensor(self.loss_scale)
        largest = 2 * self.backward_threshold  # average output of a unit that always fires
        return self.drive * largest / ranks.largest(g.abs()).clamp(min=1e-30)

    def _figures(
        self, loop: Loop, backward: BackwardStage, residual: Tensor, steps: int
    ) -> dict[str, Tensor]:
        traffic = Traffic(loop, steps, self.energy)
        fired = torch.stack([count[0].flatten(1).sum(1) for count in backward.counts]).sum(0)  # [B]
        return {
            "spide/forward_rate": loop.rate(),
            "spide/backward_rate": fired.sum() / (loop.units * self.backward_steps),
            "spide/silent_share": (fired == 0).to(fired.dtype).mean(),
            "spide/equilibrium_residual": loop.residual(),
            "spide/backward_residual": residual,
            "spide/training_energy_uj": traffic.of_spikes(backward.counts),
            "spide/bptt_energy_uj": traffic.of_bptt(),
        }


def backward_residual(loop: Loop, backward: BackwardStage, drive: Tensor) -> Tensor:
    """Relative residual of the implicit system at the last layer's average output."""
    beta = backward.betas[-1]
    error = drive + loop.transposed(beta) - beta
    return ranks.norm(error) / ranks.norm(drive).clamp(min=1e-30)
