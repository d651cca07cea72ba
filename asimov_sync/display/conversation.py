"""Shows the messages of a conversation as HTML."""

from typing import Callable, Sequence

from asimov_sync.display.markup import escape_short
from asimov_sync.display.view import MessageView

__all__ = ["CONVERSATION_STYLE", "draw_messages", "show_text"]

MAX_TEXT = 4000
"""The length to which each text of a message is shortened by default, in characters."""

MAX_KIND = 80

CONVERSATION_STYLE = """\
.asy .message{margin:8px 0;padding:0 0 0 10px;border-left:3px solid var(--line)}
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


def show_text(text: str) -> str:
    """Return a text of a message as HTML."""
    return escape_short(text, MAX_TEXT)


def draw_messages(messages: Sequence[MessageView], show: Callable[[str], str] = show_text) -> str:
    """Return messages as HTML.

    show: escapes and shortens a text; default `show_text`.
    """
    return "".join(_draw_message(message, show) for message in messages)


def _draw_message(message: MessageView, show: Callable[[str], str]) -> str:
    style, title = ROLES.get(message.role, ("", message.role))
    parts = "".join(_draw_part(kind, text, show) for kind, text in message.parts)
    return f'<div class="message {style}"><h4>{escape_short(title, MAX_KIND)}</h4>{parts}</div>'


def _draw_part(kind: str, text: str, show: Callable[[str], str]) -> str:
    if kind == "text":
        return f'<p dir="auto">{show(text)}</p>'
    if kind == "thinking":
        return f'<p class="quiet" dir="auto">{show(text)}</p>'
    if kind == "result":
        return f"<pre>{show(text)}</pre>"
    return f"<p><bdi>{escape_short(kind, MAX_KIND)}</bdi></p><pre>{show(text)}</pre>"
