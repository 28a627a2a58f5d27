"""SIGKILL at random moments of a short run, repeated until it is through: the numbers stay.

python scripts/kill_storm.py             # 50 kills
python scripts/kill_storm.py --kills 8
"""

import argparse
import os
import random
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from rich.console import Console

RUN = (
    "train", "method=bptt", "dataset.limit=400", "model.hidden=[16]", "model.dropout=0.1",
    "epochs=3", "hardware=cpu", "hardware.threads=1", "progress=off",
)  # fmt: skip
VARYING = re.compile(r"latency/(?!decision)|_peak_mib|data/wait")
# Of a writer that was killed; the next one writes over it.
PASSING = re.compile(r"mlflow\.db(-journal|-wal|-shm|\.lock)?$|\.lock$|/lock$")


def start(folder: Path) -> subprocess.Popen[bytes]:
    """One start of the command."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        [sys.executable, "-m", "snnrun", *RUN],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def finish(folder: Path) -> float:
    """Run until it is through; the seconds that took."""
    started = time.perf_counter()
    process = start(folder)
    _, error = process.communicate()
    if process.returncode:
        raise SystemExit(f"a repetition failed:\n{error.decode()}")
    return time.perf_counter() - started


def storm(folder: Path, kills: int, longest_s: float, seed: int) -> list[int]:
    """Kill at random moments, a fresh folder each time the run got through; exits seen."""
    draws, codes = random.Random(seed), []
    for _ in range(kills):
        process = start(folder)
        try:
            _, error = process.communicate(timeout=draws.uniform(0.0, longest_s))
        except subprocess.TimeoutExpired:
            process.kill()
            _, error = process.communicate()
        codes.append(process.returncode)
        if process.returncode not in (0, -9):
            raise SystemExit(f"a repetition failed:\n{error.decode()}")
        if process.returncode == 0:
            break
    return codes


def result(folder: Path) -> tuple[list[tuple[str]], dict[tuple[str, int], float]]:
    """Status of every run, and the figures that do not depend on the machine's mood."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        statuses = store.execute("select status from runs").fetchall()
        rows = store.execute("select key, step, value from metrics").fetchall()
    if len(rows) != len({row[:2] for row in rows}):
        raise SystemExit("a metric was logged twice for one step")
    return statuses, {row[:2]: row[2] for row in rows if not VARYING.search(row[0])}


def files(folder: Path) -> set[str]:
    """Files that should be the same after a storm, run ids left out."""
    found = (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    return {re.sub(r"[0-9a-f]{32}", "ID", f) for f in found if not PASSING.search(f)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill a run at random moments and repeat it.")
    parser.add_argument("--kills", type=int, default=50, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        calm = Path(name) / "calm"
        calm.mkdir()
        longest_s = finish(calm)
        killed = rounds = 0
        while killed < chosen.kills:
            rough = Path(name) / f"rough{rounds}"
            rough.mkdir()
            codes = storm(rough, chosen.kills - killed, longest_s, chosen.seed + rounds)
            finish(rough)
            killed, rounds = killed + codes.count(-9), rounds + 1
            if result(rough) != result(calm) or files(rough) != files(calm):
                stray = sorted(files(rough) ^ files(calm))
                raise SystemExit(f"differs: {result(rough)[0]}, files {stray}")
    Console().print(f"{killed} kills, {rounds} runs: each FINISHED once with equal numbers")


if __name__ == "__main__":
    main()
