import os
import sqlite3
import subprocess
import sys

import pytest

CONFIG = """
defaults: [{dataset: digits}, _self_]
seed: 0
output_dir: outputs
progress: auto
tracking: {uri: null, experiment: "${dataset.name}"}
hydra:
  callbacks: {sweep: {_target_: snnrun.sweep.Sweep}}
"""
APP = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
import hydra
from hydra.core.hydra_config import HydraConfig
import snnrun.config
from snnrun.errors import ConfigError

def build(cfg):  # stands for the checks of the real groups, which this small tree lacks
    if cfg.seed == "wrong":
        raise ConfigError("seed: 'wrong' is not a number")
    there = SimpleNamespace(find=lambda: None, processes=lambda: None)
    return SimpleNamespace(dataset=there, hardware=there)

snnrun.config.build = build

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    parent = os.environ.get("SNNRUN_PARENT_RUN")
    assert parent or "mlflow" not in sys.modules
    number = str(HydraConfig.get().job.num) if parent else None
    assert os.environ.get("SNNRUN_JOB") == number
    from snnrun.tracking import Tracking, prepare
    store = prepare(Tracking(**cfg.tracking), Path(HydraConfig.get().runtime.cwd))
    if str(cfg.seed) == os.environ.get("KILLED_SEED"):
        while not Path("started").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    found = store.find(str(cfg.seed))
    run_id = found.run_id if found else None
    tags = {"spec_hash": str(cfg.seed)}
    with store.run(name=f"s{cfg.seed}", tags=tags, params={}, run_id=run_id, parent_id=parent):
        if str(cfg.seed) == os.environ.get("FAILING_SEED"):
            raise RuntimeError("boom")
        if "KILLED_SEED" in os.environ:
            Path("started").touch()
            time.sleep(60)

main()
"""


@pytest.fixture
def launch(tmp_path):
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "config.yaml").write_text(CONFIG)
    for name in ("digits", "mnist"):
        (tmp_path / "conf" / "dataset" / f"{name}.yaml").write_text(f"name: {name}")
    (tmp_path / "app.py").write_text(APP)

    def launch(*overrides, **environment):
        inherited = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        return subprocess.run(
            [sys.executable, "app.py", *overrides],
            cwd=tmp_path,
            env=inherited | environment,
            capture_output=True,
            text=True,
        )

    return launch


def runs(folder):
    """(experiment, name, status, name of the parent), sorted."""
    query = """
        select e.name, r.name, r.status, parent.name from runs r
        join experiments e on e.experiment_id = r.experiment_id
        left join tags t on t.run_uuid = r.run_uuid and t.key = 'mlflow.parentRunId'
        left join runs parent on parent.run_uuid = t.value
    """
    connection = sqlite3.connect(folder / "mlflow.db")
    rows = sorted(connection.execute(query).fetchall())
    connection.close()
    return rows


@pytest.mark.slow
def test_parallel_sweep_has_one_parent_and_its_repetition_takes_it_up(launch, with_store, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ["-m", "dataset=mnist", "seed=0,1,2"]
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]

    first = launch(*sweep, *parallel, FAILING_SEED="1")
    assert first.returncode == 1
    assert "1 of 3 runs did not finish: s1 (FAILED)" in first.stdout + first.stderr
    parent = "sweep seed=0,1,2"
    assert runs(tmp_path) == [
        ("mnist", "s0", "FINISHED", parent),
        ("mnist", "s1", "FAILED", parent),
        ("mnist", "s2", "FINISHED", parent),
        ("mnist", parent, "FAILED", None),
    ]

    second = launch(*reversed(sweep))
    assert second.returncode == 0, second.stderr
    assert [row[2] for row in runs(tmp_path)] == ["FINISHED"] * 4


@pytest.mark.slow
def test_jobs_that_never_started_are_counted_when_a_worker_is_killed(launch, with_store, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]

    broken = launch("-m", "seed=0,1,2,3,4", *parallel, KILLED_SEED="0")

    assert broken.returncode == 1
    said = broken.stdout + broken.stderr
    assert "1 of 1 runs did not finish: s1 (RUNNING)" in said
    assert "4 of 5 jobs have no run in this sweep: not started, refused, or finished" in said
    assert [row[2] for row in runs(tmp_path)] == ["RUNNING", "FAILED"]


def test_single_run_has_no_parent(launch, with_store, tmp_path):
    assert launch("seed=3").returncode == 0
    assert runs(tmp_path) == [("digits", "s3", "FINISHED", None)]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset=digits,mnits", "dataset=mnits: no such option; did you mean mnist?"),
        ("seed=wrong", "seed: 'wrong' is not a number"),
        ("tracking.uri=http://127.0.0.1:9", "http://127.0.0.1:9 refuses or is not there"),
    ],
)
def test_sweep_that_cannot_run_ends_before_anything_is_made(launch, tmp_path, override, message):
    before = sorted(tmp_path.iterdir())

    ended = launch("-m", override)

    assert ended.returncode == 1
    assert message in ended.stderr.splitlines()[0]
    assert "Traceback" not in ended.stderr
    assert sorted(tmp_path.iterdir()) == before
