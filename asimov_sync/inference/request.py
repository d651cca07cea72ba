"""A request to a model, and the time-outs of a call: values that do not depend on a provider."""

from typing import Any, Dict, List, NamedTuple, Optional, Union

from asimov_sync.messages import Block, ChatMessage

__all__ = ["Request", "System", "Timeout"]

System = Union[None, str, List[Block]]
"""A system prompt: text, or blocks."""


class Request(NamedTuple):
    """One request to a model.

    model: the provider's id of the model.
    messages: the conversation.
    system: the system prompt, or None.
    tools: the tools' definitions, as {"name", "description", "input_schema"}.
    options: the other options of the request; an option that is not set is absent.
    streamed: whether the caller receives the events as they arrive.
    """

    model: str
    messages: List[ChatMessage]
    system: System
    tools: List[Dict[str, Any]]
    options: Dict[str, Any]
    streamed: bool = True


class Timeout(NamedTuple):
    """The longest times of a call, in seconds; None means no limit.

    connect: until a connection is established (5).
    idle: without a received byte, before the reply and within it (90). A provider's pings count as
        bytes.
    total: the whole call, including retries and the waits between them (None).
    """

    connect: Optional[float] = 5.0
    idle: Optional[float] = 90.0
    total: Optional[float] = None
