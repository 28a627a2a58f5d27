import pytest
import torch
from torch import nn

from snnrun.measure.spikes import SpikeMeter


def measured(net, currents, batch_size):
    with SpikeMeter(net) as meter:
        for batch in currents.split(batch_size, dim=1):
            net(batch)
    return meter.metrics(samples=currents.shape[1])


def test_counts_equal_the_ones_worked_out_on_paper(chain, currents):
    # 13 spikes by 5 samples, 2 neurons, 3 steps
    assert measured(chain(), currents, 5) == pytest.approx(
        {
            "spikes/per_sample": 13 / 5,
            "spikes/per_neuron": 13 / 10,
            "spikes/rate": 13 / 30,
            "spikes/layers.0.neuron/rate": 13 / 30,
        }
    )


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_counts_do_not_depend_on_how_samples_are_batched(chain, currents, batch_size):
    # 2 + 2 + 1 samples: the last partial batch counts with its own size; a membrane carried over
    # from batch to batch would add spikes of the 0.5 and 0.25 currents
    assert measured(chain(), currents, batch_size) == measured(chain(), currents, 5)


def test_step_by_step_gives_the_counts_of_the_whole_sequence(chain, currents):
    net = chain()
    with SpikeMeter(net) as meter:
        net.reset()
        for step in currents.split(1):
            net.advance(step)
    assert meter.metrics(samples=5) == measured(chain(), currents, 5)


def test_a_spike_of_any_amplitude_is_one_spike(chain, currents):
    assert measured(chain(2.74), currents, 5) == measured(chain(1.0), currents, 5)


def test_each_layer_has_its_rate_and_neurons_add_up(chain, currents):
    net = nn.Sequential(chain(), chain().layers[0].neuron)
    # the first net's readout sums both neurons' spikes; over 3 steps the samples send 1 1 1, 0 1 0,
    # 0 2 1, 0 0 0, 2 2 2: at most one spike a step makes 3 + 1 + 2 + 0 + 3 = 9 of them
    with SpikeMeter(net) as meter:
        net(currents)
    metrics = meter.metrics(samples=5)
    assert metrics["spikes/0.layers.0.neuron/rate"] == pytest.approx(13 / 30)
    assert metrics["spikes/1/rate"] == pytest.approx(9 / 15)
    assert metrics["spikes/per_sample"] == pytest.approx(22 / 5)
    assert metrics["spikes/per_neuron"] == pytest.approx(22 / 5 / 3)
    assert metrics["spikes/rate"] == pytest.approx(22 / 45)


def test_nothing_is_counted_once_the_meter_is_closed(chain, currents):
    net = chain()
    with SpikeMeter(net) as meter:
        net(currents)
    before = meter.metrics(samples=5)
    net(currents)
    assert meter.metrics(samples=5) == before


def test_counts_stay_exact_in_half_precision(chain):
    # 600 spikes: bfloat16 itself cannot tell 600 from 601
    net = chain().bfloat16()
    with SpikeMeter(net) as meter:
        net(torch.ones(3, 100, 2, dtype=torch.bfloat16))
        net(torch.ones(3, 1, 2, dtype=torch.bfloat16))
    assert meter.counts() == {"layers.0.neuron": 606.0}


def test_net_without_spiking_neurons_reports_nothing():
    net = nn.Linear(2, 2)
    with SpikeMeter(net) as meter:
        net(torch.ones(3, 1, 2))
    assert meter.metrics(samples=1) == {}
