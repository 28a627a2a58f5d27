"""From finished runs to tables: grouped by what differs, mean and spread over seeds, who wins.

Pure functions of records. Runs whose figures were taken under other conditions (device, threads,
precision, energy constants) get rows of their own; in the columns that depend on such a condition
they are marked, and neither win nor get a ratio. Times and peak memory are those of the runs that
had the device to themselves; when none had, they are marked in the same way.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from statistics import fmean, stdev

from snnrun.config import NOT_IN_HASH, WHERE_DATA_IS
from snnrun.errors import UserError
from snnrun.tracking_read import Record

MACHINE = ("device", "threads", "precision")
ENERGY = ("hardware.energy.e_ac_pj", "hardware.energy.e_mac_pj")
CONDITIONS = (*MACHINE, *ENERGY)
# Shown whenever they differ; any other key only where these do not tell two groups apart.
HEADLINES = ("method", "model", "timesteps")
_TAGS = (*HEADLINES, "norm", "neuron")
_SAME_AS_TAG = {
    "method.name": "method",
    "model.name": "model",
    "neuron.name": "neuron",
    "method.timesteps": "timesteps",
    "dataset.name": "dataset",
}


@dataclass(frozen=True)
class Column:
    """A metric in the table: how it is written, what is best, which conditions it depends on."""

    key: str
    label: str
    form: Callable[[float], str]
    best: Callable[[Iterable[float]], float]
    depends: tuple[str, ...] = ()


def three_digits(value: float) -> str:
    """Three significant digits, without an exponent between 0.00001 and anything."""
    if value and abs(value) < 1e-5:
        return f"{value:.2e}"
    decimals = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(0, decimals)}f}"


COLUMNS = (
    Column("test/accuracy", "accuracy", "{:.2%}".format, max),
    Column("memory/saved_for_backward_mib", "kept MiB", three_digits, min, ("precision",)),
    Column("memory/train_peak_mib", "peak MiB", three_digits, min, MACHINE),
    Column("latency/train_step_ms_p50", "step ms", three_digits, min, MACHINE),
    Column("latency/inference_ms_per_sample", "inference ms", three_digits, min, MACHINE),
    Column("latency/decision_steps", "decision steps", "{:.2f}".format, min),
    Column("spikes/per_sample", "spikes", "{:,.0f}".format, min),
    Column("synops/acs_per_sample", "ACs", "{:,.0f}".format, min),
    Column("synops/macs_per_sample", "MACs", "{:,.0f}".format, min),
    Column("energy/inference_uj", "energy µJ", three_digits, min, ENERGY),
)


@dataclass
class Cell:
    """One metric of one group over ``runs`` of it.

    ``spread`` is the sample standard deviation, None for one run.
    """

    mean: float
    spread: float | None
    runs: int
    comparable: bool
    best: bool = False
    ratio: float | None = None


@dataclass
class Row:
    """Runs of one group: same settings, same conditions.

    ``foreign`` names the conditions in which it differs from the table's, ``mixed`` the settings
    that differ inside the group because the user grouped by something else.
    """

    settings: dict[str, str]
    conditions: dict[str, str]
    records: list[Record]
    foreign: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    cells: dict[str, Cell] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Number of different seeds."""
        return len({record.tags.get("seed") for record in self.records})

    @property
    def alone(self) -> list[Record]:
        """Runs that no other run is known to have shared the device with."""
        return [r for r in self.records if r.tags.get("jobs_per_device", "1") == "1"]

    @property
    def label(self) -> str:
        """What tells the group from the others, in one line."""
        return ", ".join(
            value if key in HEADLINES[:2] else f"{'T' if key == 'timesteps' else key}={value}"
            for key, value in self.settings.items()
        )


@dataclass
class Table:
    """All groups of one dataset; ``keys`` are the settings in which they differ."""

    dataset: str
    keys: tuple[str, ...]
    conditions: dict[str, str]
    rows: list[Row]
    baseline: Row | None = None


def select(records: list[Record], filters: Sequence[str]) -> list[Record]:
    """Records that match every filter ``key=value[,value...]`` on tags or flattened settings.

    Raises:
        UserError: a filter is malformed, names no key, or nothing matches.
    """
    for text in filters:
        key, equals, values = text.partition("=")
        if not equals:
            raise UserError(f"filter {text!r} is not key=value, e.g. method=bptt,tet")
        records = _matching(records, key, values.split(","))
    if not records:
        raise UserError("no finished runs in this store; train some, or name another --store")
    return records


def _matching(records: list[Record], key: str, values: list[str]) -> list[Record]:
    _require_known(records, key)
    found = [record for record in records if value_of(record, key) in values]
    if records and not found:
        known = {value for record in records if (value := value_of(record, key)) is not None}
        accepted = ", ".join(sorted(known)[:20])
        raise UserError(f"{key}={','.join(values)}: no finished run; there are {accepted}")
    return found


def _require_known(records: Sequence[Record], key: str) -> None:
    names = {name for record in records for name in (*record.tags, *record.params)}
    if records and key not in names:
        near = get_close_matches(key, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}: no such key in any run{hint}")


def value_of(record: Record, key: str) -> str | None:
    """A tag, or a flattened key of the configuration."""
    return record.tags.get(key, record.params.get(key))


def compare(
    records: Sequence[Record], by: Sequence[str] = (), baseline: str | None = None
) -> list[Table]:
    """One table per dataset.

    Args:
        records: finished runs.
        by: keys to group by; without any, everything in which the runs differ.
        baseline: a group, by its label, a value in it (``bptt``) or ``key=value``; every cell gets
            its ratio to that group's.

    Raises:
        UserError: no run has a key of ``by``, or ``baseline`` is not exactly one group.
    """
    for key in by:
        _require_known(records, key)
    of_dataset: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        of_dataset[record.tags.get("dataset", "")].append(record)
    tables = [_table(name, of_dataset[name], tuple(by)) for name in sorted(of_dataset)]
    for table in tables:
        _find_baseline(table, baseline)
        _mark(table)
    if baseline is not None and not any(table.baseline for table in tables):
        labels = "; ".join(row.label for table in tables for row in table.rows)
        raise UserError(f"--baseline {baseline}: no such group; there are: {labels}")
    return tables


def _table(dataset: str, records: list[Record], by: tuple[str, ...]) -> Table:
    settings = {record.run_id: settings_of(record) for record in records}
    keys = by or telling(list(settings.values()))
    groups: dict[tuple[tuple[str, ...], ...], list[Record]] = defaultdict(list)
    for record in records:
        values = tuple(_shown(record, key) for key in keys)
        groups[values, tuple(conditions_of(record).values())].append(record)
    rows = [
        Row(
            dict(zip(keys, values, strict=True)),
            conditions_of(members[0]),
            members,
            mixed=telling([settings[record.run_id] for record in members]) if by else (),
        )
        for (values, _), members in groups.items()
    ]
    rows.sort(key=lambda row: [_natural(value) for value in row.settings.values()])
    usual = Counter(tuple(conditions_of(record).items()) for record in records)
    return Table(dataset, keys, dict(usual.most_common(1)[0][0]), rows)


def settings_of(record: Record) -> dict[str, str]:
    """What was computed, without seed, machine and places: tags for headlines, else full keys."""
    settings = {key: record.tags[key] for key in _TAGS if key in record.tags}
    for key, value in record.params.items():
        group, _, leaf = key.partition(".")
        place = group == "dataset" and leaf in WHERE_DATA_IS
        if not (group in NOT_IN_HASH or key in ("seed", "init_from", *_SAME_AS_TAG) or place):
            settings[key] = value
    # A place, different for every seed; that there is one is what counts.
    settings["init_from"] = str(record.params.get("init_from", "None") != "None")
    return settings


def conditions_of(record: Record) -> dict[str, str]:
    """Under what circumstances the figures were taken."""
    return {key: value_of(record, key) or "unknown" for key in CONDITIONS}


def telling(settings: list[dict[str, str]]) -> tuple[str, ...]:
    """Keys that tell the groups apart: headlines that differ, then whatever splits further.

    ``method.lamb`` differs between BPTT and TET, but says nothing that their names do not.
    """
    keys = {key: None for one in settings for key in one}
    differing = [key for key in keys if len({one.get(key) for one in settings}) > 1]
    order = sorted(
        differing, key=lambda key: (key not in _TAGS, key.endswith("_target_"), key.count("."), key)
    )
    chosen = [key for key in HEADLINES if key in differing]
    groups = [tuple(one.get(key) for key in chosen) for one in settings]
    for key in order:
        finer = [(*group, one.get(key)) for group, one in zip(groups, settings, strict=True)]
        if key not in chosen and len(set(finer)) > len(set(groups)):
            chosen.append(key)
            groups = finer
    return tuple(chosen)


def _shown(record: Record, key: str) -> str:
    value = value_of(record, key)
    return "-" if value is None else value


def _natural(text: str) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    number = re.fullmatch(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", text)
    return (0, float(text), "") if number else (1, 0.0, text)


def _find_baseline(table: Table, name: str | None) -> None:
    if name is None:
        return
    found = [
        row
        for row in table.rows
        if name in (row.label, *row.settings.values())
        or name in {f"{key}={value}" for key, value in row.settings.items()}
    ]
    if len(found) > 1:
        labels = "; ".join(f"{row.label} ({', '.join(row.conditions.values())})" for row in found)
        raise UserError(f"--baseline {name}: several groups, narrow the filters: {labels}")
    if found:
        table.baseline = found[0]
        table.conditions = found[0].conditions


def _mark(table: Table) -> None:
    for row in table.rows:
        row.foreign = tuple(
            key for key, value in row.conditions.items() if value != table.conditions[key]
        )
    for column in COLUMNS:
        for row in table.rows:
            if cell := _cell(row, column):
                row.cells[column.key] = cell
        _rank(table, column)


def _cell(row: Row, column: Column) -> Cell | None:
    timed = column.depends == MACHINE
    records = (row.alone or row.records) if timed else row.records
    values = [r.metrics[column.key] for r in records if column.key in r.metrics]
    if not values:
        return None
    spread = stdev(values) if len(values) > 1 else None
    crowded = timed and not row.alone
    comparable = not (crowded or set(column.depends) & set(row.foreign))
    return Cell(fmean(values), spread, len(values), comparable)


def _rank(table: Table, column: Column) -> None:
    """Mark the best cells of a column, where there is something to win, and set the ratios."""
    cells = [row.cells[column.key] for row in table.rows if column.key in row.cells]
    cells = [cell for cell in cells if cell.comparable]
    if len({cell.mean for cell in cells}) > 1:
        best = column.best(cell.mean for cell in cells)
        for cell in cells:
            cell.best = cell.mean == best
    base = table.baseline.cells.get(column.key) if table.baseline else None
    if base and base.comparable and base.mean:
        for cell in cells:
            cell.ratio = cell.mean / base.mean
