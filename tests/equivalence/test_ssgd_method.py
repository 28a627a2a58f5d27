"""The SSGD method around its kernels: same answers in the plain form, dead layers found."""

import pytest
import torch

from snnrun.kernels.events import stack
from snnrun.kernels.events.stack import event_stack, gather
from snnrun.measure.health import Health
from snnrun.measure.spikes import SpikeMeter
from snnrun.methods.base import Method
from snnrun.methods.ssgd import _weights
from snnrun.run import build_net

CPU = torch.device("cpu")


@pytest.mark.parametrize("neuron", ["lif", "cuba_lif"])
@pytest.mark.parametrize("reduce", ["max", "sum"])
def test_plain_form_gives_the_logits_and_gradients_of_the_event_driven_one(
    neuron, reduce, specified
):
    spec = specified(
        "method=ssgd", f"neuron={neuron}", f"method.readout={reduce}", "dataset=synthetic",
        "method.timesteps=24", "model.hidden=[24,20]", "hardware.precision=fp64",
        "neuron.leak=0.9", "method.init=normal",
    )  # fmt: skip
    method = spec.method
    model, plain = build_net(spec, CPU)
    x = (torch.rand(24, 6, 1, 8, 8) < 0.1).double()
    arrived = gather(x, "auto")
    found = event_stack(arrived, 6, [*_weights(model)], method._plan(model))
    logits, counts = method._by_layer(plain, x)
    assert counts[1].sum() > 0
    torch.testing.assert_close(found[0], logits, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(method.decode(plain(x)), logits)
    for a, b in zip(
        torch.autograd.grad(found[0].square().sum(), _weights(model)),
        torch.autograd.grad(logits.square().sum(), _weights(plain)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


def test_decision_steps_are_those_of_decoding_every_prefix(specified):
    for reduce in ("max", "sum"):
        method = specified("method=ssgd", f"method.readout={reduce}").method
        outputs = torch.randn(15, 8, 4)
        assert torch.equal(method.decision_steps(outputs), Method.decision_steps(method, outputs))


def test_busy_input_runs_dense_with_the_loss_of_the_lists(specified, monkeypatch):
    spec = specified("method=ssgd", "dataset=synthetic", "hardware.precision=fp64")
    losses = []
    for limit in (1.0, 0.0):
        monkeypatch.setattr(stack, "INPUT_FROM", limit)
        torch.manual_seed(0)
        model, _ = build_net(spec, CPU)
        x = (torch.rand(20, 6, 1, 8, 8) < 0.05).double()
        out = spec.method.step(model, spec.method.setup(model), x, torch.arange(6))
        assert bool(out.extra) == (limit == 1.0)  # shares of active events, known to lists alone
        losses.append(out.loss)
    torch.testing.assert_close(*losses)


def test_a_dead_layer_is_reported(specified, caplog):
    spec = specified("method=ssgd", "dataset=synthetic", "model.hidden=[12,12]")
    model, plain = build_net(spec, CPU)
    with torch.no_grad():
        _weights(model)[1].zero_()
    update, health = spec.method.setup(model), Health()
    x = (torch.rand(10, 4, 1, 8, 8) < 0.9).float()
    spec.method.step(model, update, x, torch.arange(4))
    health.check_gradients(model)
    with SpikeMeter(plain) as meter:
        plain(x)
    health.check_spikes(meter.rates())
    assert health.tags()["health/silent"].endswith("layers.1.neuron")
    assert "layers.1.synapse.op.weight" in health.tags()["health/no_gradient"]
