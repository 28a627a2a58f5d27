"""A convolution and the LIF units it drives, with a backward pass over active units only.

The rule of `event_stack` for layers between which dense tensors travel (pools): a dense forward
pass, of which only the nonzero inputs and the active events are kept. With G the events' patches,
dL/dW = sum_events eps * trace of the input patch,  dL/dX[t] = G[t+1] + leak dL/dX[t+1].
"""

import logging
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from snnrun.kernels.compiled.machine_code import compiled, contracted
from snnrun.kernels.compiled.rows import Place, empty
from snnrun.kernels.compiled.threads import spread
from snnrun.kernels.events.active_units import fire, flat_array, joined, through_window, with_room
from snnrun.kernels.events.lists import Events, Unit

log = logging.getLogger(__name__)

# Share of active units from which two dense convolutions are faster (scripts/bench_ssgd.py).
DENSE_FROM = 0.08


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


def active_conv(x: Tensor, op: nn.Conv2d, unit: Unit) -> tuple[Tensor, Tensor]:
    """Spikes [T, B, C', H', W'] of a fresh sequence ``x`` [T, B, C, H, W]; no bias.

    Also returns how many spikes each unit has, [B, C', H', W'].
    """
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
    ) -> tuple[Tensor, Tensor]:
        current = F.conv2d(x.flatten(0, 1), weight, None, stride, padding).unflatten(0, x.shape[:2])
        spikes, counts, active, slope = fire(current, unit)
        arrived, value = _nonzero(x)
        ctx.save_for_backward(weight, *arrived, value, *active, slope)
        ctx.shapes, ctx.geometry, ctx.leak = (x.shape, current.shape), (stride, padding), unit.leak
        return spikes, counts

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, grad_counts: Tensor
    ) -> tuple[Tensor | None, Tensor, None, None, None]:
        weight, *lists = ctx.saved_tensors
        arrived, value, active, slope = Events(*lists[:2]), lists[2], Events(*lists[3:5]), lists[5]
        eps = through_window(grad, grad_counts, active, slope)
        if len(eps) < DENSE_FROM * grad.numel():
            run = _sparse
        else:
            _say_dense()
            run = _dense
        needs_x = ctx.needs_input_grad[0]
        case = arrived, value, weight, active, eps, ctx.shapes, ctx.geometry, ctx.leak, needs_x
        return *run(*case), None, None, None


@cache
def _say_dense() -> None:
    log.info(
        "a convolution has over %.0f %% of its units near threshold: its backward pass is dense",
        100 * DENSE_FROM,
    )


def _nonzero(x: Tensor) -> tuple[Events, Tensor]:
    """Where values [T, B, C, H, W] are not zero, by place [H, W, C]; and the values.

    Those of a step come channel by channel.
    """
    steps, batch, channels = x.shape[:3]
    values = flat_array(x)
    each = spread(batch, lambda lo, hi: _pick(values, steps, batch, channels, lo, hi))
    return joined(each)


def _dense(
    arrived: Events,
    value: Tensor,
    weight: Tensor,
    active: Events,
    eps: Tensor,
    shapes: tuple[torch.Size, torch.Size],
    geometry: tuple[tuple[int, int], tuple[int, int]],
    leak: float,
    needs_x: bool,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of input and weight by two convolutions; arguments as `_sparse`."""
    (steps, batch, channels, *frame), out_shape = shapes
    x = _decaying(arrived, value, 0.0, torch.Size((steps, batch, *frame, channels)))
    x = x.permute(0, 1, 4, 2, 3)
    delta = _decaying(active, eps, leak, out_shape)
    # delta[t] includes eps[t]; the current of step t acts on the potentials from t + 1 on.
    late, early = delta[1:].flatten(0, 1), x[:-1].flatten(0, 1)
    stride, padding = geometry
    grad_x, grad_w, _ = torch.ops.aten.convolution_backward(
        late, early, weight, None, stride, padding, (1, 1), False, (0, 0), 1, (needs_x, True, False)
    )
    if not needs_x:
        return None, grad_w
    full = torch.zeros_like(x)
    full[:-1] = grad_x.unflatten(0, (steps - 1, batch))
    return full, grad_w


def _decaying(events: Events, value: Tensor, leak: float, shape: torch.Size) -> Tensor:
    """Y [T, B, ...] of values at events: Y[t] = values[t] + leak Y[t+1]."""
    out = empty(shape, value.dtype)
    lists = [x.numpy() for x in (*events, value)]
    rows = out.numpy().reshape(*shape[:2], -1)
    factor = rows.dtype.type(leak)
    spread(shape[1], lambda lo, hi: _decay(*lists, factor, rows, lo, hi))
    return out


def _sparse(
    arrived: Events,
    value: Tensor,
    weight: Tensor,
    active: Events,
    eps: Tensor,
    shapes: tuple[torch.Size, torch.Size],
    geometry: tuple[tuple[int, int], tuple[int, int]],
    leak: float,
    needs_x: bool,
) -> tuple[Tensor | None, Tensor]:
    """Gradients of input and weight from the active events.

    Args:
        arrived: places [H, W, C] where the input is not zero.
        value: the input there.
        weight: [C', C, kh, kw].
        active: units [C', H', W'] near their threshold.
        eps: dL/dV at them.
        shapes: of the input [T, B, C, H, W] and the output [T, B, C', H', W'].
        geometry: stride and padding.
        leak: of the membrane.
        needs_x: whether dL/dX is wanted.
    """
    # Channels last: a row of a patch lies side by side, in the frame and in the weight.
    w = weight.detach().permute(0, 2, 3, 1).contiguous().numpy()
    lists = tuple(x.numpy() for x in (*arrived, value)), tuple(x.numpy() for x in (*active, eps))
    grad_x = empty(shapes[0] if needs_x else (0,), eps.dtype)
    (steps, batch, channels, *frame), (*_, height, width) = shapes
    sizes = (height, width, *geometry[0], *geometry[1], *frame, channels, *w.shape[1:3])
    flat, leak = grad_x.numpy().reshape(-1), w.dtype.type(leak)

    def work(lo: int, hi: int) -> np.ndarray:
        grad = np.zeros_like(w)
        _walk(*lists, w.reshape(-1), sizes, leak, steps, lo, hi, grad.reshape(-1), flat)
        return grad

    grad_w = sum(spread(batch, work), np.zeros_like(w))
    return grad_x if needs_x else None, torch.from_numpy(grad_w).permute(0, 3, 1, 2)


@compiled
def _pick(
    x: np.ndarray, steps: int, batch: int, channels: int, lo: int, hi: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places and values of what is not zero in the samples from lo to hi, and how many by step."""
    size, n = x.size // (steps * batch), 0
    places, values = np.empty(size, np.int32), np.empty(size, x.dtype)
    lengths = np.empty((hi - lo) * steps, np.int64)
    for b in range(lo, hi):
        for t in range(steps):
            places, values, before = with_room(places, n, size), with_room(values, n, size), n
            frame = x[(t * batch + b) * size : (t * batch + b + 1) * size].reshape(channels, -1)
            for c in range(channels):
                for p in range(frame.shape[1]):
                    places[n], values[n] = p * channels + c, frame[c, p]
                    n += frame[c, p] != 0
            lengths[(b - lo) * steps + t] = n - before
    return places[:n], values[:n], lengths


@compiled
def _decay(
    index: np.ndarray,
    start: np.ndarray,
    values: np.ndarray,
    leak: float,
    out: np.ndarray,
    lo: int,
    hi: int,
) -> None:
    steps, _, units = out.shape
    for b in range(lo, hi):
        for t in range(steps - 1, -1, -1):
            for j in range(units):
                out[t, b, j] = leak * out[t + 1, b, j] if t + 1 < steps else 0
            for e in range(start[b * steps + t], start[b * steps + t + 1]):
                out[t, b, index[e]] += values[e]


@compiled
def _walk(
    arrived: tuple[np.ndarray, ...],
    active: tuple[np.ndarray, ...],
    weight: np.ndarray,
    sizes: tuple[int, ...],
    leak: float,
    steps: int,
    lo: int,
    hi: int,
    grad_weight: np.ndarray,
    grad_x: np.ndarray,
) -> None:
    """Add up gradients of the samples from lo to hi; the lists are of places, starts and values."""
    (places, first, values), (units, start, eps) = arrived, active
    _, _, _, _, _, _, rows, columns, channels, _, _ = sizes
    trace, batch = np.empty(rows * columns * channels, weight.dtype), (start.size - 1) // steps
    for b in range(lo, hi):
        row = b * steps
        trace[:] = 0
        for t in range(1, steps):
            trace *= leak
            for i in range(first[row + t - 1], first[row + t]):
                trace[places[i]] += values[i]
            for e in range(start[row + t], start[row + t + 1]):
                _patch(units[e], eps[e], sizes, trace, grad_weight, True)
        if grad_x.size:
            trace[:] = 0
            for t in range(steps - 1, -1, -1):
                at = (t * batch + b) * trace.size
                _turn(trace, channels, grad_x[at : at + trace.size])
                trace *= leak
                for e in range(start[row + t], start[row + t + 1]):
                    _patch(units[e], eps[e], sizes, trace, weight, False)


@compiled
def _turn(x: np.ndarray, channels: int, out: np.ndarray) -> None:
    """Write a frame [H, W, C] as [C, H, W]."""
    places = x.size // channels
    for c in range(channels):
        for p in range(places):
            out[c * places + p] = x[p * channels + c]


@compiled
def _patch(
    unit: int,
    eps: float,
    sizes: tuple[int, ...],
    frame: np.ndarray,
    weight: np.ndarray,
    read: bool,
) -> None:
    """One event: add its patch of the frame to its weights, or its weights to that patch."""
    height, width, stride_y, stride_x, pad_y, pad_x, rows, columns, channels, tall, wide = sizes
    top = unit // width % height * stride_y - pad_y
    left = unit % width * stride_x - pad_x
    begin, end = max(0, -left), min(wide, columns - left)
    for ky in range(max(0, -top), min(tall, rows - top)):
        x = ((top + ky) * columns + left + begin) * channels
        w = ((unit // (width * height) * tall + ky) * wide + begin) * channels
        n = max(0, end - begin) * channels
        if read:
            _add(eps, frame, x, weight, w, n)
        else:
            _add(eps, weight, w, frame, x, n)


@contracted
def _add(
    factor: float, x: np.ndarray, at: Place, total: np.ndarray, place: Place, n: Place
) -> None:
    at, place, n = np.uint64(at), np.uint64(place), np.uint64(n)
    for j in range(n):
        total[place + j] += factor * x[at + j]
