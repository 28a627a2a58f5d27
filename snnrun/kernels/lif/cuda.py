"""Triton kernel for CUDA devices: both passes fused over time, a thread for each unit.

A unit runs through all its steps with its membrane in a register. As on the CPU nothing is written
for the backward pass, which integrates the current again: it puts the potentials where the gradient
will be, and finds them in the cache on its way back. The spikes are those of the eager kernel bit
by bit. With TRITON_INTERPRET=1 set before the import it runs on the CPU, which is how it is tested.
(Triton takes no annotations but its own.)
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from snnrun.kernels.lif.parameters import LIFParameters

BLOCK, WARPS = 128, 1  # units and warps of one program


def forward(
    current: Tensor,
    membrane: Tensor,
    p: LIFParameters,
    *,
    keep: bool,
    held: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Run T' steps; arguments and result as in `eager.forward`.

    What is kept is the current as it acts and the membrane before the first step.
    """
    if held is not None:
        current = torch.cat([held[None], current[:-1]])
    spikes = torch.empty(current.shape, dtype=current.dtype, device=current.device)
    after = membrane.detach().clone(memory_format=torch.contiguous_format)
    rows, hop = _steps(current)
    units = after.numel()
    _forward[(triton.cdiv(units, BLOCK),)](
        rows, after, spikes, _constants(p, after.dtype, after.device),
        units, hop, len(current), BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    if counts is not None:
        counts += spikes.sum(0, dtype=counts.dtype)
    return spikes, after, (current, membrane) if keep else ()


def backward(
    kept: tuple[Tensor, ...],
    grad_spikes: Tensor,
    grad_membrane: Tensor,
    p: LIFParameters,
    grad_counts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradient as in `cpu.backward`, from what `forward` kept."""
    current, membrane = kept
    if grad_counts is not None:
        grad_spikes = grad_spikes + grad_counts
    rows, hop = _steps(current)
    above, above_hop = _steps(grad_spikes)
    carried = grad_membrane.clone(memory_format=torch.contiguous_format)
    acting = (len(current) + p.delay, *current.shape[1:])  # and the last one, which waits
    potentials = torch.empty(acting, dtype=membrane.dtype, device=current.device)
    # The sum over the steps of an expanded current is taken in full precision.
    grad_current = potentials
    if not hop:
        grad_current = torch.empty_like(carried)
    elif current.dtype != membrane.dtype:
        grad_current = torch.empty(acting, dtype=current.dtype, device=current.device)
    units = carried.numel()
    programs = triton.cdiv(units, BLOCK)
    tallies = (programs if p.trained else 0, len(p.recursion))
    sums = torch.empty(tallies, dtype=torch.float64, device=current.device)
    _backward[(programs,)](
        rows, membrane.detach().contiguous(), above, carried, potentials, grad_current, sums,
        _constants(p, membrane.dtype, membrane.device), units, hop, above_hop, len(current),
        SURROGATE=p.surrogate.code, CUT=p.surrogate.cutoff is not None, SUM=not hop,
        TRAINED=p.trained, BLOCK=BLOCK, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
    if not hop:
        grad_current = (grad_current / len(current)).to(current.dtype).expand(current.shape)
    grad_held = None
    if p.delay:
        grad_current[-1] = 0
        grad_held, grad_current = grad_current[0], grad_current[1:]
    return grad_current, carried, grad_held, sums.sum(0) if p.trained else None


def _steps(x: Tensor) -> tuple[Tensor, int]:
    """The values as rows of one step each, and how many rows to go on per step (0: expanded)."""
    x = x.detach()
    expanded = x.stride(0) == 0 and len(x) > 1
    return (x[:1] if expanded else x).contiguous(), 0 if expanded else 1


def _constants(p: LIFParameters, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What the kernels read: plain numbers would be rounded to single precision."""
    return (_listed if p.trained else _cached)(p, dtype, device)


def _listed(p: LIFParameters, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Filled on the device, so that nothing waits for it, not for trained numbers either."""
    cutoff = torch.inf if p.surrogate.cutoff is None else p.surrogate.cutoff
    attached = 0.0 if p.detach_reset else 1.0
    like = torch.empty((), dtype=dtype, device=device)
    values = (*p.recursion, attached, p.surrogate.width, cutoff)
    constants = torch.stack(
        [x.to(dtype) if isinstance(x, Tensor) else torch.full_like(like, x) for x in values]
    )
    firing = constants[5:6]
    if p.fires_at_threshold:  # u >= threshold is u > the next number below it
        firing = torch.nextafter(firing, torch.full_like(firing, -torch.inf))
    return torch.cat([constants, firing])


_cached = lru_cache(maxsize=256)(_listed)


@triton.jit
def _row(values, row, units, columns, inside, like):
    place = tl.cast(row, tl.int64) * units + columns
    return tl.load(values + place, mask=inside, other=0.0).to(like.dtype)


@triton.jit
def _forward(
    current,
    membrane,
    spikes,
    constants,
    units,
    hop,
    steps,
    BLOCK: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < units
    before, gain, after = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
    scale, offset = tl.load(constants + 3), tl.load(constants + 4)
    firing = tl.load(constants + 9)
    v = tl.load(membrane + columns, mask=inside, other=0.0)
    x = _row(current, 0, units, columns, inside, v)
    for t in range(steps):
        # Loads wait for the stores before them, so the next step's comes before this one's store.
        ahead = _row(current, tl.minimum(t + 1, steps - 1) * hop, units, columns, inside, v)
        u = v * before + x * gain
        fired = u > firing
        v = tl.where(fired, u * scale + offset, u * after)
        place = tl.cast(t, tl.int64) * units + columns
        tl.store(spikes + place, tl.where(fired, 1.0, 0.0).to(spikes.dtype.element_ty), mask=inside)
        x = ahead
    tl.store(membrane + columns, v, mask=inside)


@triton.jit
def _slope(x, w, SURROGATE: tl.constexpr):
    """h(x) of width w, as in `snnrun.neurons.surrogate`."""
    near = tl.abs(x)
    if SURROGATE == 0:  # triangle
        out = tl.maximum(w - near, 0.0) / (w * w)
    elif SURROGATE == 1:  # rectangular
        out = tl.where(near < w * 0.5, 1.0 / w, 0.0)
    elif SURROGATE == 2:  # sigmoid
        y = tl.exp(-w * near)
        out = w * y / ((1.0 + y) * (1.0 + y))
    elif SURROGATE == 3:  # arctan
        y = 1.5707963267948966 * w * x
        out = w * 0.5 / (1.0 + y * y)
    elif SURROGATE == 4:  # softsign
        y = 1.0 + w * near
        out = w * 0.5 / (y * y)
    elif SURROGATE == 5:  # fast_sigmoid
        y = 1.0 + w * near
        out = 1.0 / (y * y)
    elif SURROGATE == 6:  # piecewise_exponential
        out = w * 0.5 * tl.exp(-w * near)
    else:  # gaussian
        y = x / w
        out = tl.exp(-0.5 * (y * y)) / (w * 2.5066282746310002)
    return out


@triton.jit
def _backward(
    current,
    membrane,
    grad_spikes,
    carried,
    potentials,
    grad_current,
    sums,
    constants,
    units,
    hop,
    above_hop,
    steps,
    SURROGATE: tl.constexpr,
    CUT: tl.constexpr,
    SUM: tl.constexpr,
    TRAINED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < units
    before, gain, after = tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
    scale, offset = tl.load(constants + 3), tl.load(constants + 4)
    threshold, attached = tl.load(constants + 5), tl.load(constants + 6)
    width, firing = tl.load(constants + 7), tl.load(constants + 9)
    start = tl.load(membrane + columns, mask=inside, other=0.0)
    v = start
    x = _row(current, 0, units, columns, inside, v)
    for t in range(steps):
        ahead = _row(current, tl.minimum(t + 1, steps - 1) * hop, units, columns, inside, v)
        u = v * before + x * gain
        v = tl.where(u > firing, u * scale + offset, u * after)
        tl.store(potentials + tl.cast(t, tl.int64) * units + columns, u, mask=inside)
        x = ahead
    tl.debug_barrier()  # the way back may give a potential to another thread of the program
    grad = tl.load(carried + columns, mask=inside, other=0.0)
    total = tl.zeros_like(grad)
    to_before, to_gain = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    to_after, to_scale = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    to_offset, to_threshold = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    u = _row(potentials, steps - 1, units, columns, inside, grad)
    above = _row(grad_spikes, (steps - 1) * above_hop, units, columns, inside, grad)
    for back in range(steps):
        t = steps - 1 - back
        u_ahead = _row(potentials, tl.maximum(t - 1, 0), units, columns, inside, grad)
        above_ahead = _row(
            grad_spikes, tl.maximum(t - 1, 0) * above_hop, units, columns, inside, grad
        )
        slope = _slope(u - threshold, width, SURROGATE)
        if CUT:
            slope = tl.where(tl.abs(u - threshold) < tl.load(constants + 8), slope, 0.0)
        passed = tl.where(u > firing, scale, after)
        passed -= attached * slope * (u * (after - scale) - offset)
        delta = slope * above + passed * grad
        if TRAINED:
            left = tl.where(u_ahead > firing, u_ahead * scale + offset, u_ahead * after)
            to_before += delta * tl.where(t > 0, left, start)
            to_gain += delta * _row(current, t * hop, units, columns, inside, grad)
            to_after += tl.where(u > firing, 0.0, grad * u)
            to_scale += tl.where(u > firing, grad * u, 0.0)
            to_offset += tl.where(u > firing, grad, 0.0)
            to_threshold -= slope * (above - attached * grad * (u * (after - scale) - offset))
        grad = delta * before
        if SUM:
            total += delta * gain
        else:
            out = (delta * gain).to(grad_current.dtype.element_ty)
            tl.store(grad_current + tl.cast(t, tl.int64) * units + columns, out, mask=inside)
        u, above = u_ahead, above_ahead
    if TRAINED:
        own = sums + tl.program_id(0) * 6
        tl.store(own, tl.sum(to_before))
        tl.store(own + 1, tl.sum(to_gain))
        tl.store(own + 2, tl.sum(to_after))
        tl.store(own + 3, tl.sum(to_scale))
        tl.store(own + 4, tl.sum(to_offset))
        tl.store(own + 5, tl.sum(to_threshold))
    if SUM:
        tl.store(grad_current + columns, total, mask=inside)
    tl.store(carried + columns, grad, mask=inside)
