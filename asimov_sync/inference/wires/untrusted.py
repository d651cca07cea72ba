"""Reading what a provider sent, which may be anything: a value of the right type, or the harmless one in its place."""

from typing import Any, Dict, Mapping, Optional, Tuple

from asimov_sync.foreign_json import parsed

__all__ = ["count", "json_object", "text"]


def text(value: Any) -> Optional[str]:
    """The value if it is text, or None."""
    return value if isinstance(value, str) else None


MOST = 10**15
"""No usage figure is larger; a number of hundreds of digits cannot even be multiplied by a price."""


def count(figures: Any, *path: str) -> int:
    """The figure at a path of keys, or 0 where there is none: usage is told beside a reply, and must not be what spoils it."""
    for name in path:
        figures = figures.get(name) if isinstance(figures, Mapping) else None
    return figures if isinstance(figures, int) and not isinstance(figures, bool) and 0 < figures <= MOST else 0


def json_object(told: str) -> Tuple[Dict[str, Any], Optional[str]]:
    """A JSON object and None; or, where the text is none, an empty one and the text."""
    try:
        value = parsed(told)
    except (ValueError, RecursionError):
        return {}, told
    return (value, None) if isinstance(value, dict) else ({}, told)
