"""Training step of a single-spike net: a loop over time, all steps at once, and the package.

    python scripts/bench_ttfs.py               # minutes on one core
    python scripts/bench_ttfs.py --device cuda
    python scripts/bench_ttfs.py --quick       # seconds; for tests

Three forms of the same units with the same spikes and gradients: one graph node per step and
operation (`loop`, as single-spike units are usually trained), sums over the time axis without a
loop (`vectorised`, Taylor et al., arXiv 2205.15286, report up to 13.98 times), and what
`neuron=single_spike` runs on the device (`snnrun`). Interleaved rounds in one process, one thread;
CPU time on the CPU, wall time between synchronisations on CUDA; medians.
"""

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from snnrun.config import CONF, RunSpec, build
from snnrun.methods.base import Update
from snnrun.models.network import Network
from snnrun.neurons.single_spike import SingleSpikeNeuron, exact, single_spikes


class Loop(nn.Module):
    """One step after another."""

    def __init__(self, neuron: SingleSpikeNeuron):
        super().__init__()
        self.keys = {"threshold": neuron.threshold, "surrogate": neuron.surrogate, "rule": exact}

    def forward(self, current: Tensor) -> Tensor:
        """Spikes [T, B, ...] of a whole sequence."""
        memory, spikes = None, []
        for step in current.split(1):
            out, memory = single_spikes(step, memory, **self.keys)
            spikes.append(out)
        return torch.cat(spikes)


class Vectorised(Loop):
    """All steps at once."""

    def forward(self, current: Tensor) -> Tensor:
        """See Loop.forward."""
        return single_spikes(current, None, **self.keys)[0]


FORMS = {"loop": Loop, "vectorised": Vectorised, "snnrun": None}


@dataclass
class Entry:
    """One form at one number of steps."""

    form: str
    steps: int
    spec: RunSpec
    net: Network
    update: Update
    seconds: list[float] = field(default_factory=list)


def entry(form: str, steps: int, hidden: int, device: torch.device) -> Entry:
    """A net 784-hidden-hidden-10 with the form's units."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        keys = [f"method.timesteps={steps}", f"model.hidden=[{hidden},{hidden}]"]
        spec = build(compose("config", overrides=["method=ttfs", "model=mlp", *keys]))
    torch.manual_seed(0)
    kit = spec.method.kit(spec.neuron, spec.norm)
    net = spec.model.build(kit, (1, 28, 28), 10).to(device)
    if (other := FORMS[form]) is not None:
        for layer in net.layers:
            layer.neuron = other(layer.neuron)
    return Entry(form, steps, spec, net.train(), spec.method.setup(net))


def run(e: Entry, x: Tensor, y: Tensor) -> float:
    """Loss of one training step, appended with its seconds."""
    cuda = x.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    if cuda:
        torch.cuda.synchronize()
    start = clock()
    loss = e.spec.method.step(e.net, e.update, x, y).loss
    if cuda:
        torch.cuda.synchronize()
    e.seconds.append(clock() - start)
    return loss.item()


def measure(args: argparse.Namespace) -> list[dict[str, float]]:
    """Median milliseconds of every form, by number of steps."""
    device, rows = torch.device(args.device), []
    for steps in args.steps:
        entries = [entry(form, steps, args.hidden, device) for form in FORMS]
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, args.batch, 1, 28, 28, generator=generator).to(device)
        x = image.expand(steps, *image.shape[1:])
        y = torch.randint(10, (args.batch,), generator=generator).to(device)
        for _ in range(args.rounds):
            for e in entries:
                run(e, x, y)
        times = {e.form: 1e3 * median(e.seconds[args.warmup :]) for e in entries}
        rows.append({"steps": steps, **times})
    return rows


def show(rows: list[dict[str, float]], args: argparse.Namespace) -> None:
    """Milliseconds, and how many times faster than the loop."""
    title = f"training step, 784-{args.hidden}-{args.hidden}-10, batch {args.batch}, {args.device}"
    table = Table("T", *(f"{form} ms" for form in FORMS), "vectorised", "snnrun", title=title)
    for row in rows:
        ratios = (f"{row['loop'] / row[form]:.2f} x" for form in ("vectorised", "snnrun"))
        table.add_row(f"{row['steps']}", *(f"{row[form]:.2f}" for form in FORMS), *ratios)
    Console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny, for tests")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--hidden", type=int, default=800)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if args.quick:
        args.steps, args.hidden, args.batch, args.rounds, args.warmup = [4, 8], 32, 16, 3, 1
    torch.set_num_threads(1)
    rows = measure(args)
    show(rows, args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
