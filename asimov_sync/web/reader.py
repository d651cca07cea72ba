"""Readers: take the events of an iterator, on the thread of the caller or on another one.

A WSGI server notices that a browser has left only when it writes. While a model is silent there
are no events to write, so a thread of its own reads the events, and the caller waits for them with
a time-out. Closing the reader cancels the stream, and the thread ends.
"""

import contextvars
import queue
import threading
from collections.abc import Generator as GeneratorABC
from typing import Any, Callable, Iterable, Iterator, List, Optional, Union

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.log_context import get_logger

__all__ = ["MAX_UNSENT", "DirectReader", "End", "Item", "OnEnd", "ThreadReader"]

logger = get_logger("asimov_sync.web")

MAX_UNSENT = 64
"""The number of events that are read ahead while the browser takes none."""

LEFT = "the client has left"


class End:
    """Comes after the last event. error: the exception that ended the events, or None."""

    def __init__(self, error: Optional[BaseException]) -> None:
        self.error = error


Item = Union[End, Any]
"""An event, or the end."""


OnEnd = Optional[Callable[[], Any]]
"""Called when the events have ended by themselves, without an exception."""


class DirectReader:
    """Reads the events on the thread of the response.

    events: the events.
    on_end: called after the last one.
    """

    def __init__(self, events: Iterable[Any], on_end: OnEnd) -> None:
        self.events = events
        self.on_end = on_end
        self._iterator = iter(events)

    def start(self) -> None:
        """Do nothing: each event is read when it is taken."""

    def take(self, timeout: Optional[float]) -> List[Item]:
        """Return the next event, or the end."""
        try:
            try:
                return [next(self._iterator)]
            except StopIteration:
                if self.on_end is not None:
                    self.on_end()
                return [End(None)]
        except BaseException as error:
            return [End(error)]

    def close(self) -> None:
        """Close the events."""
        _close(self.events)


class ThreadReader:
    """Reads events on a thread, at most MAX_UNSENT ahead.

    The queues are SimpleQueues: a signal handler or a destructor may put, whatever it interrupts.

    events: the events. They are read in a copy of the present context, under a token of their own,
        which ends what a generator of the caller opens.
    on_end: called on the thread after the last event.
    """

    def __init__(self, events: Iterable[Any], on_end: OnEnd) -> None:
        self.events = events
        self.on_end = on_end
        self._iterator = iter(events)
        self._items: "queue.SimpleQueue[Item]" = queue.SimpleQueue()
        self._permits: "queue.SimpleQueue[bool]" = queue.SimpleQueue()  # False: read no more
        self._token = Cancellation()
        self._context = contextvars.copy_context()
        self._started = False

    def start(self, notify: Callable[[], None] = lambda: None) -> None:
        """Start to read. notify: called after each event, on the thread that reads."""
        self._started = True
        for _ in range(MAX_UNSENT):
            self._permits.put(True)
        arguments = (
            self._iterator,
            self._items,
            self._permits,
            self._token,
            notify,
            self.on_end,
        )
        threading.Thread(
            target=self._context.run, args=(_read, *arguments), name="asimov-web", daemon=True
        ).start()

    def take(self, timeout: Optional[float]) -> List[Item]:
        """Return the events that have arrived, at least one; none after the time-out."""
        try:
            first = self._items.get(timeout=timeout)
        except queue.Empty:
            return []
        self._permits.put(True)
        return [first] + self.take_now()

    def take_now(self) -> List[Item]:
        """Return the events that have arrived, which may be none."""
        items: List[Item] = []
        while len(items) < MAX_UNSENT:
            try:
                items.append(self._items.get_nowait())
            except queue.Empty:
                break
            self._permits.put(True)
        return items

    def close(self) -> None:
        """End the thread, and close the events."""
        self._permits.put(False)
        self._token.cancel(LEFT)
        if not (self._started and isinstance(self._iterator, GeneratorABC)):
            _close(self.events)


def _read(
    events: Iterator[Any],
    items: "queue.SimpleQueue[Item]",
    permits: "queue.SimpleQueue[bool]",
    token: Cancellation,
    notify: Callable[[], None],
    on_end: OnEnd,
) -> None:
    """Read events while there are permits. Refers to no body, so that a lost one is closed."""
    end = End(None)
    try:
        with token:
            while permits.get() and not token.cancelled:
                try:
                    items.put(next(events))
                except StopIteration:
                    if on_end is not None and not token.cancelled:
                        on_end()
                    break
                notify()
    except BaseException as error:
        end = End(error)
    if isinstance(events, GeneratorABC):
        events.close()  # here, since only the thread that executes a generator can close it
    items.put(end)
    notify()


def _close(events: Any) -> None:
    """Close events, if they can be closed. Another thread may be reading them."""
    close = getattr(events, "close", None)
    if close is not None:
        try:
            close()
        except Exception:
            logger.exception("the events of a response could not be closed")
