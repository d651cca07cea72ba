"""Scripts: what a scripted client or a ModelServer answers, as a list of replies or a function from request to reply.

A reply is a str, one or more tool calls (`calls(…)`), a whole Reply, a `Failure`, or one of these with a `Fault`. A function
is given the body of a Messages request as a dict, whatever the wire, so that its answer can follow from what it is asked; it
may be called on several threads at once.
"""

import itertools
import json
import threading
import uuid
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

from asimov_sync.messages import ChatMessage, ChatRole, Reply, ToolCall, Usage

__all__ = ["Failure", "Fault", "Script", "calls", "last_text", "tokens", "tool_results"]

WORDS: Dict[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What the Messages API calls an error, and its status (https://docs.anthropic.com/en/api/errors)."""


class Failure(NamedTuple):
    """An answer with an error status, in the provider's own format.

    error_type: the provider's word for it. Where it is not given, and where it is one of the Messages API, each wire says it
    in its own words (a 529 is a 503 where the provider knows no 529); any other word is sent as it is.
    """

    status: int
    error_type: Optional[str] = None
    message: str = "scripted failure"
    headers: Mapping[str, str] = {}


Plain = Union[str, ToolCall, List[ToolCall], Reply, Failure]


@dataclass(frozen=True)
class Fault:
    """An answer that goes wrong on its way, where a ModelServer sends it. Each of these may be joined with the others.

    Events are counted from 0, as the server sends them; a reply in one piece is event 0. Bytes are those of the body, without
    the marks of its chunks. What the reply never comes to (an event or a byte that it does not have) does not happen.

    - error_at, error: before that event of a stream, an error event in the provider's own form; the stream ends there.
    - cut_at: after that many bytes of the body, the connection ends: before the last chunk, or within the length that was
      announced. "headers": instead of the headers. reset: it ends with a TCP reset.
    - stall: before that event, or before the "headers", nothing more is sent until the client goes or the server is closed.
    - write_bytes: each write is of that many bytes, and a moment before the next.
    - newline: the line ends of server-sent events, "\\n", "\\r\\n" or "\\r".
    - framing: "chunked", or "close" for a body that ends with its connection; the server's where it is not given.
    """

    answer: Plain
    error_at: Optional[int] = None
    error: Failure = Failure(529)
    cut_at: Union[None, int, str] = None
    reset: bool = False
    stall: Union[None, int, str] = None
    write_bytes: Optional[int] = None
    newline: Optional[str] = None
    framing: Optional[str] = None

    def __post_init__(self) -> None:
        if isinstance(self.answer, Fault):
            raise TypeError("a Fault takes an answer, not another Fault")
        for name, least in (("error_at", 0), ("cut_at", 0), ("stall", 0), ("write_bytes", 1)):
            value = getattr(self, name)
            if value is None or (value == "headers" and name in ("cut_at", "stall")):
                continue
            if not isinstance(value, int) or value < least:
                raise ValueError("{} is a number from {} on, not {!r}".format(name, least, value))
        if self.reset and self.cut_at is None:
            raise ValueError("reset says how a cut ends: give cut_at too")
        if self.newline not in (None, "\n", "\r\n", "\r"):
            raise ValueError('newline is "\\n", "\\r\\n" or "\\r", not {!r}'.format(self.newline))
        if self.framing not in (None, "chunked", "close"):
            raise ValueError('framing is "chunked" or "close", not {!r}'.format(self.framing))


Answer = Union[Plain, Fault]
Scripted = Union[str, Iterable[Answer], Callable[[Dict[str, Any]], Answer]]


def calls(*wanted: Tuple[str, Dict[str, Any]]) -> List[ToolCall]:
    """Tool calls for a script: `calls(("get_weather", {"city": "Rome"}), …)`."""
    return [ToolCall(id="toolu_" + uuid.uuid4().hex[:24], name=name, arguments=arguments) for name, arguments in wanted]


class Script:
    """Answers one request after the other. A list that has come to its end is an AssertionError, not a default answer."""

    def __init__(self, answers: Scripted) -> None:
        self._function = answers if callable(answers) else None
        self._answers = iter([answers] if isinstance(answers, str) else () if callable(answers) else answers)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def answer(self, body: Dict[str, Any]) -> Tuple[Union[Reply, Failure], Fault]:
        """The whole reply to a request's body, and what is to go wrong with it: a Fault, most often without any.

        A reply has a model and an id, and figures for its usage where the script gives a text or calls.
        """
        if self._function is not None:
            given = self._function(body)
        else:
            with self._lock:
                number = next(self._numbers)
                try:
                    given = next(self._answers)
                except StopIteration:
                    raise AssertionError("the script has no answer to request {}".format(number)) from None
        fault = given if isinstance(given, Fault) else Fault(given)
        whole = fault.answer if isinstance(fault.answer, Failure) else _reply(fault.answer, body)
        return whole, replace(fault, answer=whole)


def _reply(given: Union[str, ToolCall, List[ToolCall], Reply], body: Dict[str, Any]) -> Reply:
    if isinstance(given, Reply):
        left_open = {"model": given.model or body.get("model"), "id": given.id or _new_id()}
        return given.model_copy(update=dict(left_open, usage=given.usage.model_copy(update={"requests": 1})))
    wanted = [] if isinstance(given, str) else [given] if isinstance(given, ToolCall) else list(given)
    blocks: List[Dict[str, Any]] = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in wanted
    ]
    if isinstance(given, str):
        blocks.append({"type": "text", "text": given})
    return Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason="tool_use" if wanted else "end_turn",
        tool_calls=wanted,
        usage=Usage(input_tokens=tokens(body.get("messages")), output_tokens=tokens(blocks), requests=1),
        model=body.get("model"),
        id=_new_id(),
    )


def _new_id() -> str:
    return "msg_" + uuid.uuid4().hex[:24]


def tokens(value: Any) -> int:
    """A rough count of a value's tokens: one for every four characters of its JSON, and at least one."""
    return max(1, len(json.dumps(value, ensure_ascii=False)) // 4)


# For functions that answer


def last_text(body: Mapping[str, Any]) -> str:
    """The text of a request's last message."""
    return ChatMessage(role=ChatRole.USER, content=body["messages"][-1]["content"]).text


def tool_results(body: Mapping[str, Any]) -> Dict[str, str]:
    """What the tools answered in a request's last message, as text, by the name of the tool."""
    names: Dict[str, str] = {}
    for message in body["messages"]:
        for block in message["content"] if isinstance(message["content"], list) else ():
            if block.get("type") == "tool_use":
                names[block["id"]] = block["name"]
    last = body["messages"][-1]["content"]
    return {
        names[block["tool_use_id"]]: _text(block.get("content"))
        for block in (last if isinstance(last, list) else ())
        if block.get("type") == "tool_result" and block.get("tool_use_id") in names
    }


def _text(content: Union[None, str, List[Dict[str, Any]]]) -> str:
    return ChatMessage(role=ChatRole.USER, content=content if content is not None else "").text
