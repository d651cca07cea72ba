"""Who pays: every reply's usage is charged to the meters of the context in which it was asked for.

A client has a meter for its whole life. A task runs in a context with a meter of its own, so that the tokens of every
client, agent and tool that it calls, on whatever thread, are its tokens.
"""

import contextvars
from typing import Any, Optional, Tuple

from asimov_sync.forking import ForkSafeLock
from asimov_sync.messages import Usage

__all__ = ["METERS", "Meter"]

METERS: "contextvars.ContextVar[Tuple[Meter, ...]]" = contextvars.ContextVar("asimov_meters", default=())
"""The meters that are charged in this context, the outermost first."""


_adding = ForkSafeLock()  # guards every meter's sum


class Meter:
    """A sum of usage that any thread may add to. `with meter:` charges it for all that is asked for in the block."""

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        self._sum: Optional[Usage] = None

    @property
    def usage(self) -> Usage:
        """The sum so far."""
        return self._sum if self._sum is not None else Usage()

    @property
    def told(self) -> Optional[Usage]:
        """The sum so far; None if nothing was ever added."""
        return self._sum

    def add(self, usage: Usage) -> None:
        """Add to the sum."""
        with _adding.lock:
            self._sum = usage if self._sum is None else self._sum + usage

    def __enter__(self) -> "Meter":
        METERS.set(METERS.get() + (self,))
        return self

    def __exit__(self, *exc_info: Any) -> None:
        # Meters are entered and left like brackets, so the last one here is this one.
        METERS.set(METERS.get()[:-1])

    def __repr__(self) -> str:
        return "<Meter: {!r}>".format(self.usage)
