"""Pictures of a comparison: Pareto fronts, learning curves, firing rates, accuracy against T.

Figures are made without pyplot, so nothing global is touched and no window system is needed;
matplotlib comes with MLflow and is imported where a figure is made.
"""

import io
from collections.abc import Sequence
from itertools import cycle
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from snnrun.compare import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = dict[tuple[str, str], list[tuple[int, float]]]  # (run id, metric): (step, value)

CURVES = {"val/accuracy": "validation accuracy", "train/loss": "training loss"}
COSTS = {
    "energy/inference_uj": "energy per inference, µJ",
    "memory/saved_for_backward_mib": "kept for backward, MiB",
    "latency/inference_ms_per_sample": "inference per sample, ms",
}
# Okabe and Ito: told apart by colour-blind readers and in grey print, with the line styles.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
STYLES = ("-", "--", ":")
MARKERS = ("o", "s", "^")
SIZE_IN = (6.4, 4.2)


def pictures(table: Table, history: History) -> dict[str, "Figure"]:
    """Every picture that this table has the figures for, by file name."""
    figures = {
        f"pareto_{key.split('/')[0]}": pareto(table, key) for key in COSTS if _has(table, key)
    }
    figures |= {
        f"curve_{key.replace('/', '_')}": curve(table, history, key)
        for key in CURVES
        if any((record.run_id, key) in history for row in table.rows for record in row.records)
    }
    if any(rates(row) for row in table.rows):
        figures["firing_rates"] = firing_rates(table)
    if "timesteps" in table.keys:
        figures["accuracy_over_steps"] = accuracy_over_steps(table)
    return figures


def svg(figure: "Figure") -> bytes:
    """A figure as SVG, letters as paths: the same on every machine."""
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def pareto(table: Table, cost: str) -> "Figure":
    """Accuracy against a cost; the line joins the groups that no other one beats in both.

    Groups measured under other conditions are hollow and not on the line.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = _axes(COSTS[cost], "test accuracy")
    points = []
    for row, colour, style in _styled(table):
        accuracy, price = row.cells.get("test/accuracy"), row.cells.get(cost)
        if accuracy is None or price is None:
            continue
        axes.errorbar(
            price.mean,
            accuracy.mean,
            xerr=price.spread,
            yerr=accuracy.spread,
            fmt=MARKERS[STYLES.index(style)],
            color=colour,
            markerfacecolor=colour if price.comparable else "white",
            label=_plain(row.label),
        )
        if price.comparable:
            points.append((price.mean, accuracy.mean))
    front = undominated(points)
    axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1, zorder=0) if front else None
    prices = [price for price, _ in points if price > 0]
    if prices and max(prices) > 10 * min(prices):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    _legend(figure, axes)
    return figure


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (cost, gain) that no other point beats in one and matches in the other, by cost."""
    front: list[tuple[float, float]] = []
    for cost, gain in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not front or gain > front[-1][1]:
            front.append((cost, gain))
    return front


def curve(table: Table, history: History, key: str) -> "Figure":
    """A metric over epochs: mean over the seeds, band of one standard deviation."""
    figure, axes = _axes("epoch", CURVES[key])
    for row, colour, style in _styled(table):
        values: dict[int, list[float]] = {}
        for record in row.records:
            for step, value in history.get((record.run_id, key), ()):
                values.setdefault(step, []).append(value)
        # Runs may have been evaluated at different epochs; a mean of some of them would jump.
        steps = sorted(step for step, found in values.items() if len(found) == len(row.records))
        means = [fmean(values[step]) for step in steps]
        axes.plot(steps, means, style, color=colour, label=_plain(row.label))
        if len(row.records) > 1:
            spreads = [stdev(values[step]) for step in steps]
            bands = list(zip(means, spreads, strict=True))
            low, high = [m - s for m, s in bands], [m + s for m, s in bands]
            axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
    _legend(figure, axes)
    return figure


def rates(row: Row) -> dict[str, float]:
    """Spikes per neuron and step of each layer, mean over the runs, in the order of the net."""
    keys = [
        key
        for key in row.records[0].metrics
        if key.startswith("spikes/") and key.endswith("/rate") and key.count("/") > 1
    ]
    keys.sort(
        key=lambda key: [(not p.isdigit(), int(p) if p.isdigit() else p) for p in _parts(key)]
    )
    return {
        key.removeprefix("spikes/").removesuffix("/rate"): fmean(
            record.metrics[key] for record in row.records if key in record.metrics
        )
        for key in keys
    }


def firing_rates(table: Table) -> "Figure":
    """Firing rate of each layer, first to last."""
    figure, axes = _axes("layer of neurons", "spikes per neuron and step")
    for row, colour, style in _styled(table):
        if found := rates(row):
            depth = range(1, len(found) + 1)
            axes.plot(
                depth,
                list(found.values()),
                style,
                marker="o",
                color=colour,
                label=_plain(row.label),
            )
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    _legend(figure, axes)
    return figure


def accuracy_over_steps(table: Table) -> "Figure":
    """Test accuracy against the number of simulation steps, one line per other setting."""
    figure, axes = _axes("simulation steps T", "test accuracy")
    lines: dict[str, list[Row]] = {}
    for row in table.rows:
        others = {key: value for key, value in row.settings.items() if key != "timesteps"}
        rest = Row(others, row.conditions, row.records).label
        lines.setdefault(rest, []).append(row)
    for (label, rows), colour, style in zip(lines.items(), cycle(COLOURS), cycle(STYLES)):
        found = [row for row in rows if row.settings["timesteps"].isdigit()]
        cells = [row.cells["test/accuracy"] for row in found]
        axes.errorbar(
            [int(row.settings["timesteps"]) for row in found],
            [cell.mean for cell in cells],
            yerr=[cell.spread or 0.0 for cell in cells],
            fmt=f"o{style}",
            color=colour,
            capsize=3,
            label=_plain(label or "all"),
        )
    _legend(figure, axes)
    return figure


def _parts(key: str) -> list[str]:
    return key.removeprefix("spikes/").removesuffix("/rate").split(".")


def _has(table: Table, key: str) -> bool:
    return any(key in row.cells for row in table.rows)


def _styled(table: Table) -> list[tuple[Row, str, str]]:
    styles = [style for style in STYLES for _ in COLOURS]
    return list(zip(table.rows, cycle(COLOURS), cycle(styles)))


def _plain(label: str) -> str:
    """A label in which nothing is a formula, and which the legend does not leave out."""
    return label.replace("$", r"\$").lstrip("_") or "all"


def _axes(x: str, y: str) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_IN, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        widest = max(map(len, labels))
        columns = max(1, min(4, 72 // (widest + 6)))
        lines = -(-len(labels) // columns)
        figure.set_figheight(SIZE_IN[1] + 0.2 * max(0, lines - 3))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
