"""Async iterators over the events of a reply, a tool loop or a run."""

from typing import (
    Any,
    AsyncIterator,
    Callable,
    ClassVar,
    Generator,
    Generic,
    NoReturn,
    Optional,
    Type,
    TypeVar,
    Union,
)

from asimov_sync.aio.dedicated_thread import DedicatedThread
from asimov_sync.aio.thread_bridge import ThreadBridge
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AsimovError, Cancelled
from asimov_sync.graph.events import RunFinished
from asimov_sync.graph.run import RunEvents
from asimov_sync.inference.stream import ReplyStream, ToolStream
from asimov_sync.inference.tools.loop import ToolRun, ToolRunDone
from asimov_sync.messages import Event, Reply, ReplyDone, TextDelta

__all__ = ["AsyncReplyStream", "AsyncRunEvents", "AsyncStream", "AsyncToolStream"]

Stream = TypeVar("Stream", bound=Union[ReplyStream, ToolStream, RunEvents])
Self = TypeVar("Self", bound="AsyncStream[Any]")
Item = TypeVar("Item")


class AsyncStream(Generic[Stream]):
    """An async iterator over events. Await it, enter it with `async with`, or iterate over it.

    The first of these opens the stream, on a dedicated thread. An `async for` that is left early,
    by `break`, an exception or the end of its task, closes the stream; so does the loss of the last
    reference. To continue reading later, request single events with `anext(stream)` or
    `await stream.__anext__()`. Only one coroutine may read at a time.

    bridge: the threads of the facade.
    open_stream: opens the blocking stream.
    cancellation: a token that ends the stream, too; by default the current one.
    unblock: ends the opening of the stream if cancelling the token does not.
    """

    _last_event: ClassVar[Type[Event]]

    def __init__(
        self,
        bridge: ThreadBridge,
        open_stream: Callable[[], Stream],
        cancellation: Optional[Cancellation] = None,
        unblock: Optional[Callable[[], Any]] = None,
    ) -> None:
        self._bridge = bridge
        self._open_stream = open_stream
        self._unblock = unblock
        self._cancellation = cancellation
        self._thread: Optional[DedicatedThread] = None
        self._stream: Optional[Stream] = None
        self._busy = False
        self._ended = False  # True once the thread has been asked to end
        self._complete = False  # True once the last event has been read

    def __await__(self: Self) -> Generator[Any, None, Self]:
        return self._open().__await__()

    async def _open(self: Self) -> Self:
        if self._stream is None:
            if self._busy:
                raise RuntimeError("two coroutines open this stream at once")
            if self._ended:
                raise Cancelled("the stream was closed, or could not be opened")
            self._thread = self._bridge.open_thread(self._cancellation)
            self._thread.unblock = self._unblock
            stream = await self._call(self._open_stream, _close_stream)
            self._thread.unblock = stream.close
            self._stream = stream
        return self

    async def _call(
        self, function: Callable[[], Any], on_orphan: Optional[Callable[[Any], Any]] = None
    ) -> Any:
        """Make a call on the stream's thread. The thread ends if the call fails."""
        assert self._thread is not None
        self._busy = True
        try:
            return await self._thread.call(function, on_orphan)
        except BaseException:
            self._finish()
            raise
        finally:
            self._busy = False

    def _finish(self) -> None:
        if self._thread is not None and not self._ended:
            self._ended = True
            self._thread.finish()

    async def __anext__(self) -> Event:
        if self._busy:
            raise RuntimeError("two coroutines read this stream at once")
        if self._ended:
            self._raise_ended()
        stream = self._require_open((await self._open())._stream)
        event: Optional[Event] = await self._call(lambda: next(stream, None))
        if event is None:  # the stream was closed meanwhile
            self._raise_ended()
        if isinstance(event, self._last_event):
            self._complete = True
            self._finish()
        return event

    def _raise_ended(self) -> NoReturn:
        """Raise the exception of a read after the end."""
        if self._complete:
            raise StopAsyncIteration
        raise Cancelled("the stream was closed")  # not StopAsyncIteration: events are missing

    def _require_open(self, stream: Optional[Stream]) -> Stream:
        if stream is None:
            raise AsimovError(
                "this stream was not opened: await it, enter it with `async with`, "
                "or iterate over it"
            )
        return stream

    def __aiter__(self) -> AsyncIterator[Event]:
        return _Iteration(self, lambda event: event)

    async def close(self) -> None:
        """Stop the stream, and free a coroutine that waits for the next event.

        Does nothing after the end of the stream.
        """
        if self._ended:
            return
        self._ended = True
        if self._thread is not None:
            await self._thread.close("the stream was closed")

    async def aclose(self) -> None:
        """Stop the stream, as `close` does; the name that `contextlib.aclosing` calls."""
        await self.close()

    async def __aenter__(self: Self) -> Self:
        return await self._open()

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def _abandon(self) -> None:
        """Stop the stream without waiting. Destructors call this, so it must take no lock."""
        if not self._ended:
            self._ended = True
            if self._thread is not None:
                self._thread.abandon()

    def __del__(self) -> None:
        self._abandon()


def _close_stream(stream: Any) -> None:
    stream.close()


class _Iteration(AsyncIterator[Item]):
    """One iteration over a stream. Its destructor closes the stream when an `async for` is left.

    An async generator would be closed by the event loop instead, some time later.

    stream: the stream to read.
    select: returns the item for an event, or None to skip the event.
    """

    def __init__(self, stream: AsyncStream[Any], select: Callable[[Event], Optional[Item]]) -> None:
        self._stream = stream
        self._select = select
        # A debugger that displays `text_stream` creates an iteration, and must not close anything.
        self._started = False

    async def __anext__(self) -> Item:
        self._started = True
        while True:
            item = self._select(await self._stream.__anext__())
            if item is not None:
                return item

    def __del__(self) -> None:
        if self._started:
            self._stream._abandon()


class _TextStream(AsyncStream[Stream]):
    """A stream whose text can be read without the other events."""

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """An iterator over the pieces of the model's text as they arrive."""
        return _Iteration(self, lambda event: event.text if isinstance(event, TextDelta) else None)


class AsyncReplyStream(_TextStream[ReplyStream]):
    """The events of a reply as they arrive; the last one is ReplyDone. See `ReplyStream`."""

    _last_event = ReplyDone

    @property
    def reply(self) -> Reply:
        """The complete reply; available once the stream was read to its end."""
        return self._require_open(self._stream).reply


class AsyncToolStream(_TextStream[ToolStream]):
    """The events of a tool loop as they happen; the last one is ToolRunDone. See `ToolStream`."""

    _last_event = ToolRunDone

    @property
    def run(self) -> ToolRun:
        """The complete tool run; available once the stream was read to its end."""
        return self._require_open(self._stream).run


class AsyncRunEvents(AsyncStream[RunEvents]):
    """The events of a run; the last one is RunFinished. See `RunEvents`.

    Closing or losing the events of `scheduler.stream()` early cancels the run. The events of
    `run.events()` only read.
    """

    _last_event = RunFinished

    async def close(self) -> None:
        """Stop the stream, and free a coroutine that waits for the next event.

        Does nothing after the end of the stream.
        """
        if self._stream is not None and not self._ended:
            self._stream.mark_closing()  # first: so a waiting coroutine gets StopAsyncIteration
        await super().close()

    def _abandon(self) -> None:
        """Stop the stream without waiting. The next run of the graph waits for this run's end."""
        if self._stream is not None and not self._ended:
            self._stream.mark_closing()
        super()._abandon()

    def _raise_ended(self) -> NoReturn:
        raise StopAsyncIteration  # as RunEvents does: a missing RunFinished shows that it was cut
