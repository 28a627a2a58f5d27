"""Ending a run on request: between two batches, with a checkpoint."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from snnrun import ranks
from snnrun.tracking import Stop

log = logging.getLogger(__name__)


class Interrupt:
    """Turns the first SIGINT or SIGTERM into a request, looked at between batches."""

    def __init__(self) -> None:
        self._requested = False

    def requested(self) -> bool:
        """Whether any rank was asked to stop; all of them ask this at the same points of a run."""
        return ranks.any_of(self._requested)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside; a second one acts at once. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self._request) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)

    def _request(self, number: int, frame: object) -> None:
        if self._requested:
            raise Stop(f"stopped by a second {signal.Signals(number).name}")
        self._requested = True
        log.warning("stopping after this batch; repeat the command to continue")
