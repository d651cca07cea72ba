"""Who is told what happens in a run: the iterators of its events, the callbacks, and the callers that wait for its end."""

import contextvars
import queue
import threading
from typing import TYPE_CHECKING, Callable, List, Optional, Sequence, Set

from asimov_sync.concurrency import scope
from asimov_sync.concurrency.timers import timers
from asimov_sync.graph.listeners import Listener
from asimov_sync.messages import Event

if TYPE_CHECKING:
    from asimov_sync.graph.workforce import Workforce

__all__ = ["Audience"]


class Audience:
    """All those who are told. The run's lock is held for `tell`, and for none of the others.

    events: all so far, if they are kept. watched: whether there is anybody to be told.
    """

    def __init__(self, listeners: Sequence[Listener], recording: bool, workforce: "Workforce") -> None:
        self.events: Optional[List[Event]] = [] if recording else None
        self.watched = recording or bool(listeners)
        self._listeners = listeners
        self._workforce = workforce
        self._context = contextvars.copy_context()  # of whoever submits the run: what listeners are called in
        self._caller = threading.get_ident()  # who submits it, or waits for it
        self._waiters: "Set[queue.SimpleQueue[None]]" = set()

    def tell(self, event: Event) -> None:
        """Have everybody told, now or later."""
        if self.events is not None:
            self.events.append(event)
            self.wake()
        for listener in self._listeners:
            listener.put(event)

    def attend(self) -> None:
        """The calling thread is about to wait for the run: without other threads, it is the one that calls the listeners."""
        self._caller = threading.get_ident()
        self.deliver()

    def deliver(self) -> None:
        """Have the listeners called, here or elsewhere."""
        for listener in self._listeners:
            if not listener.waiting:
                continue
            if self._workforce.inline and self._caller != threading.get_ident():
                self.wake()  # the calling thread, which is in `wait`, or in a handler
            elif listener.blocking and not timers.on_timer_thread:
                self._deliver(listener)
            else:
                self._workforce.call_elsewhere(self._deliver, listener)

    def _deliver(self, listener: Listener) -> None:
        self._context.copy().run(self._call, listener)
        self.wake()

    def _call(self, listener: Listener) -> None:
        if listener.blocking:  # it may wait for a run, on a thread on which a task would go on
            scope.extend(worker_slot=(self._workforce.threads, self._workforce.job))
        listener.deliver()

    @property
    def heard(self) -> bool:
        """Whether all listeners have had all of it, or it is one of them that asks, who cannot wait for each other."""
        return all(listener.done for listener in self._listeners) or any(listener.asks for listener in self._listeners)

    @property
    def blocked(self) -> bool:
        """Whether this is a callback for which the run waits."""
        return any(listener.blocking and listener.asks for listener in self._listeners)

    def wait(self, seconds: float, over: Callable[[], bool]) -> None:
        """Wait until something happened, unless `over()` says that it did.

        On a queue, because Ctrl-C in the wait of a Condition may leave its lock released, and be lost in the error about that.
        """
        waiter: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        self._waiters.add(waiter)  # first, so that what happens after `over` has said no is not missed
        try:
            if not over():
                waiter.get(timeout=seconds)
        except queue.Empty:
            pass
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        """Have those who wait look again."""
        for waiter in list(self._waiters):
            waiter.put(None)
