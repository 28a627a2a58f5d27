"""The kernels against a plain autograd loop, and against each other."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from units import UNITS

from snnrun.kernels.lif import cpu, eager, multistep
from snnrun.kernels.lif.cpu_steps import LONGEST, PIECE, block_of
from snnrun.kernels.lif.multistep import counted_lif, lif
from snnrun.kernels.lif.parameters import State, TrainedParameters
from snnrun.kernels.step import through_spikes
from snnrun.neurons.surrogate import SURROGATES, Surrogate

# With TRITON_INTERPRET=0 on a machine that has a CUDA device Triton's kernels run there.
TRITON_DEVICE = "cpu" if os.environ["TRITON_INTERPRET"] == "1" else "cuda"
TRITON = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed"),
    id="triton",
)
WIDTHS = dict.fromkeys(SURROGATES, 1.0) | {"fast_sigmoid": 10.0, "sigmoid": 4.0, "gaussian": 0.5}
PLAIN = replace(
    UNITS,
    leak=0.7,
    surrogate=Surrogate(name="triangle", width=1.0),
    detach_reset=False,
    fires_at_threshold=False,
)
RESETS = [
    replace(PLAIN, hard=hard, detach_reset=detach, fires_at_threshold=ties)
    for hard, detach, ties in itertools.product((False, True), repeat=3)
]
OTHERS = [
    replace(PLAIN, leak=0.0),
    replace(PLAIN, leak=1.0, hard=True, rest=-0.3),
    replace(PLAIN, rest=-1.0, threshold=0.6),
    replace(PLAIN, decay_input=True, threshold=0.2),
    replace(PLAIN, leak_reset=False),
    replace(PLAIN, leak_reset=False, hard=True, rest=0.2),
    replace(PLAIN, leak_reset=False, hard=True, detach_reset=True),
    replace(PLAIN, leak_reset=False, detach_reset=True, delay=1),
    replace(PLAIN, surrogate=Surrogate(name="fast_sigmoid", width=2.0, cutoff=0.4)),
]

DELAYED = replace(PLAIN, leak_reset=False, delay=1)
TRAINED = [
    replace(PLAIN, threshold=0.4, rest=-0.2, hard=hard, detach_reset=detach, decay_input=decay)
    for hard, detach, decay in itertools.product((False, True), repeat=3)
] + [
    replace(PLAIN, threshold=0.4, leak_reset=False, hard=hard, detach_reset=detach)
    for hard, detach in itertools.product((False, True), repeat=2)
]


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, surrogate, ties):
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0 if ties else x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.surrogate(*ctx.saved_tensors), None, None


def plain_loop(current, p, membrane=None):
    """The recursion as the papers write it, one torch operation after the other."""
    u = torch.zeros_like(current[0]) if membrane is None else membrane
    spikes = []
    steps = list(current.unbind())
    if p.delay:
        steps = [torch.zeros_like(steps[0]), *steps[:-1]]
    for x in steps:
        u = (p.leak * u if p.leak_reset else u) + (1 - p.leak if p.decay_input else 1) * x
        s = Spike.apply(u - p.threshold, p.surrogate, p.fires_at_threshold)
        r = s.detach() if p.detach_reset else s
        u = u if p.leak_reset else p.leak * u
        u = u * (1 - r) + p.rest * r if p.hard else u - (p.threshold - p.rest) * r
        spikes.append(s)
    return torch.stack(spikes), u


def currents(*shape, dtype=torch.float64, seed=0):
    """Multiples of 1/8 on a third of the entries, so that some potentials meet the threshold."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.4
    dyadic = torch.rand(*shape, generator=generator, dtype=torch.float64) < 0.33
    return torch.where(dyadic, (x * 8).round() / 8, x).to(dtype)


def run(function, current, p, membrane, *trained):
    """Spikes, membrane, and the gradients of both together w.r.t. current, membrane and more."""
    current = current.clone().requires_grad_()
    membrane = membrane.clone().requires_grad_()
    spikes, after = function(current, p, membrane)
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(spikes.shape, generator=generator, dtype=torch.float64)
    loss = (spikes * weight.to(spikes.dtype)).sum() + after.square().sum()
    return spikes, after, *torch.autograd.grad(loss, (current, membrane, *trained))


def number(value):
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def trained(p, threshold=True):
    """The same constants with a trained leak, and threshold if asked for."""
    limit = number(p.threshold) if threshold else p.threshold
    return TrainedParameters(**vars(p) | {"leak": number(p.leak), "threshold": limit})


def numbers(p):
    return [x for x in (p.leak, p.threshold) if isinstance(x, torch.Tensor)]


def dispatched(current, p, membrane):
    held = torch.zeros_like(membrane) if p.delay else None
    spikes, state = lif(current, State(membrane, held), p)
    return spikes, state.membrane


@pytest.fixture(params=["eager", "cpu", TRITON])
def backend(request, monkeypatch):
    """One kernel whatever the device; Triton's runs in its interpreter (conftest.py)."""
    kernel = import_module(f"snnrun.kernels.lif.{request.param}")
    monkeypatch.setattr(multistep, "_backend", lambda current: kernel)
    return kernel


@pytest.mark.parametrize("p", RESETS + OTHERS, ids=str)
def test_spikes_and_gradients_are_those_of_a_plain_autograd_loop(backend, p):
    x, v = currents(7, 5, 11), currents(5, 11, seed=1) / 2
    expected, found = run(plain_loop, x, p, v), run(dispatched, x, p, v)
    assert torch.equal(expected[0], found[0]) and 0.1 < found[0].mean() < 0.9
    for wanted, got in zip(expected[1:], found[1:], strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("p", RESETS, ids=lambda p: f"{p.hard}-{p.detach_reset}")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("kernel", ["cpu", TRITON])
def test_compiled_kernel_equals_the_eager_one(kernel, p, name, dtype, tolerance):
    p = replace(p, surrogate=Surrogate(name=name, width=WIDTHS[name]))
    x, v = currents(6, 3, 200, dtype=dtype), currents(3, 200, dtype=dtype, seed=1) / 2
    above, carried = currents(6, 3, 200, dtype=dtype, seed=2), currents(3, 200, dtype=dtype, seed=3)
    results, device = [], TRITON_DEVICE if kernel == "cuda" else "cpu"
    x, v, above, carried = (tensor.to(device) for tensor in (x, v, above, carried))
    for each in (eager, import_module(f"snnrun.kernels.lif.{kernel}")):
        spikes, after, kept = each.forward(x, v, p, keep=True)
        *grads, to_held, to_constants = each.backward(kept, above, carried, p)
        results.append((spikes, after, *grads))
        assert to_held is None and to_constants is None  # nothing waits, nothing is trained
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    for wanted, got in zip(results[0][2:], results[1][2:], strict=True):
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("p", TRAINED, ids=str)
def test_trained_numbers_get_the_gradients_of_a_plain_autograd_loop(backend, p, name):
    p = replace(p, surrogate=Surrogate(name=name, width=WIDTHS[name]))
    x, v = currents(5, 3, 9), currents(3, 9, seed=1) / 2
    for threshold in (False, True):
        results = []
        for function in (plain_loop, dispatched):
            mine = trained(p, threshold)
            results.append(run(function, x, mine, v, *numbers(mine)))
        expected, found = results
        assert torch.equal(expected[0], found[0]) and 0.1 < found[0].mean() < 0.9
        for wanted, got in zip(expected[1:], found[1:], strict=True):
            assert wanted.any()
            torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("p", TRAINED, ids=str)
@pytest.mark.parametrize("kernel", ["cpu", TRITON])
def test_compiled_gradients_to_the_constants_equal_the_eager_ones_in_single_precision(kernel, p):
    x, v = currents(6, 3, 200, dtype=torch.float32), torch.zeros(3, 200)
    above, sums, device = torch.ones_like(x), [], TRITON_DEVICE if kernel == "cuda" else "cpu"
    x, v, above = (tensor.to(device) for tensor in (x, v, above))
    for each in (eager, import_module(f"snnrun.kernels.lif.{kernel}")):
        with torch.no_grad():
            _, _, kept = each.forward(x, v, trained(p), keep=True)
            sums.append(each.backward(kept, above, v, trained(p))[-1])
    assert sums[0].dtype == sums[1].dtype == torch.float64
    torch.testing.assert_close(sums[1], sums[0], rtol=1e-6, atol=1e-6 * sums[0].abs().max().item())


@pytest.mark.parametrize("p", TRAINED, ids=str)
def test_between_spikes_the_gradients_are_the_slopes_of_the_membrane(backend, p):
    """Where no potential comes near the threshold, the surrogate graph is the function's own."""
    p = replace(p, surrogate=Surrogate(name="rectangular", width=1e-3))
    x, v = currents(4, 2, 3).requires_grad_(), (currents(2, 3, seed=1) / 2).requires_grad_()

    def after(x, v, leak, threshold):
        mine = TrainedParameters(**vars(p) | {"leak": leak, "threshold": threshold})
        spikes, state = lif(x, State(v, None), mine)
        assert spikes.any()
        return state.membrane

    assert torch.autograd.gradcheck(after, (x, v, number(p.leak), number(p.threshold)))


def test_sums_over_units_are_taken_in_double_precision(backend):
    """Of membranes that never fire: the gradient of what is left of them to the leak."""
    p = replace(trained(PLAIN), surrogate=Surrogate(name="rectangular", width=0.1))
    units = 2**10 if TRITON_DEVICE == "cpu" and backend.__name__.endswith("cuda") else 2**18
    v = torch.full((1, units), -1.1)
    _, state = lif(torch.zeros(1, 1, units), State(v, None), p)
    (grad,) = torch.autograd.grad(state.membrane.sum(), p.leak)
    assert grad.item() == pytest.approx(v.double().sum().item(), rel=1e-14)


@pytest.mark.parametrize("p", [PLAIN, DELAYED], ids=str)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_chunks_give_the_spikes_and_gradients_of_the_whole_sequence(backend, p, size):
    x, p = currents(6, 4, 9).requires_grad_(), trained(p)
    whole, end = lif(x, None, p)
    state, parts = None, []
    for chunk in x.split(size):
        spikes, state = lif(chunk, state, p)
        parts.append(spikes)
    chunked = torch.cat(parts)
    weight = currents(6, 4, 9, seed=5)
    expected = torch.autograd.grad((whole * weight).sum(), (x, *numbers(p)))
    found = torch.autograd.grad((chunked * weight).sum(), (x, *numbers(p)))
    assert torch.equal(chunked, whole) and torch.equal(state.membrane, end.membrane)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [PLAIN, DELAYED, trained(PLAIN), trained(DELAYED)], ids=str)
@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("static", [False, True], ids=["sequence", "static"])
@pytest.mark.parametrize("kernel", ["cpu", TRITON])
def test_compiled_delay_and_counts_equal_the_eager_ones(kernel, static, steps, p):
    x, device = currents(steps, 3, 400), TRITON_DEVICE if kernel == "cuda" else "cpu"
    x = x[:1].expand(steps, 3, 400) if static else x
    v, carried, held, above_counts = (currents(3, 400, seed=seed) for seed in range(1, 5))
    above = currents(steps, 3, 400, seed=5)
    x, v, carried, held, above_counts, above = (
        tensor.to(device) for tensor in (x, v, carried, held, above_counts, above)
    )
    waiting, results = held if p.delay else None, []
    for each in (eager, import_module(f"snnrun.kernels.lif.{kernel}")):
        counts = torch.zeros_like(v)
        with torch.no_grad():
            spikes, _, kept = each.forward(x, v, p, keep=True, held=waiting, counts=counts)
            to_x, *grads = each.backward(kept, above, carried, p, above_counts)
        assert torch.equal(counts, spikes.sum(0)) and counts.any()
        results.append((spikes, to_x.sum(0) if static else to_x, *grads))
    assert torch.equal(results[0][0], results[1][0])
    assert p.delay == 0 or results[0][3].any()
    for wanted, got in zip(*(result[1:] for result in results), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [PLAIN, trained(DELAYED)], ids=str)
@pytest.mark.parametrize("dims", [(0, 1, 2, 3, 4), (0, 1, 4, 2, 3), (2, 3, 0, 1, 4)], ids=str)
def test_counts_are_sums_of_spikes_with_their_gradient(backend, p, dims):
    order = [dims.index(d) for d in range(5)]
    x = currents(5, 3, 4, 2, 6).permute(dims).contiguous().permute(order).requires_grad_()
    spikes, _, counts = counted_lif(x, None, p)
    weight = currents(5, 3, 4, 2, 6, seed=5)
    sources = (x, *numbers(p))
    found = torch.autograd.grad((spikes * weight).sum() + counts.square().sum(), sources)
    alone = torch.autograd.grad(counted_lif(x, None, p)[2].square().sum(), x)
    plain, _ = lif(x, None, p)
    total = plain.sum(0)
    expected = torch.autograd.grad(
        (plain * weight).sum() + total.square().sum(), sources, retain_graph=True
    )
    assert torch.equal(spikes, plain) and torch.equal(counts, total) and total.any()
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone, torch.autograd.grad(total.square().sum(), x))


def test_counts_of_bfloat16_currents_are_those_of_single_precision(backend):
    x = currents(300, 3, 40).bfloat16() + 2
    _, _, counts = counted_lif(x, None, DELAYED)
    expected, _ = lif(x.float(), None, DELAYED)
    assert counts.dtype is torch.float32 and counts.max() > 256  # which bfloat16 cannot count
    assert torch.equal(counts, expected.sum(0))


def test_detached_state_truncates_the_gradient(backend):
    x = currents(2, 3, 4).requires_grad_()
    _, state = lif(x[:1], None, PLAIN)
    spikes, _ = lif(x[1:], State(state.membrane.detach(), None), PLAIN)
    (grad,) = torch.autograd.grad(spikes.sum(), x)
    assert not grad[0].any() and grad[1].any()


@pytest.mark.parametrize("p", [PLAIN, trained(PLAIN), DELAYED, trained(DELAYED)], ids=str)
def test_a_current_expanded_over_time_equals_its_copy_and_is_kept_once(backend, p):
    frame = currents(4, 600).requires_grad_()
    sources = (frame, *numbers(p))
    sizes = set()

    def pack(tensor):
        sizes.add(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        spikes, _ = lif(frame.expand(8, 4, 600), None, p)
    found = torch.autograd.grad(spikes.sum(), sources)
    copied, _ = lif(frame.repeat(8, 1, 1), None, p)
    expected = torch.autograd.grad(copied.sum(), sources)
    assert torch.equal(spikes, copied)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    if backend is cpu or (backend is not eager and not p.delay):
        assert max(sizes) == frame.untyped_storage().nbytes()


def test_strided_and_expanded_inputs_are_read_right(backend):
    x = currents(5, 9, 4).transpose(1, 2).requires_grad_()
    spikes, _ = lif(x, None, PLAIN)
    (grad,) = torch.autograd.grad(spikes.mean(0).sum(), x)  # arrives expanded over time
    y = x.detach().contiguous().requires_grad_()
    expected, _ = lif(y, None, PLAIN)
    (wanted,) = torch.autograd.grad((expected / 5).sum(), y)
    assert torch.equal(spikes, expected)
    torch.testing.assert_close(grad, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("p", [PLAIN, DELAYED, trained(DELAYED)], ids=str)
@pytest.mark.parametrize(("steps", "units"), [(3, LONGEST + 77), (1100, 2 * PIECE + 5)])
def test_the_blocks_that_units_are_cut_into_do_not_show(steps, units, p):
    assert block_of(steps) < units
    x, above = currents(steps, units), currents(steps, units, seed=1)
    v, carried, held = (currents(units, seed=seed) for seed in (2, 3, 4))
    results = []
    for kernel in (eager, cpu):
        held = held if p.delay else None
        with torch.no_grad():
            spikes, after, kept = kernel.forward(x, v, p, keep=True, held=held)
            results.append((spikes, after, *kernel.backward(kept, above, carried, p)))
    assert torch.equal(results[0][0], results[1][0])
    for wanted, got in zip(*(result[1:] for result in results), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)


def test_threads_do_not_change_a_bit():
    x, above = currents(4, 3, 3000), currents(4, 3, 3000, seed=2)
    assert x[0].numel() > 2 * LONGEST
    zeros, threads, results = torch.zeros(3, 3000, dtype=x.dtype), torch.get_num_threads(), []
    p = trained(PLAIN)
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            spikes, after, kept = cpu.forward(x, zeros, p, keep=True)
            *grads, _, to_constants = cpu.backward(kept, above, zeros, p)
            results.append((spikes, after, *grads, to_constants))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_inference_keeps_nothing_and_gives_the_same_spikes(backend):
    x = currents(5, 3, 8).requires_grad_()
    with torch.no_grad():
        spikes, state = lif(x, None, PLAIN)
    assert not spikes.requires_grad and not state.membrane.requires_grad
    assert torch.equal(spikes, lif(x, None, PLAIN)[0])


def test_half_precision_current_is_integrated_in_single_precision(backend):
    x = currents(12, 3, 40).bfloat16()
    spikes, state = lif(x, None, PLAIN)
    expected, _ = lif(x.float(), None, PLAIN)
    assert spikes.dtype is torch.bfloat16 and state.membrane.dtype is torch.float32
    assert torch.equal(spikes.float(), expected)


def test_state_of_another_batch_size_is_refused():
    _, state = lif(currents(2, 4, 5), None, PLAIN)
    with pytest.raises(ValueError, match=r"reset\(\) before a new batch"):
        lif(currents(2, 3, 5), state, PLAIN)


def test_changing_the_current_in_place_before_backward_is_an_error(backend):
    source = currents(3, 2, 4).requires_grad_()
    current = source * 1
    spikes, _ = lif(current, None, PLAIN)
    if backend is not eager:
        current.zero_()
        with pytest.raises(RuntimeError, match="inplace"):
            spikes.sum().backward()


def test_importing_the_kernels_does_not_import_numba():
    code = "import sys, snnrun.neurons.lif; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 5e-7)])
def test_compiled_slopes_equal_the_surrogates_far_from_the_threshold(name, dtype, tolerance):
    surrogate = Surrogate(name=name, width=WIDTHS[name])
    x = torch.linspace(-60, 60, 4801, dtype=dtype)
    x[0], x[-1] = -1e6, 1e6
    found = through_spikes(torch.ones_like(x), x, 0.0, surrogate)
    torch.testing.assert_close(found, surrogate(x), rtol=0, atol=tolerance * WIDTHS[name])
