"""On a CUDA device, with Triton's kernels compiled: what tests on a CPU cannot see."""

import os
import re
import subprocess
import sys

import pytest
import torch

from snnrun.ls import options

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def snnrun(folder, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "snnrun", *arguments],
        cwd=folder,
        env=os.environ | {"TRITON_INTERPRET": "0", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def accuracy(output: str) -> float:
    return float(re.search(r"test accuracy\D*([\d.]+)%", output)[1])


@pytest.mark.parametrize("method", options("method"))
def test_what_must_be_equal_by_definition_is_equal(method, tmp_path):
    snnrun(tmp_path, "verify", f"method={method}", "hardware=cuda")


@pytest.mark.parametrize("method", options("method"))
def test_a_run_learns_as_on_the_cpu(method, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        folder.mkdir()
        run = ("train", f"method={method}", "dataset=digits", "epochs=3", f"hardware={device}")
        found[device] = accuracy(snnrun(folder, *run))
    assert abs(found["cpu"] - found["cuda"]) < 5  # points
