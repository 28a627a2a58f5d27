"""Memory and time of IDE's and SPIDE's gradients beside those of backpropagation through time.

    python scripts/bench_equilibrium.py [--quick] [--json FILE]

One feedback layer of 400 units on 784 inputs, a batch of 128, the same weights for all. Forward:
simulation and loss; backward: from the loss to all gradients. CPU time of one thread, medians of
interleaved rounds; what is kept by the tensors autograd and the method hold, counted exactly.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from snnrun.equilibrium.loop import Loop
from snnrun.equilibrium.norms import Bound
from snnrun.equilibrium.simulation import simulate
from snnrun.equilibrium.solvers import fixed_point
from snnrun.equilibrium.spikes import backward_stage
from snnrun.kits.plain import Kit
from snnrun.measure.memory import MIB, saved_for_backward
from snnrun.methods.equilibrium import classify, initialise
from snnrun.models.mlp import MLP
from snnrun.models.network import Chain
from snnrun.neurons.if_ import IF
from snnrun.neurons.surrogate import Surrogate

SUBTRACTED = 2.0  # threshold 1, reset towards -1
ROUNDS = 8  # products with J^T, as IDE needs in training
BACKWARD_STEPS = (10, 25, 100)


@dataclass
class Case:
    """A net, one image per sample as [1, B, 1, 28, 28], labels [B], and T."""

    net: Chain
    x: Tensor
    y: Tensor
    steps: int

    @property
    def sequence(self) -> Tensor:
        """The image seen T times [T, B, ...]."""
        return self.x.expand(self.steps, *self.x.shape[1:])


def made(units: int, batch: int, steps: int) -> Case:
    torch.manual_seed(0)
    surrogate = Surrogate(name="sigmoid", width=4.0)
    neuron = IF(
        name="if",
        threshold=1.0,
        reset="soft",
        rest=-1.0,
        surrogate=surrogate,
        detach_reset=True,
        fires_at_threshold=True,
        delay=0,
    )
    model = MLP(name="mlp", norm="none", hidden=[units], dropout=0.0, feedback=True)
    net = model.build(Kit(neuron, "none"), (1, 28, 28), 10)
    initialise(net.stem, "unit_rows")
    Bound(net.feedback, "spectral", 1.0).apply()
    return Case(net, torch.randn(1, batch, 1, 28, 28), torch.arange(batch) % 10, steps)


def bptt(case: Case) -> tuple[Callable[[], None], int]:
    """Forward stage; the backward to run, and the bytes the method itself holds for it."""
    loss = F.cross_entropy(case.net(case.sequence).mean(0), case.y)
    return loss.backward, 0


def ide(case: Case) -> tuple[Callable[[], None], int]:
    case.net.reset()
    last = simulate(case.net, case.sequence, 1.0).rates[-1]
    _, _, g = classify(case.net, last, case.y)
    loop = Loop(case.net, SUBTRACTED, case.x, last)

    def backward() -> None:
        solution = fixed_point(loop.transposed, g, rounds=ROUNDS, tolerance=0.0)
        loop.backward(loop.chain(solution.value))

    return backward, g.nbytes


def spide(steps: int) -> Callable[[Case], tuple[Callable[[], None], int]]:
    def forward(case: Case) -> tuple[Callable[[], None], int]:
        case.net.reset()
        rates = simulate(case.net, case.sequence, 1.0).rates
        _, _, g = classify(case.net, rates[-1], case.y)
        loop = Loop(case.net, SUBTRACTED, case.x, rates[-1], inner=rates[:-1])
        scale = 0.8 / g.abs().max()

        def backward() -> None:
            found = backward_stage(loop, scale * g, steps=steps, threshold=0.5, leak=1.0)
            loop.backward(found.betas, scale)

        state = 4 * sum(current.nbytes for current in loop.currents)
        return backward, g.nbytes + state + sum(mask.nbytes for mask in loop.masks)

    return forward


METHODS = {
    "bptt": bptt,
    "ide": ide,
    **{f"spide T_B={steps}": spide(steps) for steps in BACKWARD_STEPS},
}


def measure(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in METHODS}
    kept = {}
    for _ in range(rounds + 1):  # the first warms up
        for name, forward in METHODS.items():
            case.net.zero_grad()
            start = time.process_time()
            backward, _ = forward(case)
            middle = time.process_time()
            backward()
            times[name].append((middle - start, time.process_time() - middle))
    for name, forward in METHODS.items():
        with saved_for_backward(case.net, case.x) as saved:
            backward, own = forward(case)
            kept[name] = (saved.bytes + own) / MIB
            backward()
    return {
        name: {
            "forward_ms": 1e3 * median(f for f, _ in seen[1:]),
            "backward_ms": 1e3 * median(b for _, b in seen[1:]),
            "kept_mib": kept[name],
        }
        for name, seen in times.items()
    }


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    table = Table(title="One feedback layer; last two columns: times less than bptt")
    for column in ("", "T", "forward ms", "backward ms", "kept MiB", "backward", "kept"):
        table.add_column(column, justify="right")
    for steps, methods in results.items():
        base = methods["bptt"]
        for name, m in methods.items():
            figures = (m["forward_ms"], m["backward_ms"], m["kept_mib"])
            ratios = (base[key] / m[key] for key in ("backward_ms", "kept_mib"))
            texts = [f"{v:.2f}" for v in figures] + [f"{r:.1f}x" for r in ratios]
            table.add_row(name, steps, *texts)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small net, few rounds")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    units, batch, rounds = (20, 8, 2) if options.quick else (400, 128, 15)
    results = {str(t): measure(made(units, batch, t), rounds) for t in (30, 100)}
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
