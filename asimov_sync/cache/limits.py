"""The limits of one cache call: how long it may take, and how it is cancelled.

A server can be silent: stopped, behind a broken network, or busy with another program's script. A
blocking call still ends:

- after CALL_SECONDS, whatever it does: connecting, sending, waiting for the reply, retrying;
- when its Cancellation is cancelled or passes its deadline. A command that was already sent gets
  GRACE_SECONDS more for its reply. A working server replies in that time, so the caller learns the
  outcome.

A call that begins under an already cancelled Cancellation gets GRACE_SECONDS in total, so clean-up
after a cancelled task (`delivery.release()`) still works.
"""

import contextvars
import socket
import threading
from typing import Any, Callable, ContextManager, List, Optional, Tuple, TypeVar

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.timers import timers
from asimov_sync.errors import AsimovError, CacheError, Cancelled

__all__ = [
    "CALL_SECONDS",
    "GRACE_SECONDS",
    "ConnectTimeout",
    "Limits",
    "SocketUnblocker",
    "connect_in_thread",
]

CALL_SECONDS = 20.0
"""Seconds that a call waits for a server that does not reply, retries included."""

GRACE_SECONDS = 0.4
"""Seconds that a sent command waits for its reply after the call's time-out or cancellation."""

Result = TypeVar("Result")


class ConnectTimeout(Exception):
    """No connection was made within the limits of the call."""


class _NullRegistration:
    """Replaces the registration of a callback if the call cannot be cancelled."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc_info: Any) -> None:
        return None

    def remove(self) -> None:
        """Do nothing."""


_NULL_REGISTRATION = _NullRegistration()


class Limits:
    """The remaining time of a call, and the Cancellation that may end it.

    cancellation: the call's Cancellation; None if the call cannot be cancelled.
    seconds: the longest duration, apart from the Cancellation; CALL_SECONDS by default.
    """

    __slots__ = ("_cancelled_before", "_end", "cancellation")

    def __init__(
        self, cancellation: Optional[Cancellation], seconds: Optional[float] = None
    ) -> None:
        now = clock.real()
        self._end = now + (CALL_SECONDS if seconds is None else seconds)
        self._cancelled_before = False
        self.cancellation = cancellation
        if cancellation is not None:
            if cancellation.cancelled:
                self._cancelled_before = True
                self._end = min(self._end, now + GRACE_SECONDS)
            elif cancellation.deadline is not None:
                remaining = cancellation.remaining or 0.0
                self._end = min(self._end, now + remaining + GRACE_SECONDS)

    @classmethod
    def current(cls) -> "Limits":
        """Return the limits of a call that begins now, under the current Cancellation if any."""
        return cls(Cancellation.entered())

    def with_timeout(self, seconds: float) -> "Limits":
        """Return limits that end after `seconds`, or together with these."""
        limits = Limits(self.cancellation, min(seconds, self.remaining()))
        limits._cancelled_before = self._cancelled_before
        return limits

    def remaining(self) -> float:
        """Return how many seconds the call may still take; 0 or less if its time is over."""
        return self._end - clock.real()

    @property
    def cancelled(self) -> bool:
        """True if the call was cancelled, or passed its deadline, after it began."""
        return (
            not self._cancelled_before
            and self.cancellation is not None
            and self.cancellation.cancelled
        )

    def on_cancel(self, callback: Callable[[], Any]) -> Any:
        """Register a callback with the Cancellation, if that can still be cancelled."""
        if self.cancellation is None or self._cancelled_before:
            return _NULL_REGISTRATION
        return self.cancellation.on_cancel(callback)

    def pause(self, seconds: float) -> bool:
        """Wait before the next attempt.

        Returns False if the call's time is over or the call is cancelled.
        """
        seconds = min(seconds, self.remaining())
        if seconds > 0:
            if self.cancellation is None or self._cancelled_before:
                InterruptibleEvent().wait(seconds)
            else:
                self.cancellation.wait(seconds)
        return self.remaining() > 0 and not self.cancelled

    def wrap_error(self, error: CacheError) -> AsimovError:
        """Return the exception to raise: the error, or a Cancelled that is caused by it."""
        reason = None if self.cancellation is None else self.cancellation.reason
        if reason is None:
            return error
        cancelled = Cancelled(reason)
        cancelled.__cause__ = error
        return cancelled


class SocketUnblocker:
    """Shuts down the socket of one call when its Cancellation is cancelled.

    That unblocks the thread that reads from the socket, and leaves the connection to that thread:
    redis-py would reconnect when it sends on a connection that another thread has closed, and then
    wait on the new one.

    A callback that was already scheduled may run after `end()`, when the connection serves another
    call. It then does nothing: the callback and `end()` compete for the one item of a list.

    connected: the socket.
    delay: seconds between the cancellation and the shutdown, in which the reply may still arrive.
    """

    __slots__ = ("_delay", "_sockets", "lock")

    def __init__(self, connected: Any, delay: float) -> None:
        self._sockets: List[Any] = [connected]
        self._delay = delay
        self.lock = threading.Lock()

    def __call__(self) -> None:
        if not self._delay:
            self._shut_down()
        elif self._sockets:
            timers.call_at(clock.monotonic() + self._delay, self._shut_down)

    def _shut_down(self) -> None:
        try:
            connected = self._sockets.pop()
        except IndexError:
            return  # the call has ended
        with self.lock:
            try:
                # The plain socket's method: an SSLSocket's own drops its TLS state while another
                # thread reads.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
            except (AttributeError, OSError, ValueError, TypeError):
                pass  # already closed; or fakeredis, which has no socket

    def end(self) -> bool:
        """End the call.

        Returns False if the socket was shut down, or is about to be. The caller then closes the
        connection while it holds `lock`.
        """
        try:
            self._sockets.pop()
        except IndexError:
            return False
        return True


def connect_in_thread(
    connect: Callable[[], Result],
    discard: Callable[[Result], Any],
    limits: Limits,
    seconds: float,
) -> Result:
    """Call `connect()` on a new thread, and return its result or raise its exception.

    Only a thread bounds all of it: name lookup, TCP, TLS, logging in, and asking Sentinel.

    connect: returns a connection.
    discard: receives a connection that was made too late.
    limits: the limits of the call.
    seconds: the longest duration, within the limits.

    Raises ConnectTimeout if the time is over or the call is cancelled.
    """
    # One item: the thread pops it after it has noted its outcome, the caller pops it to give up.
    undecided: List[None] = [None]
    outcomes: List[Tuple[Any, Optional[BaseException]]] = []
    done = InterruptibleEvent()

    def run() -> None:
        connection: Any = None
        error: Optional[BaseException] = None
        try:
            connection = connect()
        except BaseException as raised:
            error = raised
        outcomes.append((connection, error))
        try:
            undecided.pop()
        except IndexError:
            if error is None:
                discard(connection)
        done.set()

    context = contextvars.copy_context()
    thread = threading.Thread(
        target=context.run, args=(run,), name="asimov-cache-connect", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        return connect()  # no thread can be started any more: the interpreter is shutting down
    registration: ContextManager[Any] = limits.on_cancel(done.set)
    gave_up = False
    try:
        with registration:
            done.wait(min(seconds, limits.remaining()))
    finally:
        try:
            undecided.pop()
            gave_up = True
        except IndexError:
            pass  # the outcome was there before
    if gave_up:
        raise ConnectTimeout("no connection was made within the time of the call")
    connection, error = outcomes[0]
    if error is not None:
        raise error
    return connection  # type: ignore[no-any-return]
