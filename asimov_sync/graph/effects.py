"""Effects: the work that the steps of a run's engine leave to ActiveRun.

The engine fills an Effects under the run's lock and makes no calls; ActiveRun carries the effects
out after the lock is released. They are kept with the run rather than returned from each step,
because Ctrl-C may strike between a return and the use of the returned value: the effects of an
interrupted step are still there when the run is ended.
"""

import collections
from typing import Any, Callable, Deque, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.events import RunEvent
from asimov_sync.graph.publisher import Publisher
from asimov_sync.graph.results import RunResult

__all__ = ["AttemptFailure", "Effects", "SpanEnd", "TimerRequest"]


class SpanEnd(NamedTuple):
    """The end of an observed operation.

    owner: an attempt or a run; its `watch` is the observation, or None if it was never observed.
    """

    owner: Any
    result: Any
    error: Optional[BaseException]


class AttemptFailure(NamedTuple):
    """An attempt that failed, for the log.

    wait: seconds until the next attempt; None if the task has failed.
    """

    attempt: Attempt
    error: Optional[BaseException]
    wait: Optional[float]


class TimerRequest(NamedTuple):
    """A timer to start, for a `clock.monotonic()` moment.

    attempt: the attempt whose time-out expires then; None for a retry that is due.
    """

    moment: float
    attempt: Optional[Attempt]


class Effects:
    """The work that is left after the steps of one run.

    publisher: receives the events. It makes no calls.

    pending: whether there may be something to do. Read without the lock, after each step.
    abandoned: attempts that the run continued without: to cancel, and to replace their workers.
    timers: timers to start.
    span_ends: the ends of observed operations, in their order.
    log_entries: failed attempts, and at the end the result, to be logged in this order.
    cancel_reason: why to cancel the run; set by a signal handler or a destructor in mid-step.
    end_reason: why to end the run at once; likewise.
    wake: whether to wake the threads that wait for the run.
    result: the result of the run, once it is over.
    """

    __slots__ = (
        "abandoned",
        "cancel_reason",
        "end_reason",
        "log_entries",
        "pending",
        "publisher",
        "result",
        "span_ends",
        "timers",
        "wake",
    )

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.pending = False
        self.abandoned: List[Attempt] = []
        self.timers: Deque[TimerRequest] = collections.deque()
        self.span_ends: Deque[SpanEnd] = collections.deque()
        self.log_entries: "Deque[Union[AttemptFailure, RunResult]]" = collections.deque()
        self.cancel_reason: Optional[str] = None
        self.end_reason: Optional[str] = None
        self.wake = False
        self.result: Optional[RunResult] = None

    def publish(self, kind: Type[RunEvent], *fields: Any) -> None:
        """Publish an event. kind, fields: see `Publisher.publish`."""
        if self.publisher.publish(kind, *fields):
            self.pending = True

    def publish_skipped(
        self, names: Sequence[str], describe: Callable[[int], Tuple[Any, ...]]
    ) -> None:
        """Publish that many tasks will not run. names, describe: see `Publisher`."""
        self.publisher.publish_skipped(names, describe)
        self.pending = True

    def abandon(self, attempt: Attempt) -> None:
        """Have an attempt cancelled and its worker replaced."""
        self.abandoned.append(attempt)
        self.pending = True

    def start_timer(self, moment: float, attempt: Optional[Attempt] = None) -> None:
        """Have a timer started."""
        self.timers.append(TimerRequest(moment, attempt))
        self.pending = True

    def end_span(self, owner: Any, result: Any, error: Optional[BaseException]) -> None:
        """Have the end of an observed operation reported."""
        self.span_ends.append(SpanEnd(owner, result, error))
        self.pending = True

    def log(self, entry: Union[AttemptFailure, RunResult]) -> None:
        """Have a failed attempt or the end of the run logged."""
        self.log_entries.append(entry)
        self.pending = True

    def wake_waiters(self) -> None:
        """Have the threads that wait for the run look again."""
        self.wake = True
        self.pending = True
