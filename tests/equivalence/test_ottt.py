"""Properties of online training through time, numbered as in its specification's section 11."""

import pytest
import torch
from online_checks import (
    apart,
    bptt_gradients,
    cosine,
    counting_ops,
    distance,
    gradients,
    mismatches,
    trajectory,
    weighted_ops,
)

from snnrun.kits.stepwise import StepNeuron
from snnrun.methods.base import Optim
from snnrun.verify.gradients import trace_formula

TOLERANCE = 1e-12


@pytest.mark.parametrize("trace", [True, False], ids=["ottt", "sltt"])
@pytest.mark.parametrize("architecture", [("model=mlp", "model.hidden=[14,12]", "model.norm=none")])
def test_1_and_6_gradient_is_same_step_error_times_trace(maker, sequence, labels, trace):
    make, x, leak = maker(0.7), sequence(7), 0.7
    name = "ottt" if trace else "sltt"
    found = gradients(make.trainer(name, alpha=0), x, labels)
    surrogate = make.specified().neuron.surrogate
    trace_leak = leak if trace else 0.0
    how = {"leak": leak, "surrogate": surrogate, "trace_leak": trace_leak}
    written = trace_formula(make.plain, x, labels, **how)
    assert apart(found, written) < 1e-13


@pytest.mark.parametrize("name", ["ottt", "sltt"])
def test_spikes_are_those_of_the_plain_form(maker, sequence, labels, name):
    make, x = maker(0.9), sequence(12)
    trainer = make.trainer(name)
    assert all(isinstance(layer.neuron, StepNeuron) for layer in trainer.net.layers)
    assert mismatches(trainer, make.plain, x, labels, leak=0.0) == 0


def test_2_top_layer_has_the_gradient_of_bptt(maker, sequence, labels):
    make, x = maker(), sequence(6)
    if make.plain.feedback is not None:
        pytest.skip("with feedback the last layer acts on itself through the first")
    ottt = gradients(make.trainer("ottt", alpha=0, bias="theory"), x, labels)
    bptt = bptt_gradients(make.plain, x, labels)
    top = f"layers.{len(make.plain.layers) - 1}.synapse.op"
    for name in (f"{top}.weight", f"{top}.bias"):
        assert distance(ottt[name], bptt[name]) < TOLERANCE, name


def test_3_lower_layers_only_lean_towards_bptt(maker, sequence, labels):
    make, x = maker(), sequence(6)
    keys = {"alpha": 0, "first_layer": "theory"}
    ottt = gradients(make.trainer("ottt", **keys), x, labels)
    bptt = bptt_gradients(make.plain, x, labels)
    name = "layers.0.synapse.op.weight"
    assert distance(ottt[name], bptt[name]) > 1e-3
    assert 0.3 < cosine(ottt[name], bptt[name]) < 1


def test_4_traced_first_layer_weighs_each_step_of_a_static_input_by_its_span(maker, labels):
    make = maker(0.5)
    x = 2 * torch.randn(1, len(labels), 1, 8, 8)
    name = "layers.0.synapse.op.weight"

    def first(convention: str, steps: int):
        trainer = make.trainer("ottt", alpha=0, first_layer=convention)
        static = x.expand(steps, *x.shape[1:])
        return gradients(trainer, static, labels)[name] * steps  # the loss is a mean

    last_step = {c: first(c, 3) - first(c, 2) for c in ("code", "theory")}
    assert distance(last_step["theory"], (1 + 0.5 + 0.25) * last_step["code"]) < TOLERANCE


@pytest.mark.parametrize("name", ["ottt", "sltt", "saf"])
def test_5_one_step_is_plain_backpropagation(maker, sequence, labels, name):
    make, x = maker(), sequence(1)
    found = gradients(make.trainer(name, alpha=0), x, labels)
    assert apart(found, bptt_gradients(make.plain, x, labels)) < 1e-13


def test_7_online_updates_go_the_summed_way_as_the_rate_vanishes(maker, sequence, labels):
    make, data = maker(), [(sequence(6), labels)]
    keys = {"momentum": 0.0, "weight_decay": 0.0, "warmup_steps": 0, "clip_norm": None}
    optim = Optim(name="sgd", lr=1e-7, schedule="constant", **keys)
    online = trajectory(make.trainer("ottt", online="true"), data, optim)
    summed = trajectory(make.trainer("ottt"), data, optim)
    assert apart(online, summed) < 1e-5


def test_double_forward_has_the_same_gradient_and_nearly_twice_the_ops(
    maker, sequence, labels, monkeypatch
):
    make, steps = maker(), 5
    x = sequence(steps)
    found = {}
    for twice in ("false", "true"):
        trainer = make.trainer("ottt", double_forward=twice)
        with counting_ops(trainer.net, monkeypatch) as counts:
            found[twice] = gradients(trainer, x, labels)
        static = x.stride(0) == 0
        assert counts["first"] == (1 if static else steps)
        feedback = trainer.net.feedback is not None  # silent at the first step
        others = (weighted_ops(trainer.net) - 1) * steps - feedback
        assert counts["all"] == counts["first"] + others * (2 if twice == "true" else 1)
    assert apart(found["true"], found["false"]) < TOLERANCE


def test_online_updates_pass_a_static_input_once_per_update(maker, sequence, labels, monkeypatch):
    make, steps = maker(), 5
    x = sequence(steps)
    for name, keys in {"ottt": {"online": "true"}, "saf": {"update": "online"}}.items():
        trainer = make.trainer(name, **keys)
        with counting_ops(trainer.net, monkeypatch) as counts:
            gradients(trainer, x, labels)
        assert counts["first"] == steps
