"""Checkpoints that were damaged, swapped or deleted between two starts of a command."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

# It learns nothing, so its first epoch stays the best.
RUN = (
    *("train", "method=bptt", "model.hidden=[16]", "model.norm=none", "method.optim.lr=1e-9"),
    *("dataset.limit=300", "epochs=2", "hardware=cpu", "hardware.threads=1"),
)
DAMAGES = ["garbage", "truncated", "foreign", "other", "gone"]
REASON = {
    "foreign": "belongs to another specification",
    "other": "belongs to another specification",
    "gone": "does not exist",
}


@pytest.fixture(scope="session")
def trained(terminal_in, furnished, tmp_path_factory):
    """A folder with the runs of two seeds; the first has yet to be tested."""
    folder = furnished(tmp_path_factory.mktemp("trained"))
    terminal_in(folder)("train", "-m", *RUN[1:], "seed=0,1")
    with closing(sqlite3.connect(folder / "mlflow.db")) as store, store:
        store.execute("update runs set status = 'RUNNING' where name = 'bptt-mlp-T4-s0'")
    return folder


@pytest.fixture
def place(trained, tmp_path, here_in):
    """Its copy: commands there, folder of the first run, folder of the second."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    runs = [last.parent for last in folder.glob("outputs/*/last.pt")]
    runs.sort(key=lambda run: "seed: 1" in (run / "config.yaml").read_text())
    return here_in(folder), *runs


def damage(file: Path, kind: str, other: Path):
    if kind == "gone":
        file.unlink()
    elif kind == "foreign":
        shutil.copyfile(other / file.name, file)
    elif kind == "other":
        torch.save({"epoch": 1}, file)
    else:
        content = file.read_bytes()
        file.write_bytes(b"garbage" if kind == "garbage" else content[: len(content) // 2])


def one_line(commands, *arguments):
    error = commands(*arguments, code=1).stderr
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


CASES = [(n, k) for n in ("last.pt", "best.pt") for k in DAMAGES if (n, k) != ("last.pt", "gone")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_run_that_continues_refuses_it_and_starts_afresh_as_told(place, name, kind):
    commands, run, other = place
    damage(run / name, kind, other)

    error = one_line(commands, *RUN)

    assert f"checkpoint {run / name} {REASON.get(kind, 'cannot be read')}" in error
    assert f"delete {run} to start the run afresh" in error
    if kind == "foreign":
        shutil.rmtree(run)
        commands(*RUN)
        assert [s for _, n, s in commands.runs() if "sweep" not in n] == ["FINISHED"] * 2
        for run_id, _, _ in commands.runs():
            commands.metrics(run_id)  # each once


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["garbage", "other", "gone"])
def test_eval_and_export_refuse_it_and_say_where_a_copy_is(place, kind):
    commands, run, other = place
    damage(run / "best.pt", kind, other)
    for command in (("eval", str(run)), ("export", str(run), "--to", "state_dict")):
        error = one_line(commands, *command)
        assert f"checkpoint {run / 'best.pt'} " in error
        assert "the tracking store keeps a copy" in error
    assert not (run / "export.pt").exists()


@pytest.mark.slow
def test_run_whose_last_checkpoint_is_deleted_starts_afresh(place):
    commands, run, _ = place
    (run / "last.pt").unlink()
    assert "epoch 1/2" in commands(*RUN).stderr
    assert [s for _, n, s in commands.runs() if "sweep" not in n] == ["FINISHED"] * 2
