"""What a run leaves in the process that goes on to the next one."""

import gc

import pytest

from snnrun import collector, ranks
from snnrun.models.network import Network
from snnrun.run import Run, execute


@pytest.fixture
def spec(specified, quick_stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tiny = ("dataset=synthetic", "model.hidden=[8]", "dataset.train_samples=64", "epochs=1")
    return specified(*tiny, "dataset.test_samples=32", "hardware=cpu", "progress=off")


def test_a_run_is_gone_when_it_has_ended(spec, monkeypatch):
    # It hides from `get_objects` what is there, and collects again.
    monkeypatch.setattr(collector, "go_on", lambda: None)
    gc.collect()
    gc.disable()  # a cycle would keep nets and data, on a GPU too, until the collector comes by
    try:
        execute(spec)
        # By type: some objects of torch warn when asked for their class.
        left = [kept for kept in gc.get_objects() if issubclass(type(kept), Run | Network)]
        assert not left
    finally:
        gc.enable()


@pytest.mark.parametrize("leads", [True, False], ids=["first rank", "another rank"])
def test_the_collector_goes_on_when_training_starts(spec, monkeypatch, leads):
    monkeypatch.setattr(ranks, "leads", lambda: leads)
    collector.wait()
    try:
        execute(spec)
        assert gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()
