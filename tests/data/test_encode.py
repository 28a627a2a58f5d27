import pytest
import torch

from snnrun.data.encode import Encoding, latency_spikes, poisson_spikes, spike_steps
from snnrun.data.seeds import generator
from snnrun.errors import ConfigError


def encoding(name: str, **changes) -> Encoding:
    values = {"gain": 1.0, "threshold": 0.2, "tau": 20.0, "rounding": "round"}
    return Encoding(name=name, **(values | changes))


def test_latency_table_agrees_with_ssgd():
    steps = spike_steps(encoding("latency"), peak=255, timesteps=100)
    assert steps.shape == (256,)
    assert steps[52] == 79
    assert steps[51] == 100  # exactly the threshold: never
    assert steps[255] == 4
    assert len(set(steps[52:].tolist())) == 40
    assert (steps[:52] == 100).all()


def test_latency_times_past_the_end_never_fire():
    steps = spike_steps(encoding("latency"), peak=255, timesteps=10)
    assert steps[52] == 10
    assert steps[255] == 4


@pytest.mark.parametrize(("rounding", "middle"), [("round", 2), ("floor", 1)])
def test_linear_latency_maps_white_to_the_first_and_black_to_the_last_step(rounding, middle):
    steps = spike_steps(encoding("latency_linear", rounding=rounding), peak=255, timesteps=5)
    assert (steps[255], steps[0]) == (0, 4)
    assert steps[140] == middle  # 4 * (1 - 140 / 255) = 1.80


def test_latency_puts_one_spike_at_its_step_and_none_for_dark_pixels():
    table = spike_steps(encoding("latency"), peak=255, timesteps=100)
    pixels = torch.tensor([0, 51, 52, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    spikes = latency_spikes(pixels, table, 100, torch.float64)
    assert spikes.shape == (100, 1, 1, 2, 2)
    assert spikes.dtype == torch.float64
    assert spikes.sum(0).flatten().tolist() == [0, 0, 1, 1]
    assert spikes.flatten(1).argmax(0)[2:].tolist() == [79, 4]


def test_poisson_never_fires_on_black_always_on_certainty_and_at_its_rate_between():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    spikes = poisson_spikes(pixels, 1 / 255, 10_000, torch.float32, generator(0))
    rate = spikes.mean(0).flatten().tolist()
    assert rate[0] == 0
    assert rate[2] == 1
    assert rate[1] == pytest.approx(0.2, abs=0.02)


def test_gain_scales_the_rate():
    pixels = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)
    spikes = poisson_spikes(pixels, 0.1 / 255, 10_000, torch.float32, generator(0))
    assert spikes.mean().item() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "rate"}, "encoding.name: 'rate' is not one of direct, poisson, latency"),
        ({"rounding": "ceil"}, "encoding.rounding: 'ceil' is not one of round, floor"),
        ({"gain": 0.0}, "encoding.gain: 0.0 is not above 0"),
        ({"threshold": 1.0}, "encoding.threshold: 1.0 is not in"),
        ({"tau": -1.0}, "encoding.tau: -1.0 is not above 0"),
    ],
)
def test_wrong_values_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        encoding(**({"name": "direct"} | changes))
