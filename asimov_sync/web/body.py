"""Bodies: the bytes of a streamed response, with comments while no event arrives.

If the browser has left, writing such a comment fails. The server then closes the body, which closes
the events.
"""

import collections
import inspect
import threading
from collections.abc import AsyncIterable as AsyncIterableABC
from typing import (
    Any,
    AsyncIterator,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
)

from asimov_sync.aio.futures import LoopEvent, start_task
from asimov_sync.cancellation import require_number
from asimov_sync.concurrency.log_context import describe_error, get_logger
from asimov_sync.errors import AsimovError
from asimov_sync.web.encoder import Encoder
from asimov_sync.web.reader import MAX_UNSENT, DirectReader, End, Item, OnEnd, ThreadReader

__all__ = ["KEEP_ALIVE", "AsyncBody", "Body", "make_body"]

logger = get_logger("asimov_sync.web")

KEEP_ALIVE = 2.0
"""Seconds of silence before a comment is sent.

The first write to a connection that the browser has closed succeeds, and only the second fails. So
a server notices within twice this time that a browser has left.
"""

COMMENT = b": keep-alive\n\n"


def make_body(
    events: Any,
    encoder: Encoder,
    headers: Mapping[str, str],
    keep_alive: Optional[float],
    on_end: OnEnd,
) -> Any:
    """Return a Body, or an AsyncBody if the events are an async iterator.

    Raises TypeError for events that cannot be iterated over, ValueError for an invalid keep_alive.
    """
    require_number("keep_alive=", keep_alive)
    if keep_alive is not None and keep_alive <= 0:
        raise ValueError(f"keep_alive= is a positive number of seconds, or None; not {keep_alive}")
    if isinstance(events, AsyncIterableABC):
        return AsyncBody(_AsyncSource(events, on_end), encoder, headers, keep_alive)
    return Body(events, encoder, headers, keep_alive, on_end)


class _ClosableBody:
    """Base of the bodies for WSGI and ASGI: encodes events, and closes them.

    source: reads the events. The other parameters are those of `make_body`.
    """

    def __init__(
        self,
        source: Any,
        encoder: Encoder,
        headers: Mapping[str, str],
        keep_alive: Optional[float],
    ) -> None:
        self.headers: Dict[str, str] = dict(headers)
        self._source = source
        self._encoder = encoder
        self._keep_alive = keep_alive
        self._started = False
        self._ended = False

    def _encode(self, items: List[Item]) -> bytes:
        """Return the bytes of events, and note whether they are the last."""
        chunk, is_last = _encode_items(self._encoder, items)
        self._ended = self._ended or is_last  # another thread may have closed it
        return chunk

    def close(self) -> None:
        """Close the events: cancel what only this response owns. Does nothing after the end.

        An async body is closed from any thread and without waiting.
        """
        if not self._ended:
            self._ended = True
            self._source.close()

    def __del__(self) -> None:
        if not getattr(self, "_ended", True):  # it has no `_ended` if its events are unsuitable
            self.close()


class Body(_ClosableBody, Iterator[bytes]):
    """The bytes of a response, for WSGI. Iterate over it once, and close it.

    headers: the headers of the response.
    """

    def __init__(
        self,
        events: Iterable[Any],
        encoder: Encoder,
        headers: Mapping[str, str],
        keep_alive: Optional[float],
        on_end: OnEnd = None,
    ) -> None:
        kind = DirectReader if keep_alive is None else ThreadReader
        super().__init__(kind(events, on_end), encoder, headers, keep_alive)

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        if not self._started:
            self._started = True
            self._source.start()
            return self._encoder.start()
        while True:
            items = self._source.take(self._keep_alive)
            if not items:
                return COMMENT
            chunk = self._encode(items)
            if chunk:
                return chunk
            if self._ended:
                raise StopIteration

    def as_async(self) -> "AsyncBody":
        """Return the same body for ASGI. Call it in a coroutine, in place of iterating over this.

        The events are read on a thread of their own.
        """
        self._ended = True  # the other body owns the events now
        source = self._source
        reader = (
            source
            if isinstance(source, ThreadReader)
            else ThreadReader(source.events, source.on_end)
        )
        return AsyncBody(_ThreadSource(reader), self._encoder, self.headers, self._keep_alive)

    def __enter__(self) -> "Body":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()


class AsyncBody(_ClosableBody, AsyncIterator[bytes]):
    """The bytes of a response, for ASGI. Iterate over it once, and close it.

    If the coroutine that reads it is cancelled, the events are closed.

    headers: the headers of the response.
    """

    def __aiter__(self) -> "AsyncBody":
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        if not self._started:
            self._started = True
            self._source.start()
            return self._encoder.start()
        while True:
            try:
                items = await self._source.take(self._keep_alive)
            except BaseException:  # the server has cancelled the response
                self.close()
                raise
            if not items:
                return COMMENT
            chunk = self._encode(items)
            if chunk:
                return chunk
            if self._ended:
                raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the events, as `close` does."""
        self.close()


def _encode_items(encoder: Encoder, items: List[Item]) -> Tuple[bytes, bool]:
    """Return the bytes of events, and whether they are the last.

    Raises what is not an error of the events, such as KeyboardInterrupt.
    """
    chunks = []
    for item in items:
        if not isinstance(item, End):
            chunks.append(encoder.encode(item))
            continue
        error = item.error
        if error is None:
            chunks.append(encoder.finish())
        elif not isinstance(error, Exception):
            raise error
        else:
            if isinstance(error, AsimovError):
                logger.warning("a streamed response ended with %s", describe_error(error))
            else:
                logger.error("a streamed response ended with an error", exc_info=error)
            chunks.append(encoder.fail(error))
        return b"".join(chunks), True
    return b"".join(chunks), False


# For coroutines


class _ThreadSource:
    """Reads events on a thread, for a coroutine."""

    def __init__(self, reader: ThreadReader) -> None:
        self._reader = reader
        self._arrived: Optional[LoopEvent] = None

    def start(self) -> None:
        """Start to read."""
        self._arrived = LoopEvent()
        self._reader.start(self._arrived.set)

    async def take(self, timeout: Optional[float]) -> List[Item]:
        """Return the events that have arrived; none after the time-out."""
        items = self._reader.take_now()
        if not items and self._arrived is not None:
            await self._arrived.wait(timeout)
            items = self._reader.take_now()
        return items

    def close(self) -> None:
        """Close the events on a thread, since that may block."""
        threading.Thread(target=self._reader.close, name="asimov-web", daemon=True).start()


class _AsyncSource:
    """Reads an async iterator in a task of its own, at most MAX_UNSENT events ahead."""

    def __init__(self, events: Any, on_end: OnEnd) -> None:
        self._events = events
        self._on_end = on_end
        self._items: Deque[Item] = collections.deque()
        self._arrived: Optional[LoopEvent] = None
        self._task: Any = None
        self._closed = False

    def start(self) -> None:
        """Start to read."""
        self._arrived, self._taken = LoopEvent(), LoopEvent()
        self._task = start_task(self._read())

    async def _read(self) -> None:
        end, events = End(None), self._events
        assert self._arrived is not None
        try:
            try:
                async for event in events:
                    self._items.append(event)
                    self._arrived.set()
                    while len(self._items) >= MAX_UNSENT:
                        await self._taken.wait(None)
                ended = None if self._on_end is None else self._on_end()
                if inspect.isawaitable(ended):
                    await ended
            finally:
                close = getattr(events, "aclose", None)
                if close is not None:
                    await close()
        except BaseException as error:
            if self._closed:
                raise
            end = End(error)
        self._items.append(end)
        self._arrived.set()

    async def take(self, timeout: Optional[float]) -> List[Item]:
        """Return the events that have arrived; none after the time-out."""
        if not self._items and self._arrived is not None:
            await self._arrived.wait(timeout)
        items = list(self._items)
        self._items.clear()
        self._taken.set()
        return items

    def close(self) -> None:
        """Cancel the task, which closes the events."""
        self._closed = True
        if self._arrived is not None:
            self._arrived.call(self._task.cancel)
        # Without a reader, a lost stream of this library closes itself.
        self._events = self._on_end = None
