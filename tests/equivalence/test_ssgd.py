"""Sparse spiking gradient descent against autograd, for every kernel (all it promises)."""

import logging
import os
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from runpy import run_path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnrun.kernels.events import active_conv, stack
from snnrun.kernels.events import dense as dense_form
from snnrun.kernels.events.eager import compact
from snnrun.kernels.events.lists import (
    Events,
    Incoming,
    Readout,
    Record,
    Unit,
    from_mask,
    rows,
    to_dense,
)
from snnrun.kernels.events.stack import Plan, backend, event_stack, gather
from snnrun.measure.memory import counted

LIF = Unit(leak=0.9, synapse=None, threshold=1.0, drop=1.0, window=0.2, steepness=100.0)
CUBA = replace(LIF, leak=0.85, synapse=0.7)
CPU = torch.device("cpu")
SIZES = (30, 24, 20, 5)
T, B = 24, 4


@pytest.fixture(params=["numba", "torch", "triton"])
def kernel(request) -> str:
    if request.param == "triton":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are defined
        pytest.importorskip("triton", reason="triton is not installed")
    return request.param


class Spike(torch.autograd.Function):
    """Strict step with the windowed surrogate, written apart from the package."""

    @staticmethod
    def forward(ctx, v, unit):
        ctx.save_for_backward(v)
        ctx.unit = unit
        return (v > unit.threshold).to(v.dtype)

    @staticmethod
    def backward(ctx, grad):
        (v,), unit = ctx.saved_tensors, ctx.unit
        x = (v - unit.threshold).abs()
        return grad * (x < unit.window) / (unit.steepness * x + 1).square(), None


def potentials(current: Tensor, unit: Unit, spikes: Tensor) -> Tensor:
    """V [T, B, n] with the resets of given spikes, so that gradients share one forward record."""
    v = held = torch.zeros_like(current[0])
    out = [v]
    for c, s in zip(current[:-1].unbind(), spikes[:-1].unbind(), strict=True):
        v = unit.leak * v + (c if unit.synapse is None else held) - unit.drop * s
        held = c if unit.synapse is None else unit.synapse * held + c
        out.append(v)
    return torch.stack(out)


def free(current: Tensor, unit: Unit) -> Tensor:
    """Spikes [T, B, n] of the step-by-step equations."""
    v = held = torch.zeros_like(current[0])
    spikes = []
    for c in current.unbind():
        spikes.append((v > unit.threshold).to(v.dtype))
        v = unit.leak * v + (c if unit.synapse is None else held) - unit.drop * spikes[-1]
        held = c if unit.synapse is None else unit.synapse * held + c
    return torch.stack(spikes)


def autograd(x: Tensor, weights: list[Tensor], plan: Plan) -> tuple[Tensor, list[Tensor]]:
    """Logits and counts of the dense graph."""
    s, counts = x.flatten(2), []
    for w, unit in zip(weights[:-1], plan.units, strict=True):
        current = s @ w.t()
        s = Spike.apply(potentials(current, unit, free(current.detach(), unit)), unit)
        counts.append(s.sum(0))
    o, beta, outputs = torch.zeros_like(s[0] @ weights[-1].t()), plan.readout.leak, []
    for current in (s @ weights[-1].t()).unbind():
        outputs.append(o)
        o = beta * o + (1 - beta) * current
    stacked = torch.stack(outputs)
    return (stacked.amax(0) if plan.readout.reduce == "max" else stacked.sum(0)), counts


def net(dtype=torch.float64, seed: int = 0, scale: float = 1.6) -> list[Tensor]:
    """Weights on a grid: their sums are exact in any order, so every forward pass spikes alike."""
    draws = torch.Generator().manual_seed(seed)
    raw = [torch.randn(n, m, generator=draws) * scale / m**0.5 for m, n in pairwise(SIZES)]
    return [((w * 256).round() / 256).to(dtype).requires_grad_() for w in raw]


def spike_train(dtype=torch.float64, rate: float = 0.15) -> Tensor:
    draws = torch.Generator().manual_seed(1)
    return (torch.rand(T, B, SIZES[0], generator=draws) < rate).to(dtype)


def plan(kernel: str, unit: Unit = LIF, reduce: str = "max") -> Plan:
    return Plan(units=(unit, unit), readout=Readout(leak=0.8, reduce=reduce), kernel=kernel)


def sparse(x: Tensor, weights: list[Tensor], plan: Plan) -> tuple[Tensor, list[Tensor]]:
    arrived = gather(x, plan.kernel)
    return event_stack(arrived, x.shape[1], weights, plan)[:2]


def gradients(run, x: Tensor, weights: list[Tensor], plan: Plan) -> list[Tensor]:
    """Of a loss on logits and spike counts."""
    logits, counts = run(x, weights, plan)
    loss = F.cross_entropy(logits, torch.arange(x.shape[1]) % SIZES[-1])
    for count in counts:
        loss = loss + 0.1 * (count.mean(1) - 0.5).relu().mean()
    return list(torch.autograd.grad(loss, weights))


def worst(got: list[Tensor], wanted: list[Tensor]) -> float:
    """Largest difference, relative to the largest entry of each tensor."""
    pairs = zip(got, wanted, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def layer(unit: Unit = LIF) -> tuple[Events, Record, Record, Tensor, Tensor]:
    """Spikes in, the records of the layer below and of this one, weights [n_in, n_out], eps."""
    below, weight = net()[:2]
    arrived = gather(spike_train(), "torch")
    dense = backend("torch", CPU)
    first = dense.forward(arrived, below.detach().t(), unit, B)
    second = dense.forward(first.spikes, weight.detach().t(), unit, B)
    eps = torch.randn(len(second.slope), dtype=torch.float64) * second.slope
    return arrived, first, second, weight.detach().t().contiguous(), eps


def incoming(record: Record, eps: Tensor, units: int) -> Incoming:
    return Incoming(record.active, eps, eps.new_zeros(0, units))


# 1: all weight gradients are those of backpropagation through time with the windowed surrogate


@pytest.mark.parametrize("reduce", ["max", "sum"])
@pytest.mark.parametrize("unit", [LIF, CUBA], ids=["lif", "cuba_lif"])
def test_gradients_equal_autograd_in_double_precision(kernel, unit, reduce):
    x, weights, p = spike_train(), net(scale=2.5), plan(kernel, unit, reduce)
    logits, counts = autograd(x, weights, p)
    found, found_counts = sparse(x, weights, p)
    assert sum(c.detach().sum().item() for c in counts) > 50  # a net that does something
    assert all(torch.equal(a, b) for a, b in zip(found_counts, counts, strict=True))
    torch.testing.assert_close(found, logits, rtol=1e-12, atol=1e-12)
    assert worst(gradients(sparse, x, weights, p), gradients(autograd, x, weights, p)) < 1e-12


def test_gradients_of_one_layer_equal_autograd_in_single_precision(kernel):
    _, first, second, weight, eps = layer()
    record = Record(second.spikes, second.active, second.slope.float())
    run = backend(kernel, CPU).backward
    exact, _ = run(
        first.spikes, None, incoming(second, eps, weight.shape[1]), weight, (0.9, None), B
    )
    single, _ = run(
        first.spikes,
        None,
        incoming(record, eps.float(), weight.shape[1]),
        weight.float(),
        (0.9, None),
        B,
    )
    assert worst([single.double()], [exact]) < 2e-6


# 2: dL/dS is the dense one at the active inputs; there is no other


def test_input_gradient_equals_the_dense_one_where_active(kernel):
    _, first, second, weight, eps = layer()
    arriving = incoming(second, eps, weight.shape[1])
    _, found = backend(kernel, CPU).backward(
        first.spikes, first.active, arriving, weight, (LIF.leak, None), B
    )
    spikes = to_dense(first.spikes, 1.0, (B, T, SIZES[1]), weight).transpose(0, 1).requires_grad_()
    current = spikes @ weight
    v = potentials(current, LIF, free(current.detach(), LIF))
    grads = to_dense(second.active, eps, (B, T, SIZES[2]), weight).transpose(0, 1)
    (dense,) = torch.autograd.grad(v, spikes, grads)
    wanted = dense.transpose(0, 1).flatten(0, 1)[rows(first.active), first.active.index.long()]
    assert len(found) == len(first.active.index) > 0
    assert worst([found], [wanted]) < 1e-12


# 3: a window without end is the full surrogate


def test_endless_window_gives_the_full_surrogate(kernel):
    x, weights = spike_train(), net()
    p = plan(kernel, replace(LIF, window=1e9))
    full = plan(kernel, replace(LIF, window=float("inf")))
    assert worst(gradients(sparse, x, weights, p), gradients(autograd, x, weights, full)) < 1e-12


# 4: summing over presynaptic spikes or over postsynaptic events is the same


def test_both_forms_of_the_weight_gradient_agree(kernel):
    _, first, second, weight, eps = layer()
    by_spike, _ = backend(kernel, CPU).backward(
        first.spikes, None, incoming(second, eps, weight.shape[1]), weight, (LIF.leak, None), B
    )
    spikes = to_dense(first.spikes, 1.0, (B, T, SIZES[1]), weight)
    trace, traces = torch.zeros_like(spikes[:, 0]), []
    for arriving in spikes.unbind(1):
        traces.append(trace)
        trace = LIF.leak * trace + arriving
    at_event = torch.stack(traces, 1).flatten(0, 1)[rows(second.active)]  # [events, n_in]
    by_event = torch.zeros_like(weight)
    by_event.index_add_(1, second.active.index, (at_event * eps[:, None]).T)
    assert worst([by_spike], [by_event]) < 1e-12


# 5: what is dropped of dL/dS never mattered


def test_dropping_inactive_gradients_leaves_the_layer_below_unchanged(kernel):
    arrived, first, second, weight, eps = layer()
    run = backend(kernel, CPU).backward
    arriving = incoming(second, eps, weight.shape[1])
    everywhere = from_mask(torch.ones(B, T, SIZES[1], dtype=torch.bool))
    _, at_active = run(first.spikes, first.active, arriving, weight, (LIF.leak, None), B)
    _, at_all = run(first.spikes, everywhere, arriving, weight, (LIF.leak, None), B)
    slope = to_dense(first.active, first.slope, (B, T, SIZES[1]), weight).flatten()
    dense = Incoming(everywhere, at_all * slope, eps.new_zeros(0, SIZES[1]))
    below = net()[0].detach().t().contiguous()
    few = incoming(first, at_active * first.slope, SIZES[1])
    one, other = (run(arrived, None, d, below, (LIF.leak, None), B)[0] for d in (few, dense))
    assert worst([one], [other]) < 1e-12


# 6: nothing happens: gradients are zero


@pytest.mark.parametrize("shape", [(T, B), (1, B), (T, 1), (1, 1), (2, 3)])
def test_silence_gives_zero_gradients(kernel, shape):
    x, weights = torch.zeros(*shape, SIZES[0], dtype=torch.float64), net()
    grads = gradients(sparse, x, weights, plan(kernel))
    assert all(torch.equal(g, torch.zeros_like(w)) for g, w in zip(grads, weights, strict=True))


def test_spikes_that_move_no_unit_near_threshold_give_zero_gradients(kernel):
    weights = [(w.detach() * 1e-3).requires_grad_() for w in net()]
    grads = gradients(sparse, spike_train(), weights, plan(kernel))
    assert all(not g.any() for g in grads)


# 7: at the threshold and at the window's edge


def test_threshold_itself_does_not_fire_and_has_slope_one_and_the_edge_is_inactive(kernel):
    unit = replace(LIF, window=0.25)
    weight = torch.tensor([[1.0, 0.75, 1.25, 1.125]], dtype=torch.float64)
    arrived = gather(torch.tensor([1.0, 0.0], dtype=torch.float64).view(2, 1, 1), kernel)
    record = backend(kernel, CPU).forward(arrived, weight, unit, 1)
    assert record.spikes.index.tolist() == [2, 3]
    assert record.active.index.tolist() == [0, 3]
    assert record.slope.tolist() == [1.0, 1 / 13.5**2]
    assert record.spikes.start.tolist() == record.active.start.tolist() == [0, 0, 2]


# 8: kept between forward and backward


def test_kept_bytes_are_those_of_the_lists(kernel):
    x, weights, p = spike_train(torch.float32), net(torch.float32), plan(kernel)
    arrived = gather(x, kernel)
    with counted(weights) as saved:
        out = event_stack(arrived, B, weights, p)
    records = [
        compact(v.transpose(0, 1), LIF)
        for v in dense_potentials(x, [w.detach() for w in weights[:-1]])
    ]
    spikes = len(arrived.index) + sum(len(r.spikes.index) for r in records)
    active = sum(len(r.active.index) for r in records)
    pointers = 5 * 4 * (B * T + 1)  # of the input, and of spikes and active events of two layers
    maxima = 4 * B * SIZES[-1]
    assert active > 0
    assert saved.bytes == 8 * active + 4 * spikes + pointers + maxima
    assert out[0].shape == (B, SIZES[-1])


def dense_potentials(x: Tensor, weights: list[Tensor]) -> list[Tensor]:
    out, s = [], x
    for w in weights:
        current = s @ w.t()
        s = free(current, LIF)
        out.append(potentials(current, LIF, s))
    return out


# 9: the window leaves the direction of the gradient


@pytest.fixture(scope="module")
def trained() -> tuple[Tensor, Tensor, list[Tensor]]:
    """A net trained for a moment to tell apart which inputs spike, a batch and its labels."""
    draws = torch.Generator().manual_seed(3)
    batch, steps = 64, 40
    means = torch.rand(4, SIZES[0], generator=draws) * 0.3
    y = torch.arange(batch) % 4
    x = (torch.rand(steps, batch, SIZES[0], generator=draws) < means[y]).double()
    weights = net(scale=1.9)
    optimiser = torch.optim.Adam(weights, 2e-3)
    for _ in range(100):
        optimiser.zero_grad()
        F.cross_entropy(sparse(x, weights, plan("torch"))[0], y).backward()
        optimiser.step()
    return x, y, weights


@pytest.mark.parametrize(
    "kernel", ["numba", "torch", pytest.param("triton", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize(("window", "least"), [(0.2, 0.999), (0.1, 0.995), (0.05, 0.97)])
def test_windowed_gradient_points_along_the_full_one(kernel, trained, window, least):
    x, y, weights = trained
    x, y = x[:, :16], y[:16]

    def of(run, width: float) -> list[Tensor]:
        p = plan(kernel, replace(LIF, window=width))
        return list(torch.autograd.grad(F.cross_entropy(run(x, weights, p)[0], y), weights[:-1]))

    cosines = [
        float(F.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        for a, b in zip(of(sparse, window), of(autograd, float("inf")), strict=True)
    ]
    assert min(cosines) >= least


# 10: the dense baseline of the benchmark is linear in time


def nodes(tensor: Tensor) -> Counter[str]:
    """Kinds of the graph nodes behind a tensor."""
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [after for after, _ in node.next_functions]
    return Counter(type(node).__name__ for node in seen)


def test_only_the_published_baseline_slices_inside_the_time_loop():
    path = Path(__file__).parents[2] / "scripts" / "bench_ssgd.py"
    bench = run_path(str(path))
    case = bench["made_up"](10, 12, bench["ACTIVITIES"][-1], batch=2)
    # The backward pass of one slice fills a tensor of all steps: T of them are quadratic in T.
    slices = {name: nodes(form(case))["SelectBackward0"] for name, form in bench["FORMS"].items()}
    assert slices["slicing"] == 2 * 9  # the last current acts on nothing
    assert max(slices["unbind"], slices["dense"], slices["events"]) <= 1


# What travels otherwise


@pytest.mark.parametrize("limit", [2.0, 0.0], ids=["active", "dense"])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), ((1, 2), (0, 4))])
def test_convolution_equals_the_neurons_of_the_plain_form(monkeypatch, limit, stride, padding):
    monkeypatch.setattr(active_conv, "DENSE_FROM", limit)
    op = nn.Conv2d(3, 8, 3, stride=stride, padding=padding, bias=False).double()
    x = (torch.rand(12, 4, 3, 9, 9) < 0.3).double().requires_grad_()
    spikes, counts = active_conv.active_conv(x, op, LIF)
    current = op(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    v = potentials(current, LIF, free(current.detach(), LIF))
    plain = Spike.apply(v, LIF)
    assert plain.detach().sum() > 0
    assert torch.equal(spikes, plain) and torch.equal(counts, plain.sum(0))
    grads, wanted = (torch.randn_like(spikes), torch.randn_like(counts)), [x, op.weight]
    assert worst(
        list(torch.autograd.grad((spikes, counts), wanted, grads)),
        list(torch.autograd.grad((plain, plain.sum(0)), wanted, grads)),
    ) < 1e-12  # fmt: skip


@pytest.mark.parametrize("unit", [LIF, CUBA], ids=["lif", "cuba_lif"])
def test_dense_form_of_a_layer_is_that_of_the_reference(unit):
    _, first, second, weight, eps = layer(unit)
    record = dense_form.forward(first.spikes, weight, unit, B)
    assert torch.equal(record.spikes.index, second.spikes.index)
    assert torch.equal(record.active.index, second.active.index)
    assert torch.equal(record.slope, second.slope)
    driven = Incoming(second.active, eps, torch.randn(B, weight.shape[1], dtype=torch.float64))
    for active in (first.active, None):
        case = first.spikes, active, driven, weight, (unit.leak, unit.synapse), B
        found, wanted = (form.backward(*case) for form in (dense_form, backend("torch", CPU)))
        assert worst([found[0]], [wanted[0]]) < 1e-12
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rate", "sparse"), [(0.02, True), (0.5, False)])
def test_lists_suit_only_few_spikes(rate, sparse):
    assert stack.suits(spike_train(rate=rate)) == sparse


def test_busy_layers_run_dense_and_it_is_said_once(caplog):
    stack._say_dense.cache_clear()
    weights = net()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            gradients(sparse, spike_train(rate=0.95), weights, plan("numba"))
    assert len(caplog.records) == 1


# 9: layers and inputs wider than what is looked at together


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [0.05, 5.0])
def test_wide_layers_list_the_same_units(kernel, window, dtype):
    unit = replace(LIF, window=window, steepness=1.0)
    draws = torch.Generator().manual_seed(0)
    weight = (torch.randn(SIZES[0], 150, generator=draws) * 128).round().to(dtype) / 256
    arrived = gather(spike_train(), "torch")
    found, expected = (backend(k, CPU).forward(arrived, weight, unit, B) for k in (kernel, "torch"))
    assert 0 < len(expected.active.index) < T * B * 150 and len(expected.spikes.index) > 0
    for ours, theirs in zip(
        (*found.spikes, *found.active), (*expected.spikes, *expected.active), strict=True
    ):
        assert torch.equal(ours, theirs)
    torch.testing.assert_close(found.slope, expected.slope)


@pytest.mark.parametrize("rate", [0.005, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_inputs_are_listed_whatever_the_sign_of_their_zeros(kernel, dtype, rate):
    x = (torch.rand(T, B, 150, generator=torch.Generator().manual_seed(0)) < rate).to(dtype)
    x[x == 0] = torch.tensor([0.0, -0.0], dtype=dtype).repeat(x.numel())[: int((x == 0).sum())]
    for ours, theirs in zip(gather(x, kernel), gather(x, "torch"), strict=True):
        assert torch.equal(ours, theirs)
    for other in (2.0, -1.0, 1e-40, float("nan")):
        x[-1, -1, -1] = other
        assert gather(x, kernel) is None
