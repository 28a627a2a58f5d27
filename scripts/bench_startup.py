"""How long a default ``snnrun train`` takes from the command to its first training step.

The method of the run is the default one, except that it writes down the time and ends the process
when it is asked for a step. Shortest of several starts in one folder, after one that makes the
store, the machine's plan and compiled kernels. CPU time is of the whole process.

    python scripts/bench_startup.py [--quick]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_STEP = """
import os, sys, time
from snnrun.methods.saf import SAF

class FirstStep(SAF):
    def step(self, net, update, x, y):
        sys.stdout.write(f"{time.time()} {time.process_time()}")
        sys.stdout.flush()
        os._exit(0)
"""

REFERENCES = {
    "snnrun train --help": ("-m", "snnrun", "train", "--help"),
    "import hydra": ("-c", "import hydra"),
    "import torch": ("-c", "import torch"),
    "import mlflow": ("-c", "import mlflow"),
}


def first_step(folder: Path, seed: int) -> tuple[float, float]:
    """Wall and CPU seconds from the command to the first step."""
    command = ("-m", "snnrun", "train", "method._target_=first_step.FirstStep", f"seed={seed}")
    start = time.time()
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    wall, cpu = done.stdout.split()
    return float(wall) - start, float(cpu)


def whole(*command: str) -> tuple[float, float]:
    """Wall and CPU seconds of a Python process."""
    start, before = time.time(), os.times()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    wall, after = time.time() - start, os.times()
    return wall, sum(after[2:4]) - sum(before[2:4])


def show(what: str, times: list[tuple[float, float]]) -> None:
    wall, cpu = (min(column) for column in zip(*times, strict=True))
    print(f"{what:36} {wall:6.2f} s, CPU {cpu:6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two starts each instead of seven")
    starts = 2 if parser.parse_args().quick else 7
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "first_step.py").write_text(FIRST_STEP)
        times = [first_step(Path(folder), seed) for seed in range(starts + 1)]
    show("first start, store made", times[:1])
    show("snnrun train, to its first step", times[1:])
    for what, command in REFERENCES.items():
        show(what, [whole(*command) for _ in range(starts)])


if __name__ == "__main__":
    main()
