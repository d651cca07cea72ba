"""One token for ending work early: cancel it, wait on it, give it a deadline, hang callbacks on it.

The current token is carried by a context variable. Every blocking call of the library honours it, so a handler that does
nothing but call a model is freed when its run is cancelled::

    with Cancellation(timeout=30) as cancellation:
        client.generate("…")                     # ends after 30 s at the latest, whatever it is doing

State: a token has a reason (None until it is cancelled) and callbacks. Both change under one lock for all tokens, which is
never held while a callback runs. A token registers at its parent only while it has callbacks itself, so a run with a
hundred thousand tasks does not gather a hundred thousand registrations.
"""

import contextvars
import itertools
import logging
import queue
import time
from typing import Any, Callable, Dict, Optional, Tuple

from asimov_sync.errors import Cancelled
from asimov_sync.forking import ForkSafeLock

__all__ = ["Cancellation", "require_number"]

logger = logging.getLogger(__name__)

LONGEST_WAIT = 1e6
"""Seconds that a wait is cut to, more than a week: a lock cannot be waited for infinitely long."""

# (the current token, what was current before it): kept in one value, so that one token may be entered in many threads.
_current: "contextvars.ContextVar[Optional[Tuple[Cancellation, Any]]]" = contextvars.ContextVar(
    "asimov_cancellation", default=None
)
_numbers = itertools.count()
_tokens = ForkSafeLock()  # guards every token's reason and callbacks
_INHERIT: Any = object()


def require_number(name: str, seconds: Optional[float]) -> None:
    """Raise ValueError for NaN, which compares false with every moment: a timer for it would never fire."""
    if seconds is not None and seconds != seconds:
        raise ValueError(f"{name} is a number of seconds, or None for no limit; not {seconds!r}")


class Cancellation:
    """A request to end work early, which whoever does the work may ask for, wait on, or be called by.

    timeout: seconds from now after which the token counts as cancelled; None for no deadline of its own.
    parent: a token whose cancellation and deadline are this one's too. Where not given, the current token; None for none.

    Safe to use from any thread. `with cancellation:` makes it the current one for the block.
    """

    __slots__ = ("_callbacks", "_parent", "_reason", "_upward", "deadline")

    deadline: Optional[float]
    """The `time.monotonic()` moment at which it counts as cancelled, its parents' included; None for never."""

    def __init__(self, timeout: Optional[float] = None, parent: "Optional[Cancellation]" = _INHERIT) -> None:
        require_number("timeout=", timeout)
        if parent is _INHERIT:
            entered = _current.get()
            parent = entered[0] if entered else None
        deadline = None if timeout is None or timeout == float("inf") else time.monotonic() + timeout
        if parent is not None and parent.deadline is not None:
            deadline = parent.deadline if deadline is None else min(deadline, parent.deadline)
        self.deadline = deadline
        self._parent = parent
        self._reason: Optional[str] = None
        self._callbacks: Optional[Dict[int, Callable[[], Any]]] = None
        self._upward: Optional[Registration] = None

    @staticmethod
    def current() -> "Cancellation":
        """The token of the surrounding `with` or task; a fresh one that nobody else can cancel where there is none."""
        entered = _current.get()
        return entered[0] if entered else Cancellation(parent=None)

    @staticmethod
    def entered() -> "Optional[Cancellation]":
        """Return the token of the surrounding `with` or task; None where there is none, and nobody can cancel."""
        entered = _current.get()
        return entered[0] if entered else None

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel it and call its callbacks on this thread; False if it was cancelled before, and nothing is done.

        A callback that raises is logged.
        """
        with _tokens.lock:
            if self._reason is not None:
                return False
            self._reason = reason
            callbacks, self._callbacks = self._callbacks, None
            upward, self._upward = self._upward, None
        self._call(callbacks)
        if upward is not None:  # a parent may live long, and see many streams come and be closed
            upward.remove()
        return True

    def _call(self, callbacks: Optional[Dict[int, Callable[[], Any]]]) -> None:
        for number in list(callbacks or ()):
            assert callbacks is not None
            try:
                callbacks.pop(number)()  # taken out, so that whoever is just registering sees what was called
            except Exception:  # the others are to be called, and whoever cancels has its own errors to raise
                logger.exception("a callback of a cancellation failed")

    @property
    def reason(self) -> Optional[str]:
        """Why it was cancelled; None while it was not."""
        if self._reason is None:
            if self._parent is not None and self._parent.cancelled:
                self.cancel(self._parent.reason or "cancelled")
            elif self.deadline is not None and time.monotonic() >= self.deadline:
                self.cancel("the deadline passed")
        return self._reason

    @property
    def cancelled(self) -> bool:
        """Whether it, or a parent, was cancelled or has passed its deadline."""
        return self.reason is not None

    @property
    def remaining(self) -> Optional[float]:
        """Seconds until the deadline, never below 0; None where there is no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled, with the reason as its message, if it is cancelled."""
        reason = self.reason
        if reason is not None:
            raise Cancelled(reason)

    def wait(self, seconds: Optional[float] = None) -> bool:
        """Sleep until it is cancelled, or `seconds` have passed (None: no limit); True if it is cancelled."""
        require_number("seconds", seconds)
        remaining = self.remaining
        if remaining is not None:
            seconds = remaining if seconds is None else min(seconds, remaining)
        # A queue, because Ctrl-C in the wait of an Event may leave its lock released, and be lost in the error about that.
        woken: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        with self.on_cancel(lambda: woken.put(None)):
            try:
                woken.get(timeout=None if seconds is None else min(max(0.0, seconds), LONGEST_WAIT))
            except queue.Empty:
                pass
        return self.cancelled

    def on_cancel(self, callback: Callable[[], Any]) -> "Registration":
        """Have `callback()` called when it is cancelled, on the thread that cancels; at once, here, if it is already.

        Returns a registration to `remove()`, or to use in a `with`. A deadline alone calls nobody: whoever blocks also
        bounds the block by `remaining`.
        """
        registration = Registration(self, next(_numbers))
        with _tokens.lock:
            # A signal handler may cancel between any two of these lines: the callback is then still here, or was called.
            callbacks = self._callbacks
            if callbacks is None:
                callbacks = self._callbacks = {}
            first = not callbacks
            callbacks[registration.number] = callback
            late = self._reason is not None and callbacks.pop(registration.number, None) is not None
        if late:
            callback()
        elif first and self._parent is not None:
            self._reach_up(self._parent)
        return registration

    def _reach_up(self, parent: "Cancellation") -> None:
        upward = parent.on_cancel(lambda: self.cancel(parent.reason or "cancelled"))
        with _tokens.lock:
            # Another thread may have come and gone meanwhile: keep one registration, and only while it is needed.
            if self._callbacks and self._upward is None:
                self._upward = upward
                return
        upward.remove()

    def _remove(self, number: int) -> None:
        upward = None
        with _tokens.lock:
            callbacks = self._callbacks
            if callbacks is not None:
                callbacks.pop(number, None)
                if not callbacks:
                    upward, self._upward = self._upward, None
        if upward is not None:
            upward.remove()

    def take_over(self) -> None:
        """Make it the current one for the rest of this context's life: for whoever made the context, as a run does."""
        _current.set((self, None))

    def __enter__(self) -> "Cancellation":
        _current.set((self, _current.get()))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        entered = _current.get()
        _current.set(entered[1] if entered else None)

    def __repr__(self) -> str:
        return "<Cancellation: {}>".format(self._reason or "not cancelled")


class Registration:
    """A callback's place on a token; `remove()` takes it back, as the end of a `with` does."""

    __slots__ = ("_token", "number")

    def __init__(self, token: Cancellation, number: int) -> None:
        self._token = token
        self.number = number

    def remove(self) -> None:
        """Take the callback back; harmless when it was called or removed before."""
        self._token._remove(self.number)

    def __enter__(self) -> "Registration":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.remove()
