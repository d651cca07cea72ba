"""What is said: roles, messages, replies, usage, and the events of a reply that is still being streamed.

A message's content is text or a list of *blocks*. Blocks are plain dicts in the dialect of Anthropic's Messages API,
whatever the provider, so that one that this library does not know is kept and sent back as it came.
"""

import enum
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Dict, Iterable, List, Optional, Tuple, Union

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import to_jsonable_python

from asimov_sync.errors import described

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
    "jsonable",
]

Block = Dict[str, Any]


class ChatRole(str, enum.Enum):
    """Who speaks. TOOL_RESULT is what tools answered, given back to the model."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL_RESULT = "tool_result"


class ChatMessage(BaseModel):
    """One message: a role and its content, text or a list of blocks.

    cache_marker asks the provider to cache the prompt up to and including this message: True or "5m" for five minutes,
    "1h" for an hour.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True)

    role: ChatRole
    content: Union[str, List[Block]]
    cache_marker: Union[bool, str] = False

    @field_validator("cache_marker")
    @classmethod
    def _known_lifetime(cls, marker: Union[bool, str]) -> Union[bool, str]:
        if marker not in (False, True, "5m", "1h"):
            raise ValueError('cache_marker is False, True, "5m" or "1h"')
        return marker

    @property
    def blocks(self) -> List[Block]:
        """The content as blocks; text becomes one text block, empty text none."""
        if isinstance(self.content, str):
            return [{"type": "text", "text": self.content}] if self.content else []
        return self.content

    @property
    def text(self) -> str:
        """The text of the content, all its text blocks joined."""
        if isinstance(self.content, str):
            return self.content
        texts = [block.get("text") for block in self.content if block.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str))


Messages = Union[str, ChatMessage, Dict[str, Any], Iterable[Union[str, ChatMessage, Dict[str, Any]]]]
"""What is accepted wherever messages are asked for."""


def as_messages(messages: Messages) -> List[ChatMessage]:
    """A new list of ChatMessage from a str (said by the user), a message, a {"role", "content"} dict, or several of these."""
    if isinstance(messages, (str, ChatMessage, dict)):
        messages = [messages]
    return [_as_message(message) for message in messages]


def _as_message(message: Union[str, ChatMessage, Dict[str, Any]]) -> ChatMessage:
    if isinstance(message, ChatMessage):
        return message
    if isinstance(message, str):
        return ChatMessage(role=ChatRole.USER, content=message)
    return ChatMessage.model_validate(message)


class ToolCall(BaseModel):
    """A model's wish to have a tool called.

    malformed: what the model sent in place of a JSON object; then arguments is empty, and the call is not executed.
    """

    model_config = ConfigDict(defer_build=True)

    id: str
    name: str
    arguments: Dict[str, Any] = Field(default_factory=dict)
    malformed: Optional[str] = None

    @classmethod
    def from_block(cls, block: Block, malformed: Optional[str] = None) -> "ToolCall":
        """The call that a tool_use block stands for, whatever a model put into it."""
        told, arguments = {name: block.get(name) for name in ("id", "name")}, block.get("input") or {}
        if not isinstance(arguments, dict):
            malformed, arguments = malformed or repr(arguments), {}
        words = {name: word if isinstance(word, str) else "" for name, word in told.items()}
        return cls(arguments=arguments, malformed=malformed, **words)


class Usage(BaseModel):
    """What one or more requests used, in tokens; adds with +.

    input_tokens counts neither tokens read from nor written to the provider's prompt cache. output_tokens includes
    reasoning_tokens. cache_write_input_tokens includes its 5m and 1h parts, where the provider tells them apart.
    requests: how many replies are counted here.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

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
        """Everything that went in, cached or not, and everything that came out."""
        return self.input_tokens + self.cache_read_input_tokens + self.cache_write_input_tokens + self.output_tokens

    def __add__(self, other: "Usage") -> "Usage":
        if not isinstance(other, Usage):
            return NotImplemented
        mine, theirs = self.__dict__, other.__dict__
        return Usage(**{name: mine[name] + theirs[name] for name in mine})


class Reply(BaseModel):
    """What a model answered.

    stop_reason: why it stopped, in Anthropic's words (end_turn, max_tokens, stop_sequence, tool_use, pause_turn, refusal …);
    raw_stop_reason: in the provider's own. Both None in a partial reply. message: ready to be appended to the history.
    """

    model_config = ConfigDict(defer_build=True)

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
        """The reply's text."""
        return self.message.text


# Events

LONGEST_NUMBER = 1024
"""How many bits an integer in JSON may have: a longer one is infinite to browsers, and Python may refuse to write it."""


class Event:
    """Something that happened: an object with a `type` and its own fields, and `to_dict()` for JSON."""

    __slots__: Tuple[str, ...] = ()
    type: ClassVar[str]

    def to_dict(self) -> Dict[str, Any]:
        """The type and the fields, as JSON can hold them: `json.dumps(…, allow_nan=False)` takes it, and browsers read it.

        An object that JSON cannot hold becomes its repr, and a float that is infinite or not a number None.
        """
        told: Dict[str, Any] = {"type": self.type}
        for name in self.__slots__:
            told[name] = jsonable(getattr(self, name))
        return told


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: exceptions in one line, bytes as base64, what JSON has no word for as its repr.

    What is no finite float is None, as it is in the JSON of pydantic's models and in that of browsers.
    """
    try:
        return _readable(to_jsonable_python(value, bytes_mode="base64", fallback=_told))
    except Exception:  # a cycle, a depth beyond all bounds, a model that cannot be serialised
        return _told(value)


def _told(value: Any) -> str:
    try:
        return described(value) if isinstance(value, BaseException) else repr(value)
    except Exception:  # somebody's own __repr__, a depth or a number of digits beyond all bounds
        return object.__repr__(value)


def _readable(value: Any) -> Any:
    """The same without the numbers that only Python writes and reads."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int):
        return value if value.bit_length() <= LONGEST_NUMBER else _told(value)
    if isinstance(value, list):
        return [_readable(one) for one in value]
    if isinstance(value, dict):
        return {name: _readable(one) for name, one in value.items()}
    return value


@dataclass
class TextDelta(Event):
    """A piece of the reply's text arrived."""

    __slots__ = ("text",)
    type = "text_delta"
    text: str


@dataclass
class ThinkingDelta(Event):
    """A piece of the model's thinking arrived."""

    __slots__ = ("text",)
    type = "thinking_delta"
    text: str


@dataclass
class ToolCallReady(Event):
    """A tool call has arrived whole. It may be executed once the reply is done, if its stop_reason is tool_use."""

    __slots__ = ("call",)
    type = "tool_call_ready"
    call: ToolCall


@dataclass
class ReplyDone(Event):
    """The provider's own final event was seen: this is the whole reply. Always the last event of a stream."""

    __slots__ = ("reply",)
    type = "reply_done"
    reply: Reply
