"""Numbers and statuses as short texts, and the width of a text in a picture. Pure."""

import datetime
import unicodedata
from typing import Iterable, Optional

from asimov_sync.display.view import TaskView
from asimov_sync.messages import Usage

__all__ = [
    "STATUS_ORDER",
    "count_statuses",
    "format_cost",
    "format_seconds",
    "format_time",
    "format_tokens",
    "format_usage",
    "plural",
    "shorten_to_width",
    "text_width",
]

STATUS_ORDER = (
    "failed",
    "partial",
    "parked",
    "executing",
    "delayed",
    "waiting",
    "complete",
    "skipped",
    "not selected",
)
"""The statuses of tasks, those first that a reader looks for."""


def count_statuses(tasks: Iterable[TaskView]) -> "dict[str, int]":
    """Return the number of tasks of each status, in the order of STATUS_ORDER."""
    counts = dict.fromkeys(STATUS_ORDER, 0)
    for task in tasks:
        counts[task.status] = counts.get(task.status, 0) + 1
    return {status: count for status, count in counts.items() if count}


def format_seconds(seconds: Optional[float]) -> str:
    """Return a duration: "0.3 ms", "12 ms", "3.4 s", "5 min 07 s", "2 h 05 min"; empty for None."""
    if seconds is None:
        return ""
    if seconds < 0.00005:
        return "0 ms"
    if seconds < 0.00995:
        return f"{max(0.0, seconds) * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = int(seconds + 0.5)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def format_tokens(count: int) -> str:
    """Return a number of tokens in at most five characters: "950", "12.3k", "4.0M"."""
    if count < 1000:
        return str(count)
    if count < 999_950:
        return f"{count / 1000:.1f}k"
    return f"{count / 1e6:.1f}M"


def format_usage(usage: Optional[Usage]) -> str:
    """Return a usage as "1.2k in, 340 out"; empty without requests."""
    if usage is None or not usage.total_tokens:
        return ""
    read = usage.total_tokens - usage.output_tokens
    return f"{format_tokens(read)} in, {format_tokens(usage.output_tokens)} out"


def plural(count: int, noun: str) -> str:
    """Return a number with its noun, as in "1 task" and "1,200 tasks"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_cost(cost: Optional[float]) -> str:
    """Return a cost in US dollars; empty for None."""
    if cost is None:
        return ""
    if 0 < cost < 0.0001:
        return "under $0.0001"
    return f"${cost:.4f}" if cost < 1 else f"${cost:,.2f}"


def format_time(seconds: Optional[float]) -> str:
    """Return a moment, given in seconds since the epoch, in UTC; empty for None."""
    if seconds is None:
        return ""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


_NARROW = frozenset("iljtfrI.,:;'|![](){}/ ")
_WIDE = frozenset("mwMW@%")


def text_width(text: str, size: float) -> float:
    """Estimate the width of a text in a usual sans-serif font.

    size: the size of the font; the width has its unit.
    """
    return sum(map(_character_width, text)) * size


def _character_width(character: str) -> float:
    if character in _NARROW:
        return 0.34
    if character in _WIDE:
        return 0.9
    if character < "\x7f":
        return 0.68 if character.isupper() else 0.59
    if unicodedata.combining(character):
        return 0.0
    return 1.05 if unicodedata.east_asian_width(character) in "WF" else 0.68


def shorten_to_width(text: str, width: float, size: float) -> str:
    """Replace the middle of a text by "…" if it is wider than `width`."""
    if len(text) <= 400 and text_width(text, size) <= width:
        return text
    head, tail = text[:200], text[-200:]
    while head or tail:
        if len(head) > len(tail):
            head = head[:-1]
        else:
            tail = tail[1:]
        if text_width(head + "…" + tail, size) <= width:
            break
    return head + "…" + tail
