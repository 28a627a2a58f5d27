"""A convolution and the LIF units it drives, with a backward pass over active units only.

The rule of `event_stack` for layers between which dense tensors travel (pools): a dense forward
pass, of which only the nonzero inputs and the active events are kept. With G the events' patches,
dL/dW = sum_events eps * trace of the input patch,  dL/dX[t] = G[t+1] + leak dL/dX[t+1].
"""

import logging
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrun.kernels.events import Unit
from snnrun.kernels.machine_code import compiled
from snnrun.kernels.threads import spread

log = logging.getLogger(__name__)

# Share of active units from which two dense convolutions are faster (scripts/bench_ssgd.py).
DENSE_FROM = 0.05
BLOCK = 64  # units looked at together for a potential near the threshold


def suits(op: nn.Module, x: Tensor, unit: Unit) -> bool:
    """Whether `active_conv` computes this: an ungrouped convolution on the CPU, plain LIF units."""
    return (
        isinstance(op, nn.Conv2d)
        and op.groups == 1
        and op.dilation == (1, 1)
        and not isinstance(op.padding, str)
        and x.device.type == "cpu"
        and unit.synapse is None
    )


def active_conv(x: Tensor, op: nn.Conv2d, unit: Unit) -> Tensor:
    """Spikes [T, B, C', H', W'] of a fresh sequence ``x`` [T, B, C, H, W]; no bias."""
    return _ActiveConv.apply(x, op.weight, op.stride, op.padding, unit)


class _ActiveConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        unit: Unit,
    ) -> Tensor:
        current = F.conv2d(x.flatten(0, 1), weight, None, stride, padding).unflatten(0, x.shape[:2])
        spikes, active, slope = _fire(current, unit)
        ctx.save_for_backward(weight, *_nonzero(x), active, slope)
        ctx.shapes, ctx.geometry, ctx.leak = (x.shape, current.shape), (stride, padding), unit.leak
        return spikes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None, None, None]:
        weight, nonzero, value, active, slope = ctx.saved_tensors
        shape, out_shape = ctx.shapes
        eps = grad.reshape(-1)[active] * slope
        x = value.new_zeros(shape)
        x.view(-1)[nonzero] = value
        if len(active) < DENSE_FROM * grad.numel():
            run = _sparse
        else:
            _say_dense()
            run = _dense
        needs_x = ctx.needs_input_grad[0]
        grad_x, grad_w = run(x, weight, active, eps, out_shape, ctx.geometry, ctx.leak, needs_x)
        return grad_x, grad_w, None, None, None


@cache
def _say_dense() -> None:
    log.info(
        "a convolution has over %.0f %% of its units near threshold: its backward pass is dense",
        100 * DENSE_FROM,
    )


def _fire(current: Tensor, unit: Unit) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes [T, B, ...], flat places [n] of the active events, their surrogate derivatives."""
    spikes = torch.empty_like(current, memory_format=torch.contiguous_format)
    values, fired = (_array(x).reshape(len(x), -1) for x in (current, spikes))
    v, found = np.zeros_like(values[0]), []
    limits = unit.leak, unit.drop, unit.threshold, unit.window, unit.steepness
    constants = tuple(map(v.dtype.type, limits))
    for t in range(len(values)):
        found += spread(v.size, partial(_step, values, fired, v, t, _place(current), constants))
    return spikes, *_joined(found)


def _nonzero(x: Tensor) -> tuple[Tensor, Tensor]:
    """Flat places [n] of the values other than zero, and the values."""
    values = _array(x).reshape(-1)
    return _joined(spread(values.size, partial(_pick, values, _place(x))))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().contiguous().numpy()


def _place(x: Tensor) -> np.ndarray:
    """An empty list of places in ``x``, of the narrower type that can tell them apart."""
    return np.empty(0, np.int32 if x.numel() < 2**31 else np.int64)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Tensor, Tensor]:
    places, values = zip(*parts, strict=True)
    return torch.from_numpy(np.concatenate(places)), torch.from_numpy(np.concatenate(values))


def _dense(
    x: Tensor,
    weight: Tensor,
    active: Tensor,
    eps: Tensor,
    out_shape: torch.Size,
    geometry: tuple[tuple[int, int], tuple[int, int]],
    leak: float,
    needs_x: bool,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of input and weight by two convolutions; arguments as `_sparse`."""
    delta = eps.new_zeros(out_shape)
    delta.view(-1)[active] = eps
    for t in range(len(delta) - 2, -1, -1):
        delta[t].add_(delta[t + 1], alpha=leak)
    # delta[t] now includes eps[t]; the current of step t acts on the potentials from t + 1 on.
    late, early = delta[1:].flatten(0, 1), x[:-1].flatten(0, 1)
    stride, padding = geometry
    grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
        late, early, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (needs_x, True, False)
    )
    if not needs_x:
        return None, grad_w
    full = torch.zeros_like(x)
    full[:-1] = grad_x.unflatten(0, (len(x) - 1, x.shape[1]))
    return full, grad_w


def _sparse(
    x: Tensor,
    weight: Tensor,
    active: Tensor,
    eps: Tensor,
    out_shape: torch.Size,
    geometry: tuple[tuple[int, int], tuple[int, int]],
    leak: float,
    needs_x: bool,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of input and weight from the active events.

    Args:
        x: [T, B, C, H, W].
        weight: [C', C, kh, kw].
        active: flat places of the events in the output, ascending.
        eps: dL/dV at them.
        out_shape: [T, B, C', H', W'].
        geometry: stride and padding.
        leak: of the membrane.
        needs_x: whether dL/dX is wanted.
    """
    # Channels last: the innermost loop runs over the input channels of one patch.
    w = weight.detach().permute(0, 2, 3, 1).contiguous().numpy()
    rows = active.numpy(), eps.numpy(), x.permute(0, 1, 3, 4, 2).contiguous().numpy()
    grad_x = np.empty(rows[2].shape if needs_x else (0, 0, 0, 0, 0), w.dtype)
    steps, batch, *per_sample = out_shape
    bounds = torch.arange(0, steps * batch + 1) * int(np.prod(per_sample))
    start = torch.searchsorted(active, bounds.to(active.dtype)).numpy()
    sizes = np.array([*per_sample, *geometry[0], *geometry[1]])

    def work(lo: int, hi: int) -> np.ndarray:
        grad = np.zeros_like(w)
        _walk(*rows, start, w, sizes, w.dtype.type(leak), lo, hi, grad, grad_x)
        return grad

    grad_w = sum(spread(batch, work), np.zeros_like(w))
    whole = torch.from_numpy(grad_w).permute(0, 3, 1, 2)
    return torch.from_numpy(grad_x).permute(0, 1, 4, 2, 3) if needs_x else None, whole


@compiled
def _step(
    current: np.ndarray,
    spikes: np.ndarray,
    v: np.ndarray,
    t: int,
    place: np.ndarray,
    constants: tuple[float, ...],
    lo: int,
    hi: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Step t of the units from lo to hi: potentials, spikes; places and slopes of active events."""
    leak, drop, threshold, window, steepness = constants
    one, n = v.dtype.type(1), 0
    places, slopes = np.empty(hi - lo + 1, place.dtype), np.empty(hi - lo + 1, v.dtype)
    distance = np.empty(BLOCK, v.dtype)
    for start in range(lo, hi, BLOCK):
        stop = min(start + BLOCK, hi)
        if t > 0:
            _advance(
                v[start:stop], spikes[t - 1, start:stop], current[t - 1, start:stop], leak, drop
            )
        if _compare(v[start:stop], threshold, window, spikes[t, start:stop], distance):
            for j in range(stop - start):  # each is written, and stays if the next goes behind it
                places[n], slopes[n] = t * v.size + start + j, distance[j]
                n += distance[j] < window
    for i in range(n):
        root = steepness * slopes[i] + one
        slopes[i] = one / (root * root)
    return places[:n].copy(), slopes[:n].copy()


@compiled
def _advance(
    v: np.ndarray, spikes: np.ndarray, current: np.ndarray, leak: float, drop: float
) -> None:
    for j in range(v.size):
        v[j] = v[j] * leak - drop * spikes[j] + current[j]


@compiled
def _compare(
    v: np.ndarray, threshold: float, window: float, spikes: np.ndarray, distance: np.ndarray
) -> int:
    """Fire; how many potentials are near the threshold, and their distances from it."""
    zero, one = v.dtype.type(0), v.dtype.type(1)
    near = 0
    for j in range(v.size):
        spikes[j] = one if v[j] > threshold else zero
        distance[j] = abs(v[j] - threshold)
        near += distance[j] < window
    return near


@compiled
def _pick(x: np.ndarray, place: np.ndarray, lo: int, hi: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and values of what is not zero from lo to hi."""
    n = 0
    for j in range(lo, hi):
        n += x[j] != 0
    places, values = np.empty(n + 1, place.dtype), np.empty(n + 1, x.dtype)
    n = 0
    for j in range(lo, hi):
        places[n], values[n] = j, x[j]
        n += x[j] != 0
    return places[:n], values[:n]


@compiled
def _walk(
    active: np.ndarray,
    eps: np.ndarray,
    x: np.ndarray,
    start: np.ndarray,
    weight: np.ndarray,
    sizes: np.ndarray,
    leak: float,
    lo: int,
    hi: int,
    grad_weight: np.ndarray,
    grad_x: np.ndarray,
) -> None:
    steps, batch = x.shape[:2]
    trace = np.empty(x.shape[2:], x.dtype)
    for b in range(lo, hi):
        trace[:] = 0
        for t in range(1, steps):
            _decay_add(trace, leak, x[t - 1, b])
            for e in range(start[t * batch + b], start[t * batch + b + 1]):
                _patch(active[e], eps[e], sizes, trace, grad_weight, True)
        if grad_x.size:
            trace[:] = 0
            grad_x[steps - 1, b] = 0
            for t in range(steps - 1, 0, -1):
                for e in range(start[t * batch + b], start[t * batch + b + 1]):
                    _patch(active[e], eps[e], sizes, trace, weight, False)
                grad_x[t - 1, b] = trace
                trace *= leak


@compiled
def _decay_add(trace: np.ndarray, leak: float, x: np.ndarray) -> None:
    flat, arriving = trace.reshape(-1), x.reshape(-1)
    for j in range(flat.size):
        flat[j] = flat[j] * leak + arriving[j]


@compiled
def _patch(
    place: int, eps: float, sizes: np.ndarray, image: np.ndarray, weight: np.ndarray, read: bool
) -> None:
    """One event: add its input patch of the image to its weights, or its weights to the image."""
    channels, height, width, stride_y, stride_x, pad_y, pad_x = sizes
    across = place % width
    down = place // width % height
    kernel = weight[place // (width * height) % channels]
    for ky in range(kernel.shape[0]):
        y = down * stride_y + ky - pad_y
        if y < 0 or y >= image.shape[0]:
            continue
        for kx in range(kernel.shape[1]):
            z = across * stride_x + kx - pad_x
            if z < 0 or z >= image.shape[1]:
                continue
            if read:
                for c in range(image.shape[2]):
                    kernel[ky, kx, c] += eps * image[y, z, c]
            else:
                for c in range(image.shape[2]):
                    image[y, z, c] += eps * kernel[ky, kx, c]
