"""Removes blank text from requests. Models send it in replies; providers reject it in requests.

Pure: no IO.

Facts: anthropics/anthropic-sdk-python#461 (models answer with empty text blocks, most often after
tool results); the errors "text content blocks must be non-empty", "text content blocks must
contain non-whitespace text", "all messages must have non-empty content except for the optional
final assistant message" and "cache_control cannot be set for empty text blocks"; and
https://platform.claude.com/docs/en/api/messages: consecutive user or assistant turns become one.
"""

import operator
from typing import Any, List, Optional, Tuple, Union

from asimov_sync.messages import Block, ChatMessage

__all__ = ["can_be_marked", "is_blank", "without_blank_text"]

Marker = Union[bool, str]


def is_blank(block: Block, keep_cited: bool = False) -> bool:
    """Return whether a block is text that is empty or only whitespace.

    keep_cited: a text with citations is not blank.
    """
    if block.get("type") != "text" or (keep_cited and block.get("citations")):
        return False
    text = block.get("text")
    return text is None or (isinstance(text, str) and not text.strip())


def can_be_marked(block: Block) -> bool:
    """Return whether a block can have cache_control; thinking and blank text cannot."""
    return block.get("type") not in ("thinking", "redacted_thinking") and not is_blank(block)


def without_blank_text(
    messages: List[ChatMessage], keep_cited: bool = False
) -> List[Optional[ChatMessage]]:
    """Return the messages without their blank text; None replaces a message without other content.

    A cache marker on something that is left out moves to the block or message before it, because
    the prompt up to there is the same. It is dropped if nothing is before it. The given messages
    are not modified.

    keep_cited: keep blank text that has citations.
    """
    kept: List[Optional[ChatMessage]] = []
    last: Optional[int] = None  # index of the last message that was kept
    for message in messages:
        content, control = _clean(message, keep_cited)
        if control is not None and last is not None:
            kept[last] = _with_control(kept[last], control)
        if not content:
            if message.cache_marker and last is not None:
                kept[last] = _with_marker(kept[last], message.cache_marker)
            kept.append(None)
            continue
        last = len(kept)
        kept.append(
            message
            if content is message.content
            else message.model_copy(update={"content": content})
        )
    return kept


def _clean(message: ChatMessage, keep_cited: bool) -> Tuple[Union[str, List[Block]], Any]:
    """Return the content without blank text, and the cache_control of blank text, or None.

    The cache_control is returned only if no block before the blank text can have it.
    If nothing is removed, the content is the same object.
    """
    if isinstance(message.content, str):
        return (message.content if message.content.strip() else ""), None
    kept: List[Block] = []
    control = None
    for block in message.content:
        if is_blank(block, keep_cited):
            marker = block.get("cache_control")
            if marker is not None and not _mark(kept, marker):
                control = _longer(control, marker)
        else:
            kept.append(_clean_result(block, keep_cited))
    unchanged = len(kept) == len(message.content) and all(map(operator.is_, kept, message.content))
    return (message.content if unchanged else kept), control


def _clean_result(block: Block, keep_cited: bool) -> Block:
    """Return a tool result without blank text in its content; any other block unchanged."""
    content = block.get("content")
    if block.get("type") != "tool_result" or not isinstance(content, list):
        return block
    blank = [part for part in content if isinstance(part, dict) and is_blank(part, keep_cited)]
    if not blank:
        return block
    cleaned = {name: value for name, value in block.items() if name != "content"}
    left = [part for part in content if not (isinstance(part, dict) and is_blank(part, keep_cited))]
    if left:
        cleaned["content"] = left
    for part in blank:
        if part.get("cache_control") is not None:
            _mark_block(cleaned, part["cache_control"])
    return cleaned


def _mark(blocks: List[Block], control: Any) -> bool:
    """Put cache_control on the last block that can have it; False if there is none."""
    for index in reversed(range(len(blocks))):
        if can_be_marked(blocks[index]):
            blocks[index] = dict(blocks[index])
            _mark_block(blocks[index], control)
            return True
    return False


def _mark_block(block: Block, control: Any) -> None:
    block["cache_control"] = _longer(block.get("cache_control"), control)


def _longer(one: Any, other: Any) -> Any:
    """Return the value of cache_control with the longer lifetime."""
    if one is None:
        return other
    return other if isinstance(other, dict) and other.get("ttl") == "1h" else one


def _with_control(message: Optional[ChatMessage], control: Any) -> Optional[ChatMessage]:
    assert message is not None
    blocks = list(message.blocks)
    _mark(blocks, control)
    return message.model_copy(update={"content": blocks})


def _with_marker(message: Optional[ChatMessage], marker: Marker) -> Optional[ChatMessage]:
    assert message is not None
    longer = "1h" if "1h" in (marker, message.cache_marker) else message.cache_marker or marker
    return message.model_copy(update={"cache_marker": longer})
