"""TaskSpans: the spans of the tasks of one run."""

import time
from typing import Dict, Iterable, List, Optional, Tuple

from asimov_sync.graph.journal import TaskRecord
from asimov_sync.messages import Usage
from asimov_sync.spans import MAX_SPANS, OpenSpan, Span, shorten_error

__all__ = ["TaskSpans"]


class TaskSpans:
    """The spans of the tasks of one run, by the index of the task.

    Most tasks have one attempt, without an error, requests and tool calls. Of these only the start
    is kept, since the run has their seconds.

    starts: the start of each of these, by `time.perf_counter()`.
    """

    __slots__ = ("_epoch", "_spans", "starts")

    def __init__(self) -> None:
        self.starts: Dict[int, float] = {}
        self._spans: Dict[int, List[Span]] = {}
        self._epoch = time.time() - time.perf_counter()

    def add(
        self,
        index: int,
        attempt: int,
        visit: int,
        start: float,
        seconds: float,
        usage: Optional[Usage],
        error: Optional[str],
        parts: Iterable[OpenSpan],
        earlier: Optional[float],
    ) -> None:
        """Add an attempt that has ended.

        attempt, visit: its numbers.
        start, seconds: its start, by `time.perf_counter()`, and the seconds that it took.
        usage: the tokens that it used.
        error: the text of its error; None without.
        parts: the requests and tool calls in it.
        earlier: the seconds of the attempts before it; None without any.
        """
        spans = self._spans.setdefault(index, [])
        if earlier is not None and index in self.starts:
            spans.append(self._single(index, earlier, None))
            del self.starts[index]
        whole = Span("attempt", _name(attempt, visit), self._epoch + start, None, usage)
        end, error = whole.start + seconds, shorten_error(error)
        spans.append(whole._replace(end=end, error=error, attempt=attempt, visit=visit))
        spans += [self._close(span, attempt, visit) for span in parts]
        del spans[:-MAX_SPANS]

    def _close(self, span: OpenSpan, attempt: int, visit: int) -> Span:
        end = None if span.end is None else self._epoch + span.end
        start = self._epoch + span.start
        return Span(span.kind, span.name, start, end, span.usage, span.error, attempt, visit)

    def _single(self, index: int, seconds: float, usage: Optional[Usage]) -> Span:
        start = self._epoch + self.starts[index]
        return Span("attempt", _name(1, 1), start, start + seconds, usage)

    def of(self, index: int, seconds: float, usage: Optional[Usage]) -> List[Span]:
        """Return the spans of a task.

        seconds, usage: the seconds and the tokens of all its attempts.
        """
        if index in self.starts:
            return [self._single(index, seconds, usage)]
        return list(self._spans.get(index, ()))

    def explicit(self, index: int) -> Tuple[Span, ...]:
        """Return the spans of a task; empty for one of which only the start is kept."""
        return tuple(self._spans.get(index, ()))

    def restore(self, index: int, record: TaskRecord) -> None:
        """Add what a journal has kept of a task."""
        if record.spans:
            self._spans[index] = list(record.spans)
        elif record.started is not None:
            self.starts[index] = record.started - self._epoch


def _name(attempt: int, visit: int) -> str:
    return f"attempt {attempt}" if visit == 1 else f"attempt {attempt} of visit {visit}"
