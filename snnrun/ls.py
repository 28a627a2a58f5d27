"""``snnrun ls``: the options of a config group, one line each, from the heads of their files."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from snnrun.config import CONF

GROUPS = {
    "methods": "method",
    "datasets": "dataset",
    "models": "model",
    "neurons": "neuron",
    "hardware": "hardware",
    "experiments": "experiment",
}


def options(group: str) -> dict[str, str]:
    """Name and first comment line of every file of a config group."""
    files = sorted((CONF / group).glob("*.yaml"))
    return {file.stem: headline(file) for file in files}


def headline(file: Path) -> str:
    """The first comment line of a yaml file: what it is, and its paper."""
    first = file.read_text().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def show(group: str) -> None:
    """Print the options of a group, by its plural name."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, line in options(GROUPS[group]).items():
        table.add_row(name, line)
    Console().print(table)
