"""Convolutions of spikes: weights of a tap and a channel are added up where the channel fired.

Maps lie with their channels innermost, as rows [N * H * W, C], and weights as rows [kH * kW * C, O]
of all output channels. A place of the output is the sum, over the taps of the kernel, of the rows
at the ones of the place that the tap sees; the gradient to the weights of a tap and a channel is
the sum of the gradient's rows at the places that see the ones of the channel.
"""

from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from snnrun.kernels.compiled.compiling import computed_in
from snnrun.kernels.compiled.machine_code import compiled
from snnrun.kernels.compiled.rows import empty, memory
from snnrun.kernels.compiled.threads import spread
from snnrun.kernels.products.ones import DENSEST, Ones, by_column, by_row
from snnrun.kernels.products.tiles import COLUMNS, add_rows, copy_row, copy_rows, new_tile


class Geometry(NamedTuple):
    """Sizes of the maps in and out, of the kernel (down and across), and of the padding."""

    height: int
    width: int
    out_height: int
    out_width: int
    down: int
    across: int
    pad_down: int
    pad_across: int


def spike_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
) -> Tensor:
    """As `torch.nn.functional.conv2d`, of fp32 or bf16 on the CPU, with channels innermost."""
    dtype = computed_in(weight)
    ones = by_row(_rows(x), DENSEST[dtype]) if len(weight) % COLUMNS == 0 else None
    if ones is None:
        return F.conv2d(x, weight, bias, padding=padding)
    return cast(Tensor, _SpikeConv.apply(x, ones, weight, bias, padding, dtype))


class _SpikeConv(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        ones: Ones,
        weight: Tensor,
        bias: Tensor | None,
        padding: tuple[int, int],
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = _geometry(x, weight, padding)
        return _convolve(ones, x, weight, bias, ctx.geometry).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, _, to_weight, to_bias, *_ = ctx.needs_input_grad
        grad = grad.contiguous(memory_format=torch.channels_last)
        return (
            _input_gradient(grad, x, weight, ctx.geometry) if to_x else None,
            None,
            _weight_gradient(grad, x, weight, ctx.geometry) if to_weight else None,
            _rows(grad).sum(0).float() if to_bias else None,
            None,
            None,
        )


def _geometry(x: Tensor, weight: Tensor, padding: tuple[int, int]) -> Geometry:
    (height, width), (down, across) = x.shape[2:], weight.shape[2:]
    pad_down, pad_across = padding
    out = height + 2 * pad_down - down + 1, width + 2 * pad_across - across + 1
    return Geometry(height, width, *out, down, across, *padding)


def _rows(x: Tensor) -> Tensor:
    """Maps [N, C, H, W] as [N * H * W, C]: no copy, as the channels lie innermost."""
    return x.detach().movedim(1, -1).flatten(0, 2)


def _maps(rows: Tensor, n: int, height: int) -> Tensor:
    """Rows [N * H * W, C] as maps [N, C, H, W]."""
    return rows.view(n, height, -1, rows.shape[1]).movedim(-1, 1)


def _convolve(
    ones: Ones, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> Tensor:
    lines = len(x) * geometry.out_height
    out = empty((lines * geometry.out_width, len(weight)), weight.dtype)
    out[:] = 0 if bias is None else bias.detach()
    rows = ones.times_amplitude(_rows(weight)).view(len(weight), -1).t().contiguous()
    lists, flat = ones[:3], [t.numpy().reshape(-1) for t in (rows, out)]
    spread(lines, lambda lo, hi: _add_taps(*lists, *flat, x.shape[1], geometry, lo, hi))
    return _maps(out, len(x), geometry.out_height)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    features, channels, down, across = weight.shape
    out = empty((down * across * channels, features), weight.dtype).zero_()
    ones, pixels = by_column(_rows(x)), x.numel() // channels
    lists, flat = ones[:3], [memory(t).reshape(-1) for t in (_rows(grad), out)]
    parts = down * across * (features // COLUMNS)
    spread(parts, lambda lo, hi: _add_places(*lists, *flat, features, pixels, geometry, lo, hi))
    return _maps(ones.times_amplitude(out).t().contiguous().view(-1, channels), features, down)


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
    padding, ones, zeros = geometry[-2:], (1, 1), (0, 0)
    mask, factors = (True, False, False), [t.to(grad.dtype) for t in (x, weight)]
    return torch.ops.aten.convolution_backward(
        grad, *factors, None, ones, padding, ones, False, zeros, 1, mask
    )[0].to(x.dtype)


@compiled
def _add_taps(
    places: np.ndarray,
    start: np.ndarray,
    size: int,
    weights: np.ndarray,
    out: np.ndarray,
    channels: int,
    geometry: Geometry,
    lo: int,
    hi: int,
) -> None:
    """Add to lines lo to hi of all maps what the taps see, tap by tap."""
    flat, tile = places.reshape(-1), new_tile(size, weights)
    taps = geometry.down * geometry.across
    features = weights.size // (taps * channels)
    for c in range(0, features, COLUMNS):
        for tap in range(taps):
            for block in range(start.shape[0]):
                first = block * size
                place = (tap * channels + first) * features + c
                copy_rows(weights, place, features, tile, min(size, channels - first))
                for line in range(lo, hi):
                    _add_line(
                        flat, block * places.shape[1], start[block], tile, out, features, c, tap,
                        geometry, line,
                    )  # fmt: skip


@compiled
def _add_line(
    places: np.ndarray,
    room: int,
    start: np.ndarray,
    tile: np.ndarray,
    out: np.ndarray,
    features: int,
    c: int,
    tap: int,
    geometry: Geometry,
    line: int,
) -> None:
    """Add to a line of the output, from feature c on, what a tap sees of it."""
    image, y = divmod(line, geometry.out_height)
    y += tap // geometry.across - geometry.pad_down
    shift = tap % geometry.across - geometry.pad_across
    if y < 0 or y >= geometry.height:
        return
    first, last = max(0, -shift), min(geometry.out_width, geometry.width - shift)
    seen = (image * geometry.height + y) * geometry.width + shift
    for x in range(first, last):
        one, end = room + start[seen + x], room + start[seen + x + 1]
        at = (line * geometry.out_width + x) * features + c
        add_rows(places, one, end, tile, out, at, out, at)  # type: ignore[call-arg, arg-type]  # as compiled


@compiled
def _add_places(
    places: np.ndarray,
    start: np.ndarray,
    size: int,
    grad: np.ndarray,
    out: np.ndarray,
    features: int,
    pixels: int,
    geometry: Geometry,
    lo: int,
    hi: int,
) -> None:
    """Parts lo to hi of the gradient to the weights: of a tap, to `COLUMNS` features."""
    flat, tile = places.reshape(-1), new_tile(size, out)
    channels, parts = start.shape[1] - 1, features // COLUMNS
    for part in range(lo, hi):
        tap, c = part // parts, part % parts * COLUMNS
        for block in range(start.shape[0]):
            room, first = block * places.shape[1], block * size
            _copy_seen(grad, features, c, tap, geometry, first, min(size, pixels - first), tile)
            for channel in range(channels):
                one, end = room + start[block, channel], room + start[block, channel + 1]
                at = (tap * channels + channel) * features + c
                add_rows(flat, one, end, tile, out, at, out, at)  # type: ignore[call-arg, arg-type]  # as compiled


@compiled
def _copy_seen(
    grad: np.ndarray,
    features: int,
    c: int,
    tap: int,
    geometry: Geometry,
    first: int,
    n: int,
    tile: np.ndarray,
) -> None:
    """The gradient, from feature c on, at the places that see n pixels through a tap; 0 if none."""
    line, x = divmod(first, geometry.width)
    down = geometry.pad_down - tap // geometry.across
    right = geometry.pad_across - tap % geometry.across
    for row in range(n):
        image, y = divmod(line, geometry.height)
        y, at = y + down, x + right
        if 0 <= y < geometry.out_height and 0 <= at < geometry.out_width:
            place = (image * geometry.out_height + y) * geometry.out_width + at
            copy_row(grad, place * features + c, tile, row)
        else:
            tile[row * COLUMNS : (row + 1) * COLUMNS] = 0
        x += 1
        if x == geometry.width:
            line, x = line + 1, 0
