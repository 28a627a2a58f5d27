"""A run that starts from another one's weights: identity, refusals, where training begins."""

import pytest
import torch

from snnrun import checkpoint
from snnrun.errors import ConfigError, UserError
from snnrun.evaluate import load_spec
from snnrun.inheritance import load_best
from snnrun.run import execute

TINY = (
    "dataset=synthetic", "dataset.size=[1,4,4]", "dataset.train_samples=32", "epochs=2",
    "dataset.test_samples=8", "model.hidden=[8]", "hardware=cpu", "progress=off",
)  # fmt: skip


@pytest.fixture
def trained(specified, quick_stores, tmp_path, monkeypatch):
    """A finished run with two steps."""
    monkeypatch.chdir(tmp_path)
    spec = specified(*TINY, "method.timesteps=2")
    execute(spec)
    return spec


def test_training_goes_on_with_more_steps_from_the_best_weights(trained, specified):
    spec = specified(
        *TINY, "method.timesteps=6", f"init_from={trained.folder}", "method.optim.lr=0"
    )
    execute(spec)
    old, new = (checkpoint.load(s.folder / "best.pt")["net"] for s in (trained, spec))
    for name in (name for name in old if "running" not in name):
        assert torch.equal(old[name], new[name]), name


def test_identity_is_that_of_the_source_and_not_of_its_place(trained, specified):
    here = specified(*TINY, f"init_from={trained.folder}")
    moved = trained.folder.rename(trained.folder.with_name("moved"))
    there = specified(*TINY, f"init_from={moved}")
    assert here.source == there.source == trained.hash
    assert here.hash == there.hash
    assert here.hash != specified(*TINY).hash


def test_a_run_is_evaluated_without_its_source(trained, specified):
    spec = specified(*TINY, "seed=1", f"init_from={trained.folder}")
    execute(spec)
    (trained.folder / "best.pt").unlink()
    assert load_spec(spec.folder, []).init_from is None


def test_no_run_is_refused(specified, tmp_path):
    with pytest.raises(ConfigError, match=r"init_from: .* is not a run's folder"):
        specified(*TINY, f"init_from={tmp_path}")


def test_unfinished_run_is_refused(trained, specified):
    last = trained.folder / "last.pt"
    state = checkpoint.load(last)
    state["progress"]["epoch"] = 1
    checkpoint.save(last, state)
    with pytest.raises(ConfigError, match="stopped after 1 of 2 epochs; finish it"):
        specified(*TINY, f"init_from={trained.folder}")


def test_weights_of_another_net_are_refused_in_one_line(trained):
    with pytest.raises(UserError, match="do not fit this net") as refusal:
        load_best(torch.nn.Linear(2, 2), trained.folder)
    assert "\n" not in str(refusal.value)
