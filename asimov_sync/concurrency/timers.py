"""Timers: call functions at given times, on one daemon thread for the whole process.

The thread starts with the first timer. Functions that it calls must be short; longer work belongs
on a pool.
"""

import heapq
import itertools
import queue
import threading
from typing import Any, Callable, List, Optional, Tuple

from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import MAX_WAIT, InterruptibleEvent
from asimov_sync.concurrency.fork import reset_after_fork
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import ClosedError

__all__ = ["Timer", "TimerThread", "timers"]

logger = get_logger("asimov_sync.concurrency")

START_HINT = "end runs before the main thread ends, and limit the threads of the process"
"""The hint in the error of a thread that cannot start.

From Python 3.12 on, no thread starts once the main thread has ended.
"""

CATCH_UP_TIMEOUT = 5.0
"""Seconds that `catch_up` waits for the functions of due timers, which should be short."""

_local = threading.local()


class TimerThread:
    """Calls functions at given times, on one daemon thread.

    An exception of a function is logged and does not affect other timers. Only the thread itself
    holds the pending timers. Other threads reach it through a queue, so timers can be set in signal
    handlers and destructors.
    """

    def __init__(self) -> None:
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Drop all timers and the thread; called in a forked child."""
        # Re-entrant, because the garbage collector may call a destructor that sets a timer while
        # the thread is being started.
        self._start_lock = threading.RLock()
        self._thread: Optional[threading.Thread] = None
        self._starting = False
        self._new: "queue.SimpleQueue[Tuple[float, int, Timer]]" = queue.SimpleQueue()
        self._counter = itertools.count()
        self._pending: List[Tuple[float, int, Timer]] = []  # a heap; only the thread changes it

    @property
    def next_number(self) -> int:
        """A number that is lower than those of all timers that are set from now on."""
        return next(self._counter)

    def count_pending(self, since: int) -> int:
        """Return how many timers have neither fired nor been cancelled.

        since: a `next_number`; timers with a lower number do not count.
        """
        pending = list(self._pending)  # copied in one step, since the thread changes the heap
        return sum(timer.function is not None and number > since for _, number, timer in pending)

    def call_at(self, when: float, function: Callable[[], Any]) -> "Timer":
        """Call `function()` at a given time.

        when: the time, as `clock.monotonic()` counts it.
        function: what to call, without arguments.

        Returns a Timer, whose `cancel()` prevents the call. Raises ValueError for NaN, which would
        break the order of the heap and block all later timers of the process.
        """
        if when != when:
            raise ValueError("the time of a timer is a number, not nan")
        timer = Timer(function)
        self._new.put((when, next(self._counter), timer))
        if not self.is_running:
            self.start()
        return timer

    @property
    def is_running(self) -> bool:
        """True if the thread is running.

        The thread ends if a function set by `threading.settrace` or `threading.setprofile` raises.
        The next timer then starts another thread, which has the pending timers as well.
        """
        return self._thread is not None and self._thread.is_alive()

    def catch_up(self) -> None:
        """Wait until the timers that are due have been called, after the clock was moved.

        Does not wait on the timer thread itself, nor longer than CATCH_UP_TIMEOUT.
        """
        if self.is_running:
            done = InterruptibleEvent()
            self.call_at(clock.monotonic(), done.set)
            if not self.on_timer_thread:
                done.wait(CATCH_UP_TIMEOUT)

    @property
    def on_timer_thread(self) -> bool:
        """True if the calling thread is this timer thread."""
        return getattr(_local, "timer_thread", None) is self

    def start(self) -> None:
        """Start the thread if it is not running.

        Call this early if timers will be set where starting a thread is unsafe, as in a destructor.
        Raises ClosedError if no thread can be started.
        """
        with self._start_lock:
            if self.is_running or self._starting:
                return
            self._starting = True
            try:
                thread = threading.Thread(target=self._run, name="asimov-timers", daemon=True)
                thread.start()
                self._thread = thread
            except RuntimeError as error:
                raise ClosedError(
                    f"the timer thread could not be started: {error}; {START_HINT}"
                ) from error
            finally:
                self._starting = False

    def _run(self) -> None:
        _local.timer_thread = self
        pending = self._pending
        purge_size = 64
        while True:
            wait = min(MAX_WAIT, max(0.0, pending[0][0] - clock.monotonic())) if pending else None
            try:
                heapq.heappush(pending, self._new.get(timeout=wait))
            except queue.Empty:
                pass
            if len(pending) > purge_size:  # most timers are cancelled long before their time
                pending[:] = [entry for entry in pending if entry[2].function is not None]
                heapq.heapify(pending)
                purge_size = 2 * len(pending) + 64
            while pending and pending[0][0] <= clock.monotonic():
                self._fire(heapq.heappop(pending)[2])

    def _fire(self, timer: "Timer") -> None:
        function, timer.function = timer.function, None
        if function is not None:
            try:
                function()
            except BaseException:  # SystemExit would end this thread and all timers of the process
                logger.exception("a timer failed")


class Timer:
    """A pending call of a TimerThread."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function: Optional[Callable[[], Any]] = function

    def cancel(self) -> None:
        """Prevent the call and release the function. Has no effect after the call."""
        self.function = None


timers = TimerThread()
"""The timer thread of the process."""
