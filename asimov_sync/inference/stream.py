"""Events while they happen, as iterators: of one reply, and of a tool loop. They end with the whole, or with an error."""

import contextvars
from typing import Any, ClassVar, Dict, Generator, Iterator, Optional, Type

from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.timers import timers
from asimov_sync.errors import AsimovError, Cancelled
from asimov_sync.inference.tools.loop import ToolRun, ToolRunDone
from asimov_sync.instrumentation import Observation
from asimov_sync.messages import Event, Reply, ReplyDone, TextDelta

__all__ = ["EventStream", "ReplyStream", "ToolStream", "watched"]


class EventStream(Iterator[Event]):
    """Iterate over it for events as they arrive. Close it (or use it in a `with`) to stop early.

    The first request was sent and its status checked when it was made.
    """

    _final: ClassVar[Type[Event]]

    def __init__(self, events: Generator[Optional[Event], None, None], cancellation: Cancellation) -> None:
        self._events = events
        self._cancellation = cancellation
        self._end: Optional[Event] = None
        self._step()  # up to the status

    def _step(self) -> Optional[Event]:
        return next(self._events, None)

    def __next__(self) -> Event:
        if self._end is not None:
            raise StopIteration
        try:
            event = self._step()
        except ValueError:
            if not self._cancellation.cancelled:
                raise
            event = None  # another thread is just closing it
        if event is None:
            # It was closed between two events. What came so far is not the whole, so this is not the end of an iteration.
            raise Cancelled(self._cancellation.reason or "the stream was closed")
        if isinstance(event, self._final):
            self._end = event
            self._events.close()  # the connection is free for the next request
        return event

    def watched_by(self, watch: Observation) -> None:
        """Tell a watch how it ends."""
        self._events = watched(_opened(self._events), watch, self._cancellation, self._final)
        next(self._events)  # into it, or it would not hear that it is closed

    @property
    def text_stream(self) -> Iterator[str]:
        """The pieces of the model's text as they arrive, without the other events."""
        return (event.text for event in self if isinstance(event, TextDelta))

    def close(self) -> None:
        """Stop: close the connection, and free a thread that waits for the next event. Harmless after the end."""
        if self._end is None:
            self._cancellation.cancel("the stream was closed")
        try:
            self._events.close()
        except ValueError:
            pass  # another thread is in it, and is just being freed

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


class ReplyStream(EventStream):
    """The events of a reply as they arrive; the last one is ReplyDone.

    A stream that ends before the provider's own final event raises StreamInterrupted with what had arrived.
    """

    _final = ReplyDone

    def __enter__(self) -> "ReplyStream":
        return self

    @property
    def reply(self) -> Reply:
        """The whole reply, once the stream was read to its end."""
        if not isinstance(self._end, ReplyDone):
            raise AsimovError("the reply is whole only at the end of the stream: iterate over it first")
        return self._end.reply


class ToolStream(EventStream):
    """The events of a tool loop as they happen: those of each reply, ToolStarted, ToolFinished; the last is ToolRunDone.

    A reply that fails before anything of it was handed on is asked for again; one that is cut later is raised as it is.
    """

    _final = ToolRunDone

    def __init__(self, events: Generator[Optional[Event], None, None], cancellation: Cancellation) -> None:
        # Each step runs in the context in which the stream was made: whose meters, budgets and spans they are does not
        # depend on who reads.
        self._context = contextvars.copy_context()
        super().__init__(events, cancellation)

    def _step(self) -> Optional[Event]:
        return self._context.run(next, self._events, None)

    def __enter__(self) -> "ToolStream":
        return self

    @property
    def run(self) -> ToolRun:
        """What came of the loop, once the stream was read to its end."""
        if not isinstance(self._end, ToolRunDone):
            raise AsimovError("the run is there only at the end of the stream: iterate over it first")
        return self._end.run


# Watching

WHOLE: Dict[Type[Event], str] = {ReplyDone: "reply", ToolRunDone: "run"}
"""Where a last event has the whole."""


def watched(
    events: Generator[Optional[Event], None, None],
    watch: Observation,
    cancellation: Cancellation,
    final: Type[Event] = ReplyDone,
) -> Generator[Optional[Event], None, None]:
    """The same events, each step made in the context of a watch, which is told how they end."""
    timers.start()  # while it is safe to
    try:
        while True:
            event = watch.run_step(next, events, None)
            if event is not None:
                watch.first_chunk()
            if isinstance(event, final):
                watch.end(getattr(event, WHOLE[final]))
            yield event
    except GeneratorExit:
        events.close()
        if cancellation.cancelled:
            watch.end()
        else:  # it was dropped, perhaps by the garbage collector, and so perhaps inside of somebody's lock
            timers.call_at(0.0, watch.end)
        raise


def _opened(events: Generator[Optional[Event], None, None]) -> Generator[Optional[Event], None, None]:
    """The rest of events whose first None was taken, after another one."""
    yield None
    yield from events
