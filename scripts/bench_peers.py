"""Training steps side by side: ours against SpikingJelly, snnTorch and norse on the same work.

Every contender runs in a process of its own; in each round every process takes its turn with a few
steps (forward, backward, SGD), one thread. Seconds per step are medians over rounds, ratios are
taken within a round. On the CPU they are CPU seconds, and peak memory is resident memory above that
between steps; with --device cuda wall seconds between synchronisations, and allocated memory.
Before the timing each peer's first loss is compared with that of our net with the peer's kind of
neuron. The contender "copy" only moves the bytes that a layer of neurons has to (see COPIED).

    python scripts/bench_peers.py [--peers PYTHON] [--workload NAME ...] [--only NAME ...]
        [--device cuda] [--batch N] [--rounds 5] [--json FILE] [--quick]

PYTHON is the interpreter of an environment with spikingjelly, snntorch and norse; without it only
ours, the ReLU net and a plain loop over time run. A name with +switches has float32 products sent
to oneDNN (in bfloat16 on CPUs with AMX) and allocator thresholds raised, +compile also
torch.compile, which the first step waits for: its wall time is a column. vgg_sws and resnet19 are
our nets with each library's neurons. Who cannot do a workload is left out, and the reason printed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("spikingjelly", "snntorch", "norse")
CONTENDERS = (
    "spikingjelly",
    "spikingjelly+switches",
    "spikingjelly+compile",
    "snntorch",
    "snntorch+switches",
    "snntorch+compile",
    "norse",
    "plain+compile",
    "relu+switches",
    "ours",
    "ours+bf16",
    "copy",
)
ON_CUDA = ("spikingjelly", "snntorch", "relu", "ours", "ours+bf16", "copy")
ON_NEURONS = (
    "spikingjelly",
    "spikingjelly+switches",
    "spikingjelly+compile",
    "snntorch",
    "norse",
    "plain+compile",
    "ours",
    "copy",
)
ON_CPU = ("mlp_t16", "mlp_t64", "conv_t8", "lif_t16", "lif_t64", "vgg_sws", "resnet19")  # workloads
DEEP = ("vgg_sws", "resnet19")  # where one spike flipped by rounding flips many behind it
BASE = "spikingjelly"
# Of a layer of neurons, per unit and step in single precision: current in and spikes out going
# forward, current and gradient in and gradient out going backward.
COPIED = 2 * 4 + 3 * 4


def child(contender: str, workload: str, device: str, batch: int | None) -> None:
    """Take as many steps as each line of standard input says, and answer with one line of JSON."""
    sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
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
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-4)

    def step() -> torch.Tensor:
        loss = F.cross_entropy(run(x).mean(0), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step


def _planned(net, run, device: str, *, bf16: bool):
    """Ours as `snnrun train` runs it on this machine."""
    import torch

    from snnrun.plan import Planning

    planning = Planning(probe=True, products=None, layout=None, allocator=None, show=False)
    plan = planning.plan(torch.device(device), torch.float32)
    plan.prepare()
    net.to(memory_format=plan.memory_format())
    return torch.autocast(device, torch.bfloat16, enabled=bf16, cache_enabled=False)(run)


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(field)).split()[1])


class UnableError(Exception):
    """A contender that cannot do this workload, and why."""


class Process:
    """One contender, waiting for its turn."""

    def __init__(self, python: str, contender: str, workload: str, more: list[str]):
        self.contender = contender
        command = [python, __file__, "--child", contender, "--workload", workload, *more]
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | threads,
        )

    def steps(self, count: int) -> dict[str, float]:
        """Take some training steps; 0: one, with memory counted from here on."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    break
                return answer
        else:
            answer = {"error": "it ended; run it with --child to see why"}
        raise UnableError(f"{self.contender}: {answer['error'].splitlines()[0]}")

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


def measure(workload: str, contenders: list[str], chosen: argparse.Namespace):
    """Rows {contender: {seconds, ratio, mib, wait, first_loss}} of one workload."""
    peers, more = chosen.peers, ["--device", chosen.device]
    more += ["--batch", str(chosen.batch)] if chosen.batch else []
    pythons = {c: peers if c.startswith(PEERS) else sys.executable for c in contenders}
    likes = [f"ours+like-{p}" for p in PEERS if any(c.startswith(p) for c in contenders)]
    processes = [Process(pythons[c] or sys.executable, c, workload, more) for c in contenders]
    checks = [Process(sys.executable, c, workload, more) for c in likes]
    try:
        first = _first(workload, [*processes, *checks])
        for p in checks:
            p.close()
        _same_work(workload, {name: answer["loss"] for name, answer in first.items()})
        taking_part = [p for p in processes if p.contender in first]
        for p in taking_part:
            p.steps(2)  # warm
            p.steps(0)
        found = defaultdict(list)
        for _ in range(chosen.rounds):
            for p in taking_part:
                found[p.contender].append(p.steps(chosen.steps))
    finally:
        for p in (*processes, *checks):
            p.close()
    base = found.get(BASE) or next(iter(found.values()))
    return {
        name: {
            "seconds": statistics.median(r["seconds"] for r in rows),
            "ratio": statistics.median(
                b["seconds"] / r["seconds"] for r, b in zip(rows, base, strict=True)
            ),
            "mib": max(r["mib"] for r in rows),
            "wait": first[name]["wall"],
            "first_loss": first[name]["loss"],
        }
        for name, rows in found.items()
    }


def _first(workload: str, processes: list[Process]) -> dict[str, dict[str, float]]:
    """The answers to the first step, which waits for compilation, of those who can take one."""
    answers = {}
    for p in processes:
        try:
            answers[p.contender] = p.steps(1)
        except UnableError as reason:
            print(f"{workload} without {reason}", flush=True)
    return answers


def _same_work(workload: str, first: dict[str, float]) -> None:
    """The same loss at the first step as ours, up to rounding that flips a spike here and there."""
    for name, loss in first.items():
        library, _, how = name.partition("+")
        like = f"ours+like-{library}" if library in PEERS else "ours+like-spikingjelly"
        if library in ("relu", "copy") or how.startswith("like-") or like not in first:
            continue
        tolerance = 2e-2 if how else 1e-3  # with AMX the switches mean bfloat16, too
        if workload in DEEP and (how or name == "ours"):  # ours lays maps out in its own way
            tolerance = 1e-1
        if abs(loss - first[like]) > tolerance * abs(first[like]):
            raise RuntimeError(f"{name} has loss {loss}, the same net of ours {first[like]}")


def show(results: dict[str, dict[str, dict[str, float]]], chosen: argparse.Namespace) -> None:
    from tables import Measured, keep, machine  # not in a child, which sets malloc up before torch

    rows = [
        [name, workload, *(f"{row[key]:{form}}" for key, form in FORMATS.items())]
        for workload, found in results.items()
        for name, row in found.items()
    ]
    batch = f", batch {chosen.batch}" if chosen.batch else ""
    title = f"One training step{batch}, one thread, {chosen.rounds} rounds, on "
    columns = [
        "",
        "workload",
        "s / step",
        f"times faster than {BASE}",
        "MiB",
        "first step s",
        "loss",
    ]
    table = Measured(title + machine(chosen.device), columns, rows)
    table.show()
    keep(chosen.json, [table], results)


FORMATS = {"seconds": ".5f", "ratio": ".2f", "mib": ".0f", "wait": ".1f", "first_loss": ".5f"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--peers")
    parser.add_argument("--workload", nargs="+")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="samples, instead of each workload's own number")
    parser.add_argument("--quick", action="store_true", help="a small net, one round, for tests")
    chosen = parser.parse_args()
    if chosen.child:
        child(chosen.child, chosen.workload[0], chosen.device, chosen.batch)
        return
    workloads = chosen.workload or [*ON_CPU]
    if chosen.quick:
        workloads, chosen.rounds, chosen.steps = ["small"], 1, 1
    names = chosen.only or (ON_CUDA if chosen.device == "cuda" else CONTENDERS)
    names = [n for n in names if chosen.peers or not n.startswith(PEERS)]
    results = {}
    for workload in workloads:
        lone = workload.startswith("lif")
        use = [n for n in names if (n in ON_NEURONS if lone else n != "copy")]
        results[workload] = measure(workload, use, chosen)
        print(workload, {name: row["ratio"] for name, row in results[workload].items()}, flush=True)
    show(results, chosen)


if __name__ == "__main__":
    main()
