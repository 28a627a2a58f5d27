import pytest
import torch

from snnrun.errors import ConfigError
from snnrun.models.vggsnn import VGGSNN


def vgg(**changes):
    keys = {"channels": [[4], [6, 8]], "pool": "average", "map": None, "hidden": [], "dropout": 0.0}
    return VGGSNN(name="vgg", norm="bn", **keys | changes)


def first_weights(net):
    return [tuple(layer.synapse.op.weight.shape) for layer in net.layers]


def test_readout_reads_every_unit_of_the_last_map(kit):
    net = vgg().build(kit("bn"), (2, 14, 14), 3)
    assert first_weights(net) == [(4, 2, 3, 3), (6, 4, 3, 3), (8, 6, 3, 3)]
    assert net.readout.op.in_features == 8 * 3 * 3
    assert net(torch.randn(2, 5, 2, 14, 14)).shape == (2, 5, 3)


def test_strides_round_up_where_pools_round_down(kit):
    net = vgg(pool="stride").build(kit("bn"), (2, 14, 14), 3)
    strides = [layer.synapse.op.stride[0] for layer in net.layers]
    assert strides == [2, 1, 2]
    assert net.readout.op.in_features == 8 * 4 * 4
    assert net(torch.randn(2, 5, 2, 14, 14)).shape == (2, 5, 3)


def test_strides_keep_what_travels_binary(kit):
    net = vgg(pool="stride").build(kit("bn"), (2, 16, 16), 3)
    seen = []
    net.readout.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    net(torch.randn(2, 5, 2, 16, 16) * 5)
    assert set(seen[0].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("hidden", [[], [7]])
def test_map_is_made_in_front_of_the_dense_layers(kit, hidden):
    net = vgg(map=2, hidden=hidden, dropout=0.1).build(kit("bn"), (2, 20, 20), 3)
    dense = net.layers[3].synapse if hidden else net.readout
    assert dense.op.in_features == 8 * 2 * 2
    assert net(torch.randn(2, 5, 2, 20, 20)).shape == (2, 5, 3)


def test_weights_start_with_the_variance_of_their_fan_out(kit):
    torch.manual_seed(0)
    net = vgg(channels=[[64, 128]]).build(kit("bn"), (2, 8, 8), 3)
    weight = net.layers[1].synapse.op.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": []}, "channels"),
        ({"channels": [[4], []]}, "channels"),
        ({"hidden": [0]}, "hidden"),
        ({"pool": "none"}, "pool: 'none' is not one of average, max, stride"),
        ({"map": 0}, "map: 0"),
        ({"dropout": 1.0}, "dropout: 1.0"),
    ],
)
def test_refuses_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        vgg(**changes)


def test_inputs_too_small_for_the_pools_are_refused(kit):
    with pytest.raises(ConfigError, match="at least 4x4"):
        vgg().build(kit("bn"), (2, 3, 3), 3)
