"""How long `snnrun compare` takes on many finished runs, and MLflow's own search beside it.

A store is filled with copies of one run's worth of metrics, params and tags: methods x seeds.

    python scripts/bench_compare.py [--runs 1000] [--quick]
"""

import argparse
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from snnrun.compare import COLUMNS
from snnrun.config import CONF
from snnrun.run import flatten
from snnrun.tracking import Tracking, prepare
from snnrun.tracking_store import SQLITE

EPOCHS = 20
METHODS = ("bptt", "tet", "ottt", "saf", "dsr")


def fill(folder: Path, runs: int) -> str:
    """Write finished runs straight into a fresh store; its address."""
    store = prepare(Tracking(uri=None, experiment="digits"), folder)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        params = flatten(OmegaConf.to_container(compose("config"), resolve=True))
    rows = {"runs": [], "tags": [], "params": [], "latest_metrics": [], "metrics": []}
    for number in range(runs):
        method, seed = METHODS[number % len(METHODS)], str(number // len(METHODS))
        run = f"{number:032x}"
        rows["runs"].append((run, f"{method}-s{seed}", "FINISHED", 1, number, number, "active", ""))
        own = {"seed": seed, "method.name": method}
        rows["params"] += [(run, key, value) for key, value in (params | own).items()]
        tags = {"spec_hash": run, "method": method, "seed": seed, "dataset": "digits"}
        rows["tags"] += [(run, key, value) for key, value in tags.items()]
        for column in COLUMNS:
            steps = range(EPOCHS)
            rows["metrics"] += [(run, column.key, number + s, 0, s, 0) for s in steps]
            rows["latest_metrics"].append((run, column.key, number + EPOCHS, 0, EPOCHS, 0))
    columns = {
        "runs": "run_uuid, name, status, experiment_id, start_time, end_time, "
        "lifecycle_stage, user_id",
        "tags": "run_uuid, key, value",
        "params": "run_uuid, key, value",
        "metrics": "run_uuid, key, value, timestamp, step, is_nan",
        "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
    }
    with closing(sqlite3.connect(store.uri.removeprefix(SQLITE))) as database:
        for table, names in columns.items():
            marks = ", ".join("?" * (names.count(",") + 1))
            database.executemany(f"insert into {table} ({names}) values ({marks})", rows[table])
        database.commit()
    return store.uri


def seconds(*command: str) -> float:
    """Shortest of three wall times of a command."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


SEARCH = """
import sys
from mlflow import MlflowClient
from snnrun.tracking_read import _from_search
assert len(_from_search(MlflowClient(sys.argv[1]))) == int(sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="ten runs, for tests")
    runs = 10 if (chosen := parser.parse_args()).quick else chosen.runs
    with tempfile.TemporaryDirectory() as folder:
        uri = fill(Path(folder), runs)
        snnrun = [sys.executable, "-m", "snnrun", "compare", "--store", uri]
        table = Table("what", "seconds", title=f"{runs} finished runs")
        table.add_row("snnrun compare", f"{seconds(*snnrun):.2f}")
        table.add_row("snnrun compare --by method", f"{seconds(*snnrun, '--by', 'method'):.2f}")
        search = (sys.executable, "-c", SEARCH, uri, str(runs))
        table.add_row("MLflow's search alone", f"{seconds(*search):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
