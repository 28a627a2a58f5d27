"""A queue to something that may be away for a while: in order, in one thread, nothing lost."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Item = TypeVar("Item")


class Outbox(Generic[Item]):
    """Sends items in the background; an item stays until `send` has returned for it.

    After a failure nothing is sent until the next `put` or `flush`, so an outage costs one
    attempt per item and not a loop of them. It is warned of once, and once when it is over.
    """

    def __init__(self, send: Callable[[Item], object]) -> None:
        self._send = send
        self._waiting: deque[Item] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._job: Future[Exception | None] | None = None
        self._lost = False

    def put(self, item: Item) -> None:
        """Send an item without waiting."""
        self._waiting.append(item)
        if self._job is None or self._job.done():  # else an outage piles up attempts
            self._job = self._thread.submit(self._deliver)

    def waiting(self) -> list[Item]:
        """Items not yet confirmed, oldest first."""
        return list(self._waiting.copy())  # copy() is atomic, iterating beside the thread is not

    def flush(self) -> Exception | None:
        """Wait for one attempt at all that is waiting; the error when some of it stays."""
        return self._thread.submit(self._deliver).result()

    def close(self) -> None:
        """Try once more to send what is waiting, then end the thread."""
        self.flush()
        self._thread.shutdown()

    def _deliver(self) -> Exception | None:
        while self._waiting:
            try:
                self._send(self._waiting[0])
            except Exception as error:  # whatever the reason, the item is kept and reported
                if not self._lost:
                    log.warning("Not delivered (%s); kept, the run goes on", cause(error))
                self._lost = True
                return error
            self._waiting.popleft()
            if self._lost:
                log.warning("Delivered again")
            self._lost = False
        return None


def cause(error: BaseException, handled: BaseException | None = None) -> str:
    """First line of the innermost error, where `Connection refused` stands.

    Args:
        error: what was raised.
        handled: what was being handled before; Python chains it to `error`, but it is no cause.
    """
    while (inner := error.__cause__ or error.__context__) and inner is not handled:
        error = inner
    return (str(error).splitlines() or [type(error).__name__])[0]
