"""Spans: when a task's attempts, its requests to models and its tool calls began and ended.

An attempt of a task is a SpanRecorder in the scope of the context. A request or a tool call opens a
span in every recorder of its context, so the spans of nested runs, nested agents and tools on other
threads are also those of the enclosing tasks.
"""

import collections
import time
from typing import Deque, Iterable, NamedTuple, Optional

from asimov_sync.concurrency import scope
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.messages import Usage

__all__ = ["MAX_SPANS", "OpenSpan", "Span", "SpanRecorder", "open_span", "shorten_error"]

MAX_SPANS = 200
"""The number of spans of a task that are kept: the last ones."""

MAX_ERROR = 500
"""The longest text of an error in a span, in characters."""


class Span(NamedTuple):
    """The time of one attempt of a task, or of a request to a model or a tool call in it.

    kind: "attempt", "model" or "tool".
    name: the model or the tool; for an attempt, its number and that of its visit.
    start: in seconds since the epoch.
    end: likewise; None if it had not ended when the attempt had.
    usage: the tokens that were used, for an attempt and a tool by everything in them; None without
        requests.
    error: the exception as text; None without.
    attempt, visit: the numbers of the attempt that it belongs to, from 1.
    """

    kind: str
    name: str
    start: float
    end: Optional[float]
    usage: Optional[Usage] = None
    error: Optional[str] = None
    attempt: int = 1
    visit: int = 1

    @property
    def seconds(self) -> Optional[float]:
        """The seconds from the start to the end; None if the end is not known."""
        return None if self.end is None else self.end - self.start


class OpenSpan:
    """A request or a tool call that has begun. Its times are those of `time.perf_counter()`."""

    __slots__ = ("end", "error", "kind", "name", "start", "usage")

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name
        self.usage: Optional[Usage] = None
        self.error: Optional[str] = None
        self.end: Optional[float] = None
        self.start = time.perf_counter()

    def finish(self, usage: Optional[Usage] = None, error: Optional[str] = None) -> None:
        """Note the end. Only the first call has an effect.

        usage: the tokens that were used; default None.
        error: the exception as text; default None.
        """
        if self.end is None:
            self.usage = usage if usage != Usage() else None
            self.error = shorten_error(error)
            self.end = time.perf_counter()

    def shift(self, seconds: float) -> "OpenSpan":
        """Return a copy whose times are later by some seconds."""
        twin = OpenSpan(self.kind, self.name)
        twin.usage, twin.error, twin.start = self.usage, self.error, self.start + seconds
        twin.end = None if self.end is None else self.end + seconds
        return twin


class SpanRecorder:
    """Collects the spans of one attempt. Safe to use from every thread.

    spans: the last ones, as they have begun; None without any.
    """

    __slots__ = ("spans",)

    def __init__(self) -> None:
        self.spans: Optional[Deque[OpenSpan]] = None

    def add(self, span: OpenSpan) -> None:
        """Add a span that has begun."""
        if self.spans is None:
            with _lock.lock:
                if self.spans is None:
                    self.spans = collections.deque(maxlen=MAX_SPANS)
        self.spans.append(span)


_lock = ForkSafeLock()  # guards the creation of each list of spans


def open_span(kind: str, name: str, recorders: Optional[Iterable[SpanRecorder]] = None) -> OpenSpan:
    """Begin a span, and add it to the recorders.

    kind, name: as in Span.
    recorders: by default those of the current context.
    """
    span = OpenSpan(kind, name)
    for recorder in scope.current().span_recorders if recorders is None else recorders:
        recorder.add(span)
    return span


def shorten_error(error: Optional[str]) -> Optional[str]:
    """Return the beginning of the text of an error."""
    return error if error is None or len(error) <= MAX_ERROR else f"{error[:MAX_ERROR]} …"
