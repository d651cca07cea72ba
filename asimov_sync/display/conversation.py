"""Shows the messages of a conversation as HTML."""

from typing import Any, List, Sequence

from asimov_sync.display.markup import escape, escape_short
from asimov_sync.display.view import to_text
from asimov_sync.messages import Block, ChatMessage

__all__ = ["CONVERSATION_STYLE", "draw_messages"]

MAX_MESSAGES = 200
"""The number of messages that are shown; of more, the first and the last ones."""

MAX_TEXT = 4000
"""The length to which each block of a message is shortened, in characters."""

CONVERSATION_STYLE = """\
.asy .message{margin:6px 0;padding:0 0 0 10px;border-left:3px solid var(--line)}
.asy .message h4{margin:0;font-size:12px;font-weight:600;color:var(--quiet)}
.asy .message p{margin:2px 0;white-space:pre-wrap;overflow-wrap:anywhere}
.asy .message.by-user{border-color:var(--executing)}
.asy .message.by-assistant{border-color:var(--complete)}
.asy .message.by-tool{border-color:var(--tool)}
"""

ROLES = {
    "user": ("by-user", "user"),
    "assistant": ("by-assistant", "assistant"),
    "tool_result": ("by-tool", "tools"),
}


def draw_messages(messages: Sequence[ChatMessage]) -> str:
    """Return messages as HTML; their texts are escaped and bounded."""
    shown = [_draw_message(message) for message in _choose(messages)]
    left_out = len(messages) - len(shown)
    if left_out:
        note = f'<p class="quiet">{left_out:,} messages are left out</p>'
        shown.insert(MAX_MESSAGES // 2, note)
    return "".join(shown)


def _choose(messages: Sequence[ChatMessage]) -> List[ChatMessage]:
    if len(messages) <= MAX_MESSAGES:
        return list(messages)
    half = MAX_MESSAGES // 2
    return [*messages[:half], *messages[-half:]]


def _draw_message(message: ChatMessage) -> str:
    style, title = ROLES.get(message.role.value, ("", message.role.value))
    blocks = "".join(_draw_block(block) for block in message.blocks)
    return f'<div class="message {style}"><h4>{escape(title)}</h4>{blocks}</div>'


def _draw_block(block: Block) -> str:
    kind = block.get("type")
    if kind == "text":
        return _paragraph(block.get("text"))
    if kind == "thinking":
        return f'<div class="quiet">{_paragraph(block.get("thinking"))}</div>'
    if kind == "tool_use":
        name = escape_short(str(block.get("name")), 200)
        return f"<p>calls <b><bdi>{name}</bdi></b></p>{_code(block.get('input'))}"
    if kind == "tool_result":
        content = block.get("content")
        if isinstance(content, list):
            parts = [one for one in content if isinstance(one, dict)]
            return "".join(_draw_block(one) for one in parts)
        return _code(content)
    return f'<p class="quiet">[{escape_short(str(kind), 80)}]</p>'


def _paragraph(text: Any) -> str:
    return f'<p dir="auto">{escape_short(str(text), MAX_TEXT)}</p>'


def _code(value: Any) -> str:
    return f"<pre>{escape_short(to_text(value), MAX_TEXT)}</pre>"
