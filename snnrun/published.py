"""What the head of an experiment's file says of it: the published number and ours.

    # WHAT | paper: REFERENCE 0.9444 +- 0.0008 | measured here: 0.9431 (5 seeds, device)

The expected accuracy is the first fraction with at least three digits behind ``paper:``, and what
follows it after ``+-`` is the deviation over the paper's seeds.
"""

import re
from dataclasses import dataclass
from pathlib import Path

EXPECTED = re.compile(r"(?<![\d.])(0\.\d{3,})(?:\s*\+-\s*(0?\.\d+))?")
TOLERANCE = 0.005  # where a paper gives no deviation, or a smaller one: half a point


@dataclass(frozen=True)
class Published:
    """One published row; ``expected`` is None where the paper has no such number."""

    what: str
    paper: str
    expected: float | None
    tolerance: float
    measured: str


def headline(file: Path) -> str:
    """The first comment line of a yaml file: what it is, and its paper."""
    for line in file.read_text().splitlines():
        if not line.startswith("# @"):  # where Hydra puts the file, not for people
            return line.removeprefix("#").strip() if line.startswith("#") else ""
    return ""


def published(file: Path) -> Published:
    """Read the head of an experiment's file; parts that are not there are empty."""
    what, *rest = (part.strip() for part in headline(file).split(" | "))
    said = dict(part.partition(":")[::2] for part in rest)
    paper = said.get("paper", "").strip()
    number = None if paper.startswith("none") else EXPECTED.search(paper)
    return Published(
        what=what,
        paper=paper,
        expected=float(number[1]) if number else None,
        # A mean of a few runs lies within two deviations of the paper's.
        tolerance=max(TOLERANCE, 2 * float(number[2] or 0)) if number else TOLERANCE,
        measured=said.get("measured here", "").strip(),
    )
