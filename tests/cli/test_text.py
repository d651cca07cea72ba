"""Text of models and tools is shown so that it cannot act on the terminal."""

import json
import sys
import unicodedata

import pytest

from asimov_sync.cli.output import format_argument, format_value
from asimov_sync.cli.text import escape, escape_line, pad, shorten, shorten_name, width_of

from ..tiers import by_tier


def test_no_control_character_is_left():
    """No control, direction or line-breaking character, and no lone surrogate, is left in a text.

    In a line, line feeds and tabs are not left either. What was printable stays as it is.
    """
    highest = by_tier(0x3100, soak=sys.maxunicode + 1)
    for code in [*range(highest), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10000)]:
        character = chr(code)
        line, text = escape_line(character), escape(character)
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            assert line.isascii() and line.isprintable(), hex(code)
            assert text == (character if character in "\n\t" else line)
        if unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF") or (
            unicodedata.bidirectional(character) in ("LRI", "RLI", "FSI", "PDI")
        ):
            assert text.startswith("\\u"), hex(code)
        if character.isprintable():
            assert text == line == character, hex(code)


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("abc\rxyz\b", "abc\\rxyz\\x08"),
        ("one\r\ntwo\n\tthree", "one\ntwo\n\tthree"),
        ("pay eve\u202e\u2066", "pay eve\\u202e\\u2066"),
        ("\ud800", "\\ud800"),
        ("família 👩\u200d👧", "família 👩\u200d👧"),
    ],
)
def test_hostile_text(text, shown):
    """Escape sequences, overprinting and direction marks are shown as Python writes them."""
    assert escape(text) == shown


def test_values_stay_json():
    """A value that is not a text is shown as JSON, which has the same value."""
    value = {"amount": 5, "to": "ève\u202e\x7f\x9b\n"}
    shown = format_value(value)
    assert shown == '{"amount": 5, "to": "ève\\u202e\\u007f\\u009b\\n"}'
    assert json.loads(shown) == value
    assert format_value("text") == "text"


@pytest.mark.parametrize(
    "value, shown",
    [(5, "5"), ("5", '"5"'), (None, "null"), ("null", '"null"'), ("Ada", "Ada"), ('"', '"')],
)
def test_arguments(value, shown):
    """An argument of a tool call that is a text cannot be mistaken for another JSON value."""
    assert format_argument(value) == shown


def test_names_are_cut_in_their_middle():
    """A name keeps its end, in which the items of a map differ, and fits its columns."""
    assert shorten_name("a-long-name-of-a-map[17]", 12) == "a-long…p[17]"
    assert shorten_name("日本語日本語", 8) == "日本…語"
    assert [shorten_name("page[1]", columns) for columns in (7, 2, 1)] == ["page[1]", "p…", "…"]
    for columns in range(1, 30):
        assert width_of(shorten_name("日e\u0301" * 9, columns)) <= columns


def test_widths():
    """Wide characters take two columns, combining ones none, and a text is cut before a half."""
    assert (width_of("abc"), width_of("日本"), width_of("e\u0301")) == (3, 4, 1)
    assert (shorten("日本語", 5), shorten("日本語", 4), shorten("abc", 3)) == (
        "日本…",
        "日…",
        "abc",
    )
    assert pad("日", 4) == "日  "
