"""What holds for single-spike nets whatever the data (Che et al., arXiv 2410.23619; derived)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnrun.kits.single_spike import EarliestPool, Potentials, SingleSpikeKit, WeightNorm
from snnrun.methods.ttfs import DECODERS, LEAD, first_steps, winners
from snnrun.models.mlp import MLP
from snnrun.neurons.base import SpikingNeuron

pytestmark = pytest.mark.usefixtures("fp64")

T = 8


@pytest.fixture
def method(specified):
    return lambda *overrides: specified("method=ttfs", "progress=off", *overrides).method


@pytest.fixture
def kit(specified):
    def make(norm="wn", **changes):
        keys = {"timesteps": T, "statistics": "row", "input_power": None, "earliest_pool": False}
        return SingleSpikeKit(specified("method=ttfs").neuron, norm, **(keys | changes))

    return make


def one_spike_each(steps, *shape):
    """Every unit fires once, at a uniformly random step: [T, *shape]."""
    return F.one_hot(torch.randint(steps, shape), steps).movedim(-1, 0).double()


def firing_fractions(net, x):
    fractions = []
    hooks = [
        part.register_forward_hook(lambda _, __, out: fractions.append(out.sum(0).mean().item()))
        for part in net.modules()
        if isinstance(part, SpikingNeuron)
    ]
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return fractions[:6]


def six_layers(kit):
    spec = MLP(name="mlp", norm="auto", hidden=[512] * 6, dropout=0.0, feedback=False)
    return spec.build(kit, (1, 1, 512), 10)


@pytest.mark.parametrize("steps", [4, 8, 32])
def test_initial_weights_have_the_bound_and_variance_of_the_paper(kit, steps):
    op = kit("none", timesteps=steps).connect(nn.Linear(800, 600), first=True).op
    assert op.weight.abs().max() <= math.sqrt(3 * steps / 800)
    assert op.weight.var().item() == pytest.approx(steps / 800, rel=0.02)
    assert not op.bias.any()


@pytest.mark.parametrize("norm", ["wn", "none"])
@pytest.mark.parametrize("steps", [4, 8, 32])
def test_first_layer_current_has_unit_variance_when_every_input_fires_once(kit, norm, steps):
    synapse = kit(norm, timesteps=steps).connect(nn.Linear(1024, 1024), first=True)
    current = synapse(one_spike_each(steps, 128, 1024)).detach()
    # Rows without mean do not see what all inputs have in common, their mean rate 1/T.
    expected = 1 if norm == "none" else 1 - 1 / steps
    assert current.var().item() == pytest.approx(expected, abs=0.03)


def test_first_layer_current_has_unit_variance_for_standardised_pixels(kit):
    current = kit(input_power=1.0).connect(nn.Linear(1024, 1024), first=True)(
        torch.randn(1, 200, 1024)
    )
    assert current.var().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("norm", ["wn", "none"])
def test_weights_behind_a_pool_make_up_for_its_area(kit, norm):
    parts = kit(norm)
    conv, pool = nn.Conv2d(64, 512, 3), parts.between(nn.AvgPool2d(2))
    pooled = parts.connect(conv)
    unpooled = parts.connect(nn.Conv2d(64, 64, 3))
    ratio = pooled.op.weight.std() / unpooled.op.weight.std()
    assert ratio.item() == pytest.approx(2, rel=0.02)
    arriving = pool(one_spike_each(T, 8, 64, 12, 12))
    # Mean square behind the pool: q/k² + (1 - 1/k²) q²; rows without mean see (q - q²)/k² of it.
    expected = 1 + 3 / T if norm == "none" else 1 - 1 / T
    assert pooled(arriving).var().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (4, [0.44, 0.32, 0.25, 0.22, 0.16, 0.13]),
        (8, [0.59, 0.51, 0.47, 0.45, 0.40, 0.43]),
        (16, [0.70, 0.64, 0.57, 0.52, 0.48, 0.51]),
        (32, [0.78, 0.71, 0.61, 0.56, 0.51, 0.55]),
    ],
)
def test_every_layer_fires_from_the_start(kit, steps, expected):
    fractions = firing_fractions(
        six_layers(kit("none", timesteps=steps)), one_spike_each(steps, 64, 1, 1, 512)
    )
    assert fractions == pytest.approx(expected, abs=0.13)
    if steps == 8:
        assert all(0.35 <= f <= 0.65 for f in fractions)


@pytest.mark.parametrize("steps", [4, 8, 16, 32])
def test_usual_initialisations_are_silent_in_depth(kit, steps):
    x = one_spike_each(steps, 64, 1, 1, 512)
    kaiming, default = six_layers(kit("none")), six_layers(kit("none"))
    for part in kaiming.modules():
        if isinstance(part, nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    for part in default.modules():
        if isinstance(part, nn.Linear):
            part.reset_parameters()
            nn.init.zeros_(part.bias)
    first, *_, last = firing_fractions(kaiming, x)
    assert first == pytest.approx(0.37, abs=0.07)
    assert last == 0
    first, *deeper = firing_fractions(default, x)
    assert first < 0.1
    assert deeper == [0] * 5


@pytest.mark.parametrize("statistics", ["row", "layer"])
def test_normalised_weights_have_mean_0_and_the_wanted_deviation(statistics):
    norm = WeightNorm(30, std=math.sqrt(T / 500), statistics=statistics)
    w = norm(torch.randn(30, 20, 5, 5) * 3 + 1)
    parts = w.flatten(1) if statistics == "row" else w.flatten().unsqueeze(0)
    assert parts.mean(1).abs().max() < 1e-6
    torch.testing.assert_close(
        parts.std(1), torch.full((len(parts),), math.sqrt(T / 500)), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("statistics", ["row", "layer"])
def test_normalised_weights_do_not_change_with_scale_and_shift(statistics):
    norm = WeightNorm(30, std=0.1, statistics=statistics)
    w = torch.randn(30, 500)
    torch.testing.assert_close(norm(0.7 * w + 3), norm(w), rtol=0, atol=1e-7)


def test_folded_weights_give_the_same_currents(kit):
    synapse = kit().connect(nn.Conv2d(4, 6, 3))
    with torch.no_grad():
        synapse.weight_norm.gain.uniform_(0.5, 2)
        synapse.op.bias.normal_()
    x = one_spike_each(T, 3, 4, 9, 9)
    weight, bias = synapse.folded()
    folded = F.conv2d(x.flatten(0, 1), weight, bias).unflatten(0, (T, 3))
    torch.testing.assert_close(folded, synapse(x), rtol=0, atol=1e-13)


def test_average_pool_uses_each_spike_once_and_is_one_larger_convolution():
    x = one_spike_each(T, 4, 3, 12, 12)
    pooled = F.avg_pool2d(x.flatten(0, 1), 2)
    assert pooled.unflatten(0, (T, 4)).sum(0).max() <= 1 + 1e-15
    w = torch.randn(5, 3, 3, 3)
    larger = w.repeat_interleave(2, -1).repeat_interleave(2, -2) / 4
    torch.testing.assert_close(
        F.conv2d(x.flatten(0, 1), larger, stride=2), F.conv2d(pooled, w), rtol=0, atol=1e-13
    )


def test_max_pool_breaks_the_constraint():
    pooled = F.max_pool2d(one_spike_each(T, 4, 3, 12, 12).flatten(0, 1), 2).unflatten(0, (T, 4))
    counts = pooled.sum(0)
    assert counts.max() == 4
    assert (counts > 1).double().mean() > 0.85


@pytest.mark.parametrize("sizes", [[T], [1] * T, [3, 5]])
def test_earliest_pool_is_the_minimum_of_the_times(sizes):
    x = one_spike_each(T, 4, 3, 12, 12) * (torch.rand(4, 3, 12, 12) > 0.4)  # some are silent
    times = torch.where(x.any(0), x.argmax(0), T).double()
    pool = EarliestPool(nn.MaxPool2d(2))
    pooled = torch.cat([pool(chunk) for chunk in x.split(sizes)])
    assert pooled.sum(0).max() == 1
    found = torch.where(pooled.any(0), pooled.argmax(0), T).double()
    assert torch.equal(found, -F.max_pool2d(-times, 2))


@pytest.mark.parametrize(("decoder", "base"), [("exponential", 2.0), ("linear", 1.0)])
def test_the_largest_decoded_value_is_the_first_spike(method, decoder, base):
    rule = method(f"method.decoder={decoder}", f"method.decoder_base={base}")
    outputs = torch.randn(T, 3000, 10).cumsum(0) - 2
    steps = first_steps(outputs)
    earliest = steps.amin(1, keepdim=True)
    unique = ((steps == earliest).sum(1) == 1) & (earliest[:, 0] < T)
    assert unique.sum() > 500
    decoded = rule.weighted(one_hot_in_time(steps))
    assert torch.equal(decoded.argmax(1)[unique], steps.argmin(1)[unique])
    assert torch.equal(rule.decode(outputs).argmax(1), winners(outputs))


def one_hot_in_time(steps):
    return F.one_hot(steps, T + 1)[..., :T].movedim(-1, 0).double()


def test_stopping_at_the_first_output_spike_gives_the_final_answer(method):
    rule = method()
    outputs = torch.randn(T, 500, 10).cumsum(0) - 2
    stop, answer = rule.decision_steps(outputs), rule.decode(outputs).argmax(1)
    assert stop.unique().numel() > 4
    for i in range(500):
        so_far = outputs[: int(stop[i]), i : i + 1]
        assert rule.decode(so_far).argmax(1).item() == answer[i].item()


def test_ties_go_to_the_larger_membrane_and_silence_to_the_largest_at_the_end(method):
    v = torch.tensor([[[-0.5, 0.1, 0.3, -1.0]], [[9.0, 0.0, 0.0, 0.0]]])  # 1 and 2 fire at step 0
    silent = torch.tensor([[[-0.2, -0.9, -0.8, -0.9]], [[-0.6, -0.5, -0.4, -0.9]]])
    rule = method("method.timesteps=2")
    assert rule.decode(v).argmax(1).item() == 2
    assert rule.decode(silent).argmax(1).item() == 2
    assert rule.decision_steps(v).item() == 1
    assert rule.decision_steps(silent).item() == 2
    y = torch.tensor([2])
    both = {k: x.item() for k, x in rule.figures(torch.cat([v, silent], 1), y.repeat(2)).items()}
    assert both == {
        "ttfs/silent_rate": 0.5,
        "ttfs/tie_rate": 0.5,
        "ttfs/accuracy_without_rules": 0.0,
    }


@pytest.mark.parametrize("decoder", DECODERS)
def test_weights_are_positive_and_fall(decoder):
    weights = DECODERS[decoder](T, 2.0)
    assert weights.min() > 0
    assert weights.diff().max() < 0


@pytest.mark.parametrize(("scale", "floor"), [(1.0, 1.461), (5.0, 0.0589), (10.0, 0.00041)])
def test_smallest_reachable_loss(method, scale, floor):
    rule = method(f"method.logit_scale={scale}")
    spikes = torch.zeros(T, 1, 10)
    spikes[0, 0, 3] = 1
    loss = F.cross_entropy(rule.weighted(spikes), torch.tensor([3]))
    assert loss.item() == pytest.approx(math.log1p(9 * math.exp(-scale)), abs=1e-6)
    assert loss.item() == pytest.approx(floor, rel=0.02)


def test_outputs_are_distances_whose_first_crossings_the_output_units_fire(kit):
    readout = kit().readout(nn.Linear(64, 10)).eval()
    assert isinstance(readout, Potentials)
    fired = []
    readout.neuron.register_forward_hook(lambda _, __, out: fired.append(out))
    distances = readout(one_spike_each(T, 40, 64))
    assert torch.equal(fired[0], one_hot_in_time(first_steps(distances)))
    assert torch.equal(readout.neuron.read(distances), fired[0])


def test_lead_of_the_winner_does_not_change_the_loss_visibly(method):
    outputs = torch.randn(T, 200, 10).cumsum(0) - 2
    plain = method().weighted(one_hot_in_time(first_steps(outputs)))
    assert (method().decode(outputs) - plain).abs().max() <= LEAD + 1e-12
