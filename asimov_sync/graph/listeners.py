"""Callbacks for events: each gets every event of a run, in order, one at a time, and a slow one holds up nobody else."""

import collections
import logging
import threading
from typing import Any, Callable, Deque

from asimov_sync.messages import Event

__all__ = ["Callback", "Listener"]

logger = logging.getLogger(__name__)

Callback = Callable[[Event], Any]


class Listener:
    """A callback, and the events of one run that it has not had yet.

    blocking: it is called where the event happened, and what happens there waits for it.
    """

    def __init__(self, callback: Callback, blocking: bool) -> None:
        self.blocking = blocking
        self._callback = callback
        self._events: Deque[Event] = collections.deque()
        self._turn = threading.Lock()  # whose it is calls the callback; what a callback itself sets off is called after it
        self._caller = 0

    def put(self, event: Event) -> None:
        """Have it called with this event, later."""
        self._events.append(event)

    @property
    def waiting(self) -> bool:
        """Whether there are events that nobody is calling it with."""
        return bool(self._events) and not self._turn.locked()

    @property
    def done(self) -> bool:
        """Whether it had every event so far."""
        return not (self._events or self._turn.locked())

    @property
    def asks(self) -> bool:
        """Whether the callback is what asks: on this thread, it has been called and has not returned."""
        return self._caller == threading.get_ident()

    def deliver(self) -> None:
        """Call it with what there is; a blocking one also waits for another thread that is doing so."""
        if self.asks:
            return
        while self._events and self._turn.acquire(self.blocking):
            try:
                self._caller = threading.get_ident()
                while self._events:
                    self._call(self._events.popleft())
            finally:
                self._caller = 0
                self._turn.release()

    def _call(self, event: Event) -> None:
        try:
            self._callback(event)
        except Exception:  # it watches, and must not change what it watches
            logger.exception("a callback for events failed on %s", event.type)
