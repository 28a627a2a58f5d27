"""Report and pictures of one sweep, kept with its parent run."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from snnrun.compare import compare
from snnrun.report.page import draw, page
from snnrun.report.plots import svg
from snnrun.tracking_read import finished

if TYPE_CHECKING:
    from snnrun.tracking import Store


def keep(store: "Store", parent_id: str) -> None:
    """Write report.html and one SVG per picture to the artifacts of a sweep's parent.

    Nothing is written for a sweep without a finished run of its own.

    Raises:
        UserError: the store cannot be reached.
    """
    records = [r for r in finished(store.uri) if r.tags.get("sweep") == parent_id]
    if not records:
        return
    tables = compare(records)
    figures = draw(tables, store.uri)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = f"{len(records)} finished runs of the sweep {parent_id}"
        (folder / "report.html").write_text(page(tables, figures, about))
        for dataset, drawn in figures.items():
            (folder / dataset).mkdir()
            for title, figure in drawn.items():
                (folder / dataset / f"{title}.svg").write_bytes(svg(figure))
        store.add_artifacts(parent_id, folder)
