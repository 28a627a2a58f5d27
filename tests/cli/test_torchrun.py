"""One run on two processes: `torchrun ... -m snnrun train hardware=ddp`."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.testing import assert_close

README = Path(__file__).parents[2] / "README.md"
(DOCUMENTED,) = re.findall(
    r"^torchrun (.* -m snnrun) train hardware=ddp$", README.read_text(), re.M
)
EXACT = ("hardware.precision=fp64", "hardware.plan.probe=false")
RUN = (
    "method=bptt", "dataset.limit=300", "model.hidden=[16]", "model.dropout=0.2", "epochs=2",
    *EXACT,
)  # fmt: skip
SLOW = (
    "method=ottt", "dataset=synthetic", "dataset.train_samples=5000", "model.hidden=[16]",
    "model.dropout=0.2", "epochs=2", *EXACT,
)  # fmt: skip
PATIENCE_S = 300  # only a process that hangs takes longer, on a busy machine too
# Of this machine at this time, or of what one process holds.
MACHINE = ("latency/train", "latency/epoch", "latency/inference", "memory/", "data/wait")


@pytest.fixture
def two(snnrun):
    """Start `snnrun` on two processes in the folder of the fixture of that name."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *DOCUMENTED.split(), *arguments],
            cwd=snnrun.folder,
            env=snnrun.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:  # those of a test that failed
        process.terminate()
        process.communicate()


def figures(terminal):
    """Metrics of the only run, which has finished; without those of the machine."""
    ((run_id, _, status),) = terminal.runs()
    assert status == "FINISHED"
    return {
        key: value
        for key, value in terminal.metrics(run_id).items()
        if not key[0].startswith(MACHINE)
    }


def said(process, code):
    """What the processes themselves said of a mistake, once and for all."""
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    return lines[0]


@pytest.mark.slow
def test_two_processes_make_one_run_with_the_figures_of_one_process(
    snnrun, with_store, two, furnished, here_in
):
    process = two("train", "hardware=ddp", *RUN)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, error
    assert error.count("test/accuracy") == 1
    assert "already finished" in here_in(snnrun.folder)("train", *RUN).stderr

    one = here_in(furnished(snnrun.folder / "one"))
    one("train", "hardware=cpu", *RUN)
    assert_close(figures(snnrun), figures(one), rtol=0, atol=1e-6)


def asked_to_stop(process):
    """End both processes as a scheduler or Ctrl-C does."""
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_S)
    return "KILLED"


def one_killed(process):
    """End one process without warning; the other has to notice."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    os.kill(int(children.stdout.split()[1]), signal.SIGKILL)
    assert "another process of this run has ended" in said(process, 1)
    return "FAILED"


@pytest.fixture(scope="module")
def uninterrupted(terminal_in, furnished, tmp_path_factory):
    terminal = terminal_in(furnished(tmp_path_factory.mktemp("uninterrupted")))
    terminal("train", "hardware=cpu", *SLOW)
    return figures(terminal)


@pytest.mark.slow
@pytest.mark.parametrize("ended", [asked_to_stop, one_killed])
def test_one_process_continues_what_two_began(snnrun, with_store, two, uninterrupted, ended):
    process = two("train", "hardware=ddp", *SLOW)
    deadline = time.monotonic() + PATIENCE_S
    while not list(snnrun.folder.glob("outputs/*/best.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    status = ended(process)
    assert [run[2] for run in snnrun.runs()] == [status]

    assert "continuing at epoch 2" in snnrun("train", "hardware=cpu", *SLOW).stderr

    assert_close(figures(snnrun), uninterrupted, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_mistakes_are_said_once_and_leave_nothing_behind(snnrun, two):
    missing = ("dataset=mnist", "dataset.root=nowhere")
    assert "mnist not found" in said(two("train", "hardware=ddp", *missing), 1)  # in a run
    assert "no such key" in said(two("train", "hardware=ddp", "sead=1"), 1)  # before it
    assert list(snnrun.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("train", "hardware=cpu"), "add hardware=ddp"),
        (("train", "-m", "seed=0,1", "hardware=ddp"), "sweep without it"),
        (("check",), "snnrun check is one"),
    ],
)
def test_what_two_processes_cannot_do_is_refused(here, monkeypatch, command, message):
    started = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    error = here(*command, code=1).stderr
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert list(here.folder.iterdir()) == []


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_without_torchrun_the_command_is_shown(here, sweep):
    error = here("train", *sweep, "hardware=ddp", code=1).stderr
    assert error.startswith("error: hardware: ddp") and error.count("\n") == 1
    assert "torchrun --standalone --nproc-per-node=N -m snnrun train hardware=ddp" in error
    assert list(here.folder.iterdir()) == []


def test_looking_at_a_run_needs_no_torchrun(here):
    assert "can run" in here("check", "hardware=ddp").stdout
    assert "Distributed" in here("train", "hardware=ddp", "--cfg", "job").stdout
