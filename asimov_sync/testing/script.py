"""Scripts: the answers of a ScriptedInferenceClient or a ModelServer.

A script is a list of answers, or a function from a request to its answer. An answer is a str, one
or more tool calls (see `calls`), a whole Reply, a `Failure`, or any of these inside a `Fault`. The
function receives the request as a Messages body (a dict), whatever the wire, and may be called on
several threads at once.
"""

import itertools
import json
import threading
import uuid
from dataclasses import dataclass, replace
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

from asimov_sync.messages import ChatMessage, ChatRole, Reply, ToolCall, Usage

__all__ = [
    "Answer",
    "Answers",
    "Failure",
    "Fault",
    "Script",
    "calls",
    "estimate_tokens",
    "last_text",
    "tool_results",
]

ERROR_STATUSES: Dict[str, int] = {
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
"""The error types of the Messages API (https://docs.anthropic.com/en/api/errors)."""


class Failure(NamedTuple):
    """An answer with an error status, in the provider's format.

    status: the HTTP status. A provider that does not know it sends the closest one it has: a 529 is
        a 503 on chat completions and on Bedrock.
    error_type: the provider's error type. By default the wire's own type for the status. A type of
        the Messages API is translated for other wires; any other is sent as it is.
    message: the error's message.
    headers: additional headers, such as retry-after.
    """

    status: int
    error_type: Optional[str] = None
    message: str = "scripted failure"
    headers: Mapping[str, str] = {}


PlainAnswer = Union[str, ToolCall, List[ToolCall], Reply, Failure]


@dataclass(frozen=True)
class Fault:
    """An answer that a ModelServer sends with faults. Faults can be combined.

    Events are numbered from 0 in the order in which the server sends them; a reply that is not
    streamed is event 0. Bytes are counted in the body, without the chunk headers. A fault at an
    event or a byte that the answer does not have is not carried out.

    answer: the answer.
    error_at: send `error` in place of this event of a stream, and end the stream.
    error: the error for `error_at`. Default: a Failure with status 529.
    cut_at: close the connection after this number of bytes, before the last chunk or before the
        announced length is reached. "headers": close it before the headers.
    reset: close the connection of `cut_at` with a TCP reset. Default: False.
    stall: send nothing more before this event, or before the "headers", until the client
        disconnects or the server is closed.
    write_bytes: the number of bytes of each write, with a short pause after each.
    newline: the line end of server-sent events: "\\n" (the default), "\\r\\n" or "\\r".
    framing: "chunked", or "close" for a body that ends with its connection. Default: the server's.

    Raises TypeError for a Fault inside a Fault, and ValueError for an invalid argument.
    """

    answer: PlainAnswer
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
        minimums = (("error_at", 0), ("cut_at", 0), ("stall", 0), ("write_bytes", 1))
        for name, minimum in minimums:
            value = getattr(self, name)
            if value is None or (value == "headers" and name in ("cut_at", "stall")):
                continue
            if not isinstance(value, int) or value < minimum:
                raise ValueError(f"{name} must be an integer of at least {minimum}, not {value!r}")
        if self.reset and self.cut_at is None:
            raise ValueError("reset requires cut_at")
        if self.newline not in (None, "\n", "\r\n", "\r"):
            raise ValueError(f'newline must be "\\n", "\\r\\n" or "\\r", not {self.newline!r}')
        if self.framing not in (None, "chunked", "close"):
            raise ValueError(f'framing must be "chunked" or "close", not {self.framing!r}')


Answer = Union[PlainAnswer, Fault]
"""One answer of a script: a text, tool calls, a Reply, a Failure, or a Fault with one of these."""

Answers = Union[str, Iterable[Answer], Callable[[Dict[str, Any]], Answer]]
"""A script: one text for every request, the answers in order, or a function of a request's body."""


def calls(*wanted: Tuple[str, Dict[str, Any]]) -> List[ToolCall]:
    """Make tool calls for a script: `calls(("get_weather", {"city": "Rome"}), …)`.

    wanted: a (tool name, arguments) pair for each call.

    Returns the calls, each with a new id.
    """
    return [
        ToolCall(id=f"toolu_{uuid.uuid4().hex[:24]}", name=name, arguments=arguments)
        for name, arguments in wanted
    ]


class Script:
    """Answers requests, from a list in order or by a function."""

    def __init__(self, answers: Answers) -> None:
        self._function = answers if callable(answers) else None
        if isinstance(answers, str):
            answers = [answers]
        self._answers = iter(() if callable(answers) else answers)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)

    def answer(self, body: Dict[str, Any]) -> Tuple[Union[Reply, Failure], Fault]:
        """Return the reply or failure for a request, and the fault to send it with.

        body: the request as a Messages body.

        A reply always has a model and an id. Its usage is estimated, unless the script gives a
        Reply. Raises AssertionError if the list has no answers left.
        """
        if self._function is not None:
            answer = self._function(body)
        else:
            with self._lock:
                number = next(self._numbers)
                try:
                    answer = next(self._answers)
                except StopIteration:
                    message = f"the script has no answer to request {number}"
                    raise AssertionError(message) from None
        fault = answer if isinstance(answer, Fault) else Fault(answer)
        plain = fault.answer
        complete = plain if isinstance(plain, Failure) else _make_reply(plain, body)
        return complete, replace(fault, answer=complete)


def _make_reply(answer: Union[str, ToolCall, List[ToolCall], Reply], body: Dict[str, Any]) -> Reply:
    if isinstance(answer, Reply):
        update = {
            "model": answer.model or body.get("model"),
            "id": answer.id or _new_id(),
            "usage": answer.usage.model_copy(update={"requests": 1}),
        }
        return answer.model_copy(update=update)
    blocks: List[Dict[str, Any]]
    if isinstance(answer, str):
        tool_calls: List[ToolCall] = []
        blocks = [{"type": "text", "text": answer}]
    else:
        tool_calls = [answer] if isinstance(answer, ToolCall) else list(answer)
        blocks = [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments}
            for call in tool_calls
        ]
    return Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason="tool_use" if tool_calls else "end_turn",
        tool_calls=tool_calls,
        usage=Usage(
            input_tokens=estimate_tokens(body.get("messages")),
            output_tokens=estimate_tokens(blocks),
            requests=1,
        ),
        model=body.get("model"),
        id=_new_id(),
    )


def _new_id() -> str:
    return f"msg_{uuid.uuid4().hex[:24]}"


def estimate_tokens(value: Any) -> int:
    """Estimate a value's tokens: one for every four characters of its JSON, at least one."""
    return max(1, len(json.dumps(value, ensure_ascii=False)) // 4)


# Helpers for functions that answer


def last_text(body: Mapping[str, Any]) -> str:
    """Return the text of a request's last message. body: the request as a Messages body."""
    return ChatMessage(role=ChatRole.USER, content=body["messages"][-1]["content"]).text


def tool_results(body: Mapping[str, Any]) -> Dict[str, str]:
    """Return the tool results in a request's last message, as text, by tool name.

    body: the request as a Messages body.
    """
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
