import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

from snnrun.errors import ConfigError, UserError
from snnrun.tracking import Stop, Tracking, prepare
from snnrun.tracking_store import resolve_uri


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("store")  # one for all: a fresh database takes seconds


@pytest.fixture
def store(folder, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return prepare(Tracking(uri=None, experiment="digits"), folder)


@pytest.fixture
def client(store):
    from mlflow import MlflowClient

    return MlflowClient(store.uri)


def history(client, run_id, key):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, key)]


def test_clean_run_is_finished_with_everything_in_it(store, client, folder):
    params = {f"p{i}": str(i) for i in range(130)}  # more than one request takes
    (folder / "weights.pt").write_text("w")

    with store.run(name="run", tags={"spec_hash": "a"}, params=params) as run:
        assert client.get_run(run.run_id).info.status == "RUNNING"
        for step in range(3):
            run.metrics({"train/loss": 1 / (step + 1), "val/accuracy": 0.5}, step)
        run.artifact(folder / "weights.pt")
        run.text("config.yaml", "seed: 0")
        run.tag("device", "cpu")

    saved = client.get_run(run.run_id)
    assert (saved.info.status, saved.info.run_name) == ("FINISHED", "run")
    assert saved.data.params == params
    assert saved.data.tags["device"] == "cpu"
    assert history(client, run.run_id, "train/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert {f.path for f in client.list_artifacts(run.run_id)} == {"config.yaml", "weights.pt"}
    assert (folder / "mlartifacts" / run.run_id / "artifacts" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (RuntimeError, "FAILED"),
        (SystemExit, "FAILED"),
        (Stop, "KILLED"),
        (KeyboardInterrupt, "KILLED"),
    ],
)
def test_exception_decides_the_status_and_keeps_the_metrics(store, client, raised, status):
    with (
        pytest.raises(raised),
        store.run(name="run", tags={"spec_hash": status}, params={}) as run,
    ):
        run.metrics({"loss": 2.0}, 7)
        raise raised

    assert client.get_run(run.run_id).info.status == status
    assert history(client, run.run_id, "loss") == [(7, 2.0)]


def test_find_prefers_a_finished_run_to_a_newer_one(store, client):
    assert store.find("b") is None
    with store.run(name="first", tags={"spec_hash": "b"}, params={}) as first:
        first.metrics({"test/accuracy": 0.9}, 1)
    with (
        pytest.raises(Stop),
        store.run(name="second", tags={"spec_hash": "b"}, params={}) as second,
    ):
        raise Stop

    found = store.find("b")
    assert (found.run_id, found.status) == (first.run_id, "FINISHED")
    assert found.metrics == {"test/accuracy": 0.9}

    client.delete_run(first.run_id)
    assert store.find("b").run_id == second.run_id


def test_resumed_run_has_each_metric_and_step_once(store, client):
    params = {"lr": "0.1"}
    with pytest.raises(Stop), store.run(name="r", tags={"git": "old"}, params=params) as run:
        run.metrics({"loss": 3.0, "acc": 0.1}, 0)
        run.metrics({"loss": 2.0}, 1)
        raise Stop

    params = {"lr": "0.2", "new": "1"}
    with store.run(name="r", tags={"git": "new"}, params=params, run_id=run.run_id) as resumed:
        assert client.get_run(run.run_id).info.status == "RUNNING"
        resumed.metrics({"loss": 2.0, "acc": 0.2}, 1)  # the checkpoint was older than the log
        resumed.metrics({"loss": 1.0}, 2)

    saved = client.get_run(run.run_id)
    assert resumed.run_id == run.run_id
    assert saved.info.status == "FINISHED"
    assert history(client, run.run_id, "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]
    assert history(client, run.run_id, "acc") == [(0, 0.1), (1, 0.2)]
    assert saved.data.params == {"lr": "0.1", "new": "1"}  # what is there is never logged again
    assert saved.data.tags["git"] == "new"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_value_that_is_not_finite_is_refused_with_its_name_and_step(store, client, value):
    with (
        pytest.raises(ValueError, match="step 3: not finite: train/loss"),
        store.run(name="r", tags={}, params={}) as run,
    ):
        run.metrics({"train/loss": value, "acc": 1.0}, 3)

    assert client.get_run(run.run_id).data.metrics == {}


def test_run_outlives_an_outage_but_is_not_finished_by_it(store, client, monkeypatch, caplog):
    from mlflow import MlflowClient

    def away(*_, **__):
        raise ConnectionError("nobody there")

    with (
        pytest.raises(UserError, match=r"the last 2 steps \(nobody there\).*repeat the command"),
        store.run(name="r", tags={}, params={}) as run,
    ):
        monkeypatch.setattr(MlflowClient, "log_batch", away)
        run.metrics({"loss": 1.0}, 0)
        run.metrics({"loss": 0.5}, 1)
        checkpointed = run.pending()
    monkeypatch.undo()
    assert checkpointed == [(0, {"loss": 1.0}), (1, {"loss": 0.5})]
    assert client.get_run(run.run_id).info.status == "FAILED"
    assert caplog.text.count("the run goes on") == 1

    with store.run(name="r", tags={}, params={}, run_id=run.run_id) as resumed:
        resumed.replay(checkpointed)
        resumed.metrics({"loss": 0.2}, 2)

    assert history(client, run.run_id, "loss") == [(0, 1.0), (1, 0.5), (2, 0.2)]


def test_store_that_is_gone_does_not_hide_why_the_run_failed(store, monkeypatch, caplog):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def away(*_):
        raise MlflowException("nobody there")

    with (
        pytest.raises(RuntimeError, match="boom"),
        store.run(name="r", tags={}, params={}),
    ):
        monkeypatch.setattr(MlflowClient, "set_terminated", away)
        raise RuntimeError("boom")

    assert "could not be marked FAILED" in caplog.text
    assert "(nobody there)" in caplog.text


def test_parent_is_reused_and_lists_children_of_every_experiment(store, client, folder):
    parent = store.open_parent("key", "sweep seed=0,1", {"kind": "sweep"})
    store.close_parent(parent, "FAILED")
    assert store.open_parent("key", "sweep seed=0,1", {"kind": "sweep"}) == parent
    assert client.get_run(parent).info.status == "RUNNING"
    assert store.open_parent("other", "sweep", {}) != parent

    other = prepare(Tracking(uri=None, experiment="mnist"), folder)
    with store.run(name="a", tags={}, params={}, parent_id=parent) as run:
        pass
    with (
        pytest.raises(RuntimeError),
        other.run(name="b", tags={}, params={}, parent_id=parent),
    ):
        raise RuntimeError

    assert sorted(store.children(parent)) == [("a", "FINISHED"), ("b", "FAILED")]
    assert client.get_run(run.run_id).data.tags["mlflow.parentRunId"] == parent


def test_processes_that_meet_a_fresh_store_all_get_it(tmp_path):
    code = (
        "import sys; from pathlib import Path; from snnrun.tracking import Tracking, prepare\n"
        "store = prepare(Tracking(uri=None, experiment='digits'), Path(sys.argv[1]))\n"
        "with store.run(name='r', tags={'spec_hash': 'x'}, params={}): pass\n"
        "print(store._experiment_id)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    experiments = {worker.communicate()[0] for worker in workers}

    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(experiments) == 1


@pytest.mark.parametrize("environment", [None, "http://server:5000"])
def test_address_is_absolute(tmp_path, monkeypatch, environment):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if environment:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)

    assert resolve_uri(None, tmp_path) == (environment or f"sqlite:///{tmp_path}/mlflow.db")
    assert resolve_uri("sqlite:///a/b.db", tmp_path) == f"sqlite:///{tmp_path}/a/b.db"
    assert resolve_uri("sqlite:////a/b.db", tmp_path) == "sqlite:////a/b.db"
    assert resolve_uri("https://host", tmp_path) == "https://host"


@pytest.mark.parametrize(
    "uri", ["mlruns", "/data/mlruns", "file:///data", "sqlite://", "sqlite:///"]
)
def test_address_of_no_known_kind_is_refused(tmp_path, uri):
    with pytest.raises(ConfigError, match=r"tracking\.uri: .*neither sqlite:///<file> nor"):
        resolve_uri(uri, tmp_path)


def test_server_that_is_not_there_is_one_line_within_seconds(tmp_path):
    start = time.monotonic()

    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 .*refused") as caught:
        prepare(Tracking(uri="http://127.0.0.1:9", experiment="digits"), tmp_path)

    assert time.monotonic() - start < 30  # MLflow's own defaults take 4 minutes
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("database", ["file/mlflow.db", "file", "foreign.db"])
def test_place_that_cannot_be_written_is_one_line(tmp_path, database):
    (tmp_path / "file").write_text("a file where a folder is expected")
    (tmp_path / "foreign.db").write_text("not a database")
    before: list[Path] = sorted(tmp_path.iterdir())

    with pytest.raises(UserError, match=r"cannot write .*set tracking\.uri") as caught:
        prepare(Tracking(uri=f"sqlite:///{database}", experiment="digits"), tmp_path)

    assert "\n" not in str(caught.value)
    assert [p for p in sorted(tmp_path.iterdir()) if p.suffix != ".lock"] == before


def test_deleted_experiment_is_named(store, client, folder):
    prepare(Tracking(uri=None, experiment="gone"), folder)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)

    with pytest.raises(UserError, match=r"'gone' was deleted .* mlflow experiments restore"):
        prepare(Tracking(uri=None, experiment="gone"), folder)


def test_experiment_made_by_another_process_meanwhile_is_taken(store, client, folder, monkeypatch):
    from mlflow import MlflowClient

    look = MlflowClient.get_experiment_by_name
    other = client.create_experiment("raced")
    calls = []  # at the first one it is not there yet
    monkeypatch.setattr(
        MlflowClient,
        "get_experiment_by_name",
        lambda *a: calls.append(a) or (None if len(calls) == 1 else look(*a)),
    )
    with prepare(Tracking(uri=None, experiment="raced"), folder).run(
        name="r", tags={}, params={}
    ) as run:
        pass
    assert client.get_run(run.run_id).info.experiment_id == other


def test_clock_set_back_between_two_starts_makes_no_negative_duration(store, client, monkeypatch):
    with pytest.raises(Stop), store.run(name="clock", tags={}, params={}) as run:
        run.metrics({"a": 1.0}, 1)
        raise Stop
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)

    with store.run(name="clock", tags={}, params={}, run_id=run.run_id) as again:
        again.metrics({"a": 9.0}, 1)
        again.metrics({"a": 2.0}, 2)

    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.end_time >= found.info.start_time
    assert found.data.metrics == {"a": 2.0}
    assert history(client, run.run_id, "a") == [(2, 2.0), (1, 1.0)]
