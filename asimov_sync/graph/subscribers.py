"""EventBus: delivers the events of one run to callbacks, and wakes waiting threads.

Each callback gets every event, in order and one at a time; a slow one delays no other.
"""

import contextvars
import threading
from typing import Any, Callable, Sequence, Set, Tuple

from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.log_context import get_logger
from asimov_sync.concurrency.timers import timers
from asimov_sync.graph.publisher import Inbox, Publisher
from asimov_sync.messages import Event

__all__ = ["Callback", "EventBus", "Subscriber"]

logger = get_logger("asimov_sync.graph")

Callback = Callable[[Event], Any]

PAUSE = 0.002
"""Seconds that a delivering thread waits for further events. Each of them is then delivered without
waking a thread, which costs more than most tasks.
"""

MAX_PAUSES = 5
"""The number of pauses without an event after which the delivering thread goes back to its pool."""


class Subscriber:
    """A callback, and the events of one run that it has not received yet.

    callback: the function.
    blocking: call it on the thread on which the event happened, which waits for it.
    inbox: receives the events.
    """

    def __init__(self, callback: Callback, blocking: bool, inbox: Inbox) -> None:
        self.blocking = blocking
        self._callback = callback
        self._inbox = inbox
        # Its holder calls the callback. Events that a callback itself causes come after it.
        self._delivering = threading.Lock()
        self._thread = 0  # the thread that calls the callback

    @property
    def has_pending(self) -> bool:
        """Return whether events are queued and no thread is delivering them."""
        return bool(self._inbox) and not self._delivering.locked()

    @property
    def drained(self) -> bool:
        """Return whether the callback has received, and returned from, every event so far."""
        return not (self._inbox or self._delivering.locked())

    @property
    def is_calling(self) -> bool:
        """Return whether the calling thread is inside the callback."""
        return self._thread == threading.get_ident()

    def deliver(self, ended: InterruptibleEvent) -> None:
        """Deliver the queued events.

        A blocking subscriber also waits for another thread that is delivering. Any other waits a
        moment for further events.

        ended: is set when there will be no further events.
        """
        if self.is_calling:
            return
        while self._inbox and self._delivering.acquire(self.blocking):
            try:
                self._thread = threading.get_ident()
                self._deliver_queued()
                if not self.blocking:
                    pauses, self._inbox.polled = 0, True
                    while pauses < MAX_PAUSES and not (ended.is_set() and not self._inbox):
                        ended.wait(PAUSE)
                        pauses = 0 if self._inbox else pauses + 1
                        self._deliver_queued()
            finally:
                self._thread, self._inbox.polled = 0, False
                self._delivering.release()

    def _deliver_queued(self) -> None:
        take, call = self._inbox.take, self._call
        while self._inbox:
            call(take())

    def _call(self, event: Event) -> None:
        try:
            self._callback(event)
        except BaseException as error:  # a callback must not affect the run
            on_main_thread = threading.current_thread() is threading.main_thread()
            if not isinstance(error, Exception) and on_main_thread:
                raise  # Ctrl-C, which is not an error of the callback
            logger.exception("a callback for events failed on %s", event.type)


class EventBus:
    """The callbacks and the waiting threads of one run.

    publisher: puts the events into the inboxes.
    callbacks: pairs of a callback and whether it is blocking.
    inline: whether callbacks are called on the thread that waits for the run, and on no other.
    call_in_background: calls a function on a thread that may block.
    occupy_slot: marks the current context as being in a task, for blocking callbacks that wait for
        another run.
    """

    def __init__(
        self,
        publisher: Publisher,
        callbacks: Sequence[Tuple[Callback, bool]],
        inline: bool,
        call_in_background: Callable[..., None],
        occupy_slot: Callable[[], None],
    ) -> None:
        self._subscribers = [
            Subscriber(callback, blocking or inline, publisher.open_inbox())
            for callback, blocking in callbacks
        ]
        self._ended = InterruptibleEvent()
        self._inline = inline
        self._call_in_background = call_in_background
        self._occupy_slot = occupy_slot
        self._context = contextvars.copy_context()  # that of submit(), in which callbacks run
        self._waiting_thread = threading.get_ident()  # the submitting or waiting thread
        self._waiters: Set[InterruptibleEvent] = set()
        self._readers: Set[InterruptibleEvent] = set()  # those waiters that wait for events

    def pump_here(self) -> None:
        """Deliver events before the calling thread waits; inline, on this thread."""
        self._waiting_thread = threading.get_ident()
        self.pump()

    def pump(self) -> None:
        """Deliver the queued events, here or on another thread, and wake the readers."""
        if self._readers:
            _set_all(self._readers)
        for subscriber in self._subscribers:
            if not subscriber.has_pending:
                continue
            if self._inline and self._waiting_thread != threading.get_ident():
                self.wake()  # the waiting thread, in `wait` or in a handler, delivers them
            elif subscriber.blocking and not timers.on_timer_thread:
                self._dispatch(subscriber)
            else:
                self._call_in_background(self._dispatch, subscriber)

    def set_ended(self) -> None:
        """Note that the last event was published."""
        self._ended.set()

    def _dispatch(self, subscriber: Subscriber) -> None:
        self._context.copy().run(self._deliver, subscriber)
        self.wake()

    def _deliver(self, subscriber: Subscriber) -> None:
        if subscriber.blocking:
            # It occupies the worker on which it is called, and may wait for another run.
            self._occupy_slot()
        subscriber.deliver(self._ended)

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

    def wait(self, timeout: float, is_done: Callable[[], bool], for_event: bool = False) -> None:
        """Wait until something happens, at most `timeout` seconds; not at all if `is_done()`.

        for_event: whether an event ends the wait, too; by default only `wake` and the end do.
        """
        waiter = InterruptibleEvent()
        self._waiters.add(waiter)  # before `is_done`, so that nothing after it is missed
        try:
            if for_event:
                self._readers.add(waiter)
            if not is_done():
                waiter.wait(timeout)
        finally:
            self._waiters.discard(waiter)
            self._readers.discard(waiter)

    def wake(self) -> None:
        """Wake the waiting threads, which then look again."""
        _set_all(self._waiters)


def _set_all(waiters: Set[InterruptibleEvent]) -> None:
    for waiter in list(waiters):
        waiter.set()
