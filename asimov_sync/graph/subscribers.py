"""EventBus: delivers the events of one run to callbacks and iterators, and wakes waiting threads.

Each callback gets every event, in order and one at a time; a slow one delays no other.
"""

import collections
import contextvars
import queue
import threading
from typing import Any, Callable, Deque, List, Optional, Sequence, Set

from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.concurrency.timers import timers
from asimov_sync.messages import Event

__all__ = ["Callback", "EventBus", "Subscriber"]

logger = get_logger("asimov_sync.graph")

Callback = Callable[[Event], Any]


class Subscriber:
    """A callback, and the events of one run that it has not received yet.

    blocking: call it on the thread on which the event happened, which waits for it.
    """

    def __init__(self, callback: Callback, blocking: bool) -> None:
        self.blocking = blocking
        self._callback = callback
        self._events: Deque[Event] = collections.deque()
        # Its holder calls the callback. Events that a callback itself causes come after it.
        self._delivering = threading.Lock()
        self._thread = 0  # the ident of the thread that calls the callback

    def enqueue(self, event: Event) -> None:
        """Queue an event for delivery."""
        self._events.append(event)

    @property
    def has_pending(self) -> bool:
        """Return whether events are queued and no thread is delivering them."""
        return bool(self._events) and not self._delivering.locked()

    @property
    def drained(self) -> bool:
        """Return whether the callback has received, and returned from, every event so far."""
        return not (self._events or self._delivering.locked())

    @property
    def is_calling(self) -> bool:
        """Return whether the calling thread is inside the callback."""
        return self._thread == threading.get_ident()

    def deliver(self) -> None:
        """Deliver the queued events.

        A blocking subscriber also waits for another thread that is delivering.
        """
        if self.is_calling:
            return
        while self._events and self._delivering.acquire(self.blocking):
            try:
                self._thread = threading.get_ident()
                while self._events:
                    self._call(self._events.popleft())
            finally:
                self._thread = 0
                self._delivering.release()

    def _call(self, event: Event) -> None:
        try:
            self._callback(event)
        except BaseException as error:  # a callback must not affect the run
            on_main_thread = threading.current_thread() is threading.main_thread()
            if not isinstance(error, Exception) and on_main_thread:
                raise  # Ctrl-C, which is not an error of the callback
            logger.exception("a callback for events failed on %s", event.type)


class EventBus:
    """The subscribers, the readers and the waiting threads of one run.

    subscribers: the callbacks.
    recording: whether to keep all events, for iterators.
    inline: whether callbacks are called on the thread that waits for the run, and on no other.
    call_in_background: calls a function on a thread that may block.
    occupy_slot: marks the current context as being in a task, for blocking callbacks that wait for
        another run.

    events: all events so far; None without `recording`.
    outlets: functions that queue an event. They are called with the run's lock held; no other
        method is.
    """

    def __init__(
        self,
        subscribers: Sequence[Subscriber],
        recording: bool,
        inline: bool,
        call_in_background: Callable[..., None],
        occupy_slot: Callable[[], None],
    ) -> None:
        self.events: Optional[List[Event]] = [] if recording else None
        self.outlets: List[Callable[[Event], Any]] = [one.enqueue for one in subscribers]
        if self.events is not None:
            self.outlets.insert(0, self.events.append)
        self._subscribers = subscribers
        self._inline = inline
        self._call_in_background = call_in_background
        self._occupy_slot = occupy_slot
        self._context = contextvars.copy_context()  # that of submit(), in which callbacks run
        self._waiting_thread = threading.get_ident()  # submitted the run, or waits for it
        self._waiters: "Set[queue.SimpleQueue[None]]" = set()

    def pump_here(self) -> None:
        """Deliver events before the calling thread waits; inline, on this thread."""
        self._waiting_thread = threading.get_ident()
        self.pump()

    def pump(self) -> None:
        """Deliver the queued events, here or on another thread, and wake waiting threads."""
        if self.events is not None:
            self.wake()
        for subscriber in self._subscribers:
            if not subscriber.has_pending:
                continue
            if self._inline and self._waiting_thread != threading.get_ident():
                self.wake()  # the waiting thread, in `wait` or in a handler, delivers them
            elif subscriber.blocking and not timers.on_timer_thread:
                self._dispatch(subscriber)
            else:
                self._call_in_background(self._dispatch, subscriber)

    def _dispatch(self, subscriber: Subscriber) -> None:
        self._context.copy().run(self._deliver, subscriber)
        self.wake()

    def _deliver(self, subscriber: Subscriber) -> None:
        if subscriber.blocking:
            # It occupies the worker on which it is called, and may wait for another run.
            self._occupy_slot()
        subscriber.deliver()

    @property
    def all_delivered(self) -> bool:
        """Return whether all subscribers are drained, or the caller is a callback.

        Callbacks cannot wait for each other: that would be a deadlock.
        """
        return all(one.drained for one in self._subscribers) or any(
            one.is_calling for one in self._subscribers
        )

    @property
    def in_blocking_callback(self) -> bool:
        """Return whether the calling thread is in a callback for which the run waits."""
        return any(one.blocking and one.is_calling for one in self._subscribers)

    def wait(self, timeout: float, is_done: Callable[[], bool]) -> None:
        """Wait until something happens, at most `timeout` seconds; not at all if `is_done()`.

        Waits on a queue: Ctrl-C in the wait of a Condition may leave its lock released, and a
        RuntimeError about that replaces the KeyboardInterrupt.
        """
        waiter: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        self._waiters.add(waiter)  # before `is_done`, so that nothing after it is missed
        try:
            if not is_done():
                waiter.get(timeout=timeout)
        except queue.Empty:
            pass
        finally:
            self._waiters.discard(waiter)

    def wake(self) -> None:
        """Wake the waiting threads, which then look again."""
        for waiter in list(self._waiters):
            waiter.put(None)
