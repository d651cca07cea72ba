"""Leaves blank text out of a request: models answer with it, and their providers refuse to take it back. Pure: no IO.

Facts: anthropics/anthropic-sdk-python#461 (models answer with empty text blocks, most often after tool results), the
refusals "text content blocks must be non-empty", "text content blocks must contain non-whitespace text", "all messages
must have non-empty content except for the optional final assistant message" and "cache_control cannot be set for empty
text blocks", and https://platform.claude.com/docs/en/api/messages: user or assistant turns in a row become one turn.
"""

from typing import Any, List, Optional, Tuple, Union

from asimov_sync.messages import Block, ChatMessage

__all__ = ["can_be_marked", "is_blank", "without_blank_text"]

Marker = Union[bool, str]


def is_blank(block: Block, keep_cited: bool = False) -> bool:
    """Whether a block is text of nothing but whitespace. keep_cited: not if it has citations."""
    if block.get("type") != "text" or (keep_cited and block.get("citations")):
        return False
    words = block.get("text")
    return words is None or (isinstance(words, str) and not words.strip())


def can_be_marked(block: Block) -> bool:
    """Whether a block can have cache_control; thinking and blank text cannot."""
    return block.get("type") not in ("thinking", "redacted_thinking") and not is_blank(block)


def without_blank_text(
    messages: List[ChatMessage], keep_cited: bool = False
) -> List[Optional[ChatMessage]]:
    """The messages without their blank text; None in place of a message that has no content left.

    A cache marker on something that is left out moves to the block or message before it: the prompt up to there is
    the same. It is dropped if there is nothing before it. Nothing else is changed, and the messages that were given
    are not modified.
    """
    kept: List[Optional[ChatMessage]] = []
    last: Optional[int] = None  # the place of the last message that was kept
    for message in messages:
        content, control = _cleaned(message, keep_cited)
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


def _cleaned(message: ChatMessage, keep_cited: bool) -> Tuple[Union[str, List[Block]], Any]:
    """The content without blank text (the same object if it has none), and the cache_control that has no block before it."""
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
            kept.append(_cleaned_result(block, keep_cited))
    unchanged = len(kept) == len(message.content) and all(map(_is, kept, message.content))
    return (message.content if unchanged else kept), control


def _is(one: Any, other: Any) -> bool:
    return one is other


def _cleaned_result(block: Block, keep_cited: bool) -> Block:
    """A tool result without blank text in its content; any other block as it is."""
    content = block.get("content")
    if block.get("type") != "tool_result" or not isinstance(content, list):
        return block
    blank = [one for one in content if isinstance(one, dict) and is_blank(one, keep_cited)]
    if not blank:
        return block
    cleaned = {name: value for name, value in block.items() if name != "content"}
    left = [one for one in content if not (isinstance(one, dict) and is_blank(one, keep_cited))]
    if left:
        cleaned["content"] = left
    for one in blank:
        if one.get("cache_control") is not None:
            _mark_one(cleaned, one["cache_control"])
    return cleaned


def _mark(blocks: List[Block], control: Any) -> bool:
    """Put cache_control on the last block that can have it; False if there is none."""
    for place in reversed(range(len(blocks))):
        if can_be_marked(blocks[place]):
            blocks[place] = dict(blocks[place])
            _mark_one(blocks[place], control)
            return True
    return False


def _mark_one(block: Block, control: Any) -> None:
    block["cache_control"] = _longer(block.get("cache_control"), control)


def _longer(one: Any, other: Any) -> Any:
    """Of two values of cache_control, the one with the longer lifetime."""
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
