"""Learning rates that drop at fractions of the training."""

import pytest

from snnrun.errors import ConfigError
from snnrun.methods.base import Optim


def optim(**changes):
    keys = {
        "name": "sgd",
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "schedule": "drops",
        "warmup_steps": 0,
        "clip_norm": None,
        "milestones": [0.5, 0.75],
    }
    return Optim(**(keys | changes))


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 0.1), (0.49, 0.1), (0.5, 0.01), (0.74, 0.01), (0.75, 0.001)]
)
def test_rate_drops_tenfold_at_every_milestone(progress, rate):
    assert optim().rate(progress, step=0) == pytest.approx(rate)


def test_warm_up_acts_on_the_dropped_rate():
    assert optim(warmup_steps=400).rate(0.0, step=199) == pytest.approx(0.05)


@pytest.mark.parametrize(
    "changes",
    [{"milestones": []}, {"milestones": [30.0]}, {"schedule": "cosine"}],
    ids=["none given", "epochs instead of fractions", "other schedule"],
)
def test_milestones_that_do_nothing_are_refused(changes):
    with pytest.raises(ConfigError, match=r"^optim\.milestones: "):
        optim(**changes)
