"""Threads of compiled kernels: as many as torch uses, started once per process.

They are ours and not numba's, whose threading layers abort the process after a fork or when two
threads enter at once. The compiled code releases the interpreter lock.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")
CUT = 512  # values at whose multiples they are divided among threads


def spread(items: int, work: Callable[[int, int], T]) -> list[T]:
    """Call ``work(lo, hi)`` on one range of the items per thread; the results in order."""
    workers = max(1, min(torch.get_num_threads(), items))
    cuts = [items * i // workers for i in range(workers + 1)]
    if workers == 1:
        return [work(0, items)]
    return list(_pool(workers, os.getpid()).map(work, cuts[:-1], cuts[1:]))


def split(values: int, work: Callable[[int, int], T], cut: int = CUT) -> list[T]:
    """`spread` of a number of values, cut at multiples of ``cut`` only."""
    return spread(-(-values // cut), lambda lo, hi: work(lo * cut, min(hi * cut, values)))


@lru_cache(maxsize=1)
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """One pool per process: the threads of a forked process' parent do not run in it."""
    return ThreadPoolExecutor(workers, thread_name_prefix=f"kernels-{process}")
