"""The installed wheel, and commands run with it in an empty folder."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Folder with the wheel's content, as pip installs it."""
    wheels, site = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    build = ["hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run([sys.executable, "-m", *build], cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    install = ["pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True)
    return site


class Terminal:
    """Runs snnrun in one folder."""

    def __init__(self, site, folder):
        self.site, self.folder = site, folder
        own = ("MLFLOW_TRACKING_URI", "SNNRUN_DATA", "SNNRUN_PARENT_RUN", "HYDRA_FULL_ERROR")
        self.environment = {k: v for k, v in os.environ.items() if k not in own}
        self.environment |= {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}

    def start(self, *arguments):
        command = [str(self.site / "bin" / "snnrun"), *arguments]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *arguments, code=0):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        return subprocess.CompletedProcess(arguments, code, out, err)

    def query(self, text, *values):
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as connection:
            return connection.execute(text, values).fetchall()

    def runs(self):
        """(id, name, status) of every run."""
        return self.query("select run_uuid, name, status from runs order by name")

    def metrics(self, run_id):
        """{(key, step): value} of one run."""
        rows = self.query("select key, step, value from metrics where run_uuid = ?", run_id)
        assert len(rows) == len({row[:2] for row in rows})
        return {(key, step): value for key, step, value in rows}


@pytest.fixture
def snnrun(installed, tmp_path):
    return Terminal(installed, tmp_path)


@pytest.fixture(scope="session")
def terminal_in(installed):
    return lambda folder: Terminal(installed, folder)
