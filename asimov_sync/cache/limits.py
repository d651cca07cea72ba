"""The limits of one cache call: how long it may take, and what ends it early.

A server can be silent: stopped, behind a broken network, busy with another program's script. A blocking call ends then, too:

- after REPLY_SECONDS, whatever it does: connect, send, wait for the answer, try again;
- when its Cancellation is cancelled or passes its deadline. A command that was sent is given ANSWER_SECONDS more for its
  answer, because a server that works answers in that time, and the caller then knows what happened.

A call that begins under a Cancellation that is already cancelled is given ANSWER_SECONDS, so that what cleans up after a
cancelled task (`delivery.release()`) still works.
"""

import contextvars
import queue
import socket
import threading
import time
from typing import Any, Callable, ContextManager, List, Optional, TypeVar

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.timers import timers
from asimov_sync.errors import AsimovError, CacheError, Cancelled

__all__ = ["ANSWER_SECONDS", "REPLY_SECONDS", "ConnectTimeout", "Interruption", "Limits", "connect_aside"]

REPLY_SECONDS = 20.0
"""How long a call waits for a server that does not answer, its repetitions included."""

ANSWER_SECONDS = 0.4
"""How long a command that was sent waits for its answer after the call's deadline, time-out or cancellation."""

Result = TypeVar("Result")


class ConnectTimeout(Exception):
    """No connection was made within the limits of the call."""


class _NoRegistration:
    """Stands for a registration where nobody can cancel."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc_info: Any) -> None:
        return None

    def remove(self) -> None:
        """Do nothing."""


_NO_REGISTRATION = _NoRegistration()


class Limits:
    """How long a call may still take, and the Cancellation that may end it.

    token: the Cancellation; None if nobody can cancel the call.
    seconds: how long the call may take without it; REPLY_SECONDS where not given.
    """

    __slots__ = ("_end", "_late", "token")

    def __init__(self, token: Optional[Cancellation], seconds: Optional[float] = None) -> None:
        now = time.monotonic()
        self._end = now + (REPLY_SECONDS if seconds is None else seconds)
        self._late = False  # whether the token was cancelled before the call
        self.token = token
        if token is not None:
            if token.cancelled:
                self._late = True
                self._end = min(self._end, now + ANSWER_SECONDS)
            elif token.deadline is not None:
                self._end = min(self._end, token.deadline + ANSWER_SECONDS)

    @classmethod
    def current(cls) -> "Limits":
        """Return the limits of a call that begins now, under the surrounding Cancellation if there is one."""
        return cls(Cancellation.entered())

    def shorter(self, seconds: float) -> "Limits":
        """Return limits that end after `seconds`, or together with these."""
        limits = Limits(self.token, min(seconds, self.seconds()))
        limits._late = self._late
        return limits

    def seconds(self) -> float:
        """Return how long the next answer may take; not above 0 if the time is over."""
        return self._end - time.monotonic()

    @property
    def cancelled(self) -> bool:
        """Whether the call was cancelled, or has passed its deadline, after it began."""
        return not self._late and self.token is not None and self.token.cancelled

    def on_cancel(self, callback: Callable[[], Any]) -> Any:
        """Register a callback at the Cancellation, if it can still be cancelled."""
        if self.token is None or self._late:
            return _NO_REGISTRATION
        return self.token.on_cancel(callback)

    def pause(self, seconds: float) -> bool:
        """Wait before the next attempt. Return False if there is no time for one, or the call is cancelled."""
        seconds = min(seconds, self.seconds())
        if seconds > 0:
            if self.token is None or self._late:
                time.sleep(seconds)
            else:
                self.token.wait(seconds)
        return self.seconds() > 0 and not self.cancelled

    def failure(self, error: CacheError) -> AsimovError:
        """Return the exception that ends the call: the error, or a Cancelled that is caused by it."""
        reason = None if self.token is None else self.token.reason
        if reason is None:
            return error
        cancelled = Cancelled(reason)
        cancelled.__cause__ = error
        return cancelled


class Interruption:
    """Shuts down the socket of one call; called when its Cancellation is cancelled.

    It frees the thread that reads from the socket and leaves the connection to that thread: redis-py connects again when it
    sends on a connection that another thread has closed, and then waits on that.

    A callback that was already taken for calling may be called after `end()`, when the connection serves another call. It
    does nothing then: whoever pops the socket out of the list, the callback or `end()`, has it to itself.

    delay: seconds between the cancellation and the shutdown, in which the answer may still come.
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
            timers.call_at(time.monotonic() + self._delay, self._shut_down)

    def _shut_down(self) -> None:
        try:
            connected = self._sockets.pop()
        except IndexError:
            return  # the call is over
        with self.lock:
            try:
                # The plain socket's method: an SSLSocket's own drops its TLS state while the reader uses it.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)
            except (AttributeError, OSError, ValueError, TypeError):
                pass  # it is closed already; or fakeredis, which has no connection that could break

    def end(self) -> bool:
        """End the call. Return False if the socket was shut down, or is about to be: close it then, holding `lock`."""
        try:
            self._sockets.pop()
        except IndexError:
            return False
        return True


def connect_aside(connect: Callable[[], Result], discard: Callable[[Result], Any], limits: Limits, seconds: float) -> Result:
    """Call `connect()` on a thread of its own, and return or raise what it does; ConnectTimeout if the limits end first.

    Only this bounds all of it: looking up the name, TCP, TLS, logging in, and asking Sentinel. A connection that is made too
    late is given to `discard`.
    """
    undecided: List[None] = [None]  # whoever pops it decides: the thread that a connection is made, the caller to leave
    told: "queue.SimpleQueue[Any]" = queue.SimpleQueue()

    def work() -> None:
        made: Any = None
        error: Optional[BaseException] = None
        try:
            made = connect()
        except BaseException as raised:
            error = raised
        try:
            undecided.pop()
        except IndexError:
            if error is None:
                discard(made)
            return
        told.put((made, error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="asimov-cache-connect", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return connect()  # no thread can be started any more: the interpreter is about to end
    outcome: Any = None
    waiting: ContextManager[Any] = limits.on_cancel(lambda: told.put(None))
    try:
        with waiting:
            outcome = told.get(timeout=max(0.0, min(seconds, limits.seconds())))
    except queue.Empty:
        pass
    finally:
        if outcome is None:
            outcome = _left(undecided, told)
    if outcome is None:
        raise ConnectTimeout("no connection was made in the time that the call had")
    made, error = outcome
    if error is not None:
        raise error
    return made  # type: ignore[no-any-return]


def _left(undecided: List[None], told: "queue.SimpleQueue[Any]") -> Any:
    """Decide to leave. Return the outcome instead if there is one by now."""
    try:
        undecided.pop()
    except IndexError:
        while True:
            outcome = told.get()
            if outcome is not None:
                return outcome
    return None
