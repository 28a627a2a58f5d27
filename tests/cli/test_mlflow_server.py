"""A real MLflow server with a database and an artifact store of its own, on this machine."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import pytest

TINY = ("method=bptt", "model.hidden=[16]", "dataset.limit=300", "hardware.threads=1")


class Server:
    """mlflow server; may be killed and started again on the same port and database."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        store = f"sqlite:///{self.folder}/server.db"
        places = ("--backend-store-uri", store, "--artifacts-destination", f"{self.folder}/files")
        address = ("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *places, *address],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},  # eight processes
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)

    def answers(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()

    def query(self, text):
        with closing(sqlite3.connect(self.folder / "server.db", timeout=20)) as connection:
            return connection.execute(text).fetchall()


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server")
    server.start()
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.mark.slow
def test_two_sweeps_at_once_lose_nothing(server, terminal_in, tmp_path):
    sweeps = []
    for seeds in ("0,1", "2,3"):
        place = tmp_path / f"seeds{seeds}"
        place.mkdir()
        where = f"tracking.uri={server.uri}"
        sweeps.append(
            terminal_in(place).start("train", "-m", f"seed={seeds}", "epochs=2", where, *TINY)
        )
    for sweep in sweeps:
        _, error = sweep.communicate(timeout=300)
        assert sweep.returncode == 0, error
    runs = server.query("select name, status from runs where name not like 'sweep%'")
    assert sorted(runs) == [(f"bptt-mlp-T4-s{seed}", "FINISHED") for seed in range(4)]
    parents = server.query("select status from runs where name like 'sweep%'")
    assert parents == [("FINISHED",)] * 2
    losses = server.query("select step, count(*) from metrics where key = 'train/loss' group by 1")
    assert losses == [(1, 4), (2, 4)]
    assert len(list((server.folder / "files").rglob("best.pt"))) == 4


@pytest.mark.slow
def test_metrics_of_an_outage_arrive_when_the_server_is_back(server, terminal_in, tmp_path):
    epochs = 400
    command = ("train", f"epochs={epochs}", f"tracking.uri={server.uri}", *TINY)
    run = terminal_in(tmp_path).start(*command)
    deadline = time.monotonic() + 200
    while not server.query("select 1 from metrics where key = 'train/loss' and step = 2"):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    server.kill()
    time.sleep(1)
    assert run.poll() is None  # the training goes on
    server.start()
    _, error = run.communicate(timeout=300)
    assert run.returncode == 0, error
    assert server.query("select status from runs") == [("FINISHED",)]
    steps = server.query("select step from metrics where key = 'train/loss' order by step")
    assert steps == [(step + 1,) for step in range(epochs)]
