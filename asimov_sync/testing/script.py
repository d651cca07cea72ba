"""Scripts: what a scripted client or a ModelServer answers, as a list of replies or a function from request to reply.

A reply is a str, one or more tool calls (`calls(…)`), a whole Reply, or a `Failure`. A function is given the body of a
Messages request as a dict, so that its answer can follow from what it is asked; it may be called on several threads at once.
"""

import itertools
import json
import threading
import uuid
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Tuple, Union

from asimov_sync.messages import ChatMessage, ChatRole, Reply, ToolCall, Usage

__all__ = ["Failure", "Script", "calls", "last_text", "tool_results"]


class Failure(NamedTuple):
    """An answer with an error status, in the provider's own format."""

    status: int
    error_type: str = "api_error"
    message: str = "scripted failure"
    headers: Mapping[str, str] = {}


Answer = Union[str, ToolCall, List[ToolCall], Reply, Failure]
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

    def answer(self, body: Dict[str, Any]) -> Union[Reply, Failure]:
        """The whole reply to a request's body, with figures for its usage where the script gives none."""
        if self._function is not None:
            given = self._function(body)
        else:
            with self._lock:
                number = next(self._numbers)
                try:
                    given = next(self._answers)
                except StopIteration:
                    raise AssertionError("the script has no answer to request {}".format(number)) from None
        return given if isinstance(given, (Reply, Failure)) else _reply(given, body)


def _reply(given: Union[str, ToolCall, List[ToolCall]], body: Dict[str, Any]) -> Reply:
    wanted = [] if isinstance(given, str) else [given] if isinstance(given, ToolCall) else list(given)
    blocks: List[Dict[str, Any]] = [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in wanted
    ]
    if isinstance(given, str):
        blocks.append({"type": "text", "text": given})
    return Reply(
        message=ChatMessage(role=ChatRole.ASSISTANT, content=blocks),
        stop_reason="tool_use" if wanted else "end_turn",
        raw_stop_reason="tool_use" if wanted else "end_turn",
        tool_calls=wanted,
        usage=Usage(input_tokens=tokens(body.get("messages")), output_tokens=tokens(blocks), requests=1),
        model=body.get("model"),
        id="msg_" + uuid.uuid4().hex[:24],
    )


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


def failure_body(failure: Failure, request_id: Optional[str] = None) -> Dict[str, Any]:
    """The JSON body of an error in the Messages API."""
    return {
        "type": "error",
        "error": {"type": failure.error_type, "message": failure.message},
        "request_id": request_id,
    }
