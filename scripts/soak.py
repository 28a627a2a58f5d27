"""Many short runs one after another in one process: memory, threads and open files stay flat.

python scripts/soak.py            # 200 runs
python scripts/soak.py --runs 30

Ends with exit code 1 if one of them grows after the first hundred runs, which fill caches.
"""

import argparse
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from snnrun.config import CONF, build
from snnrun.run import execute
from snnrun.train import set_up_process

EVERY = 10
WARM = 100  # runs
FLAT_MIB = 0.1  # growth a run that the allocator alone may show
SHORT = ("method=bptt", "dataset.limit=100", "epochs=1", "hardware=cpu", "progress=off")


@dataclass
class Held:
    """What the process holds after some runs, and the median time of the last ones."""

    runs: int
    mib: float
    threads: int
    files: int
    seconds: float


def soak(runs: int) -> list[Held]:
    """Train one after another; a row after every tenth run."""
    found, seconds = [], []
    for seed in range(runs):
        started = time.perf_counter()
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("config", overrides=[*SHORT, f"seed={seed}"])
        execute(build(cfg))
        seconds.append(time.perf_counter() - started)
        if (seed + 1) % EVERY == 0:
            took = median(seconds[-EVERY:])
            held = resident_mib(), threading.active_count(), open_files()
            found.append(Held(seed + 1, *held, took))
    return found


def growth(found: list[Held]) -> str:
    """What grew once warm; empty if nothing did, or there were too few runs to tell."""
    if len(warm := [held for held in found if held.runs >= WARM]) < 2:
        return ""
    first, last = warm[0], warm[-1]
    a_run = (last.mib - first.mib) / (last.runs - first.runs)
    grown = [f"memory {a_run:+.2f} MiB a run"] if a_run > FLAT_MIB else []
    grown += [f"threads to {last.threads}"] if last.threads > first.threads else []
    return ", ".join(grown + ([f"open files to {last.files}"] if last.files > first.files else []))


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    """Files, sockets and pipes of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description="Many short runs in one process.")
    parser.add_argument("--runs", type=int, default=200, help="(default: %(default)s)")
    runs = parser.parse_args().runs
    set_up_process()
    table = Table("runs", "memory, MiB", "threads", "open files", "s per run, median of 10")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        found = soak(runs)
        os.chdir("/")
    for held in found:
        figures = f"{held.mib:.0f}", str(held.threads), str(held.files), f"{held.seconds:.2f}"
        table.add_row(str(held.runs), *figures)
    Console().print(table)
    if grown := growth(found):
        raise SystemExit(f"not flat after run {WARM}: {grown}")


if __name__ == "__main__":
    main()
