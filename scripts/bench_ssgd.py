"""Event-driven SSGD against three dense forms of the same gradient: time and what is kept.

    python scripts/bench_ssgd.py [--quick] [--run OUTPUT_FOLDER] [--json FILE]

slicing: autograd with x[:, t] in the time loop, the published baseline, quadratic in T. unbind: the
same with one unbind. dense: compiled neurons and one matrix product per layer, which skips
zeros, as in the runner's other methods. CPU time of one thread, medians of interleaved rounds;
forward and backward with the search for events in the input. ``--run`` adds a trained Fashion-MNIST
net.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from tables import Measured, keep, machine
from torch import Tensor, nn

from snnrun import checkpoint
from snnrun.kernels.events import active_conv, eager
from snnrun.kernels.events.active_units import fire
from snnrun.kernels.events.lists import Events, Readout, Unit, to_dense
from snnrun.kernels.events.stack import Plan, event_stack, gather, suits
from snnrun.kernels.leaky import leaky
from snnrun.kernels.lif.parameters import LIFParameters
from snnrun.kernels.products.weighted import linear, skip_zeros
from snnrun.measure.memory import MIB, counted
from snnrun.neurons.lif import LIFNeuron
from snnrun.neurons.surrogate import Surrogate
from snnrun.plan import keep_freed_memory

LEAK = 0.9048374180359595
UNIT = Unit(leak=LEAK, synapse=None, threshold=1.0, drop=1.0, window=0.2, steepness=100.0)
READOUT = Readout(leak=LEAK, reduce="max")
# Spikes of the input and of the layers, active units of layers 1 and 2, all in %: as in a trained
# net, then ever busier ones.
TRAINED = (0.13, 0.25, 1.0, 1.0)
ACTIVITIES = (
    (0.3, 0.3, 14, 1.0),
    (1, 1, 23, 4.4),
    (3, 3, 37, 17),
    (10, 10, 35, 33),
    (25, 25, 40, 40),
)


@dataclass
class Case:
    """A net and a batch: x [T, B, n_in], weights [n_out, n_in], labels [B]."""

    x: Tensor
    weights: list[Tensor]
    plan: Plan
    y: Tensor


class Step(torch.autograd.Function):
    """Spike step with the windowed surrogate, for the autograd baselines."""

    @staticmethod
    def forward(ctx, v: Tensor, unit: Unit) -> Tensor:
        """Θ(v - threshold)."""
        ctx.save_for_backward(v)
        ctx.unit = unit
        return (v > unit.threshold).to(v.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        """The windowed surrogate."""
        (v,), unit = ctx.saved_tensors, ctx.unit
        x = (v - unit.threshold).abs()
        return grad * (x < unit.window) / (unit.steepness * x + 1).square(), None


def loop(currents: Callable[[int], Tensor], steps: int, unit: Unit) -> list[Tensor]:
    """Spikes of each step, for currents of each step."""
    v = torch.zeros_like(currents(0))
    spikes = []
    for t in range(steps):
        spikes.append(Step.apply(v, unit))
        v = unit.leak * v + currents(t) - unit.drop * spikes[-1].detach()
    return spikes


def slicing(case: Case) -> Tensor:
    s = case.x.transpose(0, 1)
    steps = s.shape[1]
    for w, unit in zip(case.weights[:-1], case.plan.units, strict=True):
        h = s @ w.t()  # [B, T, n]
        s = torch.stack(loop(lambda t, h=h: h[:, t], steps, unit), 1)
    return read((s @ case.weights[-1].t()).transpose(0, 1))


def unbind(case: Case) -> Tensor:
    s = case.x
    for w, unit in zip(case.weights[:-1], case.plan.units, strict=True):
        h = (s @ w.t()).unbind()
        s = torch.stack(loop(h.__getitem__, len(h), unit))
    return read(s @ case.weights[-1].t())


def dense(case: Case) -> Tensor:
    s = case.x
    for w, unit in zip(case.weights[:-1], case.plan.units, strict=True):
        s = neurons(unit)(product(s, w))
    return read(product(s, case.weights[-1]))


def events(case: Case) -> Tensor:
    if not suits(case.x):
        return dense(case)
    arrived = gather(case.x, "auto")
    assert arrived is not None
    return event_stack(arrived, case.x.shape[1], case.weights, case.plan)[0]


def read(currents: Tensor) -> Tensor:
    zero = torch.zeros_like(currents[0])
    return leaky(torch.cat([zero[None], currents[:-1] * (1 - LEAK)]), zero, LEAK).amax(0)


def product(s: Tensor, w: Tensor) -> Tensor:
    return linear(s.flatten(0, 1), w, None).unflatten(0, s.shape[:2])


def neurons(unit: Unit) -> LIFNeuron:
    surrogate = Surrogate(name="fast_sigmoid", width=unit.steepness, cutoff=unit.window)
    return LIFNeuron(
        LIFParameters(
            leak=unit.leak, threshold=unit.threshold, hard=False, rest=0.0, surrogate=surrogate,
            detach_reset=True, fires_at_threshold=False, decay_input=False, leak_reset=False,
            delay=1,
        )
    )  # fmt: skip


FORMS = {"slicing": slicing, "unbind": unbind, "dense": dense, "events": events}


def calibrated(x: Tensor, n_out: int, spikes: float, active: float) -> tuple[Tensor, Unit, Events]:
    """Weights and window that give a layer these shares of spikes and active units."""
    raw = torch.randn(x.shape[2], n_out) / x.shape[2] ** 0.5
    current = x.transpose(0, 1) @ raw
    low, high = 0.0, 1000.0
    for _ in range(18):
        scale = (low + high) / 2
        v = eager.potentials(current * scale, UNIT)
        busy = float((v > UNIT.threshold).float().mean())
        low, high = (scale, high) if busy < spikes else (low, scale)
    near = (v - UNIT.threshold).abs().flatten()
    window = near.kthvalue(max(1, int(active * near.numel()))).values
    unit = replace(UNIT, window=float(window))
    return (raw * scale).t(), unit, eager.compact(v, unit).spikes


def made_up(steps: int, width: int, activity: tuple[float, ...], batch: int = 16) -> Case:
    """A net 700-N-N-20 of random weights with the asked activity, in per cent."""
    torch.manual_seed(0)
    arriving, share, *active = (a / 100 for a in activity)
    x = (torch.rand(steps, batch, 700) < arriving).float()
    s, weights, units = x, [], []
    for target in active:
        w, unit, spikes = calibrated(s, width, share, target)
        weights.append(w.requires_grad_())
        units.append(unit)
        s = to_dense(spikes, 1.0, (batch, steps, width), x).transpose(0, 1)
    weights.append((torch.randn(width, 20) / width**0.5).t().requires_grad_())
    plan = Plan(units=tuple(units), readout=READOUT)
    return Case(x, weights, plan, torch.arange(batch) % 20)


def trained(folder: Path, batch: int = 64) -> Case:
    """The net of a finished run of experiment=ssgd_fashion_mnist, on test images."""
    from hydra import compose, initialize_config_dir

    from snnrun.config import CONF, build
    from snnrun.run import batches

    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["experiment=ssgd_fashion_mnist", f"dataset.batch_size={batch}"]
        spec = build(compose("config", overrides))
    data = spec.dataset.load(0, torch.device("cpu"), spec.method.timesteps)
    x, y = next(batches(spec, data.test, training=False).epoch(0))
    state = checkpoint.load(folder / "last.pt")["net"]
    names = ("layers.0.synapse", "layers.1.synapse", "readout")
    weights = [state[f"{n}.op.weight"].t().contiguous().t().requires_grad_() for n in names]
    plan = Plan(units=(UNIT, UNIT), readout=READOUT)
    return Case(x.flatten(2), weights, plan, y)


def timed(case: Case, form: Callable[[Case], Tensor]) -> tuple[float, float, float]:
    """Milliseconds forward and backward, and MiB kept in between."""
    start = time.process_time()
    with counted(case.weights) as saved:  # the input counts where autograd holds on to it
        loss = F.cross_entropy(form(case), case.y)
    middle = time.process_time()
    torch.autograd.grad(loss, case.weights)
    end = time.process_time()
    return (middle - start) * 1e3, (end - middle) * 1e3, saved.peak_bytes / MIB


def measured(case: Case, forms: list[str], rounds: int) -> dict[str, tuple[float, ...]]:
    """Medians of each form over interleaved rounds; the slow slicing form runs once.

    Timed is a step that follows one of its own kind, as in training: not the way back from what
    another form left in the caches.
    """
    seen: dict[str, list[tuple[float, ...]]] = {name: [] for name in forms}
    for i in range(rounds):
        for name in forms:
            if name != "slicing":
                timed(case, FORMS[name])
            elif i:
                continue
            seen[name].append(timed(case, FORMS[name]))
    return {name: tuple(map(median, zip(*runs, strict=True))) for name, runs in seen.items()}


def activity(case: Case) -> str:
    """Spikes and active units of both layers in per cent."""
    spikes, shares = case.x, []
    for w, unit in zip(case.weights[:-1], case.plan.units, strict=True):
        with torch.no_grad():
            v = eager.potentials((spikes @ w.t()).transpose(0, 1), unit)
        near = (v - unit.threshold).abs() < unit.window
        spikes = (v > unit.threshold).float().transpose(0, 1)
        shares.append(f"{100 * float(spikes.mean()):.2f}/{100 * float(near.float().mean()):.2f}")
    return " ".join(shares)


def compare(
    title: str, cases: dict[str, Case], forms: list[str], rounds: int
) -> tuple[Measured, dict[str, dict[str, tuple[float, ...]]]]:
    """The table, and the figures behind it; ratios are of the backward pass and of both passes."""
    columns = ["case", "spikes/active %", f"backward ms {' / '.join(forms)}"]
    columns += [f"{name}/events" for name in forms[:-1]]
    rows, results = [], {}
    for label, case in cases.items():
        found = measured(case, forms, rounds)
        _, backward, kept = found["events"]
        both = {n: f[0] + f[1] for n, f in found.items()}
        ratios = [
            f"{found[n][1] / backward:.1f}, {both[n] / both['events']:.1f}" for n in forms[:-1]
        ]
        reference = found.get("unbind", found["dense"])[2]
        memory = f"{reference:.3g} / {kept:.3g} = {reference / kept:.0f}"
        times = " / ".join(f"{found[n][1]:.3g}" for n in forms)
        rows.append([label, activity(case), times, *ratios, memory])
        results[label] = found
    table = Measured(title, [*columns, "kept MiB unbind or dense / events"], rows)
    table.show()
    return table, results


def convolutions(rounds: int) -> tuple[Measured, dict[str, list[float]]]:
    """Backward of one convolution 32-64, 3x3 at 14x14, T=20, B=16, by share of active units."""
    title = "Convolution 32-64, 3x3 at 14x14, T=20, B=16: backward ms"
    table, results = Measured(title, ["active %", "active units alone", "dense"], []), {}
    threshold = active_conv.DENSE_FROM
    op = nn.Conv2d(32, 64, 3, padding=1, bias=False)
    for scale in (0.6, 0.8, 1.0, 2.0):
        torch.manual_seed(0)
        x = (torch.rand(20, 16, 32, 14, 14) < 0.08).float().requires_grad_()
        nn.init.normal_(op.weight, std=scale / 288**0.5)
        row: dict[float, list[float]] = {2.0: [], 0.0: []}
        for i in range(rounds + 1):  # the first round compiles
            for limit, times in row.items():
                active_conv.DENSE_FROM = limit
                y, _ = active_conv.active_conv(x, op, UNIT)
                start = time.process_time()
                torch.autograd.grad(y, [x, op.weight], torch.ones_like(y))
                if i:
                    times.append((time.process_time() - start) * 1e3)
        current = F.conv2d(x.detach().flatten(0, 1), op.weight, None, 1, 1).unflatten(0, (20, 16))
        share = len(fire(current.detach(), UNIT)[-1]) / current.numel()
        results[f"{share:.4f}"] = [median(row[2.0]), median(row[0.0])]
        table.rows.append([f"{100 * share:.2f}", *(f"{median(v):.3g}" for v in row.values())])
    active_conv.DENSE_FROM = threshold
    table.show()
    return table, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small case of each table")
    parser.add_argument("--run", type=Path, help="output folder of experiment=ssgd_fashion_mnist")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    skip_zeros(True)
    keep_freed_memory()  # as the runner does: what one form frees is not given back during another
    rounds = 2 if args.quick else 5
    steps, widths = ((20,), (50,)) if args.quick else ((100, 300, 500), (200, 400, 1000))
    every = list(FORMS)
    cases = {f"T={t} N={n}": made_up(t, n, TRAINED) for t in steps for n in widths}
    title = f"700-N-N-20, B=16, activity of a trained net, one thread, on {machine('cpu')}"
    out = {"made up": compare(title, cases, every, rounds)}
    if args.run:
        case = {"784-200-200-10, T=100, B=64": trained(args.run)}
        out["trained"] = compare("Trained on Fashion-MNIST", case, every, rounds)
    busy = ((20, 50),) if args.quick else ((300, 400), (300, 1000))
    cases = {f"T={t} N={n}, {a[0]} % spikes": made_up(t, n, a) for t, n in busy for a in ACTIVITIES}
    out["activity"] = compare("700-N-N-20, B=16, by activity", cases, ["dense", "events"], rounds)
    out["convolution"] = convolutions(rounds)
    tables, figures = zip(*out.values(), strict=True)
    keep(args.json, list(tables), dict(zip(out, figures, strict=True)))


if __name__ == "__main__":
    main()
