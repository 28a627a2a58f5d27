"""One node for a weighted op at one step, against autograd of the op itself."""

import pytest
import torch
from torch import nn

from snnrun.kits.step_op import StepOp
from snnrun.kits.synapse import apply, rows

pytestmark = pytest.mark.usefixtures("fp64")

OPS = {
    "linear": lambda: nn.Linear(4 * 6 * 6, 5),
    "linear without bias": lambda: nn.Linear(4 * 6 * 6, 5, bias=False),
    "conv": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
}


@pytest.fixture(params=OPS)
def op(request):
    torch.manual_seed(0)
    return OPS[request.param]()


def arriving(seed):
    return torch.randn(1, 3, 4, 6, 6, generator=torch.Generator().manual_seed(seed))


def gradients(y, x, op):
    """Of a sum of the outputs, each weighed differently: to the input and the parameters."""
    weights = torch.arange(y.numel(), dtype=y.dtype).view(y.shape).sin()
    leaves = [x, *op.parameters()]
    return torch.autograd.grad((y * weights).sum(), leaves)


def by_autograd(op, x):
    return apply(op, rows(op, x), op.weight, op.bias).unflatten(0, x.shape[:2])


@pytest.mark.parametrize(
    "layout", [lambda x: x, lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2)]
)
def test_without_a_trace_it_is_the_op(op, layout):
    x = layout(arriving(1)).requires_grad_()
    y, expected = StepOp.apply(x, None, op.weight, op.bias, op, (1.0, 1.0)), by_autograd(op, x)
    assert torch.equal(y, expected)
    for ours, theirs in zip(gradients(y, x, op), gradients(expected, x, op), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_the_weight_learns_from_the_trace_and_the_bias_from_its_span(op):
    x, trace = arriving(1).requires_grad_(), arriving(2).requires_grad_()
    y = StepOp.apply(x, trace.detach(), op.weight, op.bias, op, (1.0, 1.75))
    assert torch.equal(y, by_autograd(op, x))
    to_x, to_weight, *to_bias = gradients(y, x, op)
    torch.testing.assert_close(to_x, gradients(by_autograd(op, x), x, op)[0])
    _, of_trace, *of_bias = gradients(by_autograd(op, trace), trace, op)
    torch.testing.assert_close(to_weight, of_trace, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(to_bias, of_bias, strict=True):
        torch.testing.assert_close(ours, 1.75 * theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("of_gradient", [1.0, 1.75])
def test_the_bias_acts_with_its_span(of_gradient):
    op, x = nn.Linear(4 * 6 * 6, 5), arriving(1)
    y = StepOp.apply(x, None, op.weight, op.bias, op, (1.75, of_gradient))
    expected = nn.functional.linear(rows(op, x), op.weight, 1.75 * op.bias)
    torch.testing.assert_close(y[0], expected, rtol=1e-12, atol=1e-12)
    (to_bias,) = torch.autograd.grad(y.sum(), op.bias)
    assert to_bias.tolist() == pytest.approx([3 * of_gradient] * 5)


def test_an_input_without_a_graph_gets_no_gradient(op):
    y = StepOp.apply(arriving(1), None, op.weight, op.bias, op, (1.0, 1.0))
    y.sum().backward()
    x = arriving(1).requires_grad_()
    expected = torch.autograd.grad(by_autograd(op, x).sum(), op.weight)[0]
    torch.testing.assert_close(op.weight.grad, expected)
