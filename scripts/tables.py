"""The tables of the benchmarks: shown, kept as JSON, and written into the README.

    python scripts/tables.py NAME FILE [FILE ...]

puts the tables that benchmarks left in those files (their --json) between <!-- NAME --> and
<!-- /NAME --> of the README, so that no number is typed by hand.
"""

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

README = Path(__file__).resolve().parents[1] / "README.md"


@dataclass
class Measured:
    """A table whose first column names what was measured."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def show(self) -> None:
        """Print it."""
        table = Table(title=self.title, title_justify="left")
        for at, column in enumerate(self.columns):
            table.add_column(column, justify="right" if at else "left")
        for row in self.rows:
            table.add_row(*row)
        Console(width=max(100, Console().width)).print(table)

    def markdown(self) -> str:
        """As part of the README."""
        rule = "|".join(["---", *["---:"] * (len(self.columns) - 1)])
        lines = [self.columns, *self.rows]
        head, *body = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([f"{self.title}:", "", head, f"|{rule}|", *body])


def keep(path: Path | None, tables: list[Measured], figures: Any) -> None:
    """Write tables and the figures behind them as JSON, if a file is named."""
    if path is not None:
        content = {"tables": [asdict(table) for table in tables], "figures": figures}
        path.write_text(json.dumps(content, indent=1))


def kept(path: Path) -> list[Measured]:
    """The tables of a file."""
    return [Measured(**table) for table in json.loads(path.read_text())["tables"]]


def machine(device: str) -> str:
    """The device a benchmark ran on, as its title says it."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    models = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, torch {torch.__version__}"


def rewritten(readme: str, name: str, text: str) -> str:
    """The README with new text between the markers of that name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = readme.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"error: {README} lacks {start} or {end}")
    return f"{before}{start}\n{text}\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", help="of the markers in the README")
    parser.add_argument("files", type=Path, nargs="+", help="what --json of benchmarks wrote")
    chosen = parser.parse_args()
    text = "\n\n".join(table.markdown() for path in chosen.files for table in kept(path))
    README.write_text(rewritten(README.read_text(), chosen.name, text))


if __name__ == "__main__":
    main()
