"""Messages: roles, content blocks, replies, tool calls, usage, and the events of a streamed reply.

The content of a message is text or a list of blocks. A block is a plain dict in the format of
Anthropic's Messages API, whatever the provider is. A block of an unknown type is kept and sent back
unchanged.
"""

import enum
import reprlib
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, Iterable, List, Optional, Tuple, Union

from pydantic import ConfigDict, Field, field_validator

from asimov_sync import _drawing
from asimov_sync._json import to_jsonable
from asimov_sync._models import LazyModel

__all__ = [
    "ChatMessage",
    "ChatRole",
    "Event",
    "Reply",
    "ReplyDone",
    "TextDelta",
    "ThinkingDelta",
    "ToolCall",
    "ToolCallReady",
    "Usage",
    "as_messages",
    "short_repr",
]

Block = Dict[str, Any]


_short_repr = reprlib.Repr()
_short_repr.maxstring = 80


def short_repr(text: str) -> str:
    """Return the repr of a text; the middle of a long one is left out."""
    return _short_repr.repr(text)


class ChatRole(str, enum.Enum):
    """The author of a message. TOOL_RESULT marks the results of tool calls, sent to the model."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL_RESULT = "tool_result"


class ChatMessage(LazyModel):
    """One message of a conversation.

    role: its author.
    content: text, or a list of blocks.
    cache_marker: ask the provider to cache the prompt up to and including this message: True or
        "5m" for five minutes, "1h" for one hour; False (the default) for no caching.

    Raises ValueError for any other cache_marker.
    """

    model_config = ConfigDict(extra="forbid")

    role: ChatRole
    content: Union[str, List[Block]]
    cache_marker: Union[bool, str] = False

    @field_validator("cache_marker")
    @classmethod
    def _check_cache_marker(cls, marker: Union[bool, str]) -> Union[bool, str]:
        if marker not in (False, True, "5m", "1h"):
            raise ValueError('cache_marker is False, True, "5m" or "1h"')
        return marker

    @property
    def blocks(self) -> List[Block]:
        """The content as blocks. Text becomes one text block, empty text an empty list."""
        if isinstance(self.content, str):
            return [{"type": "text", "text": self.content}] if self.content else []
        return self.content

    @property
    def text(self) -> str:
        """The text of the content: all its text blocks, joined."""
        if isinstance(self.content, str):
            return self.content
        texts = [block.get("text") for block in self.content if block.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str))


Messages = Union[
    str, ChatMessage, Dict[str, Any], Iterable[Union[str, ChatMessage, Dict[str, Any]]]
]
"""The type of every `messages` argument; see `as_messages`."""


def as_messages(messages: Messages) -> List[ChatMessage]:
    """Convert a `messages` argument to a new list of ChatMessage.

    messages: a str (a message of the user), a ChatMessage, a {"role", "content"} dict, or an
        iterable of these.
    """
    if isinstance(messages, (str, ChatMessage, dict)):
        messages = [messages]
    return [_as_message(message) for message in messages]


def _as_message(message: Union[str, ChatMessage, Dict[str, Any]]) -> ChatMessage:
    if isinstance(message, ChatMessage):
        return message
    if isinstance(message, str):
        return ChatMessage(role=ChatRole.USER, content=message)
    return ChatMessage.model_validate(message)


class ToolCall(LazyModel):
    """A model's request to call a tool.

    id: the provider's id of the call.
    name: the name of the tool.
    arguments: the arguments by name.
    malformed: the text that the model sent if its arguments are not a JSON object, otherwise None.
        arguments is then empty, and the tool is not called.
    """

    id: str
    name: str
    arguments: Dict[str, Any] = Field(default_factory=dict)
    malformed: Optional[str] = None

    @classmethod
    def from_block(cls, block: Block, malformed: Optional[str] = None) -> "ToolCall":
        """Make the call that a tool_use block describes. Accepts any values in the block.

        block: the block.
        malformed: the arguments as the model sent them, if they could not be parsed.
        """
        arguments = block.get("input") or {}
        if not isinstance(arguments, dict):
            malformed, arguments = malformed or repr(arguments), {}
        texts = {}
        for field in ("id", "name"):
            text = block.get(field)
            texts[field] = text if isinstance(text, str) else ""
        return cls(arguments=arguments, malformed=malformed, **texts)


class Usage(LazyModel):
    """The tokens that one or more requests used. Usages add with `+`.

    input_tokens: input that was neither read from nor written to the provider's prompt cache.
    output_tokens: output, reasoning_tokens included.
    cache_read_input_tokens: input read from the prompt cache.
    cache_write_input_tokens: input written to the prompt cache, its 5m and 1h parts included.
    cache_write_5m_input_tokens, cache_write_1h_input_tokens: the parts written for five minutes and
        for one hour, if the provider reports them; otherwise 0.
    reasoning_tokens: output that the model used for thinking.
    requests: number of replies in this sum.
    """

    model_config = ConfigDict(frozen=True)

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    cache_write_5m_input_tokens: int = 0
    cache_write_1h_input_tokens: int = 0
    reasoning_tokens: int = 0
    requests: int = 0

    @property
    def total_tokens(self) -> int:
        """All input, cached or not, and all output."""
        cached = self.cache_read_input_tokens + self.cache_write_input_tokens
        return self.input_tokens + cached + self.output_tokens

    def __repr_args__(self) -> List[Tuple[Optional[str], Any]]:
        """Leave the zeros out of the repr."""
        return [(name, count) for name, count in self.__dict__.items() if count]

    def _repr_html_(self) -> str:
        """Return a small table, for notebooks."""
        return _drawing.draw("notebook_html", self)

    def __add__(self, other: "Usage") -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        mine, theirs = self.__dict__, other.__dict__
        return Usage(**{name: mine[name] + theirs[name] for name in mine})


class Reply(LazyModel):
    """The reply of a model.

    message: the reply as a message, ready to be appended to the history.
    stop_reason: why the model stopped, in Anthropic's terms (end_turn, max_tokens, stop_sequence,
        tool_use, pause_turn, refusal ...). None in a partial reply.
    raw_stop_reason: the same in the provider's own terms. None in a partial reply.
    tool_calls: the calls that the model asks for.
    usage: the tokens used.
    model: the model that the provider names, or None.
    id: the provider's id of the reply, or None.
    parsed: the validated value if the request had `output=`, otherwise None.
    """

    message: ChatMessage
    stop_reason: Optional[str] = None
    raw_stop_reason: Optional[str] = None
    tool_calls: List[ToolCall] = Field(default_factory=list)
    usage: Usage = Field(default_factory=Usage)
    model: Optional[str] = None
    id: Optional[str] = None
    parsed: Any = None

    @property
    def text(self) -> str:
        """The text of the reply."""
        return self.message.text

    def __repr__(self) -> str:
        parts = [short_repr(self.text)]
        if self.tool_calls:
            parts.append(f"calls {', '.join(call.name for call in self.tool_calls)}")
        parts.append(f"{self.stop_reason or 'partial'}, {self.usage.total_tokens} tokens")
        return f"<Reply: {'; '.join(parts)}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """Return the text, the tool calls and the usage, for notebooks."""
        return _drawing.draw("notebook_html", self)


# Events


class Event:
    """Base of all events. An event has a `type`, its own fields, and `to_dict()` for JSON."""

    __slots__: Tuple[str, ...] = ()
    type: ClassVar[str]

    def to_dict(self) -> Dict[str, Any]:
        """Return the type and the fields as values that JSON can hold.

        `json.dumps(..., allow_nan=False)` accepts the dict, and browsers read the result. An object
        that JSON cannot hold becomes its repr; a float that is infinite or NaN becomes None.
        """
        fields: Dict[str, Any] = {"type": self.type}
        for name in self.__slots__:
            fields[name] = to_jsonable(getattr(self, name))
        return fields


@dataclass
class TextDelta(Event):
    """A part of the reply's text arrived."""

    __slots__ = ("text",)
    type = "text_delta"
    text: str


@dataclass
class ThinkingDelta(Event):
    """A part of the model's thinking arrived."""

    __slots__ = ("text",)
    type = "thinking_delta"
    text: str


@dataclass
class ToolCallReady(Event):
    """A tool call arrived completely.

    Execute it only after the reply is done, and only if its stop_reason is tool_use.
    """

    __slots__ = ("call",)
    type = "tool_call_ready"
    call: ToolCall


@dataclass
class ReplyDone(Event):
    """The reply is complete: the provider sent its final event. Always the last event."""

    __slots__ = ("reply",)
    type = "reply_done"
    reply: Reply
