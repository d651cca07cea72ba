"""Converts values that a provider sent, which may be anything, or returns a harmless default."""

from typing import Any, Dict, Mapping, Optional, Tuple

from asimov_sync._json import loads

__all__ = ["DECODE_ERRORS", "as_count", "as_int", "as_str", "block_index", "parse_object"]

DECODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
)
"""The exceptions that a decoder may raise for data that does not have its wire's format."""

MAX_TOKENS = 10**15
"""The largest usage figure that is accepted. A number of hundreds of digits could not even be
multiplied by a price."""


def as_str(value: Any) -> Optional[str]:
    """Return the value if it is a str, otherwise None."""
    return value if isinstance(value, str) else None


def as_int(value: Any) -> Optional[int]:
    """Return the value if it is an int from 0 to MAX_TOKENS, otherwise None.

    Bools and floats (1.9, infinity) are not counts.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS:
        return value
    return None


def as_count(figures: Any, *path: str) -> int:
    """Return the count at a path of keys, or 0 if there is none.

    Usage comes beside a reply, so an invalid figure must not make the reply fail.
    """
    for name in path:
        figures = figures.get(name) if isinstance(figures, Mapping) else None
    return as_int(figures) or 0


def block_index(value: Any) -> int:
    """Return the index of a streamed block as an int.

    Raises ValueError for everything else that JSON can hold, infinity included.
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return int(value)
    raise ValueError(f"the index of a block must be a whole number, not {value!r}")


def parse_object(text: str) -> Tuple[Dict[str, Any], Optional[str]]:
    """Return a JSON object and None; or, if the text is not one, an empty dict and the text."""
    try:
        value = loads(text)
    except (ValueError, RecursionError):
        return {}, text
    return (value, None) if isinstance(value, dict) else ({}, text)
