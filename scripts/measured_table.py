"""Run what the README's tables show, and write those tables: no number is typed by hand.

Every row is a command, and rows can be measured in separate goes, on different machines. Runs that
are finished in the work folder are not repeated; an interrupted one continues. A row whose runs are
all finished there takes its place in `measured.jsonl`, which the tables are written from; every
other row stays as it is, and is named at the end if it was asked for.

    python scripts/measured_table.py --work FOLDER [--only digits/bptt ...] [--table-only]
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from tables import README, rewritten

from snnrun.compare import COLUMNS, ENERGY, MACHINE, Row, Table, compare
from snnrun.config import CONF, build
from snnrun.ls import options
from snnrun.report.text import described, written
from snnrun.tracking_read import Record, finished
from snnrun.tracking_store import SQLITE

FIGURES = Path(__file__).with_name("measured.jsonl")  # one run a line
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
SMALL_METHODS = (
    ("method=bptt",),
    ("method=ottt", "method.online=false"),
    ("method=ottt", "method.online=true"),
    ("method=saf", "method.variant=e"),
    ("method=saf", "method.variant=f"),
)
# Each method's own net and budget.
RECIPES = (
    ("method=tet", "dataset=fashion_mnist"),
    ("experiment=ttfs_fashion_mnist",),
    ("experiment=ssgd_fashion_mnist",),
    ("experiment=ide_fashion_mnist", "epochs=30"),
)
# Events: parts of two sets, so that a run takes half a minute.
EVENT_SETS = {
    "nmnist": ("dataset=nmnist", "dataset.allow_partial=true"),
    "fmnist_saccade": ("dataset=fmnist_saccade", "dataset.limit=2000"),
}
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
# Overrides and seeds of every row, by table.
TABLES = {
    "digits": [((f"method={name}", "dataset=digits"), SEEDS) for name in options("method")],
    "fashion_mnist": [((*method, *SMALL), SEEDS) for method in SMALL_METHODS],
    "fashion_mnist_recipes": [(recipe, (0,)) for recipe in RECIPES],
    **{
        name: [((*method, *data, *EVENT_BUDGET), SEEDS) for method in EVENT_METHODS]
        for name, data in EVENT_SETS.items()
    },
}
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
WHOLE = {"dataset.limit": "None", "dataset.allow_partial": "False"}
# All of a run that its table is made of.
KEPT = {*SHOWN, "progress/samples", "epochs", *WHOLE, *ENERGY, *MACHINE, "seed", "jobs_per_device"}


@dataclass(frozen=True)
class Line:
    """One row of a table: a command, and the specifications that it runs."""

    table: str
    method: str
    overrides: tuple[str, ...]
    seeds: tuple[int, ...]
    hashes: frozenset[str]

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of snnrun."""
        seeds = f"seed={','.join(map(str, self.seeds))}"
        return ("train", *(["-m"] if len(self.seeds) > 1 else []), *self.overrides, seeds)

    @property
    def command(self) -> str:
        """As the table shows it."""
        return " ".join(("snnrun", *self.arguments))

    @property
    def label(self) -> str:
        """First column: the method and what of it is not as it comes."""
        own = [o.removeprefix("method.") for o in self.overrides if o.startswith("method.")]
        return " ".join([self.method, *(o for o in own if not o.startswith("timesteps"))])

    @property
    def name(self) -> str:
        """What --only takes."""
        return f"{self.table}/{self.method}"


def lines() -> list[Line]:
    """All rows, their specifications composed and checked."""
    found = []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for table, entries in TABLES.items():
            for row, seeds in entries:
                specs = [build(compose("config", [*row, f"seed={seed}"])) for seed in seeds]
                hashes = frozenset(spec.hash for spec in specs)
                found.append(Line(table, specs[0].method.name, row, seeds, hashes))
    return found


def run(line: Line, work: Path, threads: int | None) -> None:
    """Train what of a row has not finished; a failure is seen by what is missing in the end."""
    places = [f"tracking.uri={SQLITE}{work}/runs.db", f"output_dir={work}/outputs"]
    if threads:
        places.append(f"hardware.threads={threads}")
    command = [sys.executable, "-m", "snnrun", *line.arguments, *places]
    subprocess.run(command, check=False)


def done(work: Path) -> list[Record]:
    """The finished runs of a work folder."""
    return finished(f"{SQLITE}{work}/runs.db") if (work / "runs.db").is_file() else []


def complete(line: Line, records: Iterable[Record]) -> list[Record]:
    """The finished runs of a row, empty unless there is one for every seed."""
    found = {hash: record for record in records if (hash := record.tags["spec_hash"])}
    return [found[one] for one in sorted(line.hashes)] if line.hashes <= set(found) else []


def kept() -> dict[str, list[Record]]:
    """The runs of every row that was ever measured, by its command."""
    runs: dict[str, list[Record]] = defaultdict(list)
    for text in FIGURES.read_text().splitlines():
        record = Record(**json.loads(text))
        runs[record.tags["command"]].append(record)
    return runs


def keep(runs: dict[str, list[Record]]) -> None:
    """Write them, for the goes to come."""
    lines = [json.dumps(asdict(record)) for records in runs.values() for record in records]
    FIGURES.write_text("".join(f"{line}\n" for line in lines))


def shortened(line: Line, record: Record) -> Record:
    """What is kept of a run."""
    parts = {
        part: {key: value for key, value in getattr(record, part).items() if key in KEPT}
        for part in ("metrics", "params", "tags")
    }
    parts["tags"] |= {"dataset": line.table, "command": line.command}
    return replace(record, **parts)


def sections(rows: list[Line], runs: dict[str, list[Record]]) -> dict[str, str]:
    """Every table, of the rows that have runs."""
    owner = {line.command: line for line in rows}
    tables = compare([record for command in owner for record in runs[command]], by=("command",))
    return {table.dataset: _section(table, owner) for table in tables}


def _section(table: Table, owner: dict[str, Line]) -> str:
    columns = [column for column in COLUMNS if column.key in SHOWN]
    titles = ["method", *(TITLES.get(c.key, c.label) for c in columns), "measured", "command"]
    text = [
        f"**{table.dataset}**, on {described(table.conditions)}, unless its row says otherwise. "
        "Mean ± standard deviation over the seeds of the command, the best of each column in bold."
        + _part([record for row in table.rows for record in row.records]),
        "",
        f"| {' | '.join(titles)} |",
        f"|{'---|' * len(titles)}",
    ]
    order = list(owner)
    for row in sorted(table.rows, key=lambda row: order.index(row.settings["command"])):
        text.append(_row(row, owner[row.settings["command"]]))
    if "†" in "".join(text):
        text += ["", "† not compared with the other rows: taken as its row says."]
    return "\n".join(text)


def _part(records: list[Record]) -> str:
    """Says so where not the whole set was used."""
    if all(r.params.get(key, value) == value for r in records for key, value in WHOLE.items()):
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
    return f"| {line.label} | {' | '.join(cells)} | {_circumstances(row)} | `{line.command}` |"


def _circumstances(row: Row) -> str:
    """When a row was measured, and what sets it apart from the others of its table."""
    days = [str(datetime.fromtimestamp(r.ended / 1000, UTC).date()) for r in row.records]
    parts = [" to ".join(sorted({min(days), max(days)}))]
    if row.foreign:
        parts.append(f"on {described({key: row.conditions[key] for key in row.foreign})}")
    if not row.alone:
        parts.append("beside other runs")
    return ", ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of store and checkpoints")
    parser.add_argument("--only", nargs="+", default=[], help="e.g. digits fashion_mnist/saf")
    parser.add_argument("--table-only", action="store_true", help="run nothing, write the tables")
    parser.add_argument("--threads", type=int, help="hardware.threads of the runs")
    chosen = parser.parse_args()
    work, rows = chosen.work.resolve(), lines()
    names = [line.name for line in rows]
    if wrong := set(chosen.only) - {*names, *TABLES}:
        sys.exit(f"error: --only {' '.join(sorted(wrong))}: no such row; rows: {', '.join(names)}")
    asked = [line for line in rows if not chosen.only or {line.name, line.table} & set(chosen.only)]
    for line in [] if chosen.table_only else asked:
        if not complete(line, done(work)):
            run(line, work, chosen.threads)
    records, runs = done(work), kept()
    fresh = {line: found for line in asked if (found := complete(line, records))}
    runs |= {line.command: [shortened(line, one) for one in fresh[line]] for line in fresh}
    keep({line.command: runs[line.command] for line in rows})
    for table, text in sections(rows, runs).items():
        README.write_text(rewritten(README.read_text(), f"measured {table}", text))
    if missing := [line.name for line in asked if line not in fresh]:
        text = f"not all seeds finished, these rows stay as they are: {', '.join(missing)}"
        Console(stderr=True).print(text)


if __name__ == "__main__":
    main()
