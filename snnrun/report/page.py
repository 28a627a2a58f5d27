"""One HTML file with tables and pictures in it: reads on a phone, prints, needs no network."""

import base64
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from snnrun import __version__
from snnrun.compare import Row, Table
from snnrun.report.plots import CURVES, History, pictures, svg
from snnrun.report.text import filled, marked, notes, written
from snnrun.tracking_read import histories

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTIONS = {
    "pareto_energy": "Accuracy against energy; no other group beats those on the line",
    "pareto_memory": "Accuracy against memory kept for the backward pass",
    "pareto_latency": "Accuracy against inference latency on this machine",
    "curve_val_accuracy": "Validation accuracy over epochs; bands: one standard deviation",
    "curve_train_loss": "Training loss over epochs; bands: one standard deviation",
    "firing_rates": "Firing rate of each layer on the test set",
    "accuracy_over_steps": "Accuracy against the number of simulation steps",
}
STYLE = """
:root { font: 16px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; }
body { max-width: 75rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .quiet { color: #555; font-size: .85rem; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid #ddd; }
th { vertical-align: bottom; border-bottom: 2px solid #888; }
th.key, td.key { text-align: left; background: #fff; }
td.key { max-width: 16rem; white-space: normal; overflow-wrap: anywhere; }
th:first-child, td:first-child { position: sticky; left: 0; }
td.best { font-weight: 700; background: #e6f4ea; }
td small { display: block; color: #555; font-weight: 400; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr));
  gap: 1rem; margin-top: 1rem; }
figure { margin: 0; } img { width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #555; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { max-width: none; padding: 0; } .wide { overflow: visible; }
  table { font-size: .68rem; } th, td { padding: .2rem .35rem; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .pictures { grid-template-columns: 1fr 1fr; }
  td.best { print-color-adjust: exact; }
}
"""


def draw(tables: list[Table], uri: str) -> dict[str, dict[str, "Figure"]]:
    """Pictures of every table, by dataset and file name."""
    runs = [record.run_id for table in tables for row in table.rows for record in row.records]
    history: History = histories(uri, runs, tuple(CURVES))
    return {table.dataset: pictures(table, history) for table in tables}


def page(tables: list[Table], figures: dict[str, dict[str, "Figure"]], about: str) -> str:
    """The whole document; ``about`` says in one line which runs these are."""
    sections = "\n".join("\n".join(_section(t, figures.get(t.dataset, {}))) for t in tables)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>snnrun: comparison</title><style>{STYLE}</style></head>
<body><h1>Comparison</h1>
<p class="quiet">{escape(about)}; snnrun {__version__}</p>
{sections}
</body></html>
"""


def _section(table: Table, figures: dict[str, "Figure"]) -> Iterator[str]:
    runs = sum(len(row.records) for row in table.rows)
    yield f"<h2>{escape(table.dataset)}</h2>"
    yield f"<p>{runs} finished runs; mean ± standard deviation over seeds.</p>"
    columns = filled(table)
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f'<th class="key">{escape(key)}</th>' for key in (*table.keys, "seeds"))
    yield "".join(f"<th>{escape(column.label)}</th>" for column in columns)
    yield "</tr></thead><tbody>"
    numbers = {id(row): f" [{number}]" for number, row in enumerate(marked(table), 1)}
    for row in table.rows:
        yield _row(table, row, numbers.get(id(row), ""))
    yield "</tbody></table></div>"
    yield "".join(f'<p class="quiet">{escape(note)}</p>' for note in notes(table))
    yield '<div class="pictures">'
    for name, figure in figures.items():
        data = base64.b64encode(svg(figure)).decode()
        caption = escape(CAPTIONS[name])
        source = f"data:image/svg+xml;base64,{data}"
        yield f'<figure><img alt="{caption}" src="{source}">'
        yield f"<figcaption>{caption}</figcaption></figure>"
    yield "</div>"


def _row(table: Table, row: Row, note: str) -> str:
    cells = [f'<td class="key">{escape(value)}</td>' for value in row.settings.values()]
    cells.append(f'<td class="key">{row.seeds}{note}</td>')
    for column in filled(table):
        cell = row.cells.get(column.key)
        mean, *rest = map(escape, written(cell, column, apart="\n").split("\n"))
        best = ' class="best"' if cell and cell.best else ""
        small = "".join(f"<small>{part}</small>" for part in rest)
        cells.append(f"<td{best}>{mean}{small}</td>")
    return f"<tr>{''.join(cells)}</tr>"
