import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_equilibrium.py"


def test_benchmark_measures_every_method(tmp_path):
    file = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--quick", "--json", str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    results = json.loads(file.read_text())
    few, many = results["30"], results["100"]
    assert many["bptt"]["kept_mib"] > 3 * few["bptt"]["kept_mib"]
    for name in ("ide", "spide T_B=25"):
        assert few[name]["kept_mib"] == many[name]["kept_mib"] > 0
