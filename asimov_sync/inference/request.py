"""What is asked of a model, before any provider's wire: a value."""

from typing import Any, Dict, List, NamedTuple, Optional, Union

from asimov_sync.messages import Block, ChatMessage

__all__ = ["Request", "System", "Timeout"]

System = Union[None, str, List[Block]]
"""A system prompt: text, or blocks."""


class Request(NamedTuple):
    """One request to a model.

    tools: their definitions, as {"name", "description", "input_schema"}. options: what else was given, unset ones absent.
    streamed: whether its events are handed on as they arrive.
    """

    model: str
    messages: List[ChatMessage]
    system: System
    tools: List[Dict[str, Any]]
    options: Dict[str, Any]
    streamed: bool = True


class Timeout(NamedTuple):
    """How long a call may take, in seconds; None for no limit.

    connect: until there is a connection. idle: without a single byte (a provider's pings are bytes), before the reply and
    within it. total: the whole call, retries and their waits included.
    """

    connect: Optional[float] = 5.0
    idle: Optional[float] = 90.0
    total: Optional[float] = None
