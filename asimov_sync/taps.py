"""Who reads along: the text of replies is told, as it arrives, to the taps of the context in which it was asked for."""

import contextvars
from typing import Any, Callable, Tuple

__all__ = ["TAPS", "Tap"]

Tap = Callable[[], Callable[[str], Any]]
"""Called when a reply begins; what it returns is called with each piece of the reply's text.

A reply that is cut and asked for again begins again.
"""

TAPS: "contextvars.ContextVar[Tuple[Tap, ...]]" = contextvars.ContextVar("asimov_taps", default=())
"""The taps of this context, the outermost first."""
