"""The scripts that measure, at tiny sizes, and what becomes of their tables."""

import subprocess
import sys
from pathlib import Path

import pytest
from tables import Measured, keep, kept, rewritten

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_only_the_text_between_the_markers_changes():
    readme = "before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n"
    new = "before\n<!-- speed -->\nnew\n<!-- /speed -->\nafter\n"
    assert rewritten(readme, "speed", "new") == new
    with pytest.raises(SystemExit, match="lacks"):
        rewritten("no markers", "speed", "new")


def test_a_table_comes_back_from_its_file_as_markdown(tmp_path):
    file = tmp_path / "table.json"
    keep(file, [Measured("steps", ["method", "ms"], [["bptt", "1.5"]])], {"bptt": 1.5})
    (table,) = kept(file)
    assert table.markdown() == ("steps:\n\n| method | ms |\n|---|---:|\n| bptt | 1.5 |")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "rows"),
    [
        ("bench_online.py", ["--quick"], 10),
        ("bench_peers.py", ["--quick", "--only", "ours", "relu"], 2),
        ("bench_full_size.py", ["--quick", "--device", "cpu", "--only", "ssgd_shd"], 1),
        ("profile_step.py", ["--quick", "--method", "bptt", "ssgd"], 2),
    ],
)
def test_a_benchmark_leaves_its_table(script, arguments, rows, tmp_path):
    file = tmp_path / "table.json"
    command = [sys.executable, SCRIPTS / script, *arguments, "--json", file]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (table,) = kept(file)
    assert len(table.rows) == rows
    assert all(len(row) == len(table.columns) for row in table.rows)
