"""The checks pass on the nets they apply to, fail on a broken rule, and say what does not apply."""

import pytest
import torch

from snnrun.errors import UserError
from snnrun.kits.accumulations import AccumulationNeuron
from snnrun.ls import options
from snnrun.verify import checks
from snnrun.verify.checks import CHECKS, Bench, Outcome, lower_precision, saf_is_ottt
from snnrun.verify.command import command, run, show, specify

CPU = torch.device("cpu")
CHOICES = {method: [f"method={method}"] for method in options("method")} | {
    "default": [],
    "saf on a pooled conv net": ["method=saf", "model=convnet", "model.channels=[4,6]"],
    "ide without norm": ["method=ide", "model.norm=none"],
    "dsr on a pooled conv net": ["method=dsr", "model=convnet", "model.channels=[4,6]"],
    "frames": ["method=ottt", "dataset=synthetic", "dataset.frames=true", "dataset.size=[2,6,6]"],
    "feedback": ["method=sltt", "model.feedback=true"],
    "trained numbers": ["method=tet", "neuron=plif", "neuron.train_threshold=true"],
    "no LIF": ["method=tet", "neuron=clif"],
    "bf16": ["method=tet", "hardware.precision=bf16"],
}


def bench(*overrides):
    return Bench(lambda *more: specify(list(overrides), *more), CPU)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_check_passes_or_says_why_it_does_not_apply(choice):
    outcomes = run(bench(*CHOICES[choice]))
    assert len(outcomes) == len(CHECKS)
    for name, outcome in outcomes.items():
        assert outcome if isinstance(outcome, str) else outcome.passed, (name, outcome)
    assert sum(isinstance(outcome, Outcome) for outcome in outcomes.values()) >= 3


def test_all_checks_but_that_of_bf16_apply_to_the_default_run():
    outcomes = run(bench())
    (skipped,) = [name for name, outcome in outcomes.items() if isinstance(outcome, str)]
    assert "bfloat16" in skipped


def test_products_in_bf16_flip_spikes_but_few(monkeypatch):
    choice = bench("method=bptt", "method.timesteps=64", "hardware.precision=bf16")
    assert 0 < lower_precision(choice).figure < 1e-2
    monkeypatch.setattr(checks, "FLIPPED_BF16", 1e-9)
    assert not lower_precision(choice).passed


def test_a_broken_rule_is_found(monkeypatch):
    fire = AccumulationNeuron.fire
    monkeypatch.setattr(AccumulationNeuron, "fire", lambda self, u: fire(self, u - 0.05))
    assert not saf_is_ottt(bench("method=saf")).passed


def test_failures_are_counted_and_shown(capsys):
    failed = show({"a": Outcome(1.0, 0.5), "b": Outcome(0.1, 0.5), "c": "not here"})
    lines = capsys.readouterr().out.splitlines()
    assert failed == 1
    assert [line.split()[0] for line in lines] == ["FAIL", "pass", "-"]
    assert "not here" in lines[2]


def test_a_choice_that_cannot_run_is_refused():
    with pytest.raises(UserError, match="nothing"):
        command(["method=nothing"])
