"""Text for a terminal: nothing in it acts on the terminal, and its width is known.

Results, errors and names come from models and tools, so they are hostile. An escape sequence could
clear the screen, set the title or, in some terminals, type a command.
"""

import json
import re
import unicodedata

__all__ = [
    "escape",
    "escape_json",
    "escape_line",
    "pad",
    "shorten",
    "shorten_name",
    "width_of",
]

# The control characters (C0, DEL, C1), the marks that change the direction or order of text, and
# characters that are invisible or break lines. The two joiners stay, because emoji and several
# scripts need them. Lone surrogates cannot be written as UTF-8.
_UNSAFE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f"
)
_UNSAFE_IN_TEXT = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINE = re.compile(rf"[\t\n{_UNSAFE}]")


def escape(text: str) -> str:
    """Return a text whose control characters and direction marks are shown as Python writes them.

    Line feeds and tabs stay. A carriage return before a line feed is left out.
    """
    return _UNSAFE_IN_TEXT.sub(_as_escape, text.replace("\r\n", "\n"))


def escape_line(text: str) -> str:
    """Return a text like `escape`, with line feeds and tabs shown as well: one line."""
    return _UNSAFE_IN_LINE.sub(_as_escape, text)


def escape_json(text: str) -> str:
    """Return JSON whose control characters and direction marks are escaped, as JSON allows."""
    return _UNSAFE_IN_TEXT.sub(_as_json_escape, text)


def _as_json_escape(match: "re.Match[str]") -> str:
    return json.dumps(match.group())[1:-1]


def _as_escape(match: "re.Match[str]") -> str:
    return match.group().encode("unicode_escape").decode("ascii")


def width_of(text: str) -> int:
    """Return the number of columns that an escaped line takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of_character, text))


def _width_of_character(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, columns: int) -> str:
    """Return an escaped line, cut to a number of columns. The last one is then an ellipsis."""
    if width_of(text) <= columns:
        return text
    taken, kept = 1, []
    for character in text:
        taken += _width_of_character(character)
        if taken > columns:
            break
        kept.append(character)
    return "".join(kept) + "…"


def shorten_name(text: str, columns: int) -> str:
    """Return an escaped name, cut in its middle to a number of columns.

    The names of the items of a map, and ids that the library makes, differ at their ends.
    """
    if width_of(text) <= columns:
        return text
    start, room = len(text), (columns - 1) // 2
    while start and _width_of_character(text[start - 1]) <= room:
        start -= 1
        room -= _width_of_character(text[start])
    tail = text[start:]
    return shorten(text, columns - width_of(tail)) + tail


def pad(text: str, columns: int) -> str:
    """Return an escaped line, filled with spaces to a number of columns."""
    return text + " " * (columns - width_of(text))
