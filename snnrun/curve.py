"""Figures of one checkpoint against one setting, as a rule the number of steps."""

import csv
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

COLUMNS = (
    ("test/accuracy", "accuracy", "{:.2%}"),
    ("latency/inference_ms_per_sample", "inference ms", "{:.4g}"),
    ("latency/decision_steps", "decision steps", "{:.2f}"),
    ("spikes/per_sample", "spikes", "{:,.0f}"),
    ("synops/acs_per_sample", "ACs", "{:,.0f}"),
    ("energy/inference_uj", "energy µJ", "{:.4g}"),
)
PANELS = ("test/accuracy", "latency/inference_ms_per_sample", "spikes/per_sample")


@dataclass
class Curve:
    """Metrics by the value of ``key`` they were measured with."""

    key: str
    figures: dict[str, dict[str, float]]

    def show(self) -> None:
        """Print one row per value."""
        columns = [c for c in COLUMNS if all(c[0] in row for row in self.figures.values())]
        table = Table()
        for name in (self.key.rpartition(".")[2], *(label for _, label, _ in columns)):
            table.add_column(name, justify="right")
        for value, row in self.figures.items():
            table.add_row(value, *(form.format(row[metric]) for metric, _, form in columns))
        Console(stderr=True).print(table)

    def write(self, folder: Path) -> None:
        """All metrics as csv, and the main ones as a picture, to ``folder``/eval-<key>."""
        stem = folder / f"eval-{self.key}"
        metrics = {metric: None for row in self.figures.values() for metric in row}
        with stem.with_name(f"{stem.name}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([self.key, *metrics])
            for value, row in self.figures.items():
                rows.writerow([value, *(row.get(metric, "") for metric in metrics)])
        picture = stem.with_name(f"{stem.name}.png")
        self._draw(picture)
        Console(stderr=True).print(
            f"written: {stem}.csv, {picture.name}", highlight=False, soft_wrap=True
        )

    def _draw(self, file: Path) -> None:
        from matplotlib.figure import Figure  # a second to import, and only needed here

        labels = {metric: label for metric, label, _ in COLUMNS}
        panels = [m for m in PANELS if all(m in row for row in self.figures.values())]
        figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
        places = [_number(value) for value in self.figures]
        for axes, metric in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            axes.plot(places, [row[metric] for row in self.figures.values()], "o-")
            axes.set(xlabel=self.key, ylabel=labels[metric])
            axes.grid(alpha=0.3)
        figure.savefig(file, dpi=120)


def _number(text: str) -> float | str:
    """What can be a number on an axis; anything else is a category."""
    try:
        return float(text)
    except ValueError:
        return text
