"""The one entry to the multi-step kernels: chooses a backend and gives it its gradient."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snnrun.kernels.compiled.compiling import COMPILED_FROM
from snnrun.kernels.lif import eager
from snnrun.kernels.lif.parameters import LIFParameters, State


def lif(current: Tensor, state: State | None, parameters: LIFParameters) -> tuple[Tensor, State]:
    """Leaky integrate-and-fire units over a chunk of time.

    Gradients flow to the current, to trained constants and to the incoming state; detach the state
    to truncate them. Half-precision currents are integrated in single precision, where a membrane
    near the threshold does not flip its spike by rounding; the state is then single precision, too.

    Args:
        current: [T', B, ...] input of the next T' >= 1 steps; an expanded view over time is read
            as it is.
        state: what the previous chunk returned; None at the start of a sequence.
        parameters: constants of the units.

    Returns:
        Spikes, 0 or 1, of the shape and type of the current, and the state after the chunk.

    Raises:
        ValueError: when the state belongs to a batch of another shape, type or device.
    """
    spikes, after, _ = _run(current, state, parameters, counted=False)
    return spikes, after


def counted_lif(
    current: Tensor, state: State | None, parameters: LIFParameters
) -> tuple[Tensor, State, Tensor]:
    """`lif`, which also returns how many spikes of the chunk each unit has, [B, ...].

    The counts are of the state's type. Their gradient, the same for all steps, is not written out
    for each of them.
    """
    spikes, after, counts = _run(current, state, parameters, counted=True)
    assert counts is not None
    return spikes, after, counts


def _run(
    current: Tensor, state: State | None, parameters: LIFParameters, *, counted: bool
) -> tuple[Tensor, State, Tensor | None]:
    if current.dtype == torch.float16 or (current.dtype == torch.bfloat16 and not _reads(current)):
        spikes, after, counts = _run(current.float(), state, parameters, counted=counted)
        return spikes.to(current.dtype), after, counts
    if state is not None:
        _check(current, state)
    if _channels_last(current):  # the kernels see plain rows, the caller's layout is kept
        inner = None if state is None else _moved(state, 1, -1)
        spikes, after, counts = _run(current.movedim(2, -1), inner, parameters, counted=counted)
        counts = None if counts is None else counts.movedim(-1, 1)
        return spikes.movedim(-1, 2), _moved(after, -1, 1), counts
    state = state or _start(current, parameters)
    sources = (current, *state, *parameters.recursion)
    if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in sources):
        spikes, membrane, counts = _LIF.apply(parameters, counted, *sources)
    else:
        counts = _none_yet(state) if counted else None
        spikes, membrane, _ = _backend(current).forward(
            current, state.membrane, parameters, keep=False, held=state.held, counts=counts
        )
    return spikes, State(membrane, None if state.held is None else current[-1]), counts


def _moved(state: State, source: int, target: int) -> State:
    """The state with one dimension of its tensors moved."""
    held = None if state.held is None else state.held.movedim(source, target)
    return State(state.membrane.movedim(source, target), held)


def _reads(current: Tensor) -> bool:
    """Whether the kernel takes bfloat16 as it is, and widens it on its way in."""
    return _backend(current) is not eager


def _backend(current: Tensor) -> ModuleType:
    """The kernel for the device; eager for few units on a CPU, as compiled code takes a second."""
    if current.device.type == "cpu" and current.numel() >= COMPILED_FROM:
        from snnrun.kernels.lif import cpu

        return cpu
    if current.device.type == "cuda" and find_spec("triton") is not None:
        return import_module("snnrun.kernels.lif.cuda")  # by name: type checkers need no triton
    return eager


def _channels_last(current: Tensor) -> bool:
    """Whether the maps [T', B, C, H, W] lie in memory with their channels innermost."""
    if current.dim() != 5 or current.is_contiguous():
        return False
    frame = current[0]
    return not frame.is_contiguous() and frame.is_contiguous(memory_format=torch.channels_last)


def _start(current: Tensor, parameters: LIFParameters) -> State:
    frame = current[0]
    return State(
        _zeros(frame.shape, _state_type(current), current.device),
        _zeros(frame.shape, current.dtype, current.device) if parameters.delay else None,
    )


def _none_yet(state: State) -> Tensor:
    """The counts before the first step."""
    return state.membrane.new_zeros(state.membrane.shape)


def _zeros(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An expanded zero, for which kernels need not read memory."""
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def _state_type(current: Tensor) -> torch.dtype:
    return torch.float32 if current.dtype == torch.bfloat16 else current.dtype


def _check(current: Tensor, state: State) -> None:
    found, shape, dtype = state.membrane, current.shape[1:], _state_type(current)
    if (found.shape, found.dtype, found.device) != (shape, dtype, current.device):
        raise ValueError(
            f"the state is {tuple(found.shape)} {found.dtype} on {found.device}, the current is "
            f"{tuple(shape)} {dtype} on {current.device}: reset() before a new batch"
        )


class _LIF(torch.autograd.Function):
    """One graph node for the whole chunk, whatever backend runs it."""

    @staticmethod
    def forward(
        ctx: Any,
        parameters: LIFParameters,
        counted: bool,
        current: Tensor,
        membrane: Tensor,
        held: Tensor | None,
        *recursion: Tensor | float,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The constants of the recursion are given beside the parameters to be in the graph."""
        backend = _backend(current)
        counts = _none_yet(State(membrane, held)) if counted else None
        spikes, membrane, kept = backend.forward(
            current, membrane, parameters, keep=True, held=held, counts=counts
        )
        ctx.save_for_backward(*kept)
        ctx.set_materialize_grads(False)
        ctx.parameters, ctx.backend = parameters, backend
        ctx.outputs = [(x.shape, x.dtype, x.device) for x in (spikes, membrane)]
        return spikes, membrane, counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *above, grad_counts = grads
        known = zip(above, ctx.outputs, strict=True)
        above = [_zeros(*output) if grad is None else grad for grad, output in known]
        grad_current, grad_before, grad_held, grad_constants = ctx.backend.backward(
            ctx.saved_tensors, *above, ctx.parameters, grad_counts
        )
        needed = ctx.needs_input_grad[5:]
        each = (
            (None for _ in needed)
            if grad_constants is None
            else (grad if n else None for grad, n in zip(grad_constants, needed, strict=True))
        )
        return None, None, grad_current, grad_before, grad_held, *each
