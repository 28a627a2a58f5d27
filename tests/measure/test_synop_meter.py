import itertools

import pytest
import torch
from torch import nn

from snnrun.kits.norm import StandardisedWeight
from snnrun.kits.synapse import Synapse
from snnrun.measure.synops import SynOpMeter

ENERGY = {"e_ac_pj": 0.9, "e_mac_pj": 4.6}


def measured(net, batches):
    with SynOpMeter(net) as meter, torch.no_grad():
        for batch in batches:
            net(batch)
    metrics = meter.metrics(sum(batch.shape[1] for batch in batches), **ENERGY)
    return tuple(metrics[f"synops/{kind}_per_sample"] for kind in ("acs", "macs", "dense"))


def ones(op):
    op.weight.data.fill_(1.0)
    return Synapse(op)


def image(height, width, *pixels, channels=1):
    x = torch.zeros(1, 1, channels, height, width)
    for pixel in pixels:
        x[(0, 0, *pixel)] = 1.0
    return x


def test_spikes_into_a_linear_op_are_accumulates():
    # samples with 2 and 1 spikes at the first step, 0 and 3 at the second, fan-out 4: 6 * 4 for
    # 2 samples; dense 3 * 4 connections at 2 steps
    x = torch.tensor([[[1, 1, 0], [0, 0, 1]], [[0, 0, 0], [1, 1, 1]]]).float()
    assert measured(ones(nn.Linear(3, 4)), [x]) == (12, 0, 24)


def test_every_sample_counts_whatever_the_batches():
    torch.manual_seed(0)
    synapse, x = Synapse(nn.Linear(6, 4)), (torch.rand(3, 7, 6) < 0.4).float()
    whole = measured(synapse, [x])
    assert whole == (x.sum().item() * 4 / 7, 0, 6 * 4 * 3)
    assert measured(synapse, x.split(3, dim=1)) == pytest.approx(whole)
    assert measured(synapse, x.split(1)) == pytest.approx([part / 3 for part in whole])


def test_common_amplitude_of_the_spikes_leaves_them_accumulates():
    x = torch.tensor([[[1.0, 0.0, -1.0]]])
    assert measured(ones(nn.Linear(3, 4)), [2.74 * x]) == (8, 0, 12)


def test_graded_input_is_multiplied_and_each_step_decides_for_itself():
    # average pooling made halves of the first step's spikes only: 3 MACs there, 2 ACs after
    x = torch.tensor([[[1.0, 0.5, 0.5]], [[1.0, 1.0, 0.0]]])
    assert measured(ones(nn.Linear(3, 1)), [x]) == (2, 3, 6)


def test_graded_sample_makes_the_step_of_its_batch_graded():
    x = torch.tensor([[[1.0, 1.0], [0.5, 1.0]]])
    assert measured(ones(nn.Linear(2, 1)), [x]) == (0, 2, 2)


def test_analogue_first_layer_is_multiplied_once_for_a_static_image_and_spikes_are_added(chain):
    net = chain()
    image = torch.tensor([[[1.0, 0.75]]])  # [1, 1, 2]; 3 spikes of neuron 0 and 2 of neuron 1
    # identity weights: 2 of 4 are nonzero; the readout adds 5 spikes, 2 connections at 3 steps
    assert measured(net, [image.expand(3, -1, -1)]) == (5, 2, 4 + 6)
    assert measured(net, [image.repeat(3, 1, 1)]) == (5, 6, 12 + 6)


def test_zero_weights_count_as_dense_only():
    synapse = ones(nn.Linear(3, 2))
    synapse.op.weight.data[0, 0] = 0.0
    assert measured(synapse, [torch.ones(1, 1, 3)]) == (5, 0, 6)


def test_weights_in_effect_decide_what_is_zero():
    # standardisation moves (0, 1, 2) to zero mean: the 1 vanishes, the 0 does not
    synapse = Synapse(nn.Linear(3, 1), weight_norm=StandardisedWeight(1))
    synapse.op.weight.data = torch.tensor([[0.0, 1.0, 2.0]])
    assert measured(synapse, [torch.tensor([[[1.0, 1.0, 0.0]]])]) == (1, 0, 3)


def test_bias_is_no_operation():
    x = torch.ones(2, 3, 4)
    assert measured(ones(nn.Linear(4, 5)), [x]) == measured(ones(nn.Linear(4, 5, bias=False)), [x])


def test_padded_convolution_counts_real_synapses_only():
    conv = ones(nn.Conv2d(1, 1, 3, padding=1))
    # 3x3 image: a corner reaches 4 outputs, an edge 6, the centre 9; in all 4*4 + 4*6 + 9 = 49
    assert measured(conv, [image(3, 3, (0, 0, 0))]) == (4, 0, 49)
    assert measured(conv, [image(3, 3, (0, 0, 1))]) == (6, 0, 49)
    assert measured(conv, [image(3, 3, (0, 1, 1))]) == (9, 0, 49)


def test_stride_skips_pixels_the_kernel_does_not_reach():
    # 2x2 kernel, stride 3 on 5x5: outputs read rows and columns {0,1} and {3,4}; 2 is read by none
    conv = ones(nn.Conv2d(1, 7, 2, stride=3))
    assert measured(conv, [image(5, 5, (0, 2, 0))])[0] == 0
    assert measured(conv, [image(5, 5, (0, 3, 0))])[0] == 7


def test_groups_limit_the_fan_out():
    conv = ones(nn.Conv2d(2, 6, 1, groups=2))
    # one channel reaches the 3 outputs of its group; dense: 4 pixels * 2 channels * 3
    assert measured(conv, [image(2, 2, (1, 0, 0), channels=2)]) == (3, 0, 24)


def test_transposed_convolution_spreads_each_pixel_over_its_kernel():
    up = ones(nn.ConvTranspose2d(2, 3, 2, stride=2))
    # 2x2 kernel * 3 channels for one pixel; dense: 4 pixels * 2 channels of them
    assert measured(up, [image(2, 2, (0, 1, 1), channels=2)]) == (12, 0, 96)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolution_agrees_with_walking_over_every_output(stride, padding, dilation):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 2, 3, stride=stride, padding=padding, dilation=dilation, groups=2)
    x = (torch.rand(1, 1, 4, 7, 6) < 0.5).float()
    height, width = conv(x[0]).shape[2:]
    acs = dense = 0
    for out, row, column in itertools.product(range(2), range(height), range(width)):
        for channel, i, j in itertools.product(range(2), range(3), range(3)):
            y = row * stride - padding + i * dilation
            z = column * stride - padding + j * dilation
            if 0 <= y < 7 and 0 <= z < 6:
                dense += 1
                acs += x[0, 0, out * 2 + channel, y, z].item()
    assert measured(Synapse(conv), [x]) == (acs, 0, dense)


def test_energy_weighs_each_kind_with_its_constant(chain):
    net = chain()
    with SynOpMeter(net) as meter:
        net(torch.tensor([[[1.0, 0.75]]]).expand(3, -1, -1))
    # 5 ACs and 2 MACs: 4.5 + 9.2 pJ
    assert meter.metrics(1, **ENERGY)["energy/inference_uj"] == pytest.approx(13.7e-6)


def test_counting_works_in_inference_mode_and_between_modes(chain, currents):
    net = chain()
    with SynOpMeter(net) as meter:
        with torch.inference_mode():
            net(currents)
        net(currents)
    assert meter.metrics(10, **ENERGY)["synops/acs_per_sample"] == 13 / 5


def test_counting_leaves_outputs_and_gradients_alone(chain, currents):
    net = chain()
    expected = net(currents)
    with SynOpMeter(net):
        assert torch.equal(net(currents), expected)
    assert all(p.grad is None for p in net.parameters())
