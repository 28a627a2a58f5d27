"""``snnrun ls``: the options of a config group, one line each, from the heads of their files."""

from rich.console import Console
from rich.table import Table

from snnrun.config import CONF
from snnrun.published import headline, published

GROUPS = {
    "methods": "method",
    "datasets": "dataset",
    "models": "model",
    "neurons": "neuron",
    "hardware": "hardware",
    "experiments": "experiment",
}


def options(group: str) -> dict[str, str]:
    """Name and first comment line of every file of a config group, subfolders included."""
    folder = CONF / group
    files = sorted(folder.rglob("*.yaml"))
    return {f.relative_to(folder).with_suffix("").as_posix(): headline(f) for f in files}


def show(group: str) -> None:
    """Print the options of a group, by its plural name."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, line in options(GROUPS[group]).items():
        table.add_row(name, line)
    Console().print(_experiments() if group == "experiments" else table)


def _experiments() -> Table:
    """Published rows with the paper's number and ours."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("experiment", no_wrap=True)
    for column in ("what", "paper", "measured here"):
        table.add_column(column)
    for name in options("experiment"):
        row = published(CONF / "experiment" / f"{name}.yaml")
        table.add_row(name, row.what, row.paper, row.measured)
    return table
