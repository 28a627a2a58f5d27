import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tonic")
SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_data.py"


@pytest.mark.slow
def test_the_benchmark_of_loaders_measures_every_pair(tmp_path):
    found = tmp_path / "found.json"
    subprocess.run([sys.executable, SCRIPT, "--quick", "--json", found], check=True, timeout=300)
    results = json.loads(found.read_text())
    assert [list(loaders)[-1] for loaders in results.values()] == [
        "DataLoader + PIL", "DataLoader + PIL", "tonic ToFrame",
    ]  # fmt: skip
