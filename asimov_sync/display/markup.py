"""Makes text safe to show: escapes HTML, and makes control and direction characters visible.

The text comes from models, tools and exceptions. After `escape` it cannot end an element or an
attribute, and cannot change the order in which the text around it is shown.
"""

import functools
import html
import json
import re
from typing import Dict

__all__ = ["escape", "escape_json", "escape_short", "make_visible", "shorten"]

_UNSAFE = (
    (0x00, 0x08),
    (0x0B, 0x1F),
    (0x7F, 0x9F),
    (0xAD, 0xAD),
    (0x61C, 0x61C),
    (0x200B, 0x200F),
    (0x2028, 0x202E),
    (0x2060, 0x206F),
    (0xD800, 0xDFFF),
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xFFFE, 0xFFFF),
    (0xE0000, 0xE0FFF),
)
"""The first and the last of ranges of characters: control characters but for the tab and the line
feed, invisible characters, the characters that change the direction of text (Unicode Standard Annex
9, section 2), and surrogates."""

_PATTERN = re.compile("[" + "".join(f"{chr(one)}-{chr(other)}" for one, other in _UNSAFE) + "]")

_CONTROL_PICTURES = 0x2400
"""The code point of SYMBOL FOR NULL; the symbols for the other C0 controls follow."""


def make_visible(text: str) -> str:
    """Replace each control, direction or invisible character by a symbol or its code point."""
    text = text.replace("\r\n", "\n")
    return text if _PATTERN.search(text) is None else text.translate(_symbols())


@functools.lru_cache(maxsize=None)
def _symbols() -> Dict[int, str]:
    return {
        code: chr(_CONTROL_PICTURES + code) if code < 0x20 else f"<U+{code:04X}>"
        for first, last in _UNSAFE
        for code in range(first, last + 1)
    }


def escape(text: object) -> str:
    """Return a text that is safe in the content of HTML and SVG and in a quoted attribute."""
    return html.escape(make_visible(str(text)))


def escape_json(text: str) -> str:
    """Return JSON with the same value, in which such characters are escaped as JSON does it."""
    return _PATTERN.sub(lambda match: json.dumps(match.group())[1:-1], text)


def shorten(text: str, limit: int) -> str:
    """Remove the middle of a text that is longer than `limit` characters, and note its length."""
    if len(text) <= limit:
        return text
    note = f" … ({len(text):,} characters) … " if limit >= 100 else "…"
    half = max(0, limit - len(note)) // 2
    return text[:half] + note + text[len(text) - half :]


def escape_short(text: object, limit: int) -> str:
    """Return `escape(text)` of a text of at most `limit` characters; see `shorten`."""
    visible = make_visible(shorten(str(text), limit))
    return html.escape(shorten(visible, limit))
