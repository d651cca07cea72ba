"""Folds a stream's wire events into typed events and one reply.

Pure: the wire events may come from a socket, from boto3 or from a list.
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
from asimov_sync.inference.providers.coerce import DECODE_ERRORS
from asimov_sync.messages import Block, Event, Reply, ReplyDone, TextDelta, ToolCall, ToolCallReady

__all__ = [
    "BlockFold",
    "Fold",
    "MalformedEvent",
    "StreamedBlock",
    "events_of",
    "fold_stream",
    "tool_calls",
]


class Fold(abc.ABC):
    """Folds the events of one stream into a Reply.

    done: whether the provider's own final event was fed; the last typed event was then ReplyDone.
    """

    done = False

    @abc.abstractmethod
    def feed(self, data: Any) -> Sequence[Event]:
        """Take a wire event and return its typed events, often none.

        Raises the provider's own error for an error event, and one of DECODE_ERRORS for a
        malformed event.
        """

    def feed_text(self, data: str) -> Sequence[Event]:
        """Take a wire event as text. Otherwise like `feed`."""
        return self.feed(loads(data))

    def finish(self, length_known: bool) -> Sequence[Event]:
        """Return the last events if, on this wire, the end of the stream can complete the reply.

        length_known: whether the end was marked, by a length or a last chunk. A connection that
            just closes marks nothing.
        """
        return ()

    @abc.abstractmethod
    def partial(self) -> Reply:
        """Return the reply of the events fed so far; its stop_reason is None until it is done."""


class StreamedBlock:
    """One block of a stream.

    start: the block as its start event announced it.
    pieces: the pieces of its deltas, by field.
    stopped: whether its stop event arrived, so that another block may start at its index.
    """

    __slots__ = ("index", "pieces", "start", "stopped")

    def __init__(self, index: int, start: Block) -> None:
        self.index = index
        self.start = start
        self.pieces: Dict[str, List[Any]] = {}
        self.stopped = False


class BlockFold(Fold):
    """A fold of a wire whose streams consist of numbered blocks.

    A server that numbers its blocks wrongly may use an index again. If the first block has stopped,
    the repeated index starts another block, and both are kept. If the first block is still open,
    the repeated index is an error: the deltas of the two blocks could not be distinguished.
    """

    def __init__(self) -> None:
        self._blocks: List[StreamedBlock] = []  # in the order of their starts
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
        self._blocks.append(block)
        return block

    @abc.abstractmethod
    def _join_block(self, block: StreamedBlock) -> Tuple[Block, Optional[str]]:
        """Return a block with its deltas, and its input as text if that is not a JSON object."""

    def _stop_block(self, block: StreamedBlock) -> Sequence[Event]:
        """Mark a block as stopped; returns ToolCallReady if it is a tool call.

        A second stop changes nothing.
        """
        if block.stopped:
            return ()
        block.stopped = True
        joined, malformed = self._join_block(block)
        if joined.get("type") != "tool_use":
            return ()
        return (ToolCallReady(ToolCall.from_block(joined, malformed)),)

    def _join_blocks(self) -> Tuple[List[Block], Dict[int, str]]:
        """Return the blocks by index, and the inputs that are not JSON objects by position.

        If an index was used twice, the order is that of the starts.
        """
        blocks = self._blocks
        if self._indexes_are_unique:
            blocks = sorted(blocks, key=lambda block: block.index)
        joined = [self._join_block(block) for block in blocks]
        malformed = {
            position: text for position, (_block, text) in enumerate(joined) if text is not None
        }
        return [block for block, _text in joined], malformed


def tool_calls(blocks: List[Block], malformed: Mapping[int, str]) -> List[ToolCall]:
    """Return the tool calls among a reply's blocks.

    malformed: by position of the block, the text that was sent instead of a JSON object.
    """
    return [
        ToolCall.from_block(block, malformed.get(position))
        for position, block in enumerate(blocks)
        if block.get("type") == "tool_use"
    ]


class MalformedEvent(ProviderError):
    """A malformed event; always the cause of a StreamInterrupted."""


def fold_stream(
    fold: Fold,
    wire_events: Iterable[Any],
    feed: Callable[[Any], Sequence[Event]],
    provider: str,
    request_id: Optional[str],
    length_known: Callable[[], bool],
) -> Iterator[Event]:
    """Yield the typed events of a stream, ending with ReplyDone.

    feed: the fold's method that takes the wire events.
    length_known: called at their end; see `Fold.finish`.

    Raises StreamInterrupted if the final event is missing.
    """
    interruption: Optional[InferenceError] = None
    try:
        for data in wire_events:
            for event in _feed(feed, data, provider):
                yield event
            if fold.done:
                return
        for event in fold.finish(length_known()):
            yield event
        if fold.done:
            return
    except (ConnectionFailed, MalformedEvent) as error:
        # The connection broke, or an event was cut: either way the rest is missing.
        interruption = error
    except Cancelled as cancelled:
        cancelled.partial = fold.partial()
        raise
    except InferenceError as failed:  # a time-out, or the provider's own error event
        failed.partial = fold.partial()
        failed.request_id = failed.request_id or request_id
        raise
    partial = fold.partial()
    cause = f": {interruption}" if interruption else ""
    raise StreamInterrupted(
        f"the stream ended before its final event, after {len(partial.text)} characters of text"
        f"{cause}",
        provider=provider,
        status=200,
        request_id=request_id,
        partial=partial,
    ) from interruption


def _feed(feed: Callable[[Any], Sequence[Event]], data: Any, provider: str) -> Sequence[Event]:
    try:
        return feed(data)
    except InferenceError:
        raise  # the provider's own error event
    except DECODE_ERRORS as error:
        malformed = MalformedEvent(
            f"an event that cannot be read: {format_error(error)}", provider=provider
        )
    raise malformed


def events_of(reply: Reply) -> Iterator[Event]:
    """Yield the events of a reply that was not streamed."""
    if reply.text:
        yield TextDelta(reply.text)
    for call in reply.tool_calls:
        yield ToolCallReady(call)
    yield ReplyDone(reply)
