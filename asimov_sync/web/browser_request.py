"""Requests of browsers: JSON in which only the new text of the user is taken at its word.

Pure: no IO.
"""

from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Optional

from asimov_sync._json import loads
from asimov_sync.inference.tools.approvals import Approval
from asimov_sync.messages import ChatMessage, ChatRole

__all__ = ["BrowserRequest", "as_object", "is_exact", "read_body", "user_message"]

MAX_EXACT = 2**53
"""The first integer that a browser cannot tell from the next."""


@dataclass
class BrowserRequest:
    """The request of a chat front end, from `read_ui_messages` or `read_ag_ui`.

    messages: the new messages of the user, their text only.
    approvals: the decisions about tool calls, by the id of the call, as `Agent.run` and
        `RunStore.approve` take them. Both refuse a decision about a call that does not wait.
    answers: the answers to questions of tasks, by the id of the question (AG-UI only).
    chat_id: the front end's id of the conversation, or None.
    message_id: the id of the message of the assistant that is continued, or None (AI SDK only).
    run_id: the front end's id of the run, or None (AG-UI only).
    regenerate: whether the user asks for another answer to the last message (AI SDK only).

    The ids come from the browser: look up with them only what its user may see.
    """

    messages: List[ChatMessage]
    approvals: Dict[str, Approval] = field(default_factory=dict)
    answers: Dict[str, Any] = field(default_factory=dict)
    chat_id: Optional[str] = None
    message_id: Optional[str] = None
    run_id: Optional[str] = None
    regenerate: bool = False
    posted: List[Mapping[str, Any]] = field(default_factory=list, repr=False)
    """The messages as the browser sent them, for the encoder only."""


def read_body(body: Any) -> Mapping[str, Any]:
    """Return a JSON object. body: bytes, a str, or a dict. Raises ValueError for anything else."""
    if isinstance(body, (bytes, str)):
        try:
            body = loads(body)
        except ValueError:
            raise ValueError("the request is not JSON") from None
    return as_object(body, "the request")


def as_object(value: Any, what: str) -> Mapping[str, Any]:
    """Return a value that is a JSON object. Raises ValueError for anything else."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is not a JSON object")
    return value


def user_message(parts: Iterable[Mapping[str, Any]]) -> ChatMessage:
    """Return a message of the user with the text of some parts. Other parts are left out."""
    texts = [part.get("text") for part in parts if part.get("type") == "text"]
    text = "".join(text for text in texts if isinstance(text, str))
    return ChatMessage(role=ChatRole.USER, content=text)


def is_exact(value: Any) -> bool:
    """Return whether a browser that reads a JSON value and sends it back changes no number."""
    if isinstance(value, dict):
        return all(map(is_exact, value.values()))
    if isinstance(value, list):
        return all(map(is_exact, value))
    return not isinstance(value, (int, float)) or abs(value) < MAX_EXACT
