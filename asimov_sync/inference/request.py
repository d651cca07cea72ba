"""A request to a model, and the time-outs of a call: values that do not depend on a provider."""

from typing import Any, Dict, List, NamedTuple, Optional, Union

from asimov_sync.cancellation import require_number
from asimov_sync.messages import Block, ChatMessage

__all__ = ["DEFAULT_MAX_RETRIES", "Request", "System", "Timeout", "as_timeout"]

System = Union[None, str, List[Block]]
"""A system prompt: text, or blocks."""

DEFAULT_MAX_RETRIES = 2


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


def as_timeout(value: Union[None, float, Timeout]) -> Timeout:
    """Return a Timeout: a number of seconds is its `total`, and None is `Timeout()`.

    Raises TypeError for another type, and ValueError for NaN.
    """
    if value is None:
        return Timeout()
    timeout = value if isinstance(value, Timeout) else Timeout(total=value)
    for name, seconds in timeout._asdict().items():
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float, type(None))):
            raise TypeError(
                f"timeout= takes a number of seconds or a Timeout, and Timeout({name}=…) a number "
                f"of seconds or None; not {seconds!r}"
            )
        require_number(f"Timeout({name}=…)", seconds)
    return timeout


class Request(NamedTuple):
    """One request to a model.

    model: the provider's id of the model.
    messages: the conversation.
    system: the system prompt, or None.
    tools: the tools' definitions, as {"name", "description", "input_schema"}.
    options: the other options of the request; an option that is not set is absent.
    streamed: whether the caller receives the events as they arrive.
    timeout: the limits of the call.
    max_retries: how often a failed request is sent again if its error is transient.
    deadline: the `clock.monotonic()` moment at which the whole call must end, such as a tool loop
        with several requests; None if timeout.total counts from the start of the request.
    """

    model: str
    messages: List[ChatMessage]
    system: System
    tools: List[Dict[str, Any]]
    options: Dict[str, Any]
    streamed: bool = True
    timeout: Timeout = Timeout()
    max_retries: int = DEFAULT_MAX_RETRIES
    deadline: Optional[float] = None
