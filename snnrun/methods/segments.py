"""Backpropagation through time that keeps the graph of one segment of the sequence at a time.

The steps run once without a graph; then the segments are run again from the state at their border,
last to first, each followed by its backward pass (Gruslys et al., NeurIPS 2016, arXiv 1606.03401).
Same gradient, one more forward pass; what is kept is the states at the borders and one graph.
"""

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from snnrun.errors import require
from snnrun.kernels.saved import spikes_as_bits
from snnrun.kits.norm import OVER_STEPS
from snnrun.kits.stepwise import Once
from snnrun.methods.base import Method, StepOutput, Update, sequence_step
from snnrun.models.network import Network
from snnrun.neurons.base import Stateful

Border = list[Tensor | None]  # of all that a net carries, in the order of `_carried`

_WHOLE = "its statistics are over all steps, not over a segment; use model.norm=sws or none"
REFUSES = dict.fromkeys(OVER_STEPS, _WHOLE)


def check_segments(segments: int, timesteps: int) -> None:
    """Refuse a number of segments that does not cut the steps into equal parts.

    Raises:
        ConfigError: naming the key.
    """
    require(
        segments >= 1 and timesteps % segments == 0,
        f"segments: {segments} does not cut timesteps: {timesteps} into equal parts; 1 is always "
        "possible",
    )


def learn_sequence(
    method: Method,
    net: Network,
    update: Update,
    x: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    *,
    segments: int,
) -> StepOutput:
    """One update on a loss of the outputs [T, B, C] of a whole sequence ``x`` [T, B, ...]."""
    if segments == 1:
        outputs = net(x)
        return sequence_step(loss_of(outputs), update, method.decode(outputs))
    update.zero()
    net.reset()
    once = Once(net)
    run = net.runner(x, once)
    chunks = x.split(len(x) // segments)
    borders, outputs = _look_ahead(net, run, chunks)
    loss = loss_of(outputs)
    loss.backward()
    assert outputs.grad is not None
    kept = _bytes([outputs, outputs.grad, *itertools.chain(*borders)])
    _backward(net, run, chunks, borders, outputs.grad)
    once.backward()
    update.step()
    return StepOutput(
        loss=loss.detach(),
        logits=method.decode(outputs.detach()),
        kept_bytes=kept + _bytes(once.tensors()),
    )


@torch.no_grad()
def _look_ahead(
    net: Network, run: Callable[[Tensor], Tensor], chunks: tuple[Tensor, ...]
) -> tuple[list[Border], Tensor]:
    """States before each chunk, and the outputs of all, as leaves."""
    borders, outputs = [], []
    for chunk in chunks:
        # Cloned: a state may be a view of a whole chunk's values.
        borders.append([None if t is None else t.clone().requires_grad_() for t in _state(net)])
        outputs.append(run(chunk))
    return borders, torch.cat(outputs).requires_grad_()


def _backward(
    net: Network,
    run: Callable[[Tensor], Tensor],
    chunks: tuple[Tensor, ...],
    borders: list[Border],
    grad: Tensor,
) -> None:
    """Gradients of the parameters for those of the outputs; uses the borders up."""
    grads = grad.split(len(chunks[0]))
    grad_state: Border = [None] * len(borders[-1])
    for chunk, grad_output in zip(reversed(chunks), reversed(grads), strict=True):
        border = borders.pop()
        for (part, name), value in zip(_carried(net), border, strict=True):
            setattr(part, name, value)
        with spikes_as_bits(chunk):
            output = run(chunk)
        ends = zip([output, *_state(net)], [grad_output, *grad_state], strict=True)
        reached = [(t, g) for t, g in ends if t is not None and t.requires_grad and g is not None]
        torch.autograd.backward([t for t, _ in reached], [g for _, g in reached])
        grad_state = [None if t is None else t.grad for t in border]


def _bytes(kept: Iterable[Tensor | None]) -> int:
    return sum(0 if t is None else t.untyped_storage().nbytes() for t in kept)


def _carried(net: Network) -> list[tuple[Stateful, str]]:
    parts = [part for part in net.modules() if isinstance(part, Stateful)]
    return [(part, name) for part in parts for name in part.carried]


def _state(net: Network) -> Border:
    return [getattr(part, name) for part, name in _carried(net)]
