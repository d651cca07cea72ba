"""Makes text safe to show: escapes HTML, and makes control and direction characters visible.

The text comes from models, tools and exceptions. After `escape` it cannot end an element or an
attribute, and cannot change the order in which the text around it is shown.
"""

import html
import re

__all__ = ["escape", "make_visible"]

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff"
    "\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)
"""Control characters but for the tab and the line feed, invisible characters, the characters that
change the direction of text (Unicode Standard Annex 9, section 2), and surrogates."""

_CONTROL_PICTURES = 0x2400
"""The code point of SYMBOL FOR NULL; the symbols for the other C0 controls follow."""


def make_visible(text: str) -> str:
    """Replace each control, direction or invisible character by a symbol or its code point."""
    return _UNSAFE.sub(_show, text.replace("\r\n", "\n"))


def _show(match: "re.Match[str]") -> str:
    code = ord(match.group())
    return chr(_CONTROL_PICTURES + code) if code < 0x20 else f"<U+{code:04X}>"


def escape(text: object) -> str:
    """Return a text that is safe in the content of HTML and SVG and in a quoted attribute."""
    return html.escape(make_visible(str(text)))
