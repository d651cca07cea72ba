"""Who reads along: the text of replies is told, as it arrives, to the taps of the context in which it was asked for."""

import contextvars
from typing import Any, Callable, List, Optional, Tuple

from asimov_sync.messages import Event, ReplyDone, TextDelta

__all__ = ["TAPS", "Tap", "told"]

Tap = Callable[[], Callable[[str], Any]]
"""Called when a reply begins; what it returns is called with each piece of the reply's text.

A reply that is cut and asked for again begins again.
"""

TAPS: "contextvars.ContextVar[Tuple[Tap, ...]]" = contextvars.ContextVar("asimov_taps", default=())
"""The taps of this context, the outermost first."""


def told(taps: Tuple[Tap, ...]) -> Optional[Callable[[Event], None]]:
    """Begin a reply for those taps: what is to be called with each of its events; None where there are no taps.

    A reply that came in one piece is told in one piece.
    """
    if not taps:
        return None
    readers = [tap() for tap in taps]
    pieces: List[str] = []

    def tell(event: Event) -> None:
        if isinstance(event, TextDelta):
            text = event.text
        elif isinstance(event, ReplyDone) and not pieces:
            text = event.reply.text
        else:
            return
        if text:
            pieces[:] = [text]
            for reader in readers:
                reader(text)

    return tell
