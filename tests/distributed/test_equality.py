"""Two processes compute what one does: every method, the same batches."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from snnrun import checkpoint, ranks

sys.path.append(str(Path(__file__).parent))
from training import CASES, Training, train

TOLERANCE = 1e-6


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """What one and two processes make of every case; two go on from the first epoch of one."""
    folder = tmp_path_factory.mktemp("distributed")
    for case in CASES:
        train(case, folder)
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("training.py")
    subprocess.run([sys.executable, "-m", *torchrun, script, folder, *CASES], check=True)
    return folder


def numbers(state: Any, key: str = "") -> dict[str, Tensor]:
    """Every tensor and number of a state, by its place in it."""
    if isinstance(state, dict):
        return {k: v for name in state for k, v in numbers(state[name], f"{key}/{name}").items()}
    return {key: torch.as_tensor(state)} if isinstance(state, Tensor | float | int) else {}


def assert_same(state: dict[str, Any], expected: dict[str, Any]) -> None:
    found, wanted = numbers(state), numbers(expected)
    assert found.keys() == wanted.keys()
    for key in wanted:
        torch.testing.assert_close(
            found[key], wanted[key], rtol=0, atol=TOLERANCE, msg=lambda text, key=key: key + text
        )


@pytest.mark.parametrize("case", CASES)
def test_two_processes_reach_the_weights_and_figures_of_one(folder, case):
    one = checkpoint.load(folder / f"{case}-1-1.pt")
    assert_same(checkpoint.load(folder / f"{case}-2-1.pt"), one)
    start = Training(case).net.state_dict()
    moved = {key: (one["net"][key] - start[key]).abs().max() for key in start}
    assert all(moved[key] > 100 * TOLERANCE for key in start if key.endswith("op.weight"))


@pytest.mark.parametrize("case", CASES)
def test_two_processes_go_on_from_where_one_stopped(folder, case):
    one = checkpoint.load(folder / f"{case}-1-1.pt")
    assert_same(checkpoint.load(folder / f"{case}-2-continued.pt"), one)


@pytest.mark.parametrize("case", CASES)
def test_one_process_goes_on_from_where_two_stopped(folder, case):
    training = Training(case)
    training.restore(checkpoint.load(folder / f"{case}-2-0.pt"))
    one = checkpoint.load(folder / f"{case}-1-1.pt")
    assert_same(training.epoch(1), one)


def test_a_process_by_itself_has_every_row_and_changes_no_number():
    rows = torch.randn(5, 3)
    part = ranks.take(5)
    assert (part.count, part.rows) == (5, slice(0, 5))
    assert ranks.average(rows) is rows
    assert (ranks.unit(), ranks.count(), ranks.leads()) == (1.0, 1, True)
