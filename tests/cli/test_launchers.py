"""The documented command of each launcher and sweeper, where its extra is installed."""

import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

TINY = ("model.hidden=[16]", "dataset.limit=300", "hardware.threads=1", "epochs=1")
LAUNCHERS = {
    "joblib": ("hydra.launcher.n_jobs=2",),
    "submitit": (),
    "ray": ("+hydra.launcher.ray.init.num_cpus=2", "+hydra.launcher.ray.remote.num_cpus=1"),
}
OPTION = {"submitit": "submitit_local"}


def finished(snnrun):
    """Metrics of every finished run, parents left out."""
    ended = [(run, name) for run, name, status in snnrun.runs() if status == "FINISHED"]
    return {run: snnrun.metrics(run) for run, name in ended if not name.startswith("sweep")}


def statuses(snnrun):
    return sorted((name.split()[0], status) for _, name, status in snnrun.runs())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_sweep_through_a_launcher_on_a_fresh_store(snnrun, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher}_launcher")
    how = (f"hydra/launcher={OPTION.get(launcher, launcher)}", *LAUNCHERS[launcher])

    snnrun("train", "-m", "method=bptt,tet", "seed=0,1", *how, *TINY)

    assert statuses(snnrun) == [
        *((f"bptt-mlp-T4-s{seed}", "FINISHED") for seed in (0, 1)),
        ("sweep", "FINISHED"),
        *((f"tet-mlp-T4-s{seed}", "FINISHED") for seed in (0, 1)),
    ]
    parents = snnrun.query(
        "select r.name, count(*) from tags t join runs r on r.run_uuid = t.value "
        "where t.key = 'mlflow.parentRunId' group by 1"
    )
    assert [(name.split()[0], children) for name, children in parents] == [("sweep", 4)]
    assert list(snnrun.folder.glob("mlartifacts/**/artifacts/report.html"))


@pytest.mark.slow
def test_optuna_study_continues_after_a_restart(snnrun, with_store):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    storage = ("hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=lr")
    how = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.direction=maximize")
    space = "method.optim.lr=tag(log,interval(1e-4,1e-1))"
    for trials in (2, 4):
        snnrun("train", "-m", space, *how, *storage, *TINY)
        with closing(sqlite3.connect(snnrun.folder / "study.db")) as study:
            assert study.execute("select count(*) from trials").fetchone() == (trials,)


def workers(sweep):
    """Process ids of the joblib workers of a sweep."""
    children = Path(f"/proc/{sweep.pid}/task/{sweep.pid}/children").read_text().split()
    return [int(c) for c in children if b"popen_loky" in Path(f"/proc/{c}/cmdline").read_bytes()]


def kill_a_worker(sweep):
    os.kill(workers(sweep)[0], signal.SIGKILL)


def kill_the_group(sweep):
    os.killpg(sweep.pid, signal.SIGKILL)


PARALLEL = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "launcher"),
    [(kill_the_group, ()), (kill_the_group, PARALLEL), (kill_a_worker, PARALLEL)],
    ids=["sweep", "sweep with its workers", "worker"],
)
def test_killed_sweep_continues_when_repeated_and_repeats_nothing(
    snnrun, with_store, here, kill, launcher
):
    if launcher:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = ("train", "-m", "method=bptt", "seed=0,1,2,3", *TINY[:3], "epochs=4")
    sweep = snnrun.start(*command, *launcher)
    deadline = time.monotonic() + 200
    while len(list(snnrun.folder.glob("outputs/*/last.pt"))) < 3:  # so one has finished
        assert sweep.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    kill(sweep)
    _, error = sweep.communicate(timeout=120)
    if kill is kill_a_worker:
        assert sweep.returncode == 1 and "Traceback" not in error
        assert error.count("error: ") == 1 and "error: a worker of the sweep was killed" in error
    done = finished(snnrun)
    assert 0 < len(done) < 4

    if kill is kill_a_worker:
        assert "Traceback" not in snnrun(*command, *launcher).stderr
    else:  # whatever the launcher
        here(*command)

    assert statuses(snnrun) == [
        *((f"bptt-mlp-T4-s{seed}", "FINISHED") for seed in (0, 1, 2, 3)),
        ("sweep", "FINISHED"),
    ]
    assert finished(snnrun).items() >= done.items()
