"""Implicit differentiation at the equilibrium state (IDE): exact, with no backward through time."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from snnrun import ranks
from snnrun.equilibrium.energy import Traffic
from snnrun.equilibrium.loop import Loop
from snnrun.equilibrium.simulation import average, simulate, steady
from snnrun.equilibrium.solvers import Solution, broyden, fixed_point
from snnrun.errors import choice, require
from snnrun.methods.base import StepOutput
from snnrun.methods.equilibrium import (
    EquilibriumMethod,
    EquilibriumUpdate,
    classify,
    constants,
)
from snnrun.models.network import Chain

SOLVERS = ("fixed_point", "damped", "broyden")
DAMPING = 0.5  # share of the old iterate that the damped solver keeps
UNSOLVED = 0.01  # relative residual above which the gradient is not to be trusted


@dataclass(kw_only=True)
class IDE(EquilibriumMethod):
    """The simulation solves for the rates, a linear system for the gradient at them.

    Only the simulated rate of the last layer enters: the rates of the layers before it, all masks
    and all gradients come from one evaluation of the equilibrium equation at that rate (Xiao, Meng,
    Zhang, Wang and Lin, NeurIPS 2021, arXiv 2109.14247). Under batch norm the simulation and the
    system see fixed statistics, which that one evaluation updates.
    """

    norms: ClassVar[tuple[str, ...]] = ("bn", "none", "sws")

    solver: str
    solver_rounds: int
    solver_tolerance: float

    def __post_init__(self) -> None:
        """Check names and ranges."""
        super().__post_init__()
        choice("solver", self.solver, SOLVERS)
        require(self.solver_rounds >= 1, f"solver_rounds: {self.solver_rounds} is not above 0")
        tolerance = self.solver_tolerance
        require(0 <= tolerance < 1, f"solver_tolerance: {tolerance} is not in [0, 1)")

    def step(self, net: Chain, update: EquilibriumUpdate, x: Tensor, y: Tensor) -> StepOutput:  # type: ignore[override]
        """See Method.step."""
        net.reset()
        update.zero()
        leak, subtracted = constants(net)
        mean_input = average(x, leak)
        fixed = steady(net, mean_input)
        last = simulate(fixed, x, leak).rates[-1]
        loss, logits, g = classify(net, last, y)
        loop = Loop(fixed, subtracted, mean_input, last)
        solution = self.solve(loop, g)
        self.watch(update, loop, solution.residual, UNSOLVED)
        extra = self._figures(loop, solution, len(x))
        if fixed is not net:
            loop = Loop(net, subtracted, mean_input, last)
        loop.backward(loop.chain(solution.value / ranks.unit()))
        update.step()
        return StepOutput(loss=loss, logits=logits, extra=extra, kept_bytes=g.nbytes)

    def solve(self, loop: Loop, g: Tensor) -> Solution:
        """Solve beta = J^T beta + g for beta of the last layer [1, B, ...]."""
        limits = {"rounds": self.solver_rounds, "tolerance": self.solver_tolerance}
        if self.solver == "broyden":
            return broyden(loop.transposed, g, **limits)  # type: ignore[arg-type]
        damping = DAMPING if self.solver == "damped" else 0.0
        return fixed_point(loop.transposed, g, damping=damping, **limits)  # type: ignore[arg-type]

    def _figures(self, loop: Loop, solution: Solution, steps: int) -> dict[str, Tensor]:
        traffic = Traffic(loop, steps, self.energy)
        return {
            "ide/forward_rate": loop.rate(),
            "ide/open_share": torch.stack([m.count_nonzero() for m in loop.masks]).sum()
            / loop.units,
            "ide/equilibrium_residual": loop.residual(),
            "ide/solver_residual": torch.tensor(solution.residual),
            "ide/solver_rounds": torch.tensor(float(solution.rounds)),
            "ide/training_energy_uj": traffic.of_products(solution.rounds + 1),
            "ide/bptt_energy_uj": traffic.of_bptt(),
        }
