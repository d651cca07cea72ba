"""Attempt: the engine's record of one attempt of a task."""

import itertools
import time
from typing import Any, Dict, Optional, Tuple

from asimov_sync._json import format_error
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.concurrency.timers import Timer
from asimov_sync.errors import TaskTimeout
from asimov_sync.graph.inputs import Inputs
from asimov_sync.graph.journal import Wait
from asimov_sync.graph.results import Outcome
from asimov_sync.graph.state import RunState
from asimov_sync.instrumentation import Activity, Observation
from asimov_sync.spans import SpanRecorder
from asimov_sync.tasks import TaskStatus
from asimov_sync.usage import UsageCounter

__all__ = ["Attempt", "failed_outcome"]

_activities_lock = ForkSafeLock()  # guards the activities of every attempt


class Attempt(SpanRecorder):
    """One attempt of a task. The handler's TaskContext is built from it.

    run_id, name: the run, and the name of the task in it.
    node, index: the task with its options, and its index in the run's state.
    worker: the pool's job in which it runs, so that a stuck worker can be replaced; None elsewhere.
    number, visit: counted from 1.
    inputs, partial, failed, skipped, feedback: the attributes of the handler's context.
    abandoned: the error with which the run abandoned this attempt; None if it did not.
    start: the `time.perf_counter()` of its start; None until its `when` was evaluated.
    waits: what it waits for, if its handler parks.
    thread: the thread on which its handler was called, by `threading.get_ident()`.
    deadline: the `clock.monotonic()` moment at which its own time-out expires.
    activities: what it is doing, on any of its threads.
    progress: the fraction and the text that its handler reported last.
    """

    __slots__ = (
        "abandoned",
        "activities",
        "cancellation",
        "deadline",
        "failed",
        "feedback",
        "index",
        "inputs",
        "name",
        "node",
        "number",
        "partial",
        "progress",
        "reply_numbers",
        "run_id",
        "skipped",
        "start",
        "thread",
        "timer",
        "usage_counter",
        "visit",
        "waits",
        "watch",
        "worker",
    )

    def __init__(
        self, run_id: str, index: int, state: RunState, parent: Cancellation, worker: Any
    ) -> None:
        self.spans = None
        node = self.node = state.nodes[index]
        self.run_id = run_id
        self.index = index
        self.name = node.name
        self.worker = worker
        self.number = state.attempts[index] or 1
        # Its `when` is evaluated before the visit begins.
        self.visit = state.visits[index] + (not state.attempts[index])
        self.partial: Dict[str, str]
        self.failed: Dict[str, str]
        self.skipped: Dict[str, str]
        if state.dependencies[index]:
            outcomes = state.dependency_outcomes(index)
            inputs, self.partial, self.failed, self.skipped = outcomes
            self.inputs = Inputs(inputs)
        else:
            self.inputs = Inputs()
            self.partial, self.failed, self.skipped = {}, {}, {}
        self.inputs.task_name = node.name
        self.feedback: Dict[str, Any] = state.feedback.get(index) or {}
        self.cancellation = Cancellation(parent=parent)
        self.usage_counter = UsageCounter()
        self.abandoned: Optional[BaseException] = None
        self.start: Optional[float] = None
        self.thread = 0
        self.waits: Tuple[Wait, ...] = ()
        self.deadline: Optional[float] = None
        self.timer: Optional[Timer] = None
        self.watch: Optional[Observation] = None
        self.reply_numbers: "Optional[itertools.count[int]]" = None
        self.activities: Tuple[Activity, ...] = ()
        self.progress: Optional[Tuple[Optional[float], str]] = None

    def begin(self, parent: Cancellation) -> None:
        """Set the start, the deadline and the attempt's own token.

        parent: the token that cancels the attempt.
        """
        self.start = time.perf_counter()
        if self.node.timeout is not None:
            # The task's own deadline: that of the token may be the run's. It is computed first, so
            # that it has passed when the token's time-out frees the handler.
            self.deadline = clock.monotonic() + self.node.timeout
            self.cancellation = Cancellation(self.node.timeout, parent=parent)

    @property
    def is_overdue(self) -> bool:
        """Return whether its own time-out has expired."""
        return self.deadline is not None and clock.monotonic() >= self.deadline

    def begin_activity(self, activity: Activity) -> None:
        """Note what it is doing."""
        with _activities_lock.lock:
            self.activities += (activity,)

    def end_activity(self, activity: Activity) -> None:
        """Note that it is not doing this any more."""
        with _activities_lock.lock:
            self.activities = tuple(one for one in self.activities if one is not activity)

    def timeout_error(self) -> TaskTimeout:
        """Return the error of an overdue attempt."""
        return TaskTimeout(f"{self.name!r} took longer than {self.node.timeout} s")

    def __repr__(self) -> str:
        return f"<Attempt {self.number} of {self.name!r}>"


def failed_outcome(attempt: Attempt, error: BaseException) -> Outcome:
    """Return the outcome of an attempt that raised: FAILED, with a wait if it may be retried."""
    retry, wait = attempt.node.retry, None
    started = attempt.start is not None  # otherwise its `when` raised
    if retry is not None and started and attempt.number < retry.attempts:
        try:
            if retry.should_retry(error):
                wait = retry.wait_seconds(attempt.number, error)
        except Exception as broken:  # on= and wait= are the user's code and may raise, too
            broken.__cause__, error = error, broken
    return Outcome(TaskStatus.FAILED, None, format_error(error), error, None, wait)
