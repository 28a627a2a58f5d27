"""Training steps side by side: ours against SpikingJelly, snnTorch and norse on the same work.

Every contender runs in a process of its own; in each round every process takes its turn with a few
steps (forward, backward, SGD; a tenth of a second at least), one thread. Seconds per step are
medians over rounds, ratios are taken within a round. On the CPU they are CPU seconds, and peak
memory is resident memory above that between steps; with --device cuda wall seconds between
synchronisations, and allocated memory.
Before the timing each peer's first loss is compared with that of our net with the peer's kind of
neuron. The contender "copy" only moves the bytes that a layer of neurons has to (peers_step.py).

    python scripts/bench_peers.py [--peers PYTHON] [--workload NAME ...] [--only NAME ...]
        [--device cuda] [--batch N] [--rounds 5] [--json FILE] [--quick]

PYTHON is the interpreter of an environment with spikingjelly, snntorch and norse; without it only
ours, the ReLU net and a plain loop over time run. A name with +switches has float32 products sent
to oneDNN (in bfloat16 on CPUs with AMX) and allocator thresholds raised, +compile also
torch.compile, which the first step waits for: its wall time is a column; ours+segments keeps the
graph of eight steps at a time (method.segments). vgg_sws and resnet19 are our nets with each
library's neurons. Who cannot do a workload is left out, and the reason printed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from tables import Measured, keep, machine

STEP = Path(__file__).with_name("peers_step.py")
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
    "ours+segments",
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
TURN = 0.1  # seconds at least


class UnableError(Exception):
    """A contender that cannot do this workload, and why."""


class Process:
    """One contender, waiting for its turn."""

    def __init__(self, python: str, contender: str, workload: str, more: list[str]):
        self.contender = contender
        command = [python, str(STEP), contender, workload, *more]
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
        with suppress(BrokenPipeError):  # it has ended, and said why
            self.process.stdin.write(f"{count}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                answer = json.loads(line)
                if "error" in answer:
                    break
                return answer
        else:
            answer = {"error": "it ended; run scripts/peers_step.py to see why"}
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
        turns = {p: _turn(p.steps(2)["seconds"], chosen) for p in taking_part}  # warm by then
        for p in taking_part:
            p.steps(0)
        found = defaultdict(list)
        for _ in range(chosen.rounds):
            for p in taking_part:
                found[p.contender].append(p.steps(turns[p]))
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


def _turn(seconds: float, chosen: argparse.Namespace) -> int:
    """How many steps a turn has: enough for the caches that others used to be its own again."""
    return chosen.steps if chosen.quick else max(chosen.steps, math.ceil(TURN / seconds))


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
        # Ours lays maps out in its own way, norse rounds (leak - v + i) / tau where others scale v.
        if workload in DEEP and (how or name in ("ours", "norse")):
            tolerance = 1e-1
        if abs(loss - first[like]) > tolerance * abs(first[like]):
            raise RuntimeError(f"{name} has loss {loss}, the same net of ours {first[like]}")


def show(results: dict[str, dict[str, dict[str, float]]], chosen: argparse.Namespace) -> None:
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
