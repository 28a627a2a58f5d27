"""One run on several processes, ranks, that share every batch and keep equal weights.

Each rank takes its rows of a batch (`take`). Whatever is a mean over rows becomes that of the batch
by `average`: gradients before an update, the statistics of batch norm. So the result is that of one
process, up to rounding, whatever the number of ranks. Random numbers are drawn for the whole batch
on every rank, which keeps the generators alike. A process by itself is all ranks there are:
outside `joined` every function here is the identity.
"""

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from snnrun.errors import UserError

# The others wait while the first evaluates; a rank that has ended is noticed at once anyhow.
PATIENCE = timedelta(days=1)

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """The rows of a batch that are this rank's.

    With fewer rows than ranks some have none; they compute the first row as a stand-in, which
    counts nothing, because every rank has to take part in every exchange.

    Attributes:
        batch: rows of the whole batch.
        count: own rows, 0 for a stand-in.
        rows: where they are, or the stand-in.
    """

    batch: int
    count: int
    rows: slice


class _Team:
    """This rank among all, and its part of the current batch."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self.part = Part(size, 1, slice(0, 1))  # one row each until the first batch

    def take(self, batch: int) -> Part:
        first, end = (r * batch // self.size for r in (self.rank, self.rank + 1))
        rows = slice(first, end) if first < end else slice(0, 1)
        self.part = Part(batch, end - first, rows)
        return self.part


_team: _Team | None = None


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that torchrun has started; all but the first log errors only.

    A user's mistake is said by the rank that meets it first, and the others end without a word.

    Raises:
        SystemExit: for a UserError, exit code 1.
    """
    global _team
    store, rank, size = next(iter(dist.rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    _team = _Team(rank, size)
    if rank:
        logging.disable(logging.WARNING)
    try:
        yield
    except BaseException as error:
        first = store.add("snnrun/ended", 1) == 1
        if not isinstance(error, UserError):
            raise
        if first:  # at once, as torchrun is about to end all that are left
            sys.stderr.write(f"error: {error}\n")
        raise SystemExit(1) from error
    else:
        dist.destroy_process_group()
    finally:
        _team = None


def several() -> bool:
    """Whether there are other processes, or could be."""
    return _team is not None


def count() -> int:
    """Number of ranks."""
    return 1 if _team is None else _team.size


def leads() -> bool:
    """Whether this is the rank that evaluates, records and saves."""
    return _team is None or _team.rank == 0


def take(batch: int) -> Part:
    """This rank's part of the next batch, by which the functions below weigh until another."""
    return Part(batch, batch, slice(0, batch)) if _team is None else _team.take(batch)


def average(t: Tensor) -> Tensor:
    """Mean over the rows of the batch from that of this rank's rows; differentiable.

    Backward it is itself: each rank's gradient is that of its own mean loss, and the gradient of
    the batch's mean loss is the average of those.
    """
    return t if _team is None else _Average.apply(t)


def average_gradients(parameters: Iterable[Tensor]) -> None:
    """Make gradients of this rank's mean loss those of the batch's, in place."""
    if _team is None:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return
    whole = _averaged(torch.cat([grad.flatten() for grad in grads]))
    for grad, part in zip(grads, whole.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def unit() -> float:
    """What gradients of this rank's mean loss are multiplied by to be those of the batch's.

    1 for a stand-in, so that it can be divided by.
    """
    return 1.0 if _team is None or not _team.part.count else _team.part.count / _team.part.batch


def in_batch(n: int) -> int:
    """Values in the whole batch when this rank's rows, or its stand-in, have ``n``."""
    return n if _team is None else n * _team.part.batch // max(_team.part.count, 1)


def norm(t: Tensor) -> Tensor:
    """Euclidean norm of a tensor over the rows of all ranks."""
    if _team is None:
        return t.norm()
    return _reduced(_counting(t).square().sum()).sqrt()


def largest(t: Tensor) -> Tensor:
    """Largest value of a tensor over the rows of all ranks."""
    if _team is None:
        return t.max()
    own = t.max() if _team.part.count else t.new_tensor(-torch.inf)
    return _reduced(own.clone(), dist.ReduceOp.MAX)


def rand(rows: Tensor) -> Tensor:
    """Uniform in [0, 1) for this rank's rows [B, ...], cut from the draws for the whole batch."""
    if _team is None:
        return torch.rand(rows.shape, device=rows.device, dtype=rows.dtype)
    part = _team.part
    shape = (part.batch, *rows.shape[1:])
    return torch.rand(shape, device=rows.device, dtype=rows.dtype)[part.rows]


def total(t: Tensor) -> Tensor:
    """Sum over the ranks."""
    return t if _team is None else _reduced(t.clone())


def least(t: Tensor) -> Tensor:
    """Minimum over the ranks."""
    return t if _team is None else _reduced(t.clone(), dist.ReduceOp.MIN)


def any_of(flag: bool) -> bool:
    """Whether any rank says so; all have to ask at the same point, and wait for each other."""
    if _team is None:
        return flag
    return bool(_reduced(torch.tensor(int(flag)), dist.ReduceOp.MAX))


def from_leader(value: T | None) -> T:
    """The first rank's value, whatever the others give."""
    box: list[Any] = [value]
    if _team is not None:
        with _reaching():
            dist.broadcast_object_list(box)
    return box[0]


@contextmanager
def leader_first() -> Iterator[None]:
    """Let the first rank through before the others, who find done what is done once."""
    if not leads():
        any_of(False)
    yield
    if leads():
        any_of(False)


class _Average(Function):
    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        return _averaged(t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _averaged(grad)


def _averaged(t: Tensor) -> Tensor:
    assert _team is not None
    return _reduced(t * (_team.part.count / _team.part.batch))


def _counting(t: Tensor) -> Tensor:
    """Zero of a stand-in."""
    assert _team is not None
    return t if _team.part.count else torch.zeros_like(t)


def _reduced(t: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    with _reaching():
        dist.all_reduce(t, op)
    return t


@contextmanager
def _reaching() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise UserError("another process of this run has ended; repeat the command") from error
