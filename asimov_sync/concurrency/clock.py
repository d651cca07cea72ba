"""The clock: the one place where the library reads the time for time-outs, waits and expiry.

`asimov_sync.testing.Clock` moves it forward. The functions are attributes of an object, bound at
import: programs that freeze time replace the functions of modules and would stop every time-out.
"""

import time
from typing import Callable

__all__ = ["MonotonicClock", "clock"]


class MonotonicClock:
    """Monotonic time in seconds.

    monotonic: returns the time of deadlines, timers, retries, leases and expiry. A test may replace
        it.
    real: returns the time of the machine. Waits for sockets use it, as a test cannot shorten them.
    """

    __slots__ = ("_epoch_seconds", "monotonic", "real")

    def __init__(self) -> None:
        self.real: Callable[[], float] = time.monotonic
        self.monotonic: Callable[[], float] = time.monotonic
        self._epoch_seconds: Callable[[], float] = time.time

    def epoch_ms(self) -> int:
        """Return the milliseconds since 1970, which the processes of a machine can compare.

        A test that moves `monotonic` moves this time by as much.
        """
        moved = 0.0 if self.monotonic is self.real else self.monotonic() - self.real()
        return int((self._epoch_seconds() + moved) * 1000)


clock = MonotonicClock()
"""The clock of the process."""
