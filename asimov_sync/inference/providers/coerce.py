"""Reading what a provider sent, which may be anything: a value of the right type, or the harmless one in its place."""

from typing import Any, Dict, Mapping, Optional, Tuple

from asimov_sync._json import loads

__all__ = ["block_index", "count", "json_object", "text", "whole_number"]


def text(value: Any) -> Optional[str]:
    """The value if it is text, or None."""
    return value if isinstance(value, str) else None


MOST = 10**15
"""No usage figure is larger; a number of hundreds of digits cannot even be multiplied by a price."""


def count(figures: Any, *path: str) -> int:
    """The figure at a path of keys, or 0 where there is none: usage is told beside a reply, and must not be what spoils it."""
    for name in path:
        figures = figures.get(name) if isinstance(figures, Mapping) else None
    return whole_number(figures) or 0


def whole_number(value: Any) -> Optional[int]:
    """The value if it is an int from 0 to `MOST`, or None. Bools and floats (1.9, infinity) are not counts."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST:
        return value
    return None


def block_index(value: Any) -> int:
    """The index of a streamed block, as an int. ValueError for anything else that JSON can hold, infinity included."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        return int(value)
    raise ValueError(f"the index of a block must be a whole number, not {value!r}")


def json_object(told: str) -> Tuple[Dict[str, Any], Optional[str]]:
    """A JSON object and None; or, where the text is none, an empty one and the text."""
    try:
        value = loads(told)
    except (ValueError, RecursionError):
        return {}, told
    return (value, None) if isinstance(value, dict) else ({}, told)
