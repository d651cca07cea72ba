"""A thread that makes the blocking calls of one coroutine, stream or run, one after the other."""

import asyncio
import concurrent.futures
import queue
from typing import Any, Callable, Optional, Tuple, TypeVar

from asimov_sync.aio.futures import (
    OnOrphan,
    call_once,
    get_loop,
    pass_orphaned_result,
    wait_briefly,
    wrap_future,
)
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import Cancelled

__all__ = ["COROUTINE_CANCELLED", "END_TIMEOUT", "DedicatedThread"]

END_TIMEOUT = 1.0
"""Seconds that a cancelled coroutine waits for the end of its blocking call. The call ends within
milliseconds, unless it ignores its cancellation.
"""

COROUTINE_CANCELLED = "the coroutine was cancelled"

T = TypeVar("T")


class DedicatedThread:
    """Makes calls one after the other, on one thread, in one context and under one token.

    The context is a copy of the one in which the thread was opened. `serve` is the body of the
    thread. `ThreadBridge` starts the thread, and calls `fail` instead if none can be started.

    cancellation: the token that ends the calls; by default the current one.
    run_in_background: starts a call that may block on another thread; returns a future of its end.
    defer: does the same in places that must not block or take locks; returns nothing.
    on_end: called with this object when its thread has ended, or is about to.

    finished: a future that is done when the thread has ended.
    loop: the event loop whose coroutines make the calls.
    released: True if no more calls will come.
    unblock: called after the token is cancelled, for calls that the token does not end.
    """

    def __init__(
        self,
        cancellation: Optional[Cancellation],
        run_in_background: "Callable[..., concurrent.futures.Future[Any]]",
        defer: Callable[..., None],
        on_end: "Callable[[DedicatedThread], None]",
    ) -> None:
        self.finished: "concurrent.futures.Future[Any]" = concurrent.futures.Future()
        self.loop = get_loop()
        self.released = False
        self.unblock: Optional[Callable[[], Any]] = None
        self._run_in_background = run_in_background
        self._defer = defer
        self._on_end = on_end
        self._token = Cancellation(parent=cancellation or Cancellation.current())
        self._calling = False
        self._end_reason: Optional[str] = None
        self._error: Optional[Exception] = None  # raised by calls if there is no thread
        # Entries are (future, function) for a call, (None, None) to end the thread, and
        # (None, reason) to release the resources first. A destructor may put entries, too: a
        # SimpleQueue is reentrant.
        self._calls: "queue.SimpleQueue[Tuple[Optional[concurrent.futures.Future[Any]], Any]]"
        self._calls = queue.SimpleQueue()

    # For coroutines

    async def call(self, function: Callable[[], T], on_orphan: OnOrphan = None) -> T:
        """Call a function on the thread and return its result.

        If the coroutine is cancelled, the token is cancelled as well, and the thread accepts no
        more calls.

        function: the blocking call.
        on_orphan: called with the result if it arrives after the coroutine was cancelled.
        """
        future: "concurrent.futures.Future[T]" = concurrent.futures.Future()
        on_orphan = call_once(on_orphan)
        self._calls.put((future, function))
        if self._error is not None:  # set before the thread empties the queue for the last time
            self._fail_calls(self._error)
        self._calling = True
        try:
            await wrap_future(future, lambda: self._handle_orphan(future, on_orphan))
        except asyncio.CancelledError:
            self._end_reason = self._end_reason or COROUTINE_CANCELLED
            # Not here: callbacks of the token may do IO, and this is the event loop's thread.
            ended = self._run_in_background(self.interrupt, COROUTINE_CANCELLED, future, on_orphan)
            await wait_briefly([ended], END_TIMEOUT)
            raise
        except GeneratorExit:  # the event loop was closed together with the coroutine
            self._defer(self.interrupt, COROUTINE_CANCELLED, future, on_orphan)
            raise
        finally:
            self._calling = not future.done()
        return future.result()

    async def close(self, reason: str) -> None:
        """End the current call, release what was opened, and end the thread.

        Waits for this at most END_TIMEOUT seconds.
        """
        pending = [self.finished]
        if self._calling:
            pending.append(self._run_in_background(self.interrupt, reason))
            self.finish()
        else:
            self.abandon(reason)
        await wait_briefly(pending, END_TIMEOUT)

    # For any thread

    def interrupt(
        self,
        reason: str,
        future: "Optional[concurrent.futures.Future[Any]]" = None,
        on_orphan: OnOrphan = None,
    ) -> None:
        """End the current call from another thread. May block.

        reason: the reason given to the token.
        future: the future of the call; waits until it is done, and passes its result on.
        on_orphan: receives that result.
        """
        self._end_reason = self._end_reason or reason
        self._token.cancel(reason)
        if self.unblock is not None:
            self.unblock()
        if future is not None:
            pass_orphaned_result(future, on_orphan)

    def finish(self) -> None:
        """End the thread after the calls it was given. An idle thread frees its slot at once."""
        self.released = not self._calling
        if self.released:
            self._on_end(self)
        self._calls.put((None, None))

    def abandon(self, reason: str = "the stream was abandoned") -> None:
        """Make the thread release what was opened, and end, without waiting for it.

        Takes no lock and calls nothing on this thread, so that destructors may call it.
        """
        self.released = not self._calling
        self._calls.put((None, reason))

    def _handle_orphan(self, future: "concurrent.futures.Future[Any]", on_orphan: OnOrphan) -> None:
        """Handle a result that arrived after the event loop was closed."""
        pass_orphaned_result(future, on_orphan)
        self.abandon()

    # The thread itself

    def serve(self) -> None:
        """Make the calls, one after the other, until the thread is finished or abandoned."""
        try:
            with self._token:
                while True:
                    future, function = self._calls.get()
                    if future is None:
                        if function is not None:
                            self.interrupt(function)
                        break
                    try:
                        if self._end_reason is not None:  # ended before this call started
                            raise Cancelled(self._end_reason)
                        result = function()
                    except BaseException as error:
                        future.set_exception(error)
                        del error
                    else:
                        future.set_result(result)
                        del result
                    del future, function  # keep nothing alive until the next call
        finally:
            self.fail(Cancelled(self._end_reason or "the stream was closed"))

    def fail(self, error: Exception) -> None:
        """Make the remaining and all later calls raise the error: there is no thread (any more)."""
        self._error = error
        self._fail_calls(error)
        self._on_end(self)
        self.finished.set_result(None)

    def _fail_calls(self, error: Exception) -> None:
        while True:
            try:
                future, _ = self._calls.get_nowait()
            except queue.Empty:
                return
            if future is not None:
                future.set_exception(error)
