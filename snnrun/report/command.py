"""``snnrun compare``: finished runs side by side."""

import argparse
from pathlib import Path

from rich.console import Console

from snnrun.compare import compare, select
from snnrun.folders import writing
from snnrun.report.text import show, write_csv
from snnrun.tracking_read import finished
from snnrun.tracking_store import resolve_uri

EPILOG = """examples
  snnrun compare
  snnrun compare dataset=digits method=bptt,tet --baseline bptt
  snnrun compare dataset=digits --by method,timesteps --csv runs.csv
  snnrun compare dataset=digits --html report.html
"""


def command(arguments: list[str]) -> None:
    """Print the tables of the chosen runs and write what was asked for.

    Raises:
        UserError: no store, no run, or a filter, key or baseline that is not there.
    """
    chosen = _parser().parse_intermixed_args(arguments)
    uri = resolve_uri(chosen.store, Path.cwd())
    records = select(finished(uri), chosen.filters)
    by = chosen.by.split(",") if chosen.by else []
    tables = compare(records, by, chosen.baseline)
    show(tables, Console())
    if chosen.csv:
        write_csv(tables, chosen.csv)
    if chosen.html:
        from snnrun.report.page import draw, page

        about = f"runs of {uri}" + "".join(f", {text}" for text in chosen.filters)
        text = page(tables, draw(tables, uri), about)
        with writing(chosen.html, "--html"):
            chosen.html.write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="snnrun compare",
        description="Compare finished runs: one table per dataset, one row per group of runs that "
        "differ in nothing but the seed.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "filters", nargs="*", help="key=value[,value]: a tag or any key of the configuration"
    )
    parser.add_argument("--by", help="group by these keys only, e.g. method or method,model")
    parser.add_argument("--baseline", help="group that every other one is divided by, e.g. bptt")
    parser.add_argument("--html", type=Path, help="write one file with tables and pictures")
    parser.add_argument("--csv", type=Path, help="write the table to this file as well")
    parser.add_argument("--store", help="tracking.uri of the runs (default: as snnrun train here)")
    return parser
