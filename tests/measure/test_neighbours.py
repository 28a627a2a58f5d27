import signal
import subprocess
import sys

import torch

from snnrun.measure.neighbours import Neighbours

CPU = torch.device("cpu")
STAY = """
import sys, time, torch
from pathlib import Path
from snnrun.measure.neighbours import Neighbours
with Neighbours(torch.device("cpu"), Path(sys.argv[1])).present():
    print("here", flush=True)
    time.sleep(600)
"""


def test_runs_are_counted_while_they_are_there(tmp_path):
    first, second = Neighbours(CPU, tmp_path), Neighbours(CPU, tmp_path)
    with first.present():
        assert first.look() == 1
        with second.present():
            assert (first.look(), second.look()) == (2, 2)
        assert first.look() == 1
    assert [file.name for file in (tmp_path / "cpu").iterdir()] == ["door"]


def test_other_devices_do_not_count(tmp_path):
    with (
        Neighbours(torch.device("meta"), tmp_path).present(),
        Neighbours(CPU, tmp_path).present(),
    ):
        assert Neighbours(CPU, tmp_path).look() == 1


def test_killed_process_no_longer_counts(tmp_path):
    command = [sys.executable, "-c", STAY, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "here\n"
        assert Neighbours(CPU, tmp_path).look() == 1
        other.send_signal(signal.SIGKILL)
    assert Neighbours(CPU, tmp_path).look() == 0
    assert [file.name for file in (tmp_path / "cpu").iterdir()] == ["door"]
