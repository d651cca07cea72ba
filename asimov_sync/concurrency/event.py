"""An event whose wait can be interrupted by Ctrl-C."""

import queue
from typing import Optional

from asimov_sync.concurrency.timers import MAX_WAIT

__all__ = ["InterruptibleEvent"]


class InterruptibleEvent:
    """Like `threading.Event`, but safe to interrupt. Once set, it stays set.

    `threading.Event` is made of a Condition. If Ctrl-C strikes inside its `wait`, the lock of the
    Condition may be left released, and the KeyboardInterrupt is lost in a RuntimeError about that.
    The `get` of a SimpleQueue is one C call and has no such state. Its `put` never blocks, so `set`
    is safe in signal handlers and destructors.
    """

    __slots__ = ("__weakref__", "_is_set", "_wake_ups")

    def __init__(self) -> None:
        self._is_set = False
        self._wake_ups: "queue.SimpleQueue[None]" = queue.SimpleQueue()

    def set(self) -> None:
        """Set the event and wake every waiter."""
        self._is_set = True
        self._wake_ups.put(None)

    def is_set(self) -> bool:
        """Return True if the event is set."""
        return self._is_set

    def wait(self, timeout: Optional[float] = None) -> bool:
        """Wait until the event is set.

        timeout: seconds to wait at most, cut to `MAX_WAIT`; a negative number counts as 0. None
            (the default): no limit.

        Returns True if the event is set, False on timeout.
        """
        if self.is_set():
            return True
        try:
            self._wake_ups.get(
                timeout=None if timeout is None else min(max(0.0, timeout), MAX_WAIT)
            )
        except queue.Empty:
            pass
        finally:
            if self.is_set():  # pass the wake-up on to the next waiter, also on Ctrl-C
                self._wake_ups.put(None)
        return self._is_set
