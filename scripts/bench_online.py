"""Time and memory of one training batch: bptt, ottt (double forward and custom op), saf-e, saf-f.

    python scripts/bench_online.py             # half-width vgg_sws, minutes on one core
    python scripts/bench_online.py --width 1 --batch 32 --device cuda
    python scripts/bench_online.py --quick     # seconds; for tests

All in one process, in interleaved rounds, one thread. Time is CPU time on the CPU and wall time
between synchronisations on CUDA; memory is what autograd and the method keep, as
``memory/saved_for_backward_mib``, less what an empty batch would keep (the standardised weights).
Ratios are to ottt with the double forward of its published code, beside those the paper of SAF
reports at T = 6.
"""

import argparse
import gc
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from tables import Measured, keep, machine
from torch import Tensor

from snnrun.config import CONF, RunSpec, build
from snnrun.measure.memory import saved_for_backward
from snnrun.methods.base import Update
from snnrun.models.network import Network

FORMS = {
    "ottt, double forward": ("method=ottt", "method.double_forward=true"),
    "ottt": ("method=ottt",),
    "saf-e": ("method=saf",),
    "saf-f": ("method=saf", "method.variant=f"),
    "bptt": ("method=bptt",),
}
REFERENCE = "ottt, double forward"
PAPER = {REFERENCE: (1.0, 1.0), "saf-e": (0.70, 0.72), "saf-f": (0.37, 0.70)}  # time, memory
WIDTHS = ((64, 128), (256, 256), (512, 512), (512, 512))


@dataclass
class Entry:
    """One form at one number of steps."""

    form: str
    steps: int
    spec: RunSpec
    net: Network
    update: Update
    seconds: list[float] = field(default_factory=list)
    mib: float = 0.0

    def step(self, x: Tensor, y: Tensor) -> int:
        """Train once; bytes the method kept itself."""
        return self.spec.method.step(self.net, self.update, x, y).kept_bytes


def prepare(form: str, steps: int, channels: str, device: torch.device) -> Entry:
    common = ("dataset=synthetic", "model=vgg_sws", "model.norm=sws", f"model.channels={channels}")
    overrides = [*FORMS[form], *common, f"method.timesteps={steps}", "method.optim.lr=0"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        spec = build(compose("config", overrides=overrides))
    torch.manual_seed(0)
    kit = spec.method.kit(spec.neuron, spec.norm)
    net = spec.model.build(kit, (3, 32, 32), 10).to(device).train()
    return Entry(form, steps, spec, net, spec.method.setup(net))


def batch_of(steps: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Made-up CIFAR: standard-normal images, seen at all steps."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, size, 3, 32, 32, generator=generator).to(device)
    return x.expand(steps, *x.shape[1:]), (torch.arange(size) % 10).to(device)


def kept(entry: Entry, size: int, device: torch.device) -> float:
    """MiB kept for a batch of this size: slope between one and two samples."""
    found = []
    for samples in (1, 2):
        x, y = batch_of(entry.steps, samples, device)
        with saved_for_backward(entry.net, x) as saved:
            more = entry.step(x, y)
        found.append(saved.metrics(more)["memory/saved_for_backward_mib"])
    return (found[1] - found[0]) * size


def timed(entry: Entry, x: Tensor, y: Tensor) -> float:
    clock = time.process_time if x.device.type == "cpu" else time.perf_counter
    gc.collect()
    if x.is_cuda:
        torch.cuda.synchronize()
    start = clock()
    entry.step(x, y)
    if x.is_cuda:
        torch.cuda.synchronize()
    return clock() - start


def measure(arguments: argparse.Namespace) -> list[Entry]:
    device = torch.device(arguments.device)
    widths = [[max(1, int(w * arguments.width)) for w in group] for group in WIDTHS]
    channels = str(widths).replace(" ", "")
    entries = []
    for steps in arguments.steps:
        round_of = [prepare(form, steps, channels, device) for form in FORMS]
        x, y = batch_of(steps, arguments.batch, device)
        for entry in round_of:
            entry.mib = kept(entry, arguments.batch, device)  # warms up, too
        for _ in range(arguments.rounds):
            for entry in round_of:
                entry.seconds.append(timed(entry, x, y))
        entries += round_of
    return entries


def rows(entries: list[Entry]) -> list[dict[str, float | str | int]]:
    """Medians over the rounds and ratios within them."""
    found: list[dict[str, float | str | int]] = []
    for entry in entries:
        base = next(e for e in entries if e.steps == entry.steps and e.form == REFERENCE)
        ratios = [a / b for a, b in zip(entry.seconds, base.seconds, strict=True)]
        found.append(
            {
                "steps": entry.steps,
                "form": entry.form,
                "seconds": median(entry.seconds),
                "time_ratio": median(ratios),
                "mib": entry.mib,
                "memory_ratio": entry.mib / base.mib,
            }
        )
    return found


def table(found: list[dict[str, float | str | int]], title: str) -> Measured:
    columns = ["method", "T", "s / batch", "ratio", "paper's", "MiB", "ratio", "paper's"]
    shown = []
    for row in found:
        paper = PAPER.get(str(row["form"])) if row["steps"] == 6 else None
        time_paper, memory_paper = (f"{p:.2f}" for p in paper) if paper else ("", "")
        time = f"{row['seconds']:.3f}", f"{row['time_ratio']:.2f}", time_paper
        memory = f"{row['mib']:.1f}", f"{row['memory_ratio']:.2f}", memory_paper
        shown.append([str(row["form"]), str(row["steps"]), *time, *memory])
    return Measured(title, columns, shown)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 6, 16, 64])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=float, default=0.5, help="factor on the papers' channels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for tests")
    parser.add_argument("--json", type=Path, help="write the table here, too")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.steps, arguments.batch, arguments.width, arguments.rounds = [2, 6], 2, 0.05, 1
    return arguments


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(1)
    found = rows(measure(arguments))
    title = (
        f"One training batch of vgg_sws x {arguments.width:g}, 32x32, batch {arguments.batch}, "
        f"{arguments.rounds} rounds, one thread, on {machine(arguments.device)}"
    )
    shown = table(found, title)
    shown.show()
    keep(arguments.json, [shown], found)


if __name__ == "__main__":
    main()
