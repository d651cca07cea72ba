"""prompt_cache="auto": where to ask for caching so that a growing conversation is read from the provider's cache."""

from typing import Any, Dict, List, Tuple

from asimov_sync.inference.request import Request
from asimov_sync.messages import Block, ChatMessage, ChatRole

__all__ = ["with_cache_markers"]

TURNS = 2
"""How many of the last turns are marked: the last for the next request, the one before it to find what the last one wrote."""

MARKERS = 4
"""How many markers a request may have; a fifth is a 400 (Anthropic, "Prompt caching")."""

Place = Tuple[int, int, int]
"""Where a marker is: the part of the prompt, the message in it, the block in that. They sort as a provider reads them."""

TOOLS, SYSTEM, INSTRUCTIONS, CONVERSATION = range(4)


def with_cache_markers(request: Request) -> Request:
    """The request with markers on the last tool, the system prompt and the last two turns of the user, four at the most.

    Markers of the caller's own come first; where they alone are more than four, the last four stay. A marker for an hour
    must not come behind one for five minutes (Anthropic, "Prompt caching"), so what is marked before one of the caller's for
    an hour is marked for an hour, too.
    """
    system, messages = _blocks(request.system), list(request.messages)
    own = _own(system, messages)
    while len(own) > MARKERS:
        _unmark(min(own), system, messages)
        own = _own(system, messages)
    last_long = max((place for place, lifetime in own.items() if lifetime == "1h"), default=(-1, 0, 0))
    tools = [dict(tool) for tool in request.tools]
    for place in _wanted(tools, system, messages, own)[: MARKERS - len(own)]:
        part, number, block = place
        lifetime = {"ttl": "1h"} if place < last_long else {}
        if part == TOOLS:
            tools[-1]["cache_control"] = dict({"type": "ephemeral"}, **lifetime)
        elif part == SYSTEM:
            system[block]["cache_control"] = dict({"type": "ephemeral"}, **lifetime)
        else:
            messages[number] = messages[number].model_copy(update={"cache_marker": lifetime.get("ttl", True)})
    return request._replace(tools=tools, system=system or request.system, messages=messages)


def _blocks(system: Any) -> List[Block]:
    return [dict(block) for block in ChatMessage(role=ChatRole.SYSTEM, content=system or "").blocks]


def _part(message: ChatMessage) -> int:
    return INSTRUCTIONS if message.role is ChatRole.SYSTEM else CONVERSATION


def _own(system: List[Block], messages: List[ChatMessage]) -> Dict[Place, Any]:
    """The caller's own markers: where they are, and their lifetimes. A message's cache_marker is behind its last block."""
    own: Dict[Place, Any] = {}
    for place, block in enumerate(system):
        if "cache_control" in block:
            own[SYSTEM, 0, place] = _lifetime(block)
    for number, message in enumerate(messages):
        for place, block in enumerate(message.blocks):
            if "cache_control" in block:
                own[_part(message), number, place] = _lifetime(block)
        if message.cache_marker:
            own[_part(message), number, len(message.blocks)] = message.cache_marker
    return own


def _lifetime(block: Block) -> Any:
    control = block["cache_control"]
    return control.get("ttl") if isinstance(control, dict) else None


def _unmark(place: Place, system: List[Block], messages: List[ChatMessage]) -> None:
    part, number, block = place
    if part == SYSTEM:
        del system[block]["cache_control"]
        return
    message = messages[number]
    if block == len(message.blocks):
        messages[number] = message.model_copy(update={"cache_marker": False})
        return
    blocks = list(message.blocks)
    blocks[block] = {name: value for name, value in blocks[block].items() if name != "cache_control"}
    messages[number] = message.model_copy(update={"content": blocks})


def _wanted(
    tools: List[Dict[str, Any]], system: List[Block], messages: List[ChatMessage], own: Dict[Place, Any]
) -> List[Place]:
    """Where to mark what the caller has not, the most useful place first."""
    ends = [(_part(message), number, _end(message.blocks)) for number, message in enumerate(messages) if _marks(message)]
    said = [place for place in ends if place[0] == CONVERSATION]
    instructions = [place for place in ends if place[0] == INSTRUCTIONS]
    prompt = [(SYSTEM, 0, _end(system))] if _end(system) >= 0 else instructions[-1:]
    wanted = said[-1:] + prompt + ([(TOOLS, 0, 0)] if tools else []) + said[-TURNS:-1]
    marked = {place[:2] for place in own}
    return [place for place in wanted if place[:2] not in marked]


def _marks(message: ChatMessage) -> bool:
    return message.role is not ChatRole.ASSISTANT and _end(message.blocks) >= 0


def _end(blocks: List[Block]) -> int:
    """The last block that may be marked, which thinking and empty text may not; -1 where there is none."""
    places = [
        place
        for place, block in enumerate(blocks)
        if block.get("type") not in ("thinking", "redacted_thinking") and (block.get("type") != "text" or block.get("text"))
    ]
    return places[-1] if places else -1
