"""Streams: iterators over the events of a reply, or of a tool loop, as they arrive."""

import contextvars
from typing import Any, Callable, ClassVar, Dict, Iterator, Optional, Type

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.timers import timers
from asimov_sync.concurrency.tracebacks import shorten_traceback
from asimov_sync.errors import AsimovError, Cancelled
from asimov_sync.inference.reply_events import EventReader, EventSource
from asimov_sync.inference.tools.loop import ToolRun, ToolRunDone
from asimov_sync.instrumentation import Observation
from asimov_sync.messages import Event, Reply, ReplyDone, TextDelta

__all__ = ["EventStream", "ReplyStream", "ToolStream", "observe"]


class EventStream(Iterator[Event]):
    """An iterator over events as they arrive. Close it, or use it in a `with`, to stop early.

    The first request was sent, and its status checked, when the stream was made.
    """

    _last_event: ClassVar[Type[Event]]

    def __init__(self, source: EventSource, cancellation: Cancellation) -> None:
        self._source = source
        self._events = source.read()
        self._cancellation = cancellation
        self._end: Optional[Event] = None

    def __next__(self) -> Event:
        if self._end is not None:
            raise StopIteration
        try:
            event = next(self._events, None)
        except ValueError:
            if not self._cancellation.cancelled:
                raise
            event = None  # another thread is closing the stream right now
        except (KeyboardInterrupt, AsimovError) as error:
            shorten_traceback(error)
            raise
        if event is None:
            # The stream was closed between two events. StopIteration would look like its end.
            raise Cancelled(self._cancellation.reason or "the stream was closed")
        if isinstance(event, self._last_event):
            self._end = event
            self._events.close()  # frees the connection for the next request
        return event

    def attach_observation(self, observation: Observation) -> None:
        """Report the end of the stream to an observation. Call this before the first read."""
        self._source = ObservedEvents(self._source, observation, self._last_event)
        self._events = self._source.read()

    @property
    def text_stream(self) -> Iterator[str]:
        """The pieces of the model's text as they arrive, without the other events."""
        return (event.text for event in self if isinstance(event, TextDelta))

    def close(self) -> None:
        """Close the connection, and unblock a thread that waits for the next event.

        Does nothing after the end.
        """
        if self._end is None:
            self._cancellation.cancel("the stream was closed")
        # In CPython 3.12, closing a generator that another thread executes may crash the process.
        if getattr(self._events, "gi_running", False):
            return  # another thread is reading; the cancellation makes it close the source
        try:
            self._events.close()
        except ValueError:
            return  # another thread has just begun to read
        self._source.close()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


class ReplyStream(EventStream):
    """The events of a reply as they arrive; the last one is ReplyDone.

    Raises StreamInterrupted, with the partial reply, if the stream ends before the provider's own
    final event.
    """

    _last_event = ReplyDone

    def __enter__(self) -> "ReplyStream":
        return self

    @property
    def reply(self) -> Reply:
        """The complete reply. Raises AsimovError before the end of the stream."""
        if not isinstance(self._end, ReplyDone):
            raise AsimovError("the reply is complete only at the end of the stream: read it first")
        return self._end.reply


class ToolStream(EventStream):
    """The events of a tool loop as they happen; the last one is ToolRunDone.

    They are the events of each reply, and also ToolStarted and ToolFinished. A reply that fails
    before its first event is requested again; one that fails later raises its error.

    Each event is read in `context`, so that usage, budgets and spans belong to the caller that made
    the stream, not to its reader.
    """

    _last_event = ToolRunDone

    def __init__(
        self, source: EventSource, cancellation: Cancellation, context: contextvars.Context
    ) -> None:
        super().__init__(source, cancellation)
        self._context = context

    def __next__(self) -> Event:
        return self._context.run(super().__next__)

    def __enter__(self) -> "ToolStream":
        return self

    @property
    def run(self) -> ToolRun:
        """The loop's outcome. Raises AsimovError before the end of the stream."""
        if not isinstance(self._end, ToolRunDone):
            raise AsimovError("the run is complete only at the end of the stream: read it first")
        return self._end.run


# Observation

RESULT_ATTRIBUTE: Dict[Type[Event], str] = {ReplyDone: "reply", ToolRunDone: "run"}
"""The attribute of a last event that holds the whole result."""


class ObservedEvents(EventSource):
    """Events that are read in the context of an observation, and report their end to it.

    source: the events.
    observation: the observation.
    last_event: the type of the last event.
    """

    def __init__(
        self, source: EventSource, observation: Observation, last_event: Type[Event]
    ) -> None:
        self._source = source
        self._observation = observation
        self._last_event = last_event
        self._ended = False
        timers.start()  # a destructor, which needs it, must not start a thread

    def read(self) -> EventReader:
        """Return a generator of the events."""
        events = self._source.read()
        observation = self._observation
        try:
            while True:
                try:
                    event: Optional[Event] = observation.run_step(next, events, None)
                except BaseException:
                    self._ended = True  # `run_step` has reported the error
                    raise
                if event is None:
                    return
                observation.record_chunk()
                if isinstance(event, self._last_event):
                    self._ended = True
                    observation.end(getattr(event, RESULT_ATTRIBUTE[self._last_event]))
                yield event
        finally:
            events.close()

    def close(self) -> None:
        """Close the source, and report an end without a result."""
        self._source.close()
        self._ended = True
        self._observation.end()

    def __del__(self) -> None:
        if not self._ended:
            # The garbage collector may call this on any thread, even inside another lock.
            timers.call_at(0.0, self._observation.end)


def observe(
    open_events: Callable[[], EventSource], observation: Observation, last_event: Type[Event]
) -> ObservedEvents:
    """Open events in the context of an observation; an error while opening is reported to it."""
    return ObservedEvents(observation.run_step(open_events), observation, last_event)
