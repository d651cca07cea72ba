"""An event whose wait can be interrupted by Ctrl-C, and that follows the library's clock."""

import queue
import threading
from typing import Dict, List, Optional

from asimov_sync.concurrency.clock import clock

__all__ = ["InterruptibleEvent", "list_waits", "wake_waits"]

POLL_SECONDS = 0.2
"""The longest uninterrupted wait of the main thread, which runs the signal handlers.

A signal that arrives just before the thread blocks does not interrupt the wait. On Windows, no
signal does.
"""

MAX_WAIT = 1e6
"""Longest uninterrupted wait in seconds. A lock refuses an infinite or very long time-out."""

_waits: "Dict[int, queue.SimpleQueue[None]]" = {}
"""By thread ident, the queues of the threads whose time-outs follow the clock."""


class InterruptibleEvent:
    """Like `threading.Event`, but safe to interrupt. Once set, it stays set.

    `threading.Event` is made of a Condition. If Ctrl-C strikes inside its `wait`, the lock of the
    Condition may be left released, and a RuntimeError about that replaces the KeyboardInterrupt.
    The `get` of a SimpleQueue is one C call and has no such state. Its `put` never blocks, so `set`
    is safe in signal handlers and destructors.
    """

    __slots__ = ("__weakref__", "_is_nudged", "_is_set", "_wake_ups")

    def __init__(self) -> None:
        self._is_set = False
        self._is_nudged = False
        self._wake_ups: "queue.SimpleQueue[None]" = queue.SimpleQueue()

    def set(self) -> None:
        """Set the event and wake every waiter."""
        self._is_set = True
        self._wake_ups.put(None)

    def nudge(self) -> None:
        """End the wait of one waiter, or the next one, without setting the event."""
        self._is_nudged = True
        self._wake_ups.put(None)

    def is_set(self) -> bool:
        """Return True if the event is set."""
        return self._is_set

    def wait(self, timeout: Optional[float] = None, *, follow_clock: bool = False) -> bool:
        """Wait until the event is set, or until `nudge` ends the wait early.

        timeout: seconds to wait at most; a negative number counts as 0. None (the default): no
            limit.
        follow_clock: measure the time-out on the library's clock, which a test may move forward;
            False by default: in real time.

        Returns True if the event is set, False on timeout and after a nudge.
        """
        if self.is_set():
            return True
        now = clock.monotonic if follow_clock else clock.real
        end = None if timeout is None else now() + timeout
        thread = threading.get_ident()
        longest = POLL_SECONDS if thread == threading.main_thread().ident else MAX_WAIT
        try:
            if follow_clock and end is not None:
                _waits[thread] = self._wake_ups
            while not self.is_set():
                left = longest if end is None else min(longest, end - now())
                if left <= 0 or self._is_nudged:
                    break
                try:
                    self._wake_ups.get(timeout=left)
                except queue.Empty:
                    pass
        finally:
            self._is_nudged = False
            _waits.pop(thread, None)
            if self.is_set():  # pass the wake-up on to the next waiter, also on Ctrl-C
                self._wake_ups.put(None)
        return self.is_set()


def list_waits() -> "List[queue.SimpleQueue[None]]":
    """Return an object for each thread that waits with a time-out that follows the clock."""
    return list(_waits.values())


def wake_waits() -> None:
    """Make the threads whose time-outs follow the clock check their time-outs again."""
    for wake_ups in list_waits():
        wake_ups.put(None)
