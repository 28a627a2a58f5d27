"""Bad data through the command line: one clear line, exit code 1, and nothing created."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


def run(folder: Path, command: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A sub-command in an empty folder, its cache in another."""
    (folder / "here").mkdir()
    hidden = ("SNNRUN_DATA", "MLFLOW_TRACKING_URI")
    environment = {k: v for k, v in os.environ.items() if k not in hidden}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "snnrun", command, *overrides],
        cwd=folder / "here", env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def mail(path: Path) -> None:
    path.write_bytes(b"<html>please log in</html>")


def partial(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Train/0/00001.bin", bytes(5))
        archive.writestr("Test/0/00001.bin", bytes(7))


@pytest.mark.parametrize(
    ("command", "dataset", "write", "first", "rest"),
    [
        ("train", "cifar10", None, "error: cifar10 not found; looked in: ", ""),
        (
            "check", "nmnist", partial, "error: 2 problems",
            "nmnist/train: 1 of 60000 recordings; fix: fetch the rest, or dataset.allow_partial",
        ),
        ("train", "nmnist", mail, "error: nmnist: data.zip: not a zip archive",
            "at 26 bytes; looks like an HTML page, the download probably failed"),
    ],
)  # fmt: skip
def test_one_clear_line_exit_code_one_and_nothing_created(
    tmp_path, command, dataset, write, first, rest
):
    path = tmp_path / "data.zip"
    if write is not None:
        write(path)
    done = run(tmp_path, command, f"dataset={dataset}", f"dataset.root={path}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith(first)
    assert rest in done.stderr
    assert list((tmp_path / "here").iterdir()) == []
    assert not (tmp_path / "cache").exists()
