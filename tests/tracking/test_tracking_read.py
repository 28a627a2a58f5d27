import pytest

from snnrun.errors import UserError
from snnrun.tracking import Stop, Tracking, prepare
from snnrun.tracking_read import _from_search, finished, histories


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two finished runs, one killed, one deleted, one deleted experiment, a sweep's parent."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("read it #1")  # an address needs quoting
    store = prepare(Tracking(uri="sqlite:///mlflow.db", experiment="digits"), folder)
    parent = store.open_parent("key", "sweep", {})
    for name in ("a", "b", "killed", "deleted"):
        tags, params = {"spec_hash": name, "method": "bptt"}, {"epochs": "2", "note": "x" * 300}
        try:
            with store.run(name=name, tags=tags, params=params, parent_id=parent) as run:
                run.metrics({"test/accuracy": 0.5, "train/loss": 3.0}, 1)
                run.metrics({"train/loss": 1.5}, 2)
                if name == "killed":
                    raise Stop
        except Stop:
            pass
        if name == "deleted":
            MlflowClient(store.uri).delete_run(run.run_id)
    store.close_parent(parent, "FINISHED")
    gone = prepare(Tracking(uri="sqlite:///mlflow.db", experiment="gone"), folder)
    with gone.run(name="c", tags={"spec_hash": "c"}, params={}):
        pass
    client = MlflowClient(store.uri)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    return store


def test_database_and_search_give_the_same_finished_runs(store):
    from mlflow import MlflowClient

    records = finished(store.uri)

    assert [record.name for record in records] == ["a", "b"]
    assert records[0].metrics == {"test/accuracy": 0.5, "train/loss": 1.5}
    assert records[0].params == {"epochs": "2", "note": "x" * 300}
    assert records[0].tags["method"] == "bptt"
    assert records == _from_search(MlflowClient(store.uri))


def test_history_holds_every_step_of_the_chosen_runs(store):
    first, _ = finished(store.uri)
    points = histories(store.uri, [first.run_id], ("train/loss", "val/loss"))
    assert points == {(first.run_id, "train/loss"): [(1, 3.0), (2, 1.5)]}


def test_reading_changes_nothing_and_makes_nothing(tmp_path):
    (tmp_path / "other.db").write_text("not a database")
    for name, message in (("mlflow.db", "no runs at"), ("other.db", "cannot be read")):
        with pytest.raises(UserError, match=message):
            finished(f"sqlite:///{tmp_path / name}")
    assert [file.name for file in tmp_path.iterdir()] == ["other.db"]
