"""Anthropic's Messages wire: a Request to a JSON body, a JSON body or stream events to a Reply. Pure: no IO, no clock.

Facts of the wire: https://docs.anthropic.com/en/api/messages and …/messages-streaming, and recorded traffic, which adds that
`message_delta` figures are cumulative, that a tool_use may arrive whole in `content_block_start`, that its input may be an
empty string, and that unknown keys, blocks and events appear anywhere.
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

__all__ = ["MessagesFold", "decode_error", "decode_reply", "encode_request"]

OPTIONS = frozenset(
    "max_tokens metadata output_config service_tier stop_sequences temperature thinking tool_choice top_k top_p".split()
)
"""The options of a Messages request that a caller may give, beside `extra`."""

CACHE_MARKERS = 4
"""How many blocks of a request may carry cache_control; a fifth is a 400 (Anthropic, "Prompt caching")."""

# Request to wire


def encode_request(request: Request, keep_cited: bool = False) -> Dict[str, Any]:
    """The JSON body of a request, without "stream". TypeError for an option that the wire does not have.

    Blank text is left out, and so is a message without any other content (see `blank_text`); the messages before and
    after it become one if they have the same role. ValueError if no message is left, or if the user's last message is
    left out and the reply before it would be continued.

    keep_cited: send blank text if it has citations, as Converse does.
    """
    unknown = sorted(set(request.options) - OPTIONS - {"extra"})
    if unknown:
        raise TypeError(
            "unknown option {}; there are {}, and extra={{…}} for what is to be sent as it is".format(
                ", ".join(map(repr, unknown)), ", ".join(sorted(OPTIONS))
            )
        )
    if not request.messages:
        raise ValueError("there is no message to answer: messages is empty")
    body: Dict[str, Any] = {"model": request.model}
    prompt = [ChatMessage(role=ChatRole.SYSTEM, content=request.system)] if request.system else []
    instructions = prompt + [message for message in request.messages if message.role is ChatRole.SYSTEM]
    said = [message for message in request.messages if message.role is not ChatRole.SYSTEM]
    kept_instructions = [one for one in without_blank_text(instructions, keep_cited) if one is not None]
    kept = without_blank_text(said, keep_cited)
    left = [message for message in kept if message is not None]
    if said and not left:
        raise ValueError("there is no message to answer: all of them are blank")
    if said and left[-1].role is ChatRole.ASSISTANT and said[-1].role is not ChatRole.ASSISTANT:
        raise ValueError("there is no message to answer: the last one is blank")
    marked = iter(_marked(kept_instructions + left, sum("cache_control" in one for one in request.tools)))
    system = [block for _ in kept_instructions for block in next(marked).blocks]
    body["messages"] = _conversation([None if message is None else next(marked) for message in kept])
    if system:
        body["system"] = system[0]["text"] if len(system) == 1 and set(system[0]) == {"type", "text"} else system
    if request.tools:
        body["tools"] = request.tools
    for name in sorted(OPTIONS & set(request.options)):
        body[name] = request.options[name]
    if isinstance(body.get("tool_choice"), str):
        choice = body["tool_choice"]
        body["tool_choice"] = {"type": choice} if choice in ("auto", "any", "none") else {"type": "tool", "name": choice}
    body.update(request.options.get("extra") or {})
    return body


def _conversation(messages: List[Optional[ChatMessage]]) -> List[Dict[str, Any]]:
    """The messages as they are sent. Those that are neighbours because a message (None) was left out are joined.

    The Messages API would join them itself; Amazon's description of InvokeModel promises only alternating roles.
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


def _marked(messages: List[ChatMessage], others: int) -> List[ChatMessage]:
    """The messages, with their cache markers in their blocks: at the last messages that ask, for each covers all before
    it; four with the others.
    """
    others += sum("cache_control" in block for message in messages for block in message.blocks)
    asking = [place for place, message in enumerate(messages) if message.cache_marker and message.blocks]
    marked = asking[max(0, len(asking) - max(0, CACHE_MARKERS - others)) :]
    return [
        message.model_copy(update={"content": _marked_blocks(message)}) if place in marked else message
        for place, message in enumerate(messages)
    ]


def _marked_blocks(message: ChatMessage) -> List[Block]:
    """The blocks, with cache_control on the last one that can have it."""
    blocks = list(message.blocks)
    for place in reversed(range(len(blocks))):
        if not can_be_marked(blocks[place]):
            continue
        control = {"type": "ephemeral"}
        if isinstance(message.cache_marker, str):
            control["ttl"] = message.cache_marker
        blocks[place] = dict(blocks[place], cache_control=control)
        break
    return blocks


# Wire to reply


def decode_reply(body: Mapping[str, Any]) -> Reply:
    """The reply of a response that was not streamed. ValueError, KeyError or TypeError where it is none."""
    if body["type"] != "message" or not isinstance(body["content"], list):
        raise ValueError("a message with a list of content was promised")
    if not isinstance(body["stop_reason"], str):
        raise ValueError("the message has no stop_reason")
    return _reply(body, [_checked(block) for block in body["content"]], {})


_FIELDS: Dict[Any, Tuple[str, ...]] = {
    "text": ("text", "citations"),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "tool_use": ("input",),
    "server_tool_use": ("input",),
    "mcp_tool_use": ("input",),
}
"""The fields that deltas may add to, by the type of the block. A type that is not listed is new, and takes any delta."""


def _checked(block: Any) -> Block:
    """A copy of a block that was received. ValueError if its type, or the text that it consists of, is not a string."""
    block = dict(block)
    kind = block.get("type")
    for field in ("type", kind) if kind in ("text", "thinking") else ("type",):
        if not isinstance(block.get(field), (str, type(None))):
            raise ValueError(f"the {field} of a block must be a string, not {type(block[field]).__name__}")
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
        cache_write_5m_input_tokens=as_count(figures, "cache_creation", "ephemeral_5m_input_tokens"),
        cache_write_1h_input_tokens=as_count(figures, "cache_creation", "ephemeral_1h_input_tokens"),
        reasoning_tokens=as_count(figures, "output_tokens_details", "thinking_tokens"),
        requests=1,
    )


class MessagesFold(BlockFold):
    """Folds the events of a Messages stream. What the wire says twice (usage) is overwritten, never added."""

    def __init__(self, provider: str) -> None:
        super().__init__()
        self._provider = provider
        self._message: Dict[str, Any] = {}
        self._message_started = False
        self._announced: Set[int] = set()  # the indexes of blocks that message_start brought

    def feed(self, data: Mapping[str, Any]) -> Sequence[Event]:
        """The typed event that a wire event amounts to, if it amounts to one. An `error` event is raised as its error."""
        kind = data["type"]
        if kind == "content_block_delta":
            return self._delta(data["index"], data["delta"])
        if kind == "content_block_start":
            self._start(block_index(data["index"]), _checked(data["content_block"]))
        elif kind == "content_block_stop":
            return self._stop_block(self._at[data["index"]])
        elif kind == "message_start":
            self._start_message(dict(data["message"]))
        elif kind == "message_delta":
            self._message.update(data.get("delta") or {})
            told = data.get("usage")
            figures = {name: figure for name, figure in told.items() if figure is not None} if isinstance(told, dict) else {}
            before = self._message.get("usage")
            self._message["usage"] = dict(before if isinstance(before, dict) else {}, **figures)
        elif kind == "message_stop":
            if not isinstance(self._message.get("stop_reason"), str):
                raise ValueError("the message stops without a message_start or a stop_reason")
            self.done = True
            return (ReplyDone(self.partial()),)
        elif kind == "error":
            raise decode_error(self._provider, None, {}, data)
        return ()  # pings, and what is new

    def _start_message(self, message: Dict[str, Any]) -> None:
        """Begin the reply. ValueError if another message has started in this stream.

        A start that repeats the id of the message is a duplicate, which proxies send, and changes nothing.
        """
        if self._message_started:
            if not as_str(message.get("id")) or message["id"] != self._message.get("id"):
                raise ValueError("a second message starts in the same stream")
            return
        self._message_started = True
        self._message = message
        for index, block in enumerate(message.get("content") or []):
            self._start_block(index, _checked(block)).stopped = True
            self._announced.add(index)

    def _start(self, index: int, block: Block) -> None:
        if index in self._announced:  # by message_start already: this is the same block again
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
            self._add(index, "text", piece)
            return (TextDelta(piece),)
        if kind == "input_json_delta":
            self._add(index, "input", delta["partial_json"])
        elif kind == "thinking_delta":
            self._add(index, "thinking", delta["thinking"])
            return (ThinkingDelta(delta["thinking"]),)
        elif kind == "citations_delta":
            self._require_field(self._at[index], "citations")
            block = self._at[index].start
            block["citations"] = list(block.get("citations") or []) + [delta["citation"]]
        else:
            block = dict(self._at[index].start)
            self._merge(block, delta)
            self._at[index].start = _checked(block)
        return ()

    @staticmethod
    def _require_field(block: StreamedBlock, field: str) -> None:
        """ValueError if a block of this type has no such field: the delta was meant for another block."""
        kind = block.start.get("type")
        if field not in _FIELDS.get(kind, (field,)):
            raise ValueError(f"a delta of {field} for a block of type {kind}")

    @staticmethod
    def _merge(block: Block, delta: Mapping[str, Any]) -> None:
        """Take over what else a delta brings: signatures and compactions, which come whole, and what is new."""
        whole = delta["type"] in ("signature_delta", "compaction_delta")
        for field, value in delta.items():
            before = block.get(field)
            if field == "type":
                continue
            if not whole and isinstance(value, (str, list)) and isinstance(before, type(value)):
                value = before + value  # type: ignore[operator]
            block[field] = value

    def _add(self, index: int, field: str, piece: str) -> None:
        block = self._at.get(index)
        if block is None or not isinstance(piece, str):
            raise ValueError("a delta that is no text, or of no block")
        try:
            block.pieces[field].append(piece)
        except KeyError:
            self._require_field(block, field)
            block.pieces[field] = [piece]

    def _join_block(self, block: StreamedBlock) -> Tuple[Block, Optional[str]]:
        """A block with all its deltas, and its input as text if that is not a JSON object."""
        whole = dict(block.start)
        malformed = None
        for field, pieces in block.pieces.items():
            told = "".join(pieces)
            if field != "input":
                whole[field] = (as_str(whole.get(field)) or "") + told
            elif told:
                whole["input"], malformed = parse_object(told)
        return whole, malformed

    def partial(self) -> Reply:
        """The reply of what was fed so far; without a stop_reason until it is done."""
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


def decode_error(provider: str, status: Optional[int], headers: Mapping[str, str], body: Any) -> InferenceError:
    """The error that a response's status and body, or a stream's `error` event, stand for.

    status: None inside a stream. body: decoded JSON, or text where it was not JSON.
    """
    told = body.get("error") if isinstance(body, Mapping) else body
    told = told if isinstance(told, Mapping) else {"message": told if isinstance(told, str) else None}
    request_id = headers.get("request-id") or (as_str(body.get("request_id")) if isinstance(body, Mapping) else None)
    return error_from(provider, status, as_str(told.get("type")), str(told.get("message") or ""), request_id, _ERRORS)
