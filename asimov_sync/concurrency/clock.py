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
    real: returns the time of the machine. Waits for sockets use it, since they cannot be moved.
    """

    __slots__ = ("monotonic", "real")

    def __init__(self) -> None:
        self.real: Callable[[], float] = time.monotonic
        self.monotonic: Callable[[], float] = time.monotonic


clock = MonotonicClock()
"""The clock of the process."""
