"""One training step of published networks at full size: time and memory, method by method.

    python scripts/bench_full_size.py --device cuda --json FILE
    python scripts/bench_full_size.py --quick      # batches of two and one step, for tests

Each experiment keeps its own net, batch size and number of steps; the data are made up in the shape
of its dataset. Time is the median over steps between synchronisations, memory the peak of what was
allocated (on CUDA) and what is kept for backward (anywhere). The papers' figures stand beside ours;
their hardware is not known.
"""

import argparse
import gc
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from tables import Measured, keep, machine

from snnrun.config import CONF, RunSpec, build
from snnrun.data.store import Store
from snnrun.measure.memory import MIB, saved_for_backward
from snnrun.run import batches, build_net

EXPERIMENTS = (
    "tdbn_cifar10_resnet19",
    "tet_cifar10_resnet19",
    "clif_cifar10_resnet18",
    "ottt_a_cifar10_vgg",
    "ottt_o_cifar10_vgg",
    "saf_e_cifar10_vgg",
    "saf_f_cifar10_vgg",
    "dsr_cifar10_preact_resnet18",
    "ttfs_cifar10",
    "ide_cifar10_alexnet",
    "ide_cifar10_cifarnet",
    "spide_mnist",
    "ssgd_shd",
)
# GB and seconds of a training step as reported in SAF's paper, arXiv 2310.02772.
PAPER = {
    "ottt_o_cifar10_vgg": (1.656, 0.666),
    "ottt_a_cifar10_vgg": (1.656, 0.661),
    "saf_e_cifar10_vgg": (1.184, 0.468),
    "saf_f_cifar10_vgg": (1.157, 0.247),
}
WARMUP = 3


def made_up(spec: RunSpec, samples: int, device: torch.device) -> Store:
    """Random samples of the shape of the experiment's dataset."""
    data, steps = spec.dataset, spec.method.timesteps
    shape = data.shape if data.static else (steps, *data.shape)
    channels = data.shape[0]
    return Store(
        images=torch.randint(data.peak + 1, (samples, *shape), dtype=torch.uint8, device=device),
        labels=torch.arange(samples, device=device) % data.classes,
        peak=data.peak,
        mean=torch.zeros(channels, device=device),
        std=torch.ones(channels, device=device),
    )


def measure(experiment: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [f"experiment={experiment}", f"hardware={chosen.device}", *chosen.overrides]
        if chosen.batch:
            overrides.append(f"dataset.batch_size={chosen.batch}")
        spec = build(compose("config", overrides))
    device = spec.hardware.torch_device()
    spec.hardware.prepare(0)
    net, _ = build_net(spec, device)
    net.train()
    update = spec.method.setup(net)
    size = spec.dataset.batch_size
    x, y = next(batches(spec, made_up(spec, size, device), training=True).epoch(0))

    def step() -> float:
        _wait(device)
        start = perf_counter()
        with spec.hardware.products():
            spec.method.step(net, update, x, y)
        _wait(device)
        return perf_counter() - start

    with saved_for_backward(net, x) as saved:
        kept = spec.method.step(net, update, x, y).kept_bytes
    for _ in range(WARMUP if chosen.steps > 1 else 0):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = median(step() for _ in range(chosen.steps))
    peak = torch.cuda.max_memory_allocated(device) / MIB if device.type == "cuda" else None
    return {
        "experiment": experiment,
        "method": spec.method.name,
        "model": spec.model.name,
        "T": spec.method.timesteps,
        "batch": size,
        "step_ms": seconds * 1000,
        "peak_mib": peak,
        "kept_mib": saved.metrics(kept)["memory/saved_for_backward_mib"],
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure one after the other, with nothing left of the one before."""
    for experiment in chosen.only or EXPERIMENTS:
        yield measure(experiment, chosen)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def cells(row: dict[str, Any]) -> list[str]:
    """A row as it is shown: the experiment, ours, the paper's."""
    gigabytes, seconds = PAPER.get(row["experiment"], (None, None))
    return [
        row["experiment"],
        str(row["T"]),
        str(row["batch"]),
        f"{row['step_ms']:.1f}",
        "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}",
        f"{row['kept_mib']:.0f}",
        "" if seconds is None else f"{seconds * 1000:.0f}",
        "" if gigabytes is None else f"{gigabytes * 1e9 / MIB:.0f}",
    ]


TITLES = (
    "experiment", "T", "batch", "step ms", "peak MiB", "kept for backward MiB",
    "paper: step ms", "paper: MiB",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="cpu | cuda | auto")
    parser.add_argument("--only", nargs="+", help="experiments, instead of one for each method")
    parser.add_argument("--overrides", nargs="+", default=[], help="as snnrun train takes them")
    parser.add_argument("--batch", type=int, help="instead of each experiment's own")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, for tests")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.batch, chosen.steps = 2, 1
    found = []
    for row in rows(chosen):
        found.append(row)
        Console(stderr=True).print(" ".join(cells(row)))
    where = "cuda" if found[0]["peak_mib"] is not None else "cpu"
    title = f"One training step at full size, median of {chosen.steps}, on {machine(where)}"
    table = Measured(title, list(TITLES), [cells(row) for row in found])
    table.show()
    keep(chosen.json, [table], found)


if __name__ == "__main__":
    main()
