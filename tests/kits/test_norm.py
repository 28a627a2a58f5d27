import pytest
import torch
from torch import nn

from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kits.norm import StandardisedWeight, TimeBatchNorm

pytestmark = pytest.mark.usefixtures("fp64")

SCALE = 0.5 / 2**0.5  # V_th 0.5 on one of two branches, the ratio in Zheng et al.


@pytest.fixture
def x():
    return 3 * torch.randn(40, 6, 5, 5) + torch.arange(6.0).view(6, 1, 1)


def test_currents_start_with_mean_zero_and_deviation_of_the_scaled_threshold(x):
    y = TimeBatchNorm(6, scale=SCALE)(x)
    channels = y.transpose(0, 1).flatten(1)
    assert channels.mean(1).abs().max() < 1e-6
    assert (channels.std(1, correction=0) - SCALE).abs().max() < 1e-3


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_equals_batch_norm_whose_weight_is_the_scale(x, training):
    ours, theirs = TimeBatchNorm(6, scale=SCALE), nn.BatchNorm2d(6)
    nn.init.constant_(theirs.weight, SCALE)
    ours(x), theirs(x)
    y, z = (bn.train(training)(x[:20]) for bn in (ours, theirs))
    torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-12)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(
            getattr(ours, name), getattr(theirs, name), rtol=1e-12, atol=1e-12
        )


def test_gradient_of_the_weight_is_the_scale_times_that_of_batch_norm(x):
    ours, theirs = TimeBatchNorm(6, scale=SCALE), nn.BatchNorm2d(6)
    nn.init.constant_(theirs.weight, SCALE)
    for bn in (ours, theirs):
        bn(x).sin().sum().backward()
    torch.testing.assert_close(ours.weight.grad, SCALE * theirs.weight.grad)
    torch.testing.assert_close(ours.bias.grad, theirs.bias.grad)


def test_under_sgd_the_gain_moves_with_the_square_of_the_scale(x):
    """The effective gain is scale * weight; batch norm started at the scale moves it by lr * g."""
    ours, theirs = TimeBatchNorm(6, scale=SCALE), nn.BatchNorm2d(6)
    nn.init.constant_(theirs.weight, SCALE)
    for bn in (ours, theirs):
        bn(x).sin().sum().backward()
        torch.optim.SGD(bn.parameters(), lr=0.01).step()
    moved = SCALE * (ours.weight - 1)
    torch.testing.assert_close(moved, SCALE**2 * (theirs.weight - SCALE))


def test_statistics_do_not_depend_on_the_order_of_time(x):
    a, b = TimeBatchNorm(6, scale=1.0), TimeBatchNorm(6, scale=1.0)
    a(x), b(x.flip(0))
    torch.testing.assert_close(a.running_var, b.running_var, rtol=1e-12, atol=1e-12)


def test_one_repeated_value_per_channel_has_variance_zero():
    bn = TimeBatchNorm(2, scale=1.0)
    y = bn(torch.tensor([[3.0, 4.0]]), repeats=5)
    assert y.tolist() == [[0.0, 0.0]]
    assert bn.running_mean.tolist() == pytest.approx([0.3, 0.4])
    assert bn.running_var.tolist() == pytest.approx([0.9, 0.9])


def test_a_single_value_per_channel_leaves_the_running_variance():
    bn = TimeBatchNorm(2, scale=1.0)
    bn(torch.tensor([[3.0, 4.0]]))
    assert bn.running_var.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("shape", [(4, 50), (4, 3, 5, 5)], ids=["linear", "conv"])
def test_standardised_rows_have_mean_zero_and_unit_energy(shape):
    weight = 2 + torch.randn(shape)
    norm = StandardisedWeight(4)
    rows = norm(weight).flatten(1)
    assert rows.mean(1).abs().max() < 1e-12
    # variance times fan-in is 1, up to the 1e-4 inside the root
    assert (rows.var(1) * rows.shape[1] - 1).abs().max() < 1e-4


def test_standardised_weight_by_hand():
    # mean 2, unbiased variance 2 over a fan-in of 2: (1 - 2) / sqrt(2 * 2 + 1e-4) times the gain
    norm = StandardisedWeight(1)
    norm.gain.data.fill_(3.0)
    expected = 3 / (4 + 1e-4) ** 0.5
    assert norm(torch.tensor([[1.0, 3.0]]))[0].tolist() == pytest.approx([-expected, expected])


def test_standardisation_ignores_shift_and_nearly_ignores_size():
    weight = torch.randn(4, 50)
    norm = StandardisedWeight(4)
    torch.testing.assert_close(norm(weight + 7), norm(weight))
    torch.testing.assert_close(norm(2 * weight), norm(weight), rtol=1e-4, atol=1e-6)


def test_standardised_weight_keeps_its_layout_in_memory():
    weight = torch.randn(4, 3, 3, 3)
    last = weight.contiguous(memory_format=torch.channels_last)
    for w in (weight, last, last.transpose(0, 1)):
        assert StandardisedWeight(len(w))(w).stride() == w.stride()
    torch.testing.assert_close(StandardisedWeight(4)(last), StandardisedWeight(4)(weight))


def test_gradient_of_standardised_weight_agrees_with_differences():
    norm = StandardisedWeight(3)
    weight = torch.randn(3, 2, 2, 2, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (weight,))
    assert torch.autograd.gradcheck(
        lambda gain: torch.func.functional_call(norm, {"gain": gain}, (weight,)),
        (torch.rand(3, requires_grad=True),),
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_many_weights_are_standardised_as_few(layout):
    weight = torch.randn(64, 32, 3, 3, dtype=torch.float64).contiguous(memory_format=layout)
    grad = torch.randn_like(weight)
    assert weight.numel() >= COMPILED_FROM > weight[:16].numel()
    norm = StandardisedWeight(64).double()
    torch.nn.init.uniform_(norm.gain, -2, 2)
    whole = _with_gradients(norm, weight, grad)
    norm.gain.grad = None
    parts = []
    for rows in range(0, 64, 16):
        part = StandardisedWeight(16).double()
        part.gain.data = norm.gain.data[rows : rows + 16].clone()
        parts.append(_with_gradients(part, weight[rows : rows + 16], grad[rows : rows + 16]))
    for found, expected in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(found, torch.cat(expected), rtol=1e-12, atol=1e-14)
    assert whole[0].stride() == whole[1].stride() == weight.stride()
    transposed = _with_gradients(
        norm, weight, grad.contiguous().transpose(2, 3).contiguous().transpose(2, 3)
    )
    assert torch.equal(transposed[1], whole[1])


def _with_gradients(norm, weight, grad):
    weight = weight.detach().requires_grad_()
    out = norm(weight)
    out.backward(grad)
    return out.detach(), weight.grad, norm.gain.grad.clone()
