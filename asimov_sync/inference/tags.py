"""Texts between tags in a prompt. Pure: no IO, no clock.

Models and tools may produce hostile text that ends up in a prompt. `escape` changes it so that it
cannot close its own block or open another one.
"""

import html
import re

__all__ = ["escape", "wrap_in_tag"]

_NAMES = (
    r"(?:params|result|partial|failed|skipped|feedback|material|choice|example|summary|transcript)"
    r"\b"
)

# Matches a "<" before the name of one of our tags, and tolerates between them what a model may
# overlook: a slash, spaces, other characters that are not letters. It does not match a comparison
# in a program: only spaces between "<" and the name, no ">" after them and no attribute of ours.
_FORGED = re.compile(
    rf"<(?! +{_NAMES}(?!\s+(?:of|name)\s*=)[^<>]*(?:<|\Z))(?=[^\w<>]*{_NAMES})", re.IGNORECASE
)

# Matches invisible characters, which a model may overlook: those that Unicode calls ignorable or
# format characters, control characters, and the marks that are drawn on top of another character.
# White space is not among them.
_INVISIBLE = re.compile(
    "["
    "\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u0300-\u036f\u0600-\u0605\u061c\u06dd\u070f"
    "\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u1ab0-\u1aff\u1dc0-\u1dff"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20d0-\u20ff\u3164\ufe00-\ufe0f\ufe20-\ufe2f\ufeff"
    "\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    "]+"
)
_NOT_SIGNS = re.compile("[^<\0]+")


def escape(text: str, replacement: str = "&lt;") -> str:
    """Return a text that contains none of our tags. Nothing but the "<" of such a tag is changed.

    text: the text.
    replacement: what replaces the "<" (default: "&lt;").
    """
    if "<" not in text:
        return text
    text = _FORGED.sub(lambda match: replacement, text)
    visible = _INVISIBLE.sub("", text)
    if len(visible) == len(text):
        return text
    marked = _FORGED.sub("\0", visible)
    if "\0" not in marked:
        return text
    # No "<" is invisible, so the n-th sign of `marked` stands for the n-th "<" of the text.
    signs = _NOT_SIGNS.sub("", marked)
    pieces = text.split("<")
    ends = [replacement if sign == "\0" else "<" for sign in signs] + [""]
    return "".join(piece + end for piece, end in zip(pieces, ends))


def wrap_in_tag(tag: str, text: str, **attributes: str) -> str:
    """Put a text, unchanged, between tags.

    attributes: written into the opening tag, each quoted, escaped and on one line.
    """
    written = "".join(
        f' {name}="{html.escape(" ".join(value.split()))}"' for name, value in attributes.items()
    )
    return f"<{tag}{written}>\n{text}\n</{tag}>"
