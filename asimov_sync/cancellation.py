"""Cancellation: a token that cancels work, has a deadline, can be waited for and has callbacks.

The current token is part of the scope of the context. Every blocking call of the library honours
it, so a handler that only calls a model is freed when its run is cancelled::

    with Cancellation(timeout=30) as cancellation:
        client.generate("…")                     # ends after 30 s at the latest

State: a token has a reason (None until it is cancelled) and callbacks. One lock guards both, for
all tokens; it is never held while a callback runs. A token is registered with its parent only while
it has callbacks itself, so a run with a hundred thousand tasks does not accumulate a hundred
thousand registrations.
"""

import itertools
import math
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from asimov_sync.concurrency import scope
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.errors import Cancelled

__all__ = ["Cancellation", "require_number"]

logger = get_logger("asimov_sync")

_current_scope = scope.current
_numbers = itertools.count()
_lock = ForkSafeLock()  # guards the reason and the callbacks of every token
_INHERIT: Any = object()


def require_number(name: str, seconds: Optional[float]) -> None:
    """Raise ValueError for NaN and for infinities.

    NaN compares false with every time, so a timer for it would never fire. No limit is None.

    name: the name of the argument, for the message.
    seconds: its value.
    """
    if seconds is not None and not math.isfinite(seconds):
        raise ValueError(f"{name} is a number of seconds, or None for no limit; not {seconds!r}")


class Cancellation:
    """A token that cancels work. Any thread may cancel it, poll it, or wait for it.

    timeout: seconds from now until the token counts as cancelled; None (the default) for no
        deadline of its own.
    parent: a token whose cancellation and deadline also apply to this one; None for none. The
        default is the current token.

    `with cancellation:` makes it the current token for the block.
    """

    __slots__ = ("_callbacks", "_parent", "_parent_registration", "_reason", "deadline")

    deadline: Optional[float]
    """The time at which the token counts as cancelled, as `time.monotonic()` counts it; None for
    never. Inside a `testing.Clock`, as that clock counts it.

    It is the earliest of its own deadline and those of its parents.
    """

    def __init__(
        self, timeout: Optional[float] = None, parent: "Optional[Cancellation]" = _INHERIT
    ) -> None:
        require_number("timeout=", timeout)
        if parent is _INHERIT:
            chain = _current_scope()[0]
            parent = chain[0] if chain else None
        deadline = None
        if timeout is not None:
            deadline = clock.monotonic() + timeout
        if parent is not None and parent.deadline is not None:
            deadline = parent.deadline if deadline is None else min(deadline, parent.deadline)
        self.deadline = deadline
        self._parent = parent
        self._reason: Optional[str] = None
        self._callbacks: Optional[_Callbacks] = None
        self._parent_registration: Optional[Registration] = None

    @staticmethod
    def current() -> "Cancellation":
        """Return the token of the enclosing `with` block or task.

        Outside of both, return a new token without a parent, which nobody else can cancel.
        """
        chain = _current_scope()[0]  # the field `cancellation`, by its position for speed
        return chain[0] if chain else Cancellation(parent=None)

    @staticmethod
    def entered() -> "Optional[Cancellation]":
        """Return the token of the enclosing `with` block or task, or None if there is none."""
        chain = _current_scope()[0]
        return chain[0] if chain else None

    def cancel(self, reason: str = "cancelled") -> bool:
        """Cancel the token and call its callbacks on this thread.

        reason: the message of the Cancelled errors that follow.

        Returns True, or False without any effect if the token was cancelled before. An exception of
        a callback is logged.
        """
        cancelled, parent_registration, calls = self._mark_cancelled(reason)
        for callbacks, number in calls:
            # Popped, so that a concurrent on_cancel sees that it ran.
            callback: Any = callbacks.pop(number, None)
            try:
                if callback is not None:
                    callback()
            except Exception:  # the other callbacks still have to run
                logger.exception("a cancellation callback failed")
        if parent_registration is not None:  # the parent may outlive many streams
            parent_registration.remove()
        return cancelled

    def _mark_cancelled(
        self, reason: str
    ) -> "Tuple[bool, Optional[Registration], List[Tuple[_Callbacks, int]]]":
        """Give the reason to the token and to all that are registered with it, at any depth.

        This calls no callbacks, because a callback may cancel another of these tokens. In a chain
        of nested runs, these calls would otherwise be nested as deep as the runs.

        Returns whether the token was not cancelled before, its registration, and the callbacks to
        call.
        """
        marked: List[Cancellation] = [self]
        calls: List[Tuple[_Callbacks, int]] = []
        registrations: List[Optional[Registration]] = []
        for token in marked:  # grows during the walk
            with _lock.lock:
                if token._reason is not None:
                    continue
                token._reason = reason
                callbacks, token._callbacks = token._callbacks, None
                registrations.append(token._parent_registration)
                token._parent_registration = None
            for number, callback in list((callbacks or {}).items()):
                assert callbacks is not None
                if isinstance(callback, Cancellation):
                    callbacks.pop(number, None)
                    marked.append(callback)
                else:
                    calls.append((callbacks, number))
        return bool(registrations), registrations[0] if registrations else None, calls

    @property
    def reason(self) -> Optional[str]:
        """Why the token was cancelled; None if it is not."""
        if self._reason is not None:
            return self._reason
        parent = self._parent
        while parent is not None and parent._reason is None:
            parent = parent._parent
        if parent is not None or (self.deadline is not None and clock.monotonic() >= self.deadline):
            self._cancel_with_parents()
        return self._reason

    def _cancel_with_parents(self) -> None:
        """Cancel the token and those of its parents that a parent or a deadline has cancelled."""
        chain = []
        token: "Optional[Cancellation]" = self
        while token is not None and token._reason is None:
            chain.append(token)
            token = token._parent
        reason = None if token is None else token._reason
        for token in reversed(chain):  # the outermost first
            if reason is not None:
                token.cancel(reason)
            elif token.deadline is not None and clock.monotonic() >= token.deadline:
                token.cancel("the deadline passed")
            reason = token._reason

    @property
    def cancelled(self) -> bool:
        """True if the token or a parent was cancelled or has passed its deadline."""
        return self.reason is not None

    @property
    def remaining(self) -> Optional[float]:
        """Seconds until the deadline, never below 0; None without a deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - clock.monotonic())

    def raise_if_cancelled(self) -> None:
        """Raise Cancelled, with the reason as its message, if the token is cancelled."""
        reason = self.reason
        if reason is not None:
            raise Cancelled(reason)

    def wait(self, seconds: Optional[float] = None) -> bool:
        """Sleep until the token is cancelled.

        seconds: how long to sleep at most; None (the default) for no limit.

        Returns True if the token is cancelled.
        """
        require_number("seconds", seconds)
        remaining = self.remaining
        if remaining is not None:
            seconds = remaining if seconds is None else min(seconds, remaining)
        event = InterruptibleEvent()
        with self.on_cancel(event.set):
            event.wait(seconds, follow_clock=True)
        return self.cancelled

    def on_cancel(self, callback: Callable[[], Any]) -> "Registration":
        """Call `callback()` when the token is cancelled, on the thread that cancels it.

        If the token is cancelled already, the callback is called now, on this thread.

        callback: a function without arguments.

        Returns a Registration; `remove()` it, or use it in a `with` block. A deadline alone calls
        no callback: bound a blocking wait by `remaining` as well.
        """
        registration, first, late = self._add(callback)
        if late:
            callback()
        elif first:
            self._register_with_parents()
        return registration

    def _add(
        self, callback: "Union[Callable[[], Any], Cancellation]"
    ) -> "Tuple[Registration, bool, bool]":
        """Add a callback, or a child to cancel.

        Returns its registration, whether it is the only one, and whether the token was cancelled
        already, so that it was not added.
        """
        registration = Registration(self, next(_numbers))
        with _lock.lock:
            # A signal handler may cancel between any two of these lines. Then the callback is
            # either still here or was called.
            callbacks = self._callbacks
            if callbacks is None:
                callbacks = self._callbacks = {}
            first = not callbacks
            callbacks[registration.number] = callback
            late = self._reason is not None and callbacks.pop(registration.number, None) is not None
        return registration, first, late

    def _register_with_parents(self) -> None:
        """Register the token with its parent, and so on up to one that is registered already."""
        token, unneeded = self, []
        while token._parent is not None:
            parent = token._parent
            registration, first, late = parent._add(token)
            if late:
                token.cancel(parent.reason or "cancelled")
                break
            with _lock.lock:
                # Another thread may have registered or removed a callback meanwhile: keep one
                # registration, and only if needed.
                if token._callbacks and token._parent_registration is None:
                    token._parent_registration = registration
                else:
                    unneeded.append(registration)
            if not first:
                break
            token = parent
        for registration in unneeded:  # last: until now, other threads may have relied on them
            registration.remove()

    def _remove(self, number: int) -> None:
        token = self
        while True:
            parent_registration = None
            with _lock.lock:
                callbacks = token._callbacks
                if callbacks is not None:
                    callbacks.pop(number, None)
                    if not callbacks:
                        parent_registration = token._parent_registration
                        token._parent_registration = None
            if parent_registration is None:
                return
            token, number = parent_registration._token, parent_registration.number

    @property
    def scope_entry(self) -> "Tuple[Cancellation, None]":
        """The value of the scope's field `cancellation` that makes this token the current one.

        For the creator of a new context. In an existing context, use a `with` block.
        """
        return (self, None)

    def __enter__(self) -> "Cancellation":
        # The chain is part of the value, so one token may be entered in many threads, and several
        # times in one.
        scope.set_cancellation((self, _current_scope()[0]))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        chain = _current_scope()[0]
        scope.set_cancellation(chain[1] if chain else None)

    def __repr__(self) -> str:
        return f"<Cancellation: {self._reason or 'not cancelled'}>"


class Registration:
    """A callback of a token. `remove()`, or the end of a `with` block, unregisters it."""

    __slots__ = ("_token", "number")

    def __init__(self, token: Cancellation, number: int) -> None:
        self._token = token
        self.number = number

    def remove(self) -> None:
        """Unregister the callback. Has no effect after it was called or removed."""
        self._token._remove(self.number)

    def __enter__(self) -> "Registration":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.remove()


_Callbacks = Dict[int, Union[Callable[[], Any], Cancellation]]
"""The callbacks of a token, and its children that have callbacks, by their number."""
