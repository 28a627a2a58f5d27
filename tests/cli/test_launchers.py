"""The documented command of each launcher and sweeper, where its extra is installed."""

import sqlite3
import time
from contextlib import closing

import pytest

TINY = ("model.hidden=[16]", "dataset.limit=300", "hardware.threads=1", "epochs=1")
LAUNCHERS = {
    "joblib": ("hydra.launcher.n_jobs=2",),
    "submitit": (),
    "ray": ("+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.remote.num_cpus=1"),
}
OPTION = {"submitit": "submitit_local"}


def statuses(snnrun):
    return sorted((name.split()[0], status) for _, name, status in snnrun.runs())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_sweep_through_a_launcher(snnrun, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    how = (f"hydra/launcher={OPTION.get(launcher, launcher)}", *LAUNCHERS[launcher])

    snnrun("train", "-m", "method=bptt", "seed=0,1", *how, *TINY)

    assert statuses(snnrun) == [
        *((f"bptt-mlp-T4-s{seed}", "FINISHED") for seed in (0, 1)),
        ("sweep", "FINISHED"),
    ]
    assert list(snnrun.folder.glob("mlartifacts/**/artifacts/report.html"))


@pytest.mark.slow
def test_optuna_study_continues_after_a_restart(snnrun):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    storage = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=lr")
    how = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.direction=maximize")
    space = "method.optim.lr=tag(log,interval(1e-4,1e-1))"
    for trials in (2, 4):
        snnrun("train", "-m", space, *how, *storage, *TINY)
        with closing(sqlite3.connect(snnrun.folder / "study.db")) as study:
            assert study.execute("select count(*) from trials").fetchone() == (trials,)


@pytest.mark.slow
def test_killed_sweep_continues_when_repeated_and_repeats_nothing(snnrun):
    command = ("train", "-m", "method=bptt", "seed=0,1,2", *TINY[:3], "epochs=20")
    sweep = snnrun.start(*command)
    deadline = time.monotonic() + 200
    while len(list(snnrun.folder.glob("outputs/*/last.pt"))) < 2:  # the second one is under way
        assert sweep.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    sweep.kill()
    sweep.communicate()
    done = {run_id: snnrun.metrics(run_id) for run_id, _, s in snnrun.runs() if s == "FINISHED"}
    assert 0 < len(done) < 3

    snnrun(*command)

    assert statuses(snnrun) == [
        *((f"bptt-mlp-T4-s{seed}", "FINISHED") for seed in (0, 1, 2)),
        ("sweep", "FINISHED"),
    ]
    assert {run_id: snnrun.metrics(run_id) for run_id in done} == done
