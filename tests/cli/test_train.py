import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from snnrun.config import CONF
from snnrun.ls import options
from snnrun.measure.neighbours import Neighbours

TINY = ("model.hidden=[16]", "dataset.limit=500", "hardware.threads=1")
# About a second per epoch: time to interrupt one in its middle.
SLOW = (
    "dataset=synthetic",
    "dataset.train_samples=20000",
    "dataset.encoding.name=poisson",
    "dataset.augment.crop=1",
    "model.dropout=0.1",
    "epochs=3",
    *TINY[::2],
)
EVERY_EPOCH = {
    *("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/accuracy_best"),
    *("latency/train_step_ms_p50", "latency/train_step_ms_p95", "latency/epoch_s"),
    *("memory/train_peak_mib", "memory/saved_for_backward_mib"),
    *("progress/samples", "progress/updates", "data/wait_fraction"),
}
AT_THE_END = {
    *("test/accuracy", "test/loss", "latency/inference_ms_per_sample", "latency/decision_steps"),
    *("memory/inference_peak_mib", "memory/parameters_mib", "energy/inference_uj"),
    *("spikes/per_sample", "spikes/per_neuron", "spikes/rate"),
    *("synops/acs_per_sample", "synops/macs_per_sample", "synops/dense_per_sample"),
}
VARYING = re.compile(r"latency/(?!decision)|_peak_mib|data/wait")


def repeatable(metrics):
    return {at: value for at, value in metrics.items() if not VARYING.search(at[0])}


def test_checkout_reads_its_own_conf():
    assert (CONF.parent / "pyproject.toml").is_file()


def test_wheel_holds_conf_and_installs_one_top_level_package(installed):
    assert (installed / "snnrun" / "conf" / "config.yaml").read_text() == (
        CONF / "config.yaml"
    ).read_text()
    assert {p.name for p in installed.iterdir() if "dist-info" not in p.name} == {"snnrun", "bin"}


def test_train_records_every_metric_and_is_not_repeated(snnrun):
    command = ("train", "epochs=2", *TINY)
    assert "evaluate again: snnrun eval" in snnrun(*command).stderr
    ((run_id, name, status),) = snnrun.runs()
    assert (name, status) == ("saf-mlp-T6-s0", "FINISHED")
    metrics = snnrun.metrics(run_id)
    assert {key for key in EVERY_EPOCH if {(key, 1), (key, 2)} - set(metrics)} == set()
    assert {key for key in AT_THE_END if (key, 2) not in metrics} == set()
    assert any(re.fullmatch("spikes/[^/]+/rate", key) for key, _ in metrics)
    artifacts = {p.name for p in snnrun.folder.glob(f"mlartifacts/**/{run_id}/artifacts/*")}
    assert artifacts >= {"config.yaml", "last.pt", "best.pt"}

    again = snnrun(*command)

    assert "already finished" in again.stderr
    assert snnrun.runs() == [(run_id, name, status)]
    assert snnrun.metrics(run_id) == metrics


def test_eval_measures_again_with_other_settings_and_refuses_in_one_line(here, with_store):
    here("train", "epochs=1", *TINY)
    (folder,) = here.folder.glob("outputs/*")
    assert "test/accuracy" in here("eval", str(folder)).stderr
    assert "test/accuracy" in here("eval", str(folder), "method.timesteps=8").stderr
    for override, message in {
        "method.timestep=8": "no such key; did you mean method.timesteps?",
        "model.hidden=[32]": "do not fit this net",
        "model=mlp": "model: a group cannot be replaced",
        "seed=[1": "seed=[1: ",
    }.items():
        error = here("eval", str(folder), override, code=1).stderr
        assert message in error
        assert error.startswith("error: ") and error.count("\n") == 1


@pytest.fixture(scope="session")
def uninterrupted(terminal_in, furnished, tmp_path_factory):
    terminal = terminal_in(furnished(tmp_path_factory.mktemp("uninterrupted")))
    terminal("train", *SLOW)
    ((run_id, _, _),) = terminal.runs()
    return repeatable(terminal.metrics(run_id))


def interrupted_in_second_epoch(snnrun, number):
    """Status and output of a run that got a signal in the middle of its second epoch."""
    process = snnrun.start("train", *SLOW)
    deadline = time.monotonic() + 120
    while not list(snnrun.folder.glob("outputs/*/best.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    return process.returncode, error


@pytest.mark.slow
def test_killed_run_continues_with_the_numbers_of_an_uninterrupted_one(
    snnrun, with_store, uninterrupted
):
    code, _ = interrupted_in_second_epoch(snnrun, signal.SIGKILL)
    ((run_id, _, status),) = snnrun.runs()
    assert (code, status) == (-signal.SIGKILL, "RUNNING")

    assert "continuing at epoch 2, batch 0" in snnrun("train", *SLOW).stderr

    assert [(run[0], run[2]) for run in snnrun.runs()] == [(run_id, "FINISHED")]
    assert repeatable(snnrun.metrics(run_id)) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_continues_in_the_middle_of_the_epoch(
    snnrun, with_store, uninterrupted, number
):
    code, error = interrupted_in_second_epoch(snnrun, number)
    assert code == 130
    assert "repeat the command" in error and "Traceback" not in error
    ((run_id, _, status),) = snnrun.runs()
    assert status == "KILLED"

    again = snnrun("train", *SLOW).stderr

    assert re.search(r"continuing at epoch 2, batch [1-9]", again)
    assert [(run[0], run[2]) for run in snnrun.runs()] == [(run_id, "FINISHED")]
    assert repeatable(snnrun.metrics(run_id)) == uninterrupted


def test_loss_that_is_not_finite_fails_with_the_step(here, with_store):
    error = here("train", "method.optim.lr=1e38", "method.optim.name=sgd", *TINY, code=1).stderr
    assert re.search(r"error: loss is not finite at step \d+; ", error)
    assert [status for _, _, status in here.runs()] == ["FAILED"]


@pytest.mark.slow
def test_numbers_of_a_run_do_not_depend_on_the_runs_before_it_in_the_process(
    terminal_in, here_in, furnished, tmp_path
):
    methods = list(options("method"))
    # Where tests have been running for a while it is backwards; a process of its own for the rest.
    orders = {
        "forwards": (terminal_in, methods),
        "backwards": (here_in, methods[::-1]),
        "alone": (terminal_in, ["saf"]),
    }
    for name, (commands_in, order) in orders.items():  # a store each: known runs are not repeated
        commands = commands_in(furnished(tmp_path / name))
        commands("train", "-m", f"method={','.join(order)}", "epochs=1", *TINY)
    for name, (_, order) in orders.items():
        found = {best.parent.name: best for best in tmp_path.glob(f"{name}/outputs/*/best.pt")}
        assert len(found) == len(order)
        for folder, best in found.items():
            one, other = (
                torch.load(path)["net"]
                for path in (best, tmp_path / "forwards" / "outputs" / folder / "best.pt")
            )
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), best


def test_runs_beside_it_on_the_device_are_recorded_with_a_run(here, with_store):
    with Neighbours(torch.device("cpu")).present():
        here("train", "epochs=1", *TINY)
    ((jobs,),) = here.query("select value from tags where key = 'jobs_per_device'")
    assert int(jobs) >= 2  # other tests may run one at the same time


def test_raster_of_every_layer_is_drawn_when_asked(here, with_store):
    here("train", "epochs=1", "report.raster=true", *TINY)
    drawn = here.folder.glob("mlartifacts/**/artifacts/*.svg")
    assert {file.name for file in drawn} == {"raster.svg", "rates.svg"}


def test_failing_job_leaves_the_others_and_is_listed(snnrun, with_store):
    rates = ("method=tet", "method.optim.lr=1e38,0.01")
    error = snnrun("train", "-m", *rates, "method.optim.name=sgd", "epochs=1", *TINY, code=1).stderr
    assert "Traceback" not in error
    assert "1 of 2 runs did not finish: tet-mlp-T4-s0 (FAILED)" in error
    assert re.search(r"run 1 of 2: method=tet method.optim.lr=1e\+?38", error)
    assert re.search(r"run 2 of 2, about 1 min left: method=tet method.optim.lr=0.01", error)
    assert sorted(status for _, _, status in snnrun.runs()) == ["FAILED", "FAILED", "FINISHED"]


LIGHT = {
    "help": (["train", "--help"], {}, "Examples"),
    "composed": (["train", "--cfg", "job"], {}, "_target_: snnrun.methods.saf.SAF"),
    "list": (["ls", "methods"], {}, "Temporal efficient training"),
    "completion": (["-sc", "query=bash"], {"COMP_LINE": "snnrun train method="}, "method=bptt"),
    "sub-commands": (["-sc", "query=bash"], {"COMP_LINE": "snnrun tr"}, "train"),
    "install": (["-sc", "install=bash"], {}, "-F hydra_bash_completion snnrun\n"),
    "ui": (["ui", "--help"], {}, "--store"),
    "compare": (["compare", "--help"], {}, "--baseline"),
}


@pytest.mark.parametrize("name", LIGHT)
def test_light_commands_import_nothing_heavy(snnrun, name):
    arguments, environment, expected = LIGHT[name]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", snnrun.site / "bin" / "snnrun", *arguments],
        cwd=snnrun.folder,
        env=snnrun.environment | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and expected in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "snnrun.cli" in imported
    assert not imported & {"torch", "torchvision", "mlflow", "tonic", "numpy"}
    assert not list(snnrun.folder.iterdir())


def test_check_tells_what_would_run_and_writes_nothing(here):
    assert "saf-mlp-T6-s0 can run" in here("check").stdout
    assert "leave out -m" in here("check", "seed=0,1", "-m", code=1).stderr
    assert not list(here.folder.iterdir())
