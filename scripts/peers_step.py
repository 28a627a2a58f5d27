"""One contender of bench_peers.py in a process of its own: builds its net, then takes steps.

    python scripts/peers_step.py CONTENDER WORKLOAD [--device cuda] [--batch N]

Every line of standard input says how many training steps to take; a line of JSON answers. 0: one,
with memory counted from here on.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
# Of a layer of neurons, per unit and step in single precision: current in and spikes out going
# forward, current and gradient in and gradient out going backward.
COPIED = 2 * 4 + 3 * 4

SEGMENT = 8  # steps of a sequence whose graph is kept at a time


def child(contender: str, workload: str, device: str, batch: int | None) -> None:
    """Answer every line of standard input."""
    sys.path.insert(0, str(ROOT))
    name, _, how = contender.partition("+")
    if how in ("switches", "compile"):
        from ctypes import CDLL

        for key, value in ((-1, 2**31 - 1), (-3, 2**30)):  # trim and mmap thresholds
            CDLL(None).mallopt(key, value)
    import torch

    torch.set_num_threads(1)
    if how in ("switches", "compile"):
        torch.set_float32_matmul_precision("medium")
    try:
        step = _step(name, how, workload, device, batch)
        meter = Cuda() if device == "cuda" else Cpu()
        for line in sys.stdin:
            if int(line) == 0:  # the libraries are loaded: what counts from here on is the steps
                meter.reset()
            print(json.dumps(_taken(step, max(1, int(line)), meter)), flush=True)
    except Exception as error:  # whatever a library cannot do, the others go on
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


def _taken(step: Callable[[], "torch.Tensor"], count: int, meter: "Cpu | Cuda") -> dict[str, float]:
    """Some steps: the first one's loss, time per step on both clocks, peak memory."""
    begun, start = time.perf_counter(), meter.clock()
    losses = [step() for _ in range(count)]
    seconds = (meter.clock() - start) / count
    wall = (time.perf_counter() - begun) / count
    return {
        "loss": float(losses[0]),
        "seconds": seconds,
        "wall": wall,
        "mib": meter.peak_mib(),
    }


class Cpu:
    """CPU seconds and resident memory."""

    before = 0
    clock = staticmethod(time.process_time)

    def reset(self) -> None:
        """Count memory from here on."""
        from snnrun.measure.memory import _return_free_pages

        _return_free_pages()
        self.before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")

    def peak_mib(self) -> float:
        """Peak since reset."""
        return (_status("VmHWM") - self.before) / 1024


class Cuda:
    """Wall seconds once the device is idle, and allocated memory."""

    before = 0

    def clock(self) -> float:
        """Seconds, with nothing under way."""
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()

    def reset(self) -> None:
        """Count memory from here on."""
        import torch

        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()

    def peak_mib(self) -> float:
        """Peak since reset."""
        import torch

        return (torch.cuda.max_memory_allocated() - self.before) / 2**20


def _step(name: str, how: str, workload: str, device: str, batch: int | None):
    import torch
    import torch.nn.functional as F
    from peers_nets import SAME_AS, WORKLOADS, build

    _, steps, shape = WORKLOADS[workload]
    shape = (batch or shape[0], *shape[1:])
    if name == "copy":
        source = torch.ones(steps * math.prod(shape) * COPIED // 2, dtype=torch.uint8)
        source = source.to(device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)[0]
    torch.manual_seed(0)
    changes = SAME_AS[how.removeprefix("like-")] if how.startswith("like-") else {}
    net, run = build(name, workload, **changes)
    net.to(device)
    torch.manual_seed(1)
    lone = workload.startswith("lif")
    x = torch.randn(steps, *shape) if lone else (torch.rand(steps, *shape) < 0.3).float()
    y = torch.randint(10, shape[:1])
    x, y = x.to(device), y.to(device)
    if name == "ours" and not how.startswith("like-"):
        run = _planned(net, run, device, bf16=how == "bf16")
    if how == "compile":
        run = torch.compile(run)
    if lone:
        x.requires_grad_()
        grad = torch.randn_like(x)

        def step() -> torch.Tensor:
            x.grad = None
            spikes = run(x)
            spikes.backward(grad)
            return spikes.detach()[0, 0].mean()

        return step
    if how == "segments":
        return _segmented(net, x, y)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-4)

    def step() -> torch.Tensor:
        loss = F.cross_entropy(run(x).mean(0), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _segmented(net, x: "torch.Tensor", y: "torch.Tensor"):
    """A step of our BPTT that keeps the graph of a part of the sequence at a time."""
    import torch.nn.functional as F
    from hydra import compose, initialize_config_dir

    from snnrun.config import CONF, build
    from snnrun.methods.base import Update
    from snnrun.methods.segments import learn_sequence

    segments = len(x) // SEGMENT
    if segments < 2:
        raise ValueError(f"{len(x)} steps are not cut into parts of {SEGMENT}")
    sgd = ("name=sgd", "lr=1e-4", "momentum=0", "weight_decay=0", "schedule=constant")
    overrides = ["method=bptt", "dataset=synthetic", "model.norm=none"]
    overrides += [f"method.timesteps={len(x)}", f"method.segments={segments}"]
    overrides += [f"method.optim.{key}" for key in sgd]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        method = build(compose("config", overrides=overrides)).method
    update = Update(net, method.optim)

    def step():
        loss_of = lambda outputs: F.cross_entropy(outputs.mean(0), y)  # noqa: E731
        return learn_sequence(method, net, update, x, loss_of, segments=segments).loss

    return step


def _planned(net, run, device: str, *, bf16: bool):
    """Ours as `snnrun train` runs it on this machine."""
    import torch

    from snnrun.planning import Planning

    precision = "bf16" if bf16 else "fp32"
    plan = Planning(probe=True, show=False).plan(torch.device(device), precision)
    plan.prepare()
    net.to(memory_format=plan.memory_format())
    net.in_chunks = plan.sequences == "chunks"  # of which neurons alone take no notice
    return torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False)(run)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("contender")
    parser.add_argument("workload")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int)
    child(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
