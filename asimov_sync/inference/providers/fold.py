"""From a stream's wire events to one reply: what every wire's fold promises, and how a stream of events is driven through it.

Pure: the events may come from a socket, from boto3 or from a list.
"""

import abc
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from asimov_sync._json import format_error, loads
from asimov_sync.errors import (
    Cancelled,
    ConnectionFailed,
    InferenceError,
    ProviderError,
    StreamInterrupted,
)
from asimov_sync.messages import Block, Event, Reply, ReplyDone, TextDelta, ToolCall, ToolCallReady

__all__ = ["BlockFold", "Fold", "Garbled", "StreamedBlock", "all_at_once", "folded", "tool_calls"]


class Fold(abc.ABC):
    """Folds the events of one stream to a Reply: feed it each wire event, and it answers with the typed events of that.

    done: whether the provider's own final event was fed; the last typed event was then a ReplyDone.
    """

    done = False

    @abc.abstractmethod
    def feed(self, data: Any) -> Sequence[Event]:
        """The typed events that a wire event amounts to, often none. The provider's own error event is raised as its error.

        KeyError, TypeError, ValueError, ArithmeticError or AttributeError for an event that is not of the wire.
        """

    def feed_text(self, data: str) -> Sequence[Event]:
        """As `feed`, of an event that is still text."""
        return self.feed(loads(data))

    def finish(self, delimited: bool) -> Sequence[Event]:
        """What the end of the stream completes, on wires where it may.

        delimited: whether the end was announced (by a length, or a last chunk); a connection that just closes announces
        nothing.
        """
        return ()

    @abc.abstractmethod
    def partial(self) -> Reply:
        """The reply of what was fed so far; without a stop_reason until it is done."""


class StreamedBlock:
    """One block of a stream: what its start announced, and the pieces of its deltas, by field.

    stopped: whether its stop event was received, so that another block may start at its index.
    """

    __slots__ = ("index", "pieces", "start", "stopped")

    def __init__(self, index: int, start: Block) -> None:
        self.index = index
        self.start = start
        self.pieces: Dict[str, List[Any]] = {}
        self.stopped = False


class BlockFold(Fold):
    """A fold of a wire whose streams bring numbered blocks.

    A server that numbers its blocks wrongly may use an index again. After the first block's stop, that starts
    another block, and both are kept. While the first block is open, it is an error: its deltas could not be told
    from those of the second.
    """

    def __init__(self) -> None:
        self._all: List[StreamedBlock] = []  # in the order of their starts
        self._at: Dict[int, StreamedBlock] = {}  # by index, the block that started last
        self._indexes_are_unique = True

    def _start_block(self, index: int, start: Block) -> StreamedBlock:
        """Add a block. ValueError if another one is open at its index."""
        before = self._at.get(index)
        if before is not None:
            if not before.stopped:
                raise ValueError(f"a block starts at index {index} while another one is open there")
            self._indexes_are_unique = False
        block = self._at[index] = StreamedBlock(index, start)
        self._all.append(block)
        return block

    @abc.abstractmethod
    def _folded(self, block: StreamedBlock) -> Tuple[Block, Optional[str]]:
        """A block with all its deltas, and its input as text if that is not a JSON object."""

    def _stop_block(self, block: StreamedBlock) -> Sequence[Event]:
        """Mark a block as stopped; returns ToolCallReady if it is a tool call. A second stop changes nothing."""
        if block.stopped:
            return ()
        block.stopped = True
        whole, malformed = self._folded(block)
        return (ToolCallReady(ToolCall.from_block(whole, malformed)),) if whole.get("type") == "tool_use" else ()

    def _so_far(self) -> Tuple[List[Block], Dict[int, str]]:
        """The blocks in the order of their indexes, and the inputs that are no JSON objects, by their places.

        If an index was used twice, the order is that of the starts.
        """
        blocks = sorted(self._all, key=lambda block: block.index) if self._indexes_are_unique else self._all
        folded = [self._folded(block) for block in blocks]
        malformed = {place: wrong for place, (_block, wrong) in enumerate(folded) if wrong is not None}
        return [block for block, _wrong in folded], malformed


def tool_calls(blocks: List[Block], malformed: Mapping[int, str]) -> List[ToolCall]:
    """The calls among a reply's blocks. malformed: by the places of blocks, what came in place of a JSON object."""
    return [
        ToolCall.from_block(block, malformed.get(place))
        for place, block in enumerate(blocks)
        if block.get("type") == "tool_use"
    ]


class Garbled(ProviderError):
    """An event that is not of the wire; always the cause of a StreamInterrupted."""


def folded(
    fold: Fold,
    wire: Iterable[Any],
    feed: Callable[[Any], Sequence[Event]],
    provider: str,
    request_id: Optional[str],
    delimited: Callable[[], bool],
) -> Iterator[Event]:
    """The typed events of a stream, ending with ReplyDone; StreamInterrupted where the final event is not among them.

    wire: its events; feed: the fold's method that takes them. delimited: asked when they have come to an end.
    """
    interruption: Optional[InferenceError] = None
    try:
        for data in wire:
            for event in _fed(feed, data, provider):
                yield event
            if fold.done:
                return
        for event in fold.finish(delimited()):
            yield event
        if fold.done:
            return
    except (ConnectionFailed, Garbled) as broken:
        # The connection broke, or an event was cut: either way the rest is missing.
        interruption = broken
    except Cancelled as cancelled:
        cancelled.partial = fold.partial()
        raise
    except InferenceError as failed:  # a time-out, or the provider's own error event
        failed.partial = fold.partial()
        failed.request_id = failed.request_id or request_id
        raise
    partial = fold.partial()
    error = StreamInterrupted(
        "the stream ended before its final event, after {} characters of text{}".format(
            len(partial.text), ": {}".format(interruption) if interruption else ""
        ),
        provider=provider,
        status=200,
        request_id=request_id,
        partial=partial,
    )
    raise error from interruption


def _fed(feed: Callable[[Any], Sequence[Event]], data: Any, provider: str) -> Sequence[Event]:
    try:
        return feed(data)
    except InferenceError:
        raise  # the provider's own error event
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as wrong:
        garbled = Garbled("an event that cannot be read: {}".format(format_error(wrong)), provider=provider)
    raise garbled


def all_at_once(reply: Reply) -> Iterator[Event]:
    """The events of a reply that came in one piece."""
    if reply.text:
        yield TextDelta(reply.text)
    for call in reply.tool_calls:
        yield ToolCallReady(call)
    yield ReplyDone(reply)
