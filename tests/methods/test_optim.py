import copy
import io
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from snnrun.errors import ConfigError
from snnrun.methods.base import Optim, Update

PLAIN = Optim(
    name="sgd",
    lr=0.1,
    momentum=0.0,
    weight_decay=0.0,
    schedule="constant",
    warmup_steps=0,
    clip_norm=None,
)


def test_constant_rate_stays():
    assert PLAIN.rate(0.0, 0) == PLAIN.rate(0.9, 1000) == 0.1


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 0.1), (1 / 3, 0.075), (0.5, 0.05), (1.0, 0.0), (1.2, 0.0)]
)
def test_cosine_falls_from_the_rate_to_zero(progress, expected):
    assert replace(PLAIN, schedule="cosine").rate(progress, 0) == pytest.approx(expected)


def test_warm_up_rises_linearly_and_multiplies_the_schedule():
    warm = replace(PLAIN, warmup_steps=4)
    assert [warm.rate(0.0, step) for step in range(6)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1, 0.1, 0.1]
    )
    assert replace(warm, schedule="cosine").rate(0.5, 1) == pytest.approx(0.025)


def net_with_gradient() -> nn.Module:
    """One weight [1, 2] and one bias, all 1, with gradients (3, 4) and 12: norm 13."""
    net = nn.Linear(2, 1)
    for p in net.parameters():
        nn.init.ones_(p)
    net.weight.grad, net.bias.grad = torch.tensor([[3.0, 4.0]]), torch.tensor([12.0])
    return net


def test_update_subtracts_the_rate_times_the_gradient():
    net = net_with_gradient()
    update = Update(net, PLAIN)
    update.step()
    assert net.weight[0].tolist() == pytest.approx([0.7, 0.6])
    assert net.bias.tolist() == pytest.approx([-0.2])
    assert update.steps == 1


def test_clipping_scales_the_whole_gradient():
    net = net_with_gradient()
    Update(net, replace(PLAIN, clip_norm=1.3)).step()
    assert net.weight[0].tolist() == pytest.approx([0.97, 0.96], abs=1e-6)
    assert net.bias.tolist() == pytest.approx([0.88], abs=1e-6)


def test_weight_decay_spares_biases():
    net = net_with_gradient()
    net.weight.grad.zero_(), net.bias.grad.zero_()
    Update(net, replace(PLAIN, weight_decay=0.5)).step()
    assert net.weight[0].tolist() == pytest.approx([0.95, 0.95])
    assert net.bias.tolist() == [1.0]


def test_update_follows_progress():
    net = net_with_gradient()
    update = Update(net, replace(PLAIN, schedule="cosine"))
    update.progress = 0.5
    update.step()
    assert net.bias.tolist() == pytest.approx([1 - 0.05 * 12])


def test_zero_forgets_gradients():
    net = net_with_gradient()
    Update(net, PLAIN).zero()
    assert [p.grad for p in net.parameters()] == [None, None]


def test_frozen_parameters_are_left_alone():
    net = net_with_gradient()
    net.bias.requires_grad_(False)
    Update(net, replace(PLAIN, weight_decay=0.5)).step()
    assert net.bias.tolist() == [1.0]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_resumed_update_makes_the_same_steps(name):
    optim = replace(PLAIN, name=name, momentum=0.9, warmup_steps=5, weight_decay=0.1)
    net = net_with_gradient()
    update = Update(net, optim)
    update.step()
    saved, weights = update.state_dict(), {k: v.clone() for k, v in net.state_dict().items()}
    saved = torch.load(_stored(saved), weights_only=True)
    update.step()
    other = net_with_gradient()
    other.load_state_dict(weights)
    resumed = Update(other, optim)
    resumed.load_state_dict(saved)
    resumed.step()
    assert torch.equal(other.weight, net.weight)
    assert torch.equal(other.bias, net.bias)


def _stored(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_momentum_is_the_first_beta_of_adam():
    optimiser = replace(PLAIN, name="adam", momentum=0.8).optimiser(net_with_gradient())
    assert optimiser.defaults["betas"] == (0.8, 0.999)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adamax"}, "optim.name: 'adamax' is not one of sgd, adam"),
        ({"schedule": "step"}, "optim.schedule: 'step' is not one of constant, cosine"),
        ({"lr": -1.0}, "optim.lr: -1.0 is negative or not finite"),
        ({"lr": float("nan")}, "optim.lr: nan"),
        ({"momentum": 1.0}, r"optim.momentum: 1.0 is not in \[0, 1\)"),
        ({"weight_decay": -0.1}, "optim.weight_decay: -0.1 is negative or not finite"),
        ({"warmup_steps": -1}, "optim.warmup_steps: -1 is negative"),
        ({"clip_norm": 0.0}, "optim.clip_norm: 0.0 is not null or a positive number"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_optimisers_compute_what_torchs_do(name):
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    other = copy.deepcopy(net)
    own = replace(PLAIN, name=name, momentum=0.9, weight_decay=0.1).optimiser(net)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    groups = [
        {**g, "params": [p]} for g, p in zip(own.param_groups, other.parameters(), strict=True)
    ]
    torchs = kind(groups)
    for _ in range(3):
        for module, optimiser in ((net, own), (other, torchs)):
            optimiser.zero_grad()
            module(torch.ones(4, 3)).pow(2).sum().backward()
            optimiser.step()
    assert all(map(torch.equal, net.parameters(), other.parameters()))
    torchs.load_state_dict(own.state_dict())
    own.load_state_dict(torchs.state_dict())


def test_optimisers_leave_the_compiler_alone():
    code = (
        "import sys, torch\n"
        "from snnrun.methods.optimisers import SGD\n"
        "weight = torch.ones(2, requires_grad=True)\n"
        "optimiser = SGD([weight], lr=0.1)\n"
        "weight.sum().backward()\n"
        "optimiser.step()\n"
        "optimiser.zero_grad()\n"
        "optimiser.load_state_dict(optimiser.state_dict())\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
