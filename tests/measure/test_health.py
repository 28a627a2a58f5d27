import torch
from torch import nn

from snnrun.measure.health import Health
from snnrun.measure.spikes import SpikeMeter


def messages(caplog):
    return [record.getMessage() for record in caplog.records]


def test_silent_and_saturated_layers_are_named_once(caplog):
    health = Health()
    for _ in range(3):
        health.check_spikes({"layers.0.neuron": 0.0, "layers.1.neuron": 0.96, "layers.2": 0.95})
    assert [text.split()[0] for text in messages(caplog)] == ["layers.0.neuron", "layers.1.neuron"]
    assert health.tags() == {
        "health/silent": "layers.0.neuron",
        "health/saturated": "layers.1.neuron",
    }


def test_rates_of_a_real_net_are_judged(chain, caplog):
    silent, saturated = chain(), chain()
    x = torch.ones(3, 4, 2)
    health = Health()
    net = nn.ModuleDict({"quiet": silent, "loud": saturated})
    with SpikeMeter(net) as meter:
        silent(0.1 * x)  # membrane 0.3 at most
        saturated(x)  # one spike at each step
    health.check_spikes(meter.rates())
    assert health.tags() == {
        "health/silent": "quiet.layers.0.neuron",
        "health/saturated": "loud.layers.0.neuron",
    }


def test_parameters_without_gradient_are_named_once(caplog):
    net = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("good", "none", "zero")})
    net["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    x = torch.ones(1, 2)
    (net["good"](x) + 0.0 * net["zero"](x)).sum().backward()
    health = Health()
    health.check_gradients(net)
    health.check_gradients(net)
    assert health.tags() == {"health/no_gradient": "none.weight, zero.weight"}
    assert len(messages(caplog)) == 2


def test_net_before_any_backward_has_no_gradient_at_all():
    health = Health()
    health.check_gradients(nn.Linear(2, 2))
    assert health.tags() == {"health/no_gradient": "weight, bias"}


def test_healthy_net_gives_neither_warning_nor_tag(chain, currents, caplog):
    net = nn.Linear(2, 2)
    net(torch.ones(1, 2)).sum().backward()
    health = Health()
    with SpikeMeter(chain()) as meter:
        pass
    health.check_gradients(net)
    health.check_spikes(meter.rates())
    assert health.tags() == {} and not caplog.records
