"""Machine code kept on disk for the next process, also where several processes compile at once.

Numba counts the files of a function's signatures in an index that it reads, changes and writes
back. Two processes that add a signature each at the same time, one in single and one in double
precision, can leave the index of the one with the code of the other: every later process that
wants it fails. So they take turns.

Code is kept as long as the file of its function is as it was. What it calls from other files has
become part of it, so here all files of the kernels have to be as they were.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from filelock import FileLock

KERNELS = Path(__file__).parents[1]  # all folders of them


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use, keeping the machine code on disk where there is a place for it."""
    return _kept(function)


def contracted(function: Callable[..., Any]) -> Any:
    """`compiled`, with multiply and add rounded once: faster, not bit by bit what torch does.

    Not for a sum of two products: either can be fused with the addition, and the process that
    compiles and those that load its code would not choose the same one.
    """
    return _kept(function, fastmath={"contract"})


def summed(function: Callable[..., Any], **how: Any) -> Any:
    """`contracted`, with sums taken in any order, hence in vector registers.

    Args:
        function: what is compiled.
        how: further options of `numba.njit`.
    """
    return _kept(function, fastmath={"contract", "reassoc"}, **how)


def _kept(function: Callable[..., Any], **how: Any) -> Any:
    how |= {"nogil": True, "error_model": "numpy"}
    try:
        compiled = numba.njit(cache=True, **how)(function)
    except RuntimeError:  # neither the package nor the user's cache folder can be written
        return numba.njit(**how)(function)
    files = compiled._cache._cache_file
    files._source_stamp = (files._source_stamp, _stamp())
    files.save, files.load = (_in_turn(files, call) for call in (files.save, files.load))
    return compiled


@cache
def _stamp() -> tuple[float, int]:
    """When the newest file of the kernels was written, and how large they are together."""
    files = [file.stat() for file in KERNELS.rglob("*.py")]
    return max((f.st_mtime for f in files), default=0.0), sum(f.st_size for f in files)


def _in_turn(files: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def alone(*arguments: Any) -> Any:
        with FileLock(Path(files._cache_path) / "kept.lock"):
            return call(*arguments)

    return alone
