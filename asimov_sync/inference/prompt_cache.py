"""prompt_cache="auto": places cache markers so that a provider reuses a growing conversation.

Facts about markers are from Anthropic's documentation, "Prompt caching".
"""

from typing import Any, Dict, List, Tuple

from asimov_sync.inference.request import Request
from asimov_sync.messages import Block, ChatMessage, ChatRole

__all__ = ["with_cache_markers"]

TURNS = 2
"""The number of the user's last turns that are marked.

The marker before the last is where the previous request stored its cache entry, which this request
reads. The next request reads the entry that this request stores at the last marker.
"""

MAX_MARKERS = 4
"""The most markers in one request. A provider rejects a fifth with status 400."""

Position = Tuple[int, int, int]
"""The place of a marker: the part of the prompt, the index of the message in it, the block's index.

Positions sort in the order in which a provider reads the prompt.
"""

TOOLS, SYSTEM, INSTRUCTIONS, CONVERSATION = range(4)


def with_cache_markers(request: Request) -> Request:
    """Return the request with at most four cache markers.

    The last tool, the system prompt and the user's last two turns are marked. Markers that the
    caller set take precedence; if there are more than four, the last four stay. A marker for one
    hour must not follow one for five minutes, so a marker that is added before the caller's
    one-hour marker lasts one hour as well.
    """
    system, messages = _blocks(request.system), list(request.messages)
    existing = _existing(system, messages)
    while len(existing) > MAX_MARKERS:
        _remove(min(existing), system, messages)
        existing = _existing(system, messages)
    last_long = max(
        (position for position, lifetime in existing.items() if lifetime == "1h"),
        default=(-1, 0, 0),
    )
    tools = [dict(tool) for tool in request.tools]
    candidates = _candidates(tools, system, messages, existing)
    for position in candidates[: MAX_MARKERS - len(existing)]:
        part, index, block = position
        lifetime = {"ttl": "1h"} if position < last_long else {}
        if part == TOOLS:
            tools[-1]["cache_control"] = dict({"type": "ephemeral"}, **lifetime)
        elif part == SYSTEM:
            system[block]["cache_control"] = dict({"type": "ephemeral"}, **lifetime)
        else:
            marker = {"cache_marker": lifetime.get("ttl", True)}
            messages[index] = messages[index].model_copy(update=marker)
    return request._replace(tools=tools, system=system or request.system, messages=messages)


def _blocks(system: Any) -> List[Block]:
    message = ChatMessage(role=ChatRole.SYSTEM, content=system or "")
    return [dict(block) for block in message.blocks]


def _part(message: ChatMessage) -> int:
    return INSTRUCTIONS if message.role is ChatRole.SYSTEM else CONVERSATION


def _existing(system: List[Block], messages: List[ChatMessage]) -> Dict[Position, Any]:
    """Return the lifetimes of the caller's own markers by position.

    A message's `cache_marker` is at the position after its last block.
    """
    existing: Dict[Position, Any] = {}
    for block_index, block in enumerate(system):
        if "cache_control" in block:
            existing[SYSTEM, 0, block_index] = _lifetime(block)
    for index, message in enumerate(messages):
        for block_index, block in enumerate(message.blocks):
            if "cache_control" in block:
                existing[_part(message), index, block_index] = _lifetime(block)
        if message.cache_marker:
            existing[_part(message), index, len(message.blocks)] = message.cache_marker
    return existing


def _lifetime(block: Block) -> Any:
    control = block["cache_control"]
    return control.get("ttl") if isinstance(control, dict) else None


def _remove(position: Position, system: List[Block], messages: List[ChatMessage]) -> None:
    part, index, block = position
    if part == SYSTEM:
        del system[block]["cache_control"]
        return
    message = messages[index]
    if block == len(message.blocks):
        messages[index] = message.model_copy(update={"cache_marker": False})
        return
    blocks = list(message.blocks)
    blocks[block] = {
        name: value for name, value in blocks[block].items() if name != "cache_control"
    }
    messages[index] = message.model_copy(update={"content": blocks})


def _candidates(
    tools: List[Dict[str, Any]],
    system: List[Block],
    messages: List[ChatMessage],
    existing: Dict[Position, Any],
) -> List[Position]:
    """Return the positions to mark that the caller has not marked, the most useful first."""
    ends = [
        (_part(message), index, _last_markable(message.blocks))
        for index, message in enumerate(messages)
        if _can_mark(message)
    ]
    turns = [position for position in ends if position[0] == CONVERSATION]
    instructions = [position for position in ends if position[0] == INSTRUCTIONS]
    system_end = _last_markable(system)
    prompt = [(SYSTEM, 0, system_end)] if system_end >= 0 else instructions[-1:]
    candidates = turns[-1:] + prompt + ([(TOOLS, 0, 0)] if tools else []) + turns[-TURNS:-1]
    marked = {position[:2] for position in existing}
    return [position for position in candidates if position[:2] not in marked]


def _can_mark(message: ChatMessage) -> bool:
    return message.role is not ChatRole.ASSISTANT and _last_markable(message.blocks) >= 0


def _last_markable(blocks: List[Block]) -> int:
    """Return the index of the last block that may be marked, or -1.

    Providers reject a marker on thinking and on empty text.
    """
    indexes = [
        index
        for index, block in enumerate(blocks)
        if block.get("type") not in ("thinking", "redacted_thinking")
        and (block.get("type") != "text" or block.get("text"))
    ]
    return indexes[-1] if indexes else -1
