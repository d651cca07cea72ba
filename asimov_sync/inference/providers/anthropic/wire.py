"""Codec of Anthropic's Messages wire: encodes a Request, decodes bodies and stream events.

Pure: no IO, no clock.

Facts of the wire: https://docs.anthropic.com/en/api/messages and …/messages-streaming, and
recorded traffic, which adds that `message_delta` figures are cumulative, that a tool_use may
arrive whole in `content_block_start`, that its input may be an empty string, and that unknown
keys, blocks and events appear anywhere.
"""

from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from asimov_sync.errors import (
    AuthenticationError,
    InferenceError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    RateLimitError,
)
from asimov_sync.inference.providers.blank_text import can_be_marked, without_blank_text
from asimov_sync.inference.providers.coerce import as_count, as_str, block_index, parse_object
from asimov_sync.inference.providers.errors import ErrorMap, error_from
from asimov_sync.inference.providers.fold import BlockFold, StreamedBlock, tool_calls
from asimov_sync.inference.request import Request
from asimov_sync.messages import (
    Block,
    ChatMessage,
    ChatRole,
    Event,
    Reply,
    ReplyDone,
    TextDelta,
    ThinkingDelta,
    Usage,
)

__all__ = ["DEFAULT_MAX_TOKENS", "MessagesFold", "decode_error", "decode_reply", "encode_request"]

DEFAULT_MAX_TOKENS = 4096
"""The longest reply of a client that was given no max_tokens, which the wire requires."""

MAX_CACHE_MARKERS = 4
"""The most blocks of a request that may have cache_control. A fifth is a 400 (Anthropic,
"Prompt caching")."""

# Request to wire


def encode_request(request: Request, keep_cited: bool = False) -> Dict[str, Any]:
    """Return the JSON body of a request, without "stream".

    Blank text is left out, and so is a message without any other content (see `blank_text`). The
    messages before and after it are joined if they have the same role.

    keep_cited: send blank text if it has citations, as Converse does.

    Raises ValueError if no message is left, or if the user's last message would be left out: the
    model would continue the reply before it.
    """
    if not request.messages:
        raise ValueError("there is no message to answer: messages is empty")
    body: Dict[str, Any] = {"model": request.model}
    prompt = [ChatMessage(role=ChatRole.SYSTEM, content=request.system)] if request.system else []
    instructions = prompt + [
        message for message in request.messages if message.role is ChatRole.SYSTEM
    ]
    turns = [message for message in request.messages if message.role is not ChatRole.SYSTEM]
    kept_instructions = [
        message for message in without_blank_text(instructions, keep_cited) if message is not None
    ]
    kept = without_blank_text(turns, keep_cited)
    left = [message for message in kept if message is not None]
    if turns and not left:
        raise ValueError("there is no message to answer: all of them are blank")
    if turns and left[-1].role is ChatRole.ASSISTANT and turns[-1].role is not ChatRole.ASSISTANT:
        raise ValueError("there is no message to answer: the last one is blank")
    marked = iter(
        _place_markers(
            kept_instructions + left, sum("cache_control" in tool for tool in request.tools)
        )
    )
    system = [block for _ in kept_instructions for block in next(marked).blocks]
    body["messages"] = _encode_messages(
        [None if message is None else next(marked) for message in kept]
    )
    if system:
        body["system"] = (
            system[0]["text"] if len(system) == 1 and set(system[0]) == {"type", "text"} else system
        )
    if request.tools:
        body["tools"] = request.tools
    for name in sorted(set(request.options) - {"extra"}):
        body[name] = request.options[name]
    if isinstance(body.get("tool_choice"), str):
        choice = body["tool_choice"]
        body["tool_choice"] = (
            {"type": choice}
            if choice in ("auto", "any", "none")
            else {"type": "tool", "name": choice}
        )
    body.update(request.options.get("extra") or {})
    return body


def _encode_messages(messages: List[Optional[ChatMessage]]) -> List[Dict[str, Any]]:
    """Return the messages as they are sent; None stands for a message that was left out.

    Messages that become neighbours are joined if they have the same role. The
    Messages API would join them itself; Amazon documents InvokeModel only for alternating roles.
    """
    sent: List[Dict[str, Any]] = []
    after_gap = False
    for message in messages:
        if message is None:
            after_gap = True
            continue
        role = "assistant" if message.role is ChatRole.ASSISTANT else "user"
        if after_gap and sent and sent[-1]["role"] == role:
            before = sent[-1]["content"]
            blocks = [{"type": "text", "text": before}] if isinstance(before, str) else before
            sent[-1]["content"] = blocks + message.blocks
        else:
            sent.append({"role": role, "content": message.content})
        after_gap = False
    return sent


def _place_markers(messages: List[ChatMessage], others: int) -> List[ChatMessage]:
    """Return the messages with their cache markers as cache_control in their blocks.

    If there are too many markers, the last ones are kept: each covers the whole prompt before it.

    others: number of markers outside of the messages.
    """
    others += sum("cache_control" in block for message in messages for block in message.blocks)
    candidates = [
        index for index, message in enumerate(messages) if message.cache_marker and message.blocks
    ]
    marked = candidates[max(0, len(candidates) - max(0, MAX_CACHE_MARKERS - others)) :]
    return [
        message.model_copy(update={"content": _mark_blocks(message)})
        if index in marked
        else message
        for index, message in enumerate(messages)
    ]


def _mark_blocks(message: ChatMessage) -> List[Block]:
    """Return the blocks, with cache_control on the last one that can have it."""
    blocks = list(message.blocks)
    for index in reversed(range(len(blocks))):
        if not can_be_marked(blocks[index]):
            continue
        control = {"type": "ephemeral"}
        if isinstance(message.cache_marker, str):
            control["ttl"] = message.cache_marker
        blocks[index] = dict(blocks[index], cache_control=control)
        break
    return blocks


# Wire to reply


def decode_reply(body: Mapping[str, Any]) -> Reply:
    """Return the reply of a response that was not streamed.

    Raises ValueError, KeyError or TypeError if the body is not a reply.
    """
    if body["type"] != "message" or not isinstance(body["content"], list):
        raise ValueError("the body is not a message with a list of content")
    if not isinstance(body["stop_reason"], str):
        raise ValueError("the message has no stop_reason")
    return _reply(body, [_check_block(block) for block in body["content"]], {})


_FIELDS: Dict[Any, Tuple[str, ...]] = {
    "text": ("text", "citations"),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "tool_use": ("input",),
    "server_tool_use": ("input",),
    "mcp_tool_use": ("input",),
}
"""The fields that deltas may add to, by type of block. An unlisted type accepts any delta."""


def _check_block(block: Any) -> Block:
    """Return a copy of a received block.

    Raises ValueError if its type is not a string, or if it is a text or thinking block whose text
    is not a string.
    """
    block = dict(block)
    kind = block.get("type")
    for field in ("type", kind) if kind in ("text", "thinking") else ("type",):
        if not isinstance(block.get(field), (str, type(None))):
            raise ValueError(
                f"the {field} of a block must be a string, not {type(block[field]).__name__}"
            )
    return block  # type: ignore[no-any-return]


def _reply(message: Mapping[str, Any], blocks: List[Block], malformed: Mapping[int, str]) -> Reply:
    return Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason=as_str(message.get("stop_reason")),
        raw_stop_reason=as_str(message.get("stop_reason")),
        tool_calls=tool_calls(blocks, malformed),
        usage=_usage(message.get("usage")),
        model=as_str(message.get("model")),
        id=as_str(message.get("id")),
    )


def _usage(figures: Any) -> Usage:
    return Usage(
        input_tokens=as_count(figures, "input_tokens"),
        output_tokens=as_count(figures, "output_tokens"),
        cache_read_input_tokens=as_count(figures, "cache_read_input_tokens"),
        cache_write_input_tokens=as_count(figures, "cache_creation_input_tokens"),
        cache_write_5m_input_tokens=as_count(
            figures, "cache_creation", "ephemeral_5m_input_tokens"
        ),
        cache_write_1h_input_tokens=as_count(
            figures, "cache_creation", "ephemeral_1h_input_tokens"
        ),
        reasoning_tokens=as_count(figures, "output_tokens_details", "thinking_tokens"),
        requests=1,
    )


class MessagesFold(BlockFold):
    """Folds the events of a Messages stream.

    Figures that the wire repeats (usage) are overwritten, never added.
    """

    def __init__(self, provider: str) -> None:
        super().__init__()
        self._provider = provider
        self._message: Dict[str, Any] = {}
        self._message_started = False
        self._announced: Set[int] = set()  # the indexes of blocks inside message_start

    def feed(self, data: Mapping[str, Any]) -> Sequence[Event]:
        """Take a wire event and return its typed events. An `error` event is raised."""
        kind = data["type"]
        if kind == "content_block_delta":
            return self._delta(data["index"], data["delta"])
        if kind == "content_block_start":
            self._start_or_repeat(block_index(data["index"]), _check_block(data["content_block"]))
        elif kind == "content_block_stop":
            return self._stop_block(self._at[data["index"]])
        elif kind == "message_start":
            self._start_message(dict(data["message"]))
        elif kind == "message_delta":
            self._message.update(data.get("delta") or {})
            self._update_usage(data.get("usage"))
        elif kind == "message_stop":
            if not isinstance(self._message.get("stop_reason"), str):
                raise ValueError("the message stops without a message_start or a stop_reason")
            self.done = True
            return (ReplyDone(self.partial()),)
        elif kind == "error":
            raise decode_error(self._provider, None, {}, data)
        return ()  # pings and unknown events

    def _update_usage(self, usage: Any) -> None:
        figures = usage.items() if isinstance(usage, dict) else ()
        before = self._message.get("usage")
        updated = dict(before) if isinstance(before, dict) else {}
        updated.update((name, figure) for name, figure in figures if figure is not None)
        self._message["usage"] = updated

    def _start_message(self, message: Dict[str, Any]) -> None:
        """Start the reply. ValueError if another message has started in this stream.

        A start that repeats the message's id is a duplicate, which proxies send; it is ignored.
        """
        if self._message_started:
            if not as_str(message.get("id")) or message["id"] != self._message.get("id"):
                raise ValueError("a second message starts in the same stream")
            return
        self._message_started = True
        self._message = message
        for index, block in enumerate(message.get("content") or []):
            self._start_block(index, _check_block(block)).stopped = True
            self._announced.add(index)

    def _start_or_repeat(self, index: int, block: Block) -> None:
        if index in self._announced:  # message_start brought this block already
            self._announced.remove(index)
            if not self._at[index].pieces:
                self._at[index].start = block
                self._at[index].stopped = False
                return
        self._start_block(index, block)

    def _delta(self, index: int, delta: Mapping[str, Any]) -> Sequence[Event]:
        kind = delta["type"]
        if kind == "text_delta":
            piece = delta["text"]
            self._add_piece(index, "text", piece)
            return (TextDelta(piece),)
        if kind == "input_json_delta":
            self._add_piece(index, "input", delta["partial_json"])
        elif kind == "thinking_delta":
            self._add_piece(index, "thinking", delta["thinking"])
            return (ThinkingDelta(delta["thinking"]),)
        elif kind == "citations_delta":
            self._require_field(self._at[index], "citations")
            block = self._at[index].start
            block["citations"] = list(block.get("citations") or []) + [delta["citation"]]
        else:
            block = dict(self._at[index].start)
            self._merge(block, delta)
            self._at[index].start = _check_block(block)
        return ()

    @staticmethod
    def _require_field(block: StreamedBlock, field: str) -> None:
        """Raise ValueError if a block of this type has no such field, so the delta is misplaced."""
        kind = block.start.get("type")
        if field not in _FIELDS.get(kind, (field,)):
            raise ValueError(f"a delta of {field} for a block of type {kind}")

    @staticmethod
    def _merge(block: Block, delta: Mapping[str, Any]) -> None:
        """Merge any other delta into a block.

        Signatures and compactions come whole and replace the value. In unknown deltas, text and
        lists are appended.
        """
        replaces = delta["type"] in ("signature_delta", "compaction_delta")
        for field, value in delta.items():
            before = block.get(field)
            if field == "type":
                continue
            if not replaces and isinstance(value, (str, list)) and isinstance(before, type(value)):
                value = before + value  # type: ignore[operator]
            block[field] = value

    def _add_piece(self, index: int, field: str, piece: str) -> None:
        block = self._at.get(index)
        if block is None or not isinstance(piece, str):
            raise ValueError("a delta that is not text, or of an unknown block")
        try:
            block.pieces[field].append(piece)
        except KeyError:
            self._require_field(block, field)
            block.pieces[field] = [piece]

    def _join_block(self, block: StreamedBlock) -> Tuple[Block, Optional[str]]:
        """Return a block with its deltas, and its input as text if that is not a JSON object."""
        joined = dict(block.start)
        malformed = None
        for field, pieces in block.pieces.items():
            text = "".join(pieces)
            if field != "input":
                joined[field] = (as_str(joined.get(field)) or "") + text
            elif text:
                joined["input"], malformed = parse_object(text)
        return joined, malformed

    def partial(self) -> Reply:
        """Return the reply of the events fed so far; its stop_reason is None until it is done."""
        blocks, malformed = self._join_blocks()
        message = self._message if self.done else dict(self._message, stop_reason=None)
        return _reply(message, blocks, malformed)


# Errors

_ERRORS: ErrorMap = {
    "authentication_error": AuthenticationError,
    "permission_error": PermissionDeniedError,
    "billing_error": PermissionDeniedError,
    "invalid_request_error": InvalidRequestError,
    "request_too_large": InvalidRequestError,
    "not_found_error": NotFoundError,
    "rate_limit_error": RateLimitError,
    "overloaded_error": OverloadedError,
    "api_error": ProviderError,
    "timeout_error": ProviderError,
}


def decode_error(
    provider: str, status: Optional[int], headers: Mapping[str, str], body: Any
) -> InferenceError:
    """Return the error of a response, or of a stream's `error` event.

    status: of the response; None inside a stream.
    body: decoded JSON, or text if it was not JSON.
    """
    error = body.get("error") if isinstance(body, Mapping) else body
    if not isinstance(error, Mapping):
        error = {"message": as_str(error)}
    request_id = headers.get("request-id")
    if not request_id and isinstance(body, Mapping):
        request_id = as_str(body.get("request_id"))
    message = str(error.get("message") or "")
    return error_from(provider, status, as_str(error.get("type")), message, request_id, _ERRORS)
