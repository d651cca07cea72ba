"""Blocking calls for coroutines: the threads of one facade, and the end of cancelled calls.

A call that may block without a bound (a mailbox, a stream, a run) gets a dedicated thread. Such
calls therefore never delay another call; one call too many raises an error instead of a deadlock.
Short calls share a small pool. None of these threads belongs to the event loop's own executor,
which other code needs, for example to resolve host names.

The threads do not use event loops. A thread completes a `concurrent.futures.Future`, which notifies
the waiting coroutine through the coroutine's loop if that loop is still open.
"""

import asyncio
import concurrent.futures
import weakref
from typing import Any, Callable, List, Optional, Set, TypeVar

from asimov_sync.aio.dedicated_thread import END_TIMEOUT, DedicatedThread
from asimov_sync.aio.futures import (
    OnOrphan,
    call_once,
    get_loop,
    pass_orphaned_result,
    wrap_future,
)
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.concurrency.timers import timers
from asimov_sync.errors import ClosedError, WorkersExhausted

__all__ = ["MAX_THREADS", "ThreadBridge"]

logger = get_logger("asimov_sync.aio")

MAX_THREADS = 256
"""The default limit of blocking calls of one facade. A waiting thread takes about 50 KB."""

SHORT_THREADS = 8
"""The number of short calls of one facade that run at the same time; further ones are queued."""

LOOP_TURN_TIMEOUT = 0.1
"""The longest wait, in seconds, for one turn of the event loop between two starts of threads."""

CHECK_SECONDS = 1.0
"""Seconds between the checks for event loops that were closed during a call."""

CLOSED = "the async facade was closed"

T = TypeVar("T")


class _OpenThreads(ForkSafeLock):
    """The open threads of a bridge, and whether it is closed. A forked child starts with none.

    checking: whether a timer is set that checks their event loops.
    """

    __slots__ = ("checking", "closed", "open")

    def reset(self) -> None:
        super().reset()
        self.open: Set[DedicatedThread] = set()
        self.checking = False
        self.closed = getattr(self, "closed", False)


class ThreadBridge:
    """The threads of one facade. Belongs to no event loop: several loops may use it at once.

    max_threads: the maximum number of dedicated threads (default: MAX_THREADS).
    """

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        if max_threads < 1:
            raise ValueError(f"max_threads must be at least 1, not {max_threads}")
        self.limit = max_threads
        self._dedicated_pool = WorkerPool(None, name="asimov-aio-wait")
        self._short_pool = WorkerPool(SHORT_THREADS, name="asimov-aio")
        # One starter for each event loop.
        self._starters: "weakref.WeakKeyDictionary[Any, WorkerPool]" = weakref.WeakKeyDictionary()
        self._threads = _OpenThreads()
        self._closing: "concurrent.futures.Future[None]" = concurrent.futures.Future()

    @property
    def open_threads(self) -> int:
        """The number of dedicated threads in use."""
        return len(self._threads.open)

    async def run_short(
        self, function: Callable[..., T], *args: Any, on_orphan: OnOrphan = None
    ) -> T:
        """Make a call that takes a bounded time, and return its result.

        If the coroutine is cancelled, a queued call is not made and a running one continues.

        on_orphan: called with the result if it arrives after the coroutine was cancelled.
        """
        self._check_open()
        on_orphan = call_once(on_orphan)
        future: "concurrent.futures.Future[T]" = self._short_pool.submit(function, *args)
        try:
            await wrap_future(future, lambda: pass_orphaned_result(future, on_orphan))
        except asyncio.CancelledError:
            if not future.cancel():
                self.run_in_background(pass_orphaned_result, future, on_orphan)
            raise
        return future.result()

    async def run_blocking(
        self,
        function: Callable[..., T],
        *args: Any,
        cancellation: Optional[Cancellation] = None,
        unblock: Optional[Callable[[], Any]] = None,
        on_orphan: OnOrphan = None,
    ) -> T:
        """Make a call that may block without a bound, and return its result.

        If the coroutine is cancelled, the call is ended.

        cancellation: a token that ends the call, too; by default the current one.
        unblock: ends the call if cancelling the token does not.
        on_orphan: called with the result if it arrives after the coroutine was cancelled.
        """
        thread = None
        try:
            thread = self.open_thread(cancellation)
            thread.unblock = unblock
            return await thread.call(lambda: function(*args), on_orphan)
        finally:
            if thread is not None:
                thread.finish()

    def open_thread(self, cancellation: Optional[Cancellation] = None) -> DedicatedThread:
        """Start a thread for consecutive calls. Raises WorkersExhausted if there are too many."""
        thread = DedicatedThread(cancellation, self.run_in_background, self._defer, self._release)
        timers.start()  # here, because a destructor that needs them must not start a thread
        with self._threads.lock:
            self._check_open()
            if len(self._threads.open) >= self.limit and len(self._active()) >= self.limit:
                raise WorkersExhausted(
                    f"{self.limit} streams, runs or mailboxes wait at once, and to_async(…, "
                    f"max_threads={self.limit}) has no thread for another: close unused streams, "
                    "or raise max_threads"
                )
            self._threads.open.add(thread)
            self._schedule_check()
        try:
            self._start(thread.serve, thread.fail)
        except BaseException:
            self._release(thread)
            raise
        return thread

    def run_in_background(
        self, function: Callable[..., Any], *args: Any
    ) -> "concurrent.futures.Future[Any]":
        """Make a call that may block on an extra thread, which does not count towards the limit.

        Returns a future that is done, without a result, when the call has ended. Exceptions are
        logged.
        """
        done: "concurrent.futures.Future[Any]" = concurrent.futures.Future()

        def call() -> None:
            try:
                function(*args)
            except Exception:
                logger.exception("an async facade could not end a blocking call")
            finally:
                done.set_result(None)

        try:
            self._start(call, lambda error: done.set_result(None))
        except ClosedError:  # closing the bridge has ended the blocking calls already
            done.set_result(None)
        return done

    def _active(self) -> List[DedicatedThread]:
        """Return the threads that may get more calls. Call it with the lock held.

        Also interrupts the threads whose event loops were closed.
        """
        for thread in self._threads.open:
            if thread.loop.is_closed() and not thread.released:
                thread.released = True
                self._defer(thread.interrupt, "its event loop was closed")
        return [thread for thread in self._threads.open if not thread.released]

    def _schedule_check(self) -> None:
        """Check in a while whether the event loops are open. Call it with the lock held.

        A loop that is closed without `asyncio.run` cancels none of its coroutines.
        """
        if not self._threads.checking:
            self._threads.checking = True
            check = weakref.WeakMethod(self._check_loops)
            timers.call_at(clock.monotonic() + CHECK_SECONDS, lambda: (check() or int)())

    def _check_loops(self) -> None:
        with self._threads.lock:
            self._threads.checking = False
            self._active()
            if self._threads.open:
                self._schedule_check()

    def _release(self, thread: DedicatedThread) -> None:
        """Free the slot of a thread that has ended, or is about to."""
        with self._threads.lock:
            self._threads.open.discard(thread)

    def _defer(self, function: Callable[..., Any], *args: Any) -> None:
        """Make a call that may block, from code that must take no lock and has no event loop."""

        def submit() -> None:
            try:
                self._dedicated_pool.submit(function, *args)
            except ClosedError:
                pass  # closing the bridge has ended the blocking calls already

        timers.call_at(0.0, submit)

    def _start(self, function: Callable[[], Any], on_error: Callable[[Exception], Any]) -> None:
        """Call a function on a thread of its own; call `on_error` if no thread can be started.

        Another thread does this, because starting a thread blocks until the new one runs. It starts
        one thread for each turn of the event loop: many new threads at once would keep the
        interpreter's lock from the loop's thread. Two hundred streams that were opened together
        delayed the loop by half a second.
        """
        loop = get_loop()

        def start() -> None:
            try:
                self._dedicated_pool.submit(function)
            except Exception as error:
                on_error(error)
            turn = InterruptibleEvent()
            try:
                loop.call_soon_threadsafe(turn.set)
            except RuntimeError:
                return  # the loop is closed
            turn.wait(LOOP_TURN_TIMEOUT)  # after that, the loop is busy with other work

        with self._threads.lock:
            starter = self._starters.get(loop)
            if starter is None:
                starter = self._starters[loop] = WorkerPool(1, name="asimov-aio-start")
        starter.submit(start)

    # Closing

    def _check_open(self) -> None:
        get_loop()  # raises outside of asyncio, before a call is made
        if self._threads.closed:
            raise ClosedError(f"{CLOSED}: make a new one with to_async()")

    async def close(self, function: Callable[[], Any]) -> None:
        """End all blocking calls, then call a function, and accept no more calls.

        Closing continues even if the coroutine is cancelled.

        function: closes the object behind the facade.
        """
        with self._threads.lock:
            first, self._threads.closed = not self._threads.closed, True
        if first:
            self._dedicated_pool.submit(self._close, function)
        await wrap_future(self._closing)
        self._closing.result()

    def _close(self, function: Callable[[], Any]) -> None:
        try:
            with self._threads.lock:
                threads, starters = list(self._threads.open), list(self._starters.values())
            for starter in starters:  # wait until each starter has done its pending starts
                starter.submit(int).result(len(threads) * LOOP_TURN_TIMEOUT + END_TIMEOUT)
            for thread in threads:
                thread.interrupt(CLOSED)
                thread.finish()
            concurrent.futures.wait([thread.finished for thread in threads], END_TIMEOUT)
            function()
        except BaseException as error:
            self._closing.set_exception(error)
        else:
            self._closing.set_result(None)
        finally:
            for pool in [self._short_pool, self._dedicated_pool] + starters:
                pool.shutdown(wait=False)

    def __repr__(self) -> str:
        return f"{self.open_threads} of {self.limit} threads"
