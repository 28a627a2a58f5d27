"""What a run leaves in the process that goes on to the next one."""

import gc

from snnrun import collector
from snnrun.models.network import Network
from snnrun.run import Run, execute


def test_a_run_is_gone_when_it_has_ended(specified, quick_stores, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tiny = ("dataset=synthetic", "model.hidden=[8]", "dataset.train_samples=64", "epochs=1")
    spec = specified(*tiny, "dataset.test_samples=32", "hardware=cpu", "progress=off")
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
