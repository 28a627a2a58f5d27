"""Run what the README's tables show, and write those tables: no number is typed by hand.

Every row is a command. Finished runs are not repeated; an interrupted one continues. A row whose
runs have not all finished is left out of its table and named at the end; the table of a dataset
without a finished row stays as it is.

    python scripts/measured_table.py --work FOLDER [--only digits/bptt ...] [--table-only]
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from tables import README, rewritten

from snnrun.compare import COLUMNS, Row, Table, compare
from snnrun.config import CONF, build
from snnrun.ls import options
from snnrun.report.text import described, written
from snnrun.tracking_read import Record, finished
from snnrun.tracking_store import SQLITE

SEEDS = (0, 1, 2)
# A budget that lets all methods be compared on a small machine: same net, norm, steps and epochs.
# Small batches, because methods that update at every step are ahead where updates are few.
SMALL = (
    "dataset=fashion_mnist",
    "dataset.batch_size=32",
    "model.channels=[12,24]",
    "model.norm=sws",
    "method.timesteps=4",
    "epochs=3",
)
# Overrides and seeds of each Fashion-MNIST row; the digits rows are all methods as they come.
FASHION_MNIST: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = (
    (("method=bptt", *SMALL), SEEDS),
    (("method=ottt", "method.online=false", *SMALL), SEEDS),
    (("method=ottt", "method.online=true", *SMALL), SEEDS),
    (("method=saf", "method.variant=e", *SMALL), SEEDS),
    (("method=saf", "method.variant=f", *SMALL), SEEDS),
    (("method=tet", "dataset=fashion_mnist"), (0,)),
    (("experiment=ttfs_fashion_mnist",), (0,)),
    (("experiment=ssgd_fashion_mnist",), (0,)),
    (("experiment=ide_fashion_mnist", "epochs=30"), (0,)),
)
# Events: parts of two sets, so that a run takes half a minute.
EVENT_SETS = (
    ("dataset=nmnist", "dataset.allow_partial=true"),
    ("dataset=fmnist_saccade", "dataset.limit=2000"),
)
EVENT_METHODS = (
    ("method=bptt", "model.norm=sws"),
    ("method=tet", "model.norm=sws"),
    ("method=ottt", "method.online=false", "model.norm=sws"),
    ("method=ottt", "method.online=true", "model.norm=sws"),
    ("method=saf", "method.variant=e", "model.norm=sws"),
    ("method=saf", "method.variant=f", "model.norm=sws"),
    ("method=dsr",),  # needs a norm that can be folded into the weights
)
EVENT_BUDGET = ("dataset.batch_size=16", "model.channels=[12,24]", "method.timesteps=6", "epochs=5")
EVENTS = tuple(
    ((*method, *data, *EVENT_BUDGET), SEEDS) for data in EVENT_SETS for method in EVENT_METHODS
)
SHOWN = (
    "test/accuracy",
    "memory/saved_for_backward_mib",
    "latency/train_step_ms_p50",
    "latency/inference_ms_per_sample",
    "latency/decision_steps",
    "spikes/per_sample",
    "energy/inference_uj",
)
TITLES = {"memory/saved_for_backward_mib": "kept for backward, MiB"}


@dataclass(frozen=True)
class Line:
    """One row of a table: a command, and the specifications that it runs."""

    dataset: str
    method: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    hashes: frozenset[str]

    @property
    def command(self) -> tuple[str, ...]:
        """Arguments of snnrun."""
        seeds = f"seed={','.join(map(str, self.seeds))}"
        return ("train", *(["-m"] if len(self.seeds) > 1 else []), *self.overrides, seeds)

    @property
    def label(self) -> str:
        """First column: the method and what of it is not as it comes."""
        own = [o.removeprefix("method.") for o in self.overrides if o.startswith("method.")]
        return " ".join([self.method, *(o for o in own if not o.startswith("timesteps"))])

    @property
    def name(self) -> str:
        """What --only takes."""
        return f"{self.dataset}/{self.method}"


def lines() -> list[Line]:
    """All rows, their specifications composed and checked."""
    digits = [((f"method={name}", "dataset=digits"), SEEDS) for name in options("method")]
    found = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for row, seeds in (*digits, *FASHION_MNIST, *EVENTS):
            specs = [build(compose("config", [*row, f"seed={seed}"])) for seed in seeds]
            hashes = frozenset(spec.hash for spec in specs)
            found.append(Line(specs[0].dataset.name, specs[0].method.name, row, seeds, hashes))
    return found


def run(line: Line, work: Path, threads: int | None) -> None:
    """Train what of a row has not finished; a failure is seen by what is missing in the end."""
    places = [f"tracking.uri={SQLITE}{work}/runs.db", f"output_dir={work}/outputs"]
    if threads:
        places.append(f"hardware.threads={threads}")
    command = [sys.executable, "-m", "snnrun", *line.command, *places]
    subprocess.run(command, check=False)


def complete(line: Line, records: Iterable[Record]) -> list[Record]:
    """The finished runs of a row, empty unless there is one for every seed."""
    found = {hash: record for record in records if (hash := record.tags["spec_hash"])}
    return [found[one] for one in sorted(line.hashes)] if line.hashes <= set(found) else []


def sections(rows: list[Line], records: list[Record]) -> dict[str, str]:
    """A table of each dataset that has complete rows, of those rows only."""
    owner = {record.run_id: line for line in rows for record in complete(line, records)}
    chosen = [record for record in records if record.run_id in owner]
    return {table.dataset: _section(table, owner) for table in compare(chosen)} if chosen else {}


def _section(table: Table, owner: dict[str, Line]) -> str:
    records = [record for row in table.rows for record in row.records]
    days = sorted({datetime.fromtimestamp(r.ended / 1000, UTC).date().isoformat() for r in records})
    date = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    columns = [column for column in COLUMNS if column.key in SHOWN]
    titles = ["method", *(TITLES.get(c.key, c.label) for c in columns), "command"]
    text = [
        f"**{table.dataset}**, measured {date} on {described(table.conditions)}. Mean ± standard "
        "deviation over the seeds of the command, the best of each column in bold."
        + _part(records),
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
    ]
    order = list(dict.fromkeys(owner.values()))
    for row in sorted(table.rows, key=lambda row: order.index(owner[row.records[0].run_id])):
        text.append(_row(row, owner[row.records[0].run_id]))
    if any(not row.alone for row in table.rows):
        text += ["", "† other runs shared the device: not compared."]
    if foreign := [row for row in table.rows if row.foreign]:
        conditions = {key: row.conditions[key] for row in foreign for key in row.foreign}
        text += ["", f"† measured with {described(conditions)}: not compared."]
    return "\n".join(text)


def _part(records: list[Record]) -> str:
    """Says so where not the whole set was used."""
    whole = {"dataset.limit": "None", "dataset.allow_partial": "False"}
    if all(r.params.get(key, value) == value for r in records for key, value in whole.items()):
        return ""
    used = {int(r.metrics["progress/samples"]) // int(r.params["epochs"]) for r in records}
    samples = " or ".join(map(str, sorted(used)))
    return (
        f" Only a part of the set, {samples} training samples an epoch: not comparable with "
        "figures of the whole."
    )


def _row(row: Row, line: Line) -> str:
    cells = []
    for column in COLUMNS:
        if column.key in SHOWN:
            cell = row.cells.get(column.key)
            text = written(cell, column, apart=" ").replace("*", "")
            cells.append(f"**{text}**" if cell and cell.best else text)
    command = " ".join(("snnrun", *line.command))
    return f"| {line.label} | {' | '.join(cells)} | `{command}` |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of store and checkpoints")
    parser.add_argument("--only", nargs="+", default=[], help="run these rows, e.g. digits/bptt")
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the tables")
    parser.add_argument("--threads", type=int, help="hardware.threads of the runs")
    parser.add_argument("--also", nargs="+", default=[], help="further stores with finished runs")
    chosen = parser.parse_args()
    work, rows = chosen.work.resolve(), lines()
    names = [line.name for line in rows]
    if wrong := set(chosen.only) - {*names, *(line.dataset for line in rows)}:
        sys.exit(f"error: --only {' '.join(sorted(wrong))}: no such row; rows: {', '.join(names)}")
    store = work / "runs.db"
    for line in [] if chosen.table_only else rows:
        done = finished(f"{SQLITE}{store}") if store.is_file() else []
        picked = not chosen.only or {line.name, line.dataset} & set(chosen.only)
        if picked and not complete(line, done):
            run(line, work, chosen.threads)
    stores = [*([f"{SQLITE}{store}"] if store.is_file() else []), *chosen.also]
    records = [record for uri in stores for record in finished(uri)]
    for dataset, text in sections(rows, records).items():
        README.write_text(rewritten(README.read_text(), f"measured {dataset}", text))
    if missing := [line.name for line in rows if not complete(line, records)]:
        Console(stderr=True).print(f"not all seeds finished, left out: {', '.join(missing)}")


if __name__ == "__main__":
    main()
