"""The installed wheel, and commands run with it in a folder."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from filelock import FileLock

from snnrun import cli, collector

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def installed(tmp_path_factory, worker_id):
    """Folder with the wheel's content, as pip installs it.

    One for all workers of pytest: what one has compiled, the others find.
    """
    own = tmp_path_factory.getbasetemp()
    session = own if worker_id == "master" else own.parent
    site = session / "site"
    with FileLock(session / "site.lock"):
        if not site.exists():
            install(site, session / "wheel")
    return site


def install(site, wheels):
    build = ["hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run([sys.executable, "-m", *build], cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    pip = ["pip", "install", "-q", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, "-m", *pip], check=True, capture_output=True)


OWN = ("MLFLOW_TRACKING_URI", "SNNRUN_DATA", "SNNRUN_PARENT_RUN", "HYDRA_FULL_ERROR")


class Place:
    """A folder in which commands run, and the store that they make there."""

    def __init__(self, folder):
        self.folder = folder

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


class Terminal(Place):
    """Runs the installed snnrun, each command a process."""

    def __init__(self, site, folder):
        super().__init__(folder)
        self.site = site
        self.environment = {k: v for k, v in os.environ.items() if k not in OWN}
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


class Here(Place):
    """Runs snnrun in this process: imports take seconds."""

    def __init__(self, folder, monkeypatch, capsys):
        super().__init__(folder)
        self.patch, self.captured = monkeypatch, capsys
        for name in OWN:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # a command sets it
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "path", sys.path.copy())
        monkeypatch.setattr(collector, "wait", lambda: None)

    def __call__(self, *arguments, code=0):
        self.patch.chdir(self.folder)
        self.patch.setattr(sys, "argv", ["snnrun", *arguments])
        self.captured.readouterr()
        try:
            cli.main()
            left = 0
        except SystemExit as ended:
            left = ended.code
        out, err = self.captured.readouterr()
        if isinstance(left, str):  # what the interpreter does with it
            left, err = 1, f"{err}{left}\n"
        assert left == code, err
        return subprocess.CompletedProcess(arguments, code, out, err)


@pytest.fixture
def snnrun(installed, tmp_path):
    return Terminal(installed, tmp_path)


@pytest.fixture(scope="session")
def terminal_in(installed):
    return lambda folder: Terminal(installed, folder)


@pytest.fixture
def here_in(monkeypatch, capsys):
    return lambda folder: Here(folder, monkeypatch, capsys)


@pytest.fixture
def here(here_in, tmp_path):
    return here_in(tmp_path)
