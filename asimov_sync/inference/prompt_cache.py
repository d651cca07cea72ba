"""prompt_cache="auto": where to ask for caching so that a growing conversation is read from the provider's cache."""

from typing import Any, Dict, List

from asimov_sync.inference.request import Request
from asimov_sync.messages import ChatMessage, ChatRole

__all__ = ["with_cache_markers"]

TURNS = 2
"""How many of the last turns are marked: the last for the next request, the one before it to find what the last one wrote."""


def with_cache_markers(request: Request) -> Request:
    """The request with markers on the last tool, the system prompt and the last two turns of the user.

    Markers of the caller's own stay. A marker for an hour must not come behind one for five minutes (Anthropic, "Prompt
    caching"), so tools and system are marked for an hour where a message is. The codec keeps within the provider's four.
    """
    long = any(message.cache_marker == "1h" for message in request.messages)
    control: Dict[str, Any] = {"type": "ephemeral", "ttl": "1h"} if long else {"type": "ephemeral"}
    tools = [dict(tool) for tool in request.tools]
    if tools and not any("cache_control" in tool for tool in tools):
        tools[-1]["cache_control"] = control
    system = request.system
    if system:
        blocks = [dict(block) for block in ChatMessage(role=ChatRole.SYSTEM, content=system).blocks]
        if not any("cache_control" in block for block in blocks):
            blocks[-1]["cache_control"] = control
        system = blocks
    return request._replace(tools=tools, system=system, messages=_marked(request.messages, bool(system), long))


def _marked(messages: List[ChatMessage], system: bool, long: bool) -> List[ChatMessage]:
    said = [place for place, message in enumerate(messages) if message.role in (ChatRole.USER, ChatRole.TOOL_RESULT)]
    wanted = dict.fromkeys(said[-TURNS:], True)  # type: Dict[int, Any]
    instructions = [place for place, message in enumerate(messages) if message.role is ChatRole.SYSTEM]
    if instructions and not system:
        wanted[instructions[-1]] = "1h" if long else True
    return [
        message.model_copy(update={"cache_marker": wanted[place]})
        if place in wanted and not message.cache_marker and message.blocks
        else message
        for place, message in enumerate(messages)
    ]
