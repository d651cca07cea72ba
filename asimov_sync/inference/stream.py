"""A reply while it is being streamed: an iterator of typed events that ends with the whole reply, or with an error."""

from typing import Any, Generator, Iterator, Optional

from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AsimovError, Cancelled
from asimov_sync.messages import Event, Reply, ReplyDone, TextDelta

__all__ = ["ReplyStream"]


class ReplyStream(Iterator[Event]):
    """Iterate over it for the events of a reply as they arrive; the last one is ReplyDone.

    The request was sent and its status checked when it was made. A stream that ends before the provider's own final event
    raises StreamInterrupted with what had arrived. Close it (or use it in a `with`) to stop early: the connection is closed.
    """

    def __init__(self, events: Generator[Optional[Event], None, None], cancellation: Cancellation) -> None:
        self._events = events
        self._cancellation = cancellation
        self._reply: Optional[Reply] = None
        next(self._events)  # up to the status

    def __next__(self) -> Event:
        if self._reply is not None:
            raise StopIteration
        event = next(self._events, None)
        if event is None:
            # It was closed between two events. What came so far is not the reply, so this is not the end of an iteration.
            raise Cancelled(self._cancellation.reason or "the stream was closed")
        if isinstance(event, ReplyDone):
            self._reply = event.reply
            self._events.close()  # the connection is free for the next request
        return event

    @property
    def text_stream(self) -> Iterator[str]:
        """The pieces of the reply's text as they arrive, without the other events."""
        return (event.text for event in self if isinstance(event, TextDelta))

    @property
    def reply(self) -> Reply:
        """The whole reply, once the stream was read to its end."""
        if self._reply is None:
            raise AsimovError("the reply is whole only at the end of the stream: iterate over it first")
        return self._reply

    def close(self) -> None:
        """Stop: close the connection, and free a thread that waits for the next event. Harmless after the end."""
        if self._reply is None:
            self._cancellation.cancel("the stream was closed")
        try:
            self._events.close()
        except ValueError:
            pass  # another thread is in it, and is just being freed

    def __enter__(self) -> "ReplyStream":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()
