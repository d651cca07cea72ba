"""Events while they happen, as async iterators: of one reply, of a tool loop, of a run."""

from typing import Any, AsyncIterator, Callable, ClassVar, Generator, Generic, NoReturn, Optional, Type, TypeVar, Union

from asimov_sync.aio.threads import Lane, Threads
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import AsimovError, Cancelled
from asimov_sync.graph.events import RunFinished
from asimov_sync.graph.run import RunEvents
from asimov_sync.inference.stream import ReplyStream, ToolStream
from asimov_sync.inference.tool_loop import ToolRun, ToolRunDone
from asimov_sync.messages import Event, Reply, ReplyDone, TextDelta

__all__ = ["AsyncReplyStream", "AsyncRunEvents", "AsyncStream", "AsyncToolStream"]

Stream = TypeVar("Stream", bound=Union[ReplyStream, ToolStream, RunEvents])
Self = TypeVar("Self", bound="AsyncStream[Any]")
Part = TypeVar("Part")


class AsyncStream(Generic[Stream]):
    """Await it, enter it with `async with`, or iterate over it: the first of these opens it, on a thread of its own.

    An `async for` that is left early, by a break, an exception or the end of its task, closes it; so does the loss of the
    last reference. To read on later, ask for the events one by one, with `anext(stream)` or `await stream.__anext__()`.
    One coroutine at a time reads.
    """

    _final: ClassVar[Type[Event]]

    def __init__(
        self,
        threads: Threads,
        open: Callable[[], Stream],
        cancellation: Optional[Cancellation] = None,
        free: Optional[Callable[[], Any]] = None,
    ) -> None:
        self._threads = threads
        self._open = open
        self._free = free  # what is to be called where it is not even opened
        self._cancellation = cancellation
        self._lane: Optional[Lane] = None
        self._stream: Optional[Stream] = None
        self._busy = False
        self._left = False  # whether the lane was told to end
        self._whole = False  # whether the last event was read

    def __await__(self: Self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def _opened(self: Self) -> Self:
        if self._stream is None:
            if self._busy:
                raise RuntimeError("two coroutines open this stream at once")
            if self._left:
                raise Cancelled("the stream was closed, or could not be opened")
            self._lane = self._threads.lane(self._cancellation)
            self._lane.free = self._free
            stream = await self._step(self._open, _close)
            self._lane.free = stream.close
            self._stream = stream
        return self

    async def _step(self, function: Callable[[], Any], undo: Optional[Callable[[Any], Any]] = None) -> Any:
        assert self._lane is not None
        self._busy = True
        try:
            return await self._lane.call(function, undo)
        except BaseException:
            self._leave()
            raise
        finally:
            self._busy = False

    def _leave(self) -> None:
        if self._lane is not None and not self._left:
            self._left = True
            self._lane.leave()

    async def __anext__(self) -> Event:
        if self._busy:
            raise RuntimeError("two coroutines read this stream at once")
        if self._left:
            self._refuse()
        stream = self._beneath((await self._opened())._stream)
        event: Optional[Event] = await self._step(lambda: next(stream, None))
        if event is None:  # it was closed in this moment
            self._refuse()
        if isinstance(event, self._final):
            self._whole = True
            self._leave()
        return event

    def _refuse(self) -> NoReturn:
        """What a reader meets who asks for more after the end."""
        if self._whole:
            raise StopAsyncIteration
        raise Cancelled("the stream was closed")  # what came so far is not the whole, so this is not the end of an iteration

    def _beneath(self, stream: Optional[Stream]) -> Stream:
        if stream is None:
            raise AsimovError("this stream was not opened: await it, enter it with `async with`, or iterate over it")
        return stream

    def __aiter__(self) -> AsyncIterator[Event]:
        return _Reading(self, lambda event: event)

    async def close(self) -> None:
        """Stop: end what goes on beneath, and free a coroutine that waits for the next event. Harmless after the end."""
        if self._left:
            return
        self._left = True
        if self._lane is not None:
            await self._lane.close("the stream was closed")

    async def __aenter__(self: Self) -> Self:
        return await self._opened()

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def drop(self) -> None:
        """Stop without waiting for it, as whoever leaves an iteration does; for destructors, too."""
        if not self._left:
            self._left = True
            if self._lane is not None:
                self._lane.drop()

    def __del__(self) -> None:
        self.drop()


def _close(stream: Any) -> None:
    stream.close()


class _Reading(AsyncIterator[Part]):
    """One iteration over a stream, which is closed when this is lost: where an `async for` is left, at once. (An async
    generator would be ended by its event loop, some time later.) pick: what of an event is wanted, or None.
    """

    def __init__(self, stream: AsyncStream[Any], pick: Callable[[Event], Optional[Part]]) -> None:
        self._stream = stream
        self._pick = pick
        self._begun = False  # a debugger may look at `text_stream`, and lose it

    async def __anext__(self) -> Part:
        self._begun = True
        while True:
            part = self._pick(await self._stream.__anext__())
            if part is not None:
                return part

    def __del__(self) -> None:
        if self._begun:
            self._stream.drop()


class _Texts(AsyncStream[Stream]):
    """A stream of which the text may be read alone."""

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The pieces of the model's text as they arrive, without the other events."""
        return _Reading(self, lambda event: event.text if isinstance(event, TextDelta) else None)


class AsyncReplyStream(_Texts[ReplyStream]):
    """The events of a reply as they arrive; the last one is ReplyDone. See `ReplyStream`."""

    _final = ReplyDone

    @property
    def reply(self) -> Reply:
        """The whole reply, once the stream was read to its end."""
        return self._beneath(self._stream).reply


class AsyncToolStream(_Texts[ToolStream]):
    """The events of a tool loop as they happen; the last one is ToolRunDone. See `ToolStream`."""

    _final = ToolRunDone

    @property
    def run(self) -> ToolRun:
        """What came of the loop, once the stream was read to its end."""
        return self._beneath(self._stream).run


class AsyncRunEvents(AsyncStream[RunEvents]):
    """What happens in a run; the last event is RunFinished. Closing or losing it early cancels the run. See `RunEvents`."""

    _final = RunFinished

    def drop(self) -> None:
        """As of every stream; whoever wants the graph next waits for the end of the run."""
        if self._stream is not None and not self._left:
            self._stream.mark_closing()
        super().drop()

    def _refuse(self) -> NoReturn:
        raise StopAsyncIteration  # as of RunEvents: who has not had RunFinished knows that it was cut
