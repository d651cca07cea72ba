"""Clock: moves the library's time forward, so that tests of time-outs do not wait for them."""

import time
from typing import Any, List

from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import list_waits, wake_waits
from asimov_sync.concurrency.timers import timers

__all__ = ["Clock"]

POLL_SECONDS = 0.001


class Clock:
    """Moves the time of time-outs, waits, leases and expiry forward.

    Use it in a `with` block::

        with Clock() as clock:
            run = scheduler.submit(graph, timeout=60)
            clock.advance(60)
            assert run.result().status is TaskStatus.FAILED

    It drives the time-outs of runs, tasks and Cancellation tokens; the waits of retries, rate
    limits and `Cancellation.wait`; and the expiry and leases of a MemoryCache or SQLiteCache. Time
    also passes by itself, so nothing waits longer than without a Clock. Waits for a socket keep
    real time: connect and idle time-outs of requests, and calls of a RedisCache, whose leases and
    expiry the server measures.

    It moves the time of the whole process, and restores it at the end of the block. End all runs
    and waits of the block before that.
    """

    def __init__(self) -> None:
        self._offset = 0.0
        self._first_timer = 0
        self._earlier_waits: List[Any] = []

    def __enter__(self) -> "Clock":
        """Raises RuntimeError if another Clock is in use in this process."""
        if clock.monotonic is not clock.real:
            raise RuntimeError("another testing.Clock is in use in this process")
        self._first_timer, self._earlier_waits = timers.next_number, list_waits()
        clock.monotonic = lambda: clock.real() + self._offset
        return self

    def __exit__(self, *exc_info: Any) -> None:
        clock.monotonic = clock.real
        timers.catch_up()
        wake_waits()

    def advance(self, seconds: float) -> None:
        """Move the time forward.

        seconds: how far; not negative.

        The time-outs that are due by then have been applied when this returns. The threads that
        they unblock, and retried handlers, continue on their own. A wait that begins later counts
        from the new time: call `block_until` first if a thread must already be waiting.

        Raises ValueError for a negative number, and RuntimeError outside of the `with` block.
        """
        if not seconds >= 0:
            raise ValueError(f"the time can only be moved forward, not by {seconds!r} s")
        if clock.monotonic is clock.real:
            raise RuntimeError("advance() moves the time only inside `with Clock() as clock:`")
        self._offset += seconds
        timers.catch_up()
        wake_waits()

    @property
    def waiting(self) -> int:
        """Number of time-outs and waits that began in the block and are pending.

        Each run, task, stream or retry with a time-out counts, and each blocked wait that has one.
        """
        waits = [wait for wait in list_waits() if wait not in self._earlier_waits]
        return len(waits) + timers.count_pending(self._first_timer)

    def block_until(self, waiting: int, timeout: float = 10.0) -> None:
        """Wait, in real time, until at least this many time-outs and waits are pending.

        waiting: the number to reach; see the property of that name.
        timeout: real seconds to wait at most; 10 by default.

        Raises TimeoutError if the number is not reached.
        """
        end = clock.real() + timeout
        while self.waiting < waiting:
            if clock.real() >= end:
                raise TimeoutError(f"{self.waiting} waits are pending, not {waiting}")
            time.sleep(POLL_SECONDS)
