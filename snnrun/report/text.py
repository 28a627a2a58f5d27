"""Comparison tables for a terminal and for a spreadsheet."""

import csv
import re
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table as RichTable

from snnrun.compare import COLUMNS, CONDITIONS, Cell, Column, Row, Table
from snnrun.folders import writing

SHORT = {
    "hardware.energy.e_ac_pj": "pJ per AC",
    "hardware.energy.e_mac_pj": "pJ per MAC",
}


def show(tables: list[Table], console: Console) -> None:
    """Print every table, in as many parts as the terminal is too narrow for."""
    for table in tables:
        for part, columns in enumerate(_parts(table, console)):
            rich = _rich(table, columns)
            rich.title = None if part else f"{table.dataset}: mean ± standard deviation over seeds"
            console.print(rich)
        for note in notes(table):
            console.print(note, highlight=False, markup=False, soft_wrap=True)


def notes(table: Table) -> list[str]:
    """What must be known to read the table, one line each."""
    lines = [f"* best of its column; measured with {described(table.conditions)}"]
    if table.baseline:
        lines[0] += f"; × ratio to {table.baseline.label}"
    for number, row in enumerate(marked(table), 1):
        if row.foreign:
            different = described({key: row.conditions[key] for key in row.foreign})
            lines.append(f"[{number}] measured with {different}: † does not compare")
        if row.mixed:
            mixed = ", ".join(row.mixed)
            lines.append(f"[{number}] runs that differ in {mixed} are averaged")
        if 0 < len(row.alone) < len(row.records):
            part = (
                f"{len(row.alone)} of {len(row.records)} runs, which had the device to themselves"
            )
            lines.append(f"[{number}] times and peak memory of {part}")
    if any(not row.alone for row in table.rows):
        lines.append("† other runs shared the device: times and peak memory do not compare")
    return lines


def filled(table: Table) -> list[Column]:
    """Columns that hold anything; a net without spikes has none of them."""
    return [column for column in COLUMNS if any(column.key in row.cells for row in table.rows)]


def marked(table: Table) -> list[Row]:
    """Rows with a footnote, in the order of their numbers."""
    return [
        row
        for row in table.rows
        if row.foreign or row.mixed or 0 < len(row.alone) < len(row.records)
    ]


def described(conditions: dict[str, str]) -> str:
    """Conditions in one line."""
    return ", ".join(
        value if key == "device" else f"{SHORT.get(key, key)} {value}"
        for key, value in conditions.items()
    )


def written(cell: Cell | None, column: Column, *, apart: str) -> str:
    """A cell as text; ``apart`` stands between mean, spread and ratio."""
    if cell is None:
        return "-"
    parts = [column.form(cell.mean) + ("*" if cell.best else "")]
    parts[0] += "" if cell.comparable else "†"
    if cell.spread is not None:
        parts.append("±" + _as_exact(cell.spread, column.form(cell.mean), column.form))
    if cell.ratio is not None:
        parts.append(f"×{cell.ratio:.3g}")
    return apart.join(parts)


def _as_exact(spread: float, mean: str, form: Callable[[float], str]) -> str:
    """The spread with as many decimals as the mean was written with."""
    if not re.fullmatch(r"[\d,]+(\.\d+)?", mean):  # percent, exponent
        return form(spread)
    return f"{spread:,.{len(mean.partition('.')[2])}f}"


def _parts(table: Table, console: Console) -> list[list[Column]]:
    parts: list[list[Column]] = [[]]
    for column in filled(table):
        wider = _rich(table, [*parts[-1], column])
        # Measured in a terminal without limits: rich would else fold instead of telling.
        options = console.options.update(width=10_000)
        if parts[-1] and Measurement.get(console, options, wider).maximum > console.width:
            parts.append([])
        parts[-1].append(column)
    return parts


def _rich(table: Table, columns: list[Column]) -> RichTable:
    rich = RichTable(title_justify="left", show_lines=True)
    for key in (*table.keys, "seeds"):
        rich.add_column(key, overflow="fold")
    for column in columns:
        rich.add_column("\n".join(column.label.split(" ")), justify="right", no_wrap=True)
    numbers = {id(row): number for number, row in enumerate(marked(table), 1)}
    for row in table.rows:
        note = f" [{numbers[id(row)]}]" if id(row) in numbers else ""
        figures = [_styled(row.cells.get(column.key), column) for column in columns]
        settings = [escape(value) for value in row.settings.values()]
        rich.add_row(*settings, f"{row.seeds}{note}", *figures)
    return rich


def _styled(cell: Cell | None, column: Column) -> str:
    text = written(cell, column, apart="\n")
    return f"[bold green]{text}[/]" if cell and cell.best else text


def write_csv(tables: list[Table], file: Path) -> None:
    """One line per group, metrics under their own names, numbers in full.

    Raises:
        UserError: the file cannot be written.
    """
    keys = list(dict.fromkeys(key for table in tables for key in table.keys))
    lines = [_line(table, row) for table in tables for row in table.rows]
    figures = [f"{c.key} {what}" for c in COLUMNS for what in ("mean", "std", "ratio", "best")]
    names = ["dataset", *keys, "runs", "alone", "seeds", *CONDITIONS, "foreign", "mixed", *figures]
    with writing(file, "--csv"), file.open("w", newline="") as out:
        writer = csv.DictWriter(out, list(dict.fromkeys(names)), restval="")
        writer.writeheader()
        writer.writerows(lines)


def _line(table: Table, row: Row) -> dict[str, object]:
    line: dict[str, object] = {
        "dataset": table.dataset,
        **row.settings,
        **row.conditions,
        "runs": len(row.records),
        "alone": len(row.alone),
        "seeds": row.seeds,
        "foreign": " ".join(row.foreign),
        "mixed": " ".join(row.mixed),
    }
    for key, cell in row.cells.items():
        line[f"{key} mean"] = cell.mean
        line[f"{key} std"] = "" if cell.spread is None else cell.spread
        line[f"{key} ratio"] = "" if cell.ratio is None else cell.ratio
        line[f"{key} best"] = int(cell.best)
    return line
