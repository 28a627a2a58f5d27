"""Many short runs one after another in one process: memory, threads and open files stay flat.

python scripts/soak.py            # 200 runs
python scripts/soak.py --runs 30
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from snnrun.config import CONF, build
from snnrun.run import execute
from snnrun.train import set_up_process

EVERY = 10
SHORT = ("method=bptt", "dataset.limit=100", "epochs=1", "hardware=cpu", "progress=off")


def rows(runs: int) -> list[tuple[str, ...]]:
    """What the process holds after every tenth run, and the median time of those ten."""
    found, seconds = [], []
    for seed in range(runs):
        started = time.perf_counter()
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            cfg = compose("config", overrides=[*SHORT, f"seed={seed}"])
        execute(build(cfg))
        seconds.append(time.perf_counter() - started)
        if (seed + 1) % EVERY == 0:
            figures = (f"{resident_mib():.0f}", threading.active_count(), open_files())
            found.append((str(seed + 1), *map(str, figures), f"{median(seconds[-EVERY:]):.2f}"))
    return found


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
        for row in rows(runs):
            table.add_row(*row)
        os.chdir("/")
    Console().print(table)


if __name__ == "__main__":
    main()
