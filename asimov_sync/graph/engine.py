"""RunEngine: decides what happens next in one run. It owns the run's state and its lock.

Each public method is a step: it takes the lock, changes the state, records the work that remains
for ActiveRun in the run's Effects, and makes no calls.

In a durable run the steps also record which tasks have changed. A task that becomes ready because
of that does not start until it is written (`take_batch`, `mark_saved`), so that what a task does
always follows from outcomes that will be found again. Other tasks start meanwhile, and their
outcomes are written together.

A worker that finds another worker already finishing attempts queues its outcome for that worker and
returns. If it waited for the lock instead, a thread switch while the lock is held would make every
worker wait for every other at each task from then on (a lock convoy).
"""

import collections
import itertools
import threading
import time
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
)

from asimov_sync._json import format_error
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.errors import BudgetExceeded, Cancelled, GraphError
from asimov_sync.graph.attempt import Attempt, failed_outcome
from asimov_sync.graph.effects import AttemptFailure, Effects
from asimov_sync.graph.events import (
    RunStarted,
    TaskEvent,
    TaskFinished,
    TaskParked,
    TaskProgress,
    TaskRetried,
    TaskSkipped,
    TaskStarted,
    TaskText,
    TaskUndone,
)
from asimov_sync.graph.functions import describe
from asimov_sync.graph.graph_lock import RunLock, acquire, release
from asimov_sync.graph.journal import (
    Batch,
    ErrorRecord,
    Restored,
    RunEnd,
    RunJournal,
    TaskRecord,
    Wait,
)
from asimov_sync.graph.node import Dependency, Node
from asimov_sync.graph.results import Outcome, RunResult
from asimov_sync.graph.snapshot import ActiveTask, RunSnapshot
from asimov_sync.graph.state import (
    COMPLETE,
    DELAYED,
    EXECUTING,
    FAILED,
    NOT_SELECTED,
    PARKED,
    PARTIAL,
    PHASES,
    REVOKED,
    SKIPPED,
    Change,
    RunState,
)
from asimov_sync.graph.stored_errors import rebuild_exception
from asimov_sync.graph.task_spans import TaskSpans
from asimov_sync.messages import Usage
from asimov_sync.tasks import Task, TaskStatus
from asimov_sync.usage import Budget, UsageCounter

__all__ = ["RunEngine"]


class RunEngine:
    """The state of one run and the steps that change it.

    id: the id of the run.
    lock: a `threading.RLock`, which guards everything here. Re-entrant: before Python 3.10 Ctrl-C
        may strike between the end of a `with` and the release of its lock, and the same thread then
        ends the run.
    state: the run's state, which only the engine changes.
    effects: receives the work for ActiveRun.
    cancellation: the run's token, the parent of each attempt's.
    enclosing: the token around the run; the parent for attempts of tasks with `always`, which
        continue when the run itself is cancelled.
    usage_counter: counts the tokens that the run uses.
    graph_lock: locks the tasks of the run.
    check_node: raises GraphError for a spawned node that cannot run.
    worker_limit: how many workers may work on the run at once.
    budget: the run's budget; after a request that it refuses, nothing more starts.
    observed: whether attempts are observed, so that the ends of their spans are recorded.
    journal: keeps the run, if it is durable.
    digests: for a durable run, the digests of the tasks' params.

    workers: the number of workers on the run, those that are starting included.
    """

    def __init__(
        self,
        id: str,
        lock: Any,
        state: RunState,
        effects: Effects,
        cancellation: Cancellation,
        enclosing: Cancellation,
        usage_counter: UsageCounter,
        graph_lock: RunLock,
        check_node: Callable[[Node], None],
        worker_limit: int,
        budget: Optional[Budget],
        observed: bool,
        journal: Optional[RunJournal] = None,
        digests: Sequence[str] = (),
    ) -> None:
        self.id = id
        self.state = state
        self.effects = effects
        self.lock = lock
        self.workers = 0
        self._starting = 0
        self._cancellation = cancellation
        self._enclosing = enclosing
        self._usage_counter = usage_counter
        self._graph_lock = graph_lock
        self._check_node = check_node
        self._worker_limit = worker_limit
        self._budget = budget
        self._observed = observed
        self._publishes = effects.publisher.is_active
        self._finishing = threading.Lock()  # its holder finishes what is in _outcomes
        self._outcomes: Deque[Tuple[Attempt, Optional[Outcome]]] = collections.deque()
        self._attempts: Dict[int, Attempt] = {}  # those that are running
        self._exceptions: Dict[int, BaseException] = {}  # in the order of failure
        self._seconds: Dict[int, float] = {}
        self._usages: Dict[int, Usage] = {}
        self._spans = TaskSpans()
        self._starts = self._spans.starts
        self._no_usage = Usage()
        self._start = time.perf_counter()
        # For a durable run:
        self.has_unsaved = False  # whether something is not written yet. Read without the lock.
        self.saved_batch = -1  # the number of the last batch that is written
        self._restored = Restored() if journal is None else journal.restored
        self._is_kept = journal is not None and self._restored.end is None
        self._digests = list(digests)
        self._unsaved: Dict[int, None] = {}
        self._removed: Dict[str, None] = {}
        self._end_is_saved = self._restored.end is not None
        self._end_is_written = False
        self._cancelled = False
        self._end_request: Optional[Tuple[str, bool]] = None
        self._waits: Dict[int, Tuple[Wait, ...]] = {}
        self._waits_for: Dict[int, str] = {}
        self._error_records: Dict[int, ErrorRecord] = {}
        self._times: Dict[int, Tuple[Optional[float], Optional[float]]] = {}
        self._spawners: Dict[int, str] = {}
        self._definitions: Dict[int, Mapping[str, Any]] = {}
        # The finished children of spawners that have not finished, by their names.
        self._adoptable: Dict[str, TaskRecord] = {}
        self._nodes: Dict[str, Node] = dict(self._restored.nodes)  # of those
        self._closed_usage = self._restored.usage or self._no_usage
        if journal is not None:
            self._restore()

    @property
    def in_step(self) -> bool:
        """Return whether the calling thread is inside a step, as a signal handler may be."""
        # threading.Condition uses this method, too.
        return self.lock._is_owned()  # type: ignore[no-any-return]

    def is_running(self, attempt: Attempt) -> bool:
        """Return whether an attempt still counts."""
        return self._attempts.get(attempt.index) is attempt

    # For workers

    def needs_workers(self) -> bool:
        """Return whether the run could use more workers. Takes no lock: call it after a step."""
        return self.workers < self._worker_limit and len(self.state.ready) > self._starting

    def reserve_workers(self, limit: int) -> int:
        """Return how many workers to start, at most `limit`, so that every ready task has one.

        Each of them then calls `next_attempt` once.
        """
        with self.lock:
            missing = len(self.state.ready) - self._starting
            count = max(0, min(missing, self._worker_limit - self.workers, limit))
            self.workers += count
            self._starting += count
        return count

    def next_attempt(self, worker: Any) -> Optional[Attempt]:
        """Start the first attempt of a worker that was reserved; None if no task is ready.

        worker: the pool's job in which it runs, if it may be replaced.
        """
        with self.lock:
            self._starting -= 1
            return self._start_next(worker)

    def next_attempt_for_helper(self) -> Optional[Attempt]:
        """Start an attempt on a thread that waits for the run; None if no task is ready."""
        with self.lock:
            self.workers += 1
            # The thread waits inside another task, and is not replaced because of this one.
            return self._start_next(None)

    def _start_next(self, worker: Any) -> Optional[Attempt]:
        state, now = self.state, 0.0
        if state.delayed:
            now = clock.monotonic()
            state.release_due(now)
            self._release_ready()
        index = state.start_next(now)
        if state.changes:
            self._apply_changes("")
            self._record_end()
        if index is None:
            self.workers -= 1
            return None
        parent = self._enclosing if state.nodes[index].always else self._cancellation
        attempt = Attempt(self.id, index, state, parent, worker)
        self._attempts[index] = attempt
        if state.phases[index] is EXECUTING:
            self._begin(attempt)
        return attempt

    def _begin(self, attempt: Attempt) -> None:
        attempt.begin(self._enclosing if attempt.node.always else self._cancellation)
        if self._is_kept:
            self._times[attempt.index] = (time.time(), None)
        if attempt.deadline is not None:
            self.effects.start_timer(attempt.deadline, attempt)
        if self._publishes:
            self._publish(TaskStarted, attempt)

    def apply_condition(self, attempt: Attempt, met: bool) -> bool:
        """Start an attempt whose `when` was evaluated, or end it. Return whether it started."""
        with self.lock:
            if not self.is_running(attempt):
                return False
            started = self.state.apply_condition(attempt.index, met)
            if started:
                self._begin(attempt)
            else:
                self._close_attempt(attempt)
                self._mark(attempt.index)
                self._apply_changes("")
                self._record_end()
            return started

    def finish_attempt(
        self, attempt: Attempt, outcome: Optional[Outcome], take_next: bool
    ) -> Optional[Attempt]:
        """End an attempt, unless the run continued without it.

        outcome: how it ended; None if `apply_condition` has ended it already.
        take_next: whether to start another attempt on the worker.

        Returns the worker's next attempt. None if no task is ready, if the worker does not want
        one, or if another thread finishes this attempt.
        """
        following = None
        self._outcomes.append((attempt, outcome))
        while self._outcomes and self._finishing.acquire(False):
            try:
                with self.lock:
                    while self._outcomes:
                        one, its_outcome = self._outcomes.popleft()
                        if self._attempts.get(one.index) is one:
                            assert its_outcome is not None
                            self._close_attempt(one, its_outcome.error)
                            self._record_outcome(one, its_outcome)
                        if one.abandoned is not None:
                            continue  # its worker was written off when it was abandoned
                        if one is attempt and take_next:
                            following = self._start_next(attempt.worker)
                        else:
                            self.workers -= 1
            finally:
                self._finishing.release()
        return following

    def finish_durable(self, attempt: Attempt, outcome: Optional[Outcome], take_next: bool) -> int:
        """End an attempt of a durable run, unless the run continued without it.

        attempt, outcome, take_next: as for `finish_attempt`; but `take_following` starts the
            worker's next attempt.

        Returns the number of the batch that contains the outcome.
        """
        with self.lock:  # this thread waits for more than the lock, until the outcome is written
            if self.is_running(attempt):
                assert outcome is not None
                self._close_attempt(attempt, outcome.error)
                self._record_outcome(attempt, outcome)
            if attempt.abandoned is None and not take_next:
                self.workers -= 1
            return self.state.batch

    def take_following(self, attempt: Attempt) -> Optional[Attempt]:
        """Start another attempt on the worker of one that has ended; None if no task is ready."""
        with self.lock:
            return None if attempt.abandoned is not None else self._start_next(attempt.worker)

    # For handlers

    def report(self, attempt: Attempt, fraction: Optional[float], text: str, data: Any) -> None:
        """Publish the progress of a running attempt."""
        with self.lock:
            if self.is_running(attempt):
                self._publish(TaskProgress, attempt, fraction, text, data)

    def publish_text(self, attempt: Attempt, reply: int, text: str) -> None:
        """Publish a piece of a reply that a running attempt receives."""
        with self.lock:
            if self.is_running(attempt):
                self._publish(TaskText, attempt, text, reply)

    def check_route(self, attempt: Attempt, names: Sequence[str]) -> None:
        """Raise GraphError if the attempt's task cannot return a Route to these names."""
        with self.lock:
            if self.is_running(attempt):
                self.state.resolve_targets(attempt.index, names)

    def spawn(
        self,
        attempt: Attempt,
        node: Node,
        before_dependents: bool,
        definition: Optional[Mapping[str, Any]] = None,
        digest: str = "",
    ) -> Task:
        """Add a task on behalf of a running attempt, and return it.

        node: its name is local to the attempt's namespace; empty for a generated one.
        before_dependents: whether dependents of the attempt's task wait for the new task, too.
        definition, digest: in a durable run, the stored form of the node, and the digest of its
            params.

        Raises GraphError if the attempt does not count any more, or if the node is invalid.
        """
        with self.lock:
            if not self.is_running(attempt):
                raise GraphError(f"{attempt.name!r} has ended, and cannot spawn tasks")
            if attempt.start is None:
                raise GraphError(f"the condition (when) of {attempt.name!r} cannot spawn tasks")
            node = node._replace(name=self._full_name(node, attempt))
            self._check_node(node)
            is_new = node.task.id not in self.state.indexes  # otherwise the state raises
            if is_new:
                # Without waiting: this lock is held, and the end of another run may need it.
                acquire([node], self._graph_lock, wait_if_closing=False)
            try:
                index = self.state.spawn(attempt.index, node, before_dependents)
            except BaseException:
                if is_new:
                    release([node], self._graph_lock)
                raise
            if definition is not None:
                self._note_spawned(index, attempt.name, definition, digest)
                self._adopt(index)
            self._apply_changes("")
            self._release_ready()
            self._record_end()
        return node.task

    def _full_name(self, node: Node, attempt: Attempt) -> str:
        prefix = node.namespaces[0] if node.namespaces else ""
        if node.name:
            return prefix + node.name
        if self._is_kept:  # a name that the next drive generates, too
            names = (f"{attempt.name}/{number}" for number in itertools.count(1))
            return next(name for name in names if name not in self.state.indexes)
        base = node.task.type if node.handler is None else describe(node.handler)[1]
        numbers = itertools.count(len(self.state.nodes) + 1)
        generated = (f"{prefix}{base}-{number}" for number in numbers)
        return next(name for name in generated if name not in self.state.indexes)

    # For timers, and for the end of the run

    def begin_run(self) -> None:
        """Publish the start of the run, and end a run without tasks."""
        with self.lock:
            if self._publishes:
                names = [
                    self.state.nodes[index].name
                    for index, phase in enumerate(self.state.phases)
                    if phase.status.is_final
                ]
                self.effects.publish(RunStarted, tuple(names))
            self._apply_changes("")
            self._release_ready()
            self._record_end()

    def expire(self, attempt: Attempt) -> None:
        """Continue without an attempt whose time-out has expired."""
        error = attempt.timeout_error()
        outcome = failed_outcome(attempt, error)
        with self.lock:
            if self.is_running(attempt):
                self._abandon(attempt, error)
                self._record_outcome(attempt, outcome)
                self.effects.wake_waiters()  # inline, the waiting caller runs the next task

    def release_due(self) -> None:
        """Make the tasks ready whose retry is due."""
        with self.lock:
            self.state.release_due(clock.monotonic())
            self._release_ready()
            self.effects.wake_waiters()

    def end(self, reason: str, keep_always: bool = False) -> None:
        """End the run now: fail what is running, skip the rest, and abandon all attempts.

        keep_always: whether tasks with `always` still run; the run then ends when they have ended.
        """
        with self.lock:
            if self.effects.result is not None:
                if self.effects.result.status is TaskStatus.WAITING:  # it may have to continue
                    self._end_request = (reason, keep_always)
                return
            self._cancelled = keep_always
            state, cancelled = self.state, Cancelled(reason)
            why = f"the run ended early: {reason}"
            failed = state.end(why, format_error(cancelled), keep_always, reason)
            # The attempts of these tasks, and those that an interrupted step was about to close.
            for attempt in list(self._attempts.values()):
                if not (keep_always and attempt.node.always):
                    self._abandon(attempt, cancelled)
            for index in failed:
                self._exceptions.pop(index, None)  # of an earlier visit
                self._error_records.pop(index, None)
                self._exceptions[index] = cancelled
                self._mark(index)
                self._publish_finished(index)
            self._apply_changes(reason)
            self._release_ready()
            if state.ready:
                # The caller may be a signal handler, which cannot start workers: a timer does.
                self.effects.start_timer(0.0)
                self.effects.wake_waiters()
            self._record_end()

    def snapshot(self, name: Optional[str], dollars: float) -> RunSnapshot:
        """Return the present state of the run, for a display.

        name: the name of the graph, or None.
        dollars: what the run has cost.
        """
        state = self.state
        with self.lock:  # only for copies: a display must not delay the run
            phases = list(state.phases)
            attempts = list(self._attempts.values())
            delayed = sorted(state.delayed)
        active = [describe_attempt(attempt) for attempt in attempts]
        active += [
            ActiveTask(state.nodes[index].name, f"attempt {state.attempts[index] + 1}", moment)
            for moment, index in delayed
            if phases[index] is DELAYED
        ]
        is_over, cancelled = self.effects.result is not None, 0
        if is_over:
            errors = list(self._exceptions.values())
            cancelled = sum(isinstance(error, Cancelled) for error in errors)
        count = phases.count
        ended = {
            phase: count(phase) for phase in (COMPLETE, PARTIAL, FAILED, SKIPPED, NOT_SELECTED)
        }
        usage = self._usage_counter.usage
        if self._restored.usage is not None:
            usage = usage + self._restored.usage
        return RunSnapshot(
            name,
            self.id,
            is_over,
            self.state.is_durable,
            self._elapsed(),
            len(phases) - count(REVOKED),
            sum(ended.values()),
            ended[COMPLETE],
            ended[PARTIAL],
            ended[FAILED],
            ended[SKIPPED],
            cancelled,
            count(PARKED),
            active,
            usage,
            dollars,
        )

    # The rest is called with the lock held

    def _record_outcome(self, attempt: Attempt, outcome: Outcome) -> None:
        """Apply the outcome of an attempt to its task and to others."""
        index = attempt.index
        if outcome.waits and self.state.stopped is not None:  # there is no other drive to answer in
            outcome = failed_outcome(attempt, Cancelled(self.state.stopped))
        error = outcome.exception
        over_budget = self._budget is not None and any(
            isinstance(cause, BudgetExceeded) and cause.budget is self._budget
            for cause in _causes(error)
        )
        if self._is_kept:
            self._mark(index)
        if outcome.waits:
            self._park(attempt, outcome.waits)
        elif outcome.wait is not None and not over_budget and self.state.can_retry(index):
            moment = clock.monotonic() + outcome.wait
            self.state.retry(index, moment)
            self.effects.start_timer(moment)
            self.effects.log(AttemptFailure(attempt, error, outcome.wait))
            if self._observed:
                self.effects.end_span(attempt, None, error)
            if self._publishes:
                self._publish(TaskRetried, attempt, outcome.error or "", outcome.wait)
            self._apply_changes("the attempt that spawned it is repeated")
        else:
            numbers = (self.state.attempts[index], self.state.visits[index])
            status = self.state.finish(
                index,
                outcome.status,
                outcome.result,
                outcome.error,
                outcome.route,
                outcome.waits_for,
            )
            if self._is_kept:
                if outcome.waits_for is not None:
                    self._waits_for[index] = outcome.waits_for
                self._finish_children(index)
            if status is TaskStatus.FAILED:
                self._exceptions.pop(index, None)  # of an earlier visit
                error = self._exceptions[index] = error or self.state.engine_errors[index]
                self._error_records.pop(index, None)
                if outcome.exception_record is not None:
                    self._error_records[index] = outcome.exception_record
                self.effects.log(AttemptFailure(attempt, error, None))
            if self._observed:
                self.effects.end_span(attempt, status, error)
            route_was_valid = status is outcome.status
            self._publish_finished(index, numbers, outcome if route_was_valid else None)
        if over_budget:  # in this step, before a task that waited for this one can start
            self.state.stop(f"the run ended early: {error}", reason=str(error))
        state = self.state
        if state.changes or state.undone or state.cut_off or state.revoked:
            self._apply_changes(self.state.stopped or "a loop went back to an earlier task")
        self._record_end()

    def _apply_changes(self, reason: str) -> None:
        """Publish side effects on other tasks, and abandon those of their attempts that run.

        reason: why they are abandoned.
        """
        changes, self.state.changes = self.state.changes, []
        if self._is_kept:
            self._mark(*(index for index, _ in changes))
            self._mark(*self.state.undone)
            self._mark(*self.state.cut_off)
            self._mark(*self.state.revoked)
        for index, phase in changes:
            if index in self._attempts:
                self._abandon(self._attempts[index], Cancelled(reason))
            if phase is FAILED:
                self._exceptions.pop(index, None)
                self._error_records.pop(index, None)
                self._exceptions[index] = self.state.engine_errors[index]
                self._publish_finished(index)
        if self._publishes:
            self._publish_changes(changes, reason)
        self.state.undone.clear()
        self.state.revoked.clear()
        self.state.cut_off = []

    def _publish_changes(self, changes: List[Change], reason: str) -> None:
        """Publish which tasks were undone, and which will not run.

        reason: why tasks were undone.
        """
        state = self.state
        for index, (attempt, removed) in state.undone.items():
            node = state.nodes[index]
            numbers = (attempt, state.visits[index])
            self.effects.publish(TaskUndone, node.name, node.copy_task(), *numbers, reason, removed)
        for index, phase in changes:
            if phase is SKIPPED or phase is NOT_SELECTED:
                node, why = state.nodes[index], state.errors[index] or ""
                numbers = (state.attempts[index], state.visits[index])
                self.effects.publish(TaskSkipped, node.name, node.copy_task(), *numbers, why)
        if state.cut_off:
            self._publish_cut_off(state.cut_off)

    def _publish_cut_off(self, indexes: List[int]) -> None:
        """Publish which tasks will not run because the run stopped.

        There may be many, and Ctrl-C waits for this step: their events are made when they are read.
        The tasks do not change any more in this run.
        """
        state = self.state
        nodes, errors, attempts, visits = state.nodes, state.errors, state.attempts, state.visits

        def describe(number: int) -> Tuple[Any, ...]:
            # Later, when another run may have changed the task.
            index = indexes[number]
            task = nodes[index].copy_task(status=TaskStatus.WAITING, result=None, error=None)
            return task, attempts[index], visits[index], errors[index] or ""

        self.effects.publish_skipped([nodes[index].name for index in indexes], describe)

    def _publish(self, kind: Type[TaskEvent], attempt: Attempt, *details: Any) -> None:
        """Publish an event of an attempt. details: the fields of its class."""
        task = attempt.node.copy_task()
        self.effects.publish(kind, attempt.name, task, attempt.number, attempt.visit, *details)

    def _close_attempt(self, attempt: Attempt, error: Optional[str] = None) -> None:
        """Record the times and the tokens of an attempt that does not run any more.

        error: the text of its error, or what is missing in a Partial; None without.
        """
        index = attempt.index
        del self._attempts[index]
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.start is not None:
            seconds = time.perf_counter() - attempt.start
            earlier = self._seconds.get(index)
            if earlier is None and error is None and attempt.spans is None:
                self._starts[index] = attempt.start
                self._seconds[index] = seconds
            else:
                self._add_spans(attempt, seconds, error)
                self._seconds[index] = seconds + (earlier or 0.0)
        usage = attempt.usage_counter.usage_or_none
        if usage is not None:
            self._usages[index] = self._usages.get(index, Usage()) + usage
            self._closed_usage = self._closed_usage + usage
        if self._is_kept:
            self._times[index] = (self._times.get(index, (None, None))[0], time.time())

    def _add_spans(self, attempt: Attempt, seconds: float, error: Optional[str]) -> None:
        """Record the spans of an attempt that failed, is not the first, or has made requests."""
        assert attempt.start is not None
        self._spans.add(
            attempt.index,
            attempt.number,
            attempt.visit,
            attempt.start,
            seconds,
            attempt.usage_counter.usage_or_none,
            error,
            tuple(attempt.spans or ()),
            self._seconds.get(attempt.index),
        )

    def _abandon(self, attempt: Attempt, error: BaseException) -> None:
        """Continue without an attempt: cancel it, ignore its outcome, replace its worker."""
        self._close_attempt(attempt, format_error(error))
        attempt.abandoned = error
        self.workers -= 1
        self.effects.abandon(attempt)
        if self._observed:
            self.effects.end_span(attempt, None, error)

    def _publish_finished(
        self,
        index: int,
        numbers: Optional[Tuple[int, int]] = None,
        outcome: Optional[Outcome] = None,
    ) -> None:
        """Publish that a task is final.

        numbers, outcome: the numbers of its last attempt and visit, and the attempt's outcome. A
            loop may have reset the task in the same step. By default, those in the state.
        """
        if not self._publishes:
            return
        state, node = self.state, self.state.nodes[index]
        update: Dict[str, Any] = {}
        if outcome is not None:
            update = {
                "status": outcome.status,
                "result": outcome.result,
                "error": outcome.error,
            }
        self.effects.publish(
            TaskFinished,
            node.name,
            node.copy_task(**update),
            *(numbers or (state.attempts[index], state.visits[index])),
            self._seconds.get(index, 0.0),
            self._usages.get(index) or self._no_usage,
        )

    def _record_end(self) -> None:
        """Record the result, if the run is over."""
        if self.effects.result is not None:
            return
        if self.state.unfinished and not (self.state.parked and self._is_parked()):
            return
        usage = self._usage_counter.usage
        self.effects.result = RunResult(
            self.state,
            self._exceptions,
            self._seconds,
            self._usages,
            self.id,
            usage if self._restored.usage is None else usage + self._restored.usage,
            self._elapsed(),
            {index: self._waits[index] for index in self.state.parked},
            self._restored.end is not None,
            self._spans,
        )
        self.effects.pending = True

    def _elapsed(self) -> float:
        return self._restored.seconds + time.perf_counter() - self._start

    # A durable run

    def _is_parked(self) -> bool:
        """Return whether nothing happens before a wait is answered."""
        return not self._attempts and not self.state.can_progress

    def _mark(self, *indexes: int) -> None:
        """Note that tasks have changed, so that nothing that follows starts before it is saved."""
        if self._is_kept and indexes:
            self._unsaved.update(dict.fromkeys(indexes))
            self.has_unsaved = True
            self.effects.pending = True

    def _release_ready(self) -> bool:
        """Let ready tasks start, unless what they follow from is not written yet.

        Returns whether there are any.
        """
        state = self.state
        return state.release(self.saved_batch if self.has_unsaved else state.batch)

    def _park(self, attempt: Attempt, waits: Tuple[Wait, ...]) -> None:
        """Interrupt an attempt until one of its waits is answered."""
        index = attempt.index
        self._waits[index] = waits
        walk = [index]
        for one in walk:  # grows during the walk
            for child in self.state.spawned.get(one, ()):
                walk.append(child)
                if self.state.phases[child].status.is_final:
                    # Its handler starts from the top, and may spawn the task again.
                    node = self.state.nodes[child]
                    self._adoptable[node.name] = self._make_record(child)
                    self._nodes[node.name] = node
        self.state.park(index)
        if self._observed:
            self.effects.end_span(attempt, None, None)
        for wait in waits:
            if self._publishes:
                self._publish(TaskParked, attempt, wait)
        self._apply_changes("the task that spawned it waits for an answer")

    @property
    def is_kept(self) -> bool:
        """Return whether what happens is written, or has to be."""
        return self._is_kept

    @property
    def end_is_written(self) -> bool:
        """Return whether the result of a durable run may be published."""
        return self._end_is_written or not self._is_kept

    @property
    def needs_saving(self) -> bool:
        """Return whether there is something to write."""
        ends = self.effects.result is not None and not self._end_is_saved
        return self._is_kept and (self.has_unsaved or ends)

    def parked_waits(self) -> List[Tuple[int, Tuple[Wait, ...]]]:
        """Return what the parked tasks wait for, by their indexes."""
        with self.lock:
            return [(index, self._waits[index]) for index in self.state.parked]

    def unpark(self, indexes: Sequence[int]) -> bool:
        """Continue parked tasks. Return whether one of them was parked."""
        with self.lock:
            if self.effects.result is not None:  # the run is about to park: the next drive does it
                return False
            parked = [index for index in indexes if index in self.state.parked]
            for index in parked:
                self.state.unpark(index)
            if parked:
                self._release_ready()
                self.effects.wake_waiters()
            return bool(parked)

    def take_batch(self) -> Optional[Batch]:
        """Return what has to be written; None for nothing. `mark_saved` follows, or `put_back`."""
        with self.lock:
            result, end = self.effects.result, None
            if result is not None and not self._end_is_saved:
                self._end_is_saved = True
                parked = result.status is TaskStatus.WAITING
                end = RunEnd(result.status.name, result.reason, self._cancelled, parked)
            if not self._is_kept or not (self._unsaved or self._removed or end):
                return None
            self.state.batch += 1
            indexes, self._unsaved = list(self._unsaved), {}
            names, self._removed = self._removed, {}
            records = []
            for index in indexes:
                if self.state.phases[index] is not REVOKED:
                    records.append(self._make_record(index))
                elif self.state.nodes[index].name not in self._adoptable:
                    names[self.state.nodes[index].name] = None
            if end is not None and not end.parked:
                names.update(dict.fromkeys(self._adoptable))
            for record in records:  # a name may have been spawned again
                names.pop(record.name, None)
            self.has_unsaved = True
            cancelled = self.state.reason if self._cancelled else None
            return Batch(records, list(names), self._closed_usage, self._elapsed(), end, cancelled)

    def mark_saved(self) -> None:
        """Let the tasks start that follow from the batch that was taken last."""
        with self.lock:
            self.saved_batch = self.state.batch - 1
            self._end_is_written = self._end_is_saved
            self.has_unsaved = bool(self._unsaved or self._removed)
            if self._release_ready():
                self.effects.wake_waiters()

    def put_back(self, batch: Batch, reopen: bool) -> None:
        """Take back a batch that was not written.

        reopen: the run was about to park, and does not end yet.
        """
        with self.lock:
            for record in batch.records:
                self._unsaved[record.position] = None
            self._removed.update(dict.fromkeys(batch.removed))
            if batch.end is not None:
                self._end_is_saved = False
                if reopen:
                    self.effects.result = None
                    if self._end_request is not None:  # it came while the batch was written
                        self.end(*self._end_request)

    def retry_end(self) -> None:
        """End or park the run, if it is still about to, after `put_back`."""
        with self.lock:
            self._record_end()

    def detach(self) -> Optional[Batch]:
        """Keep nothing of what happens from now on. Return what is still to be written."""
        with self.lock:
            batch = self.take_batch() if self._is_kept else None
            self._is_kept = self.has_unsaved = False
            return batch

    def _make_record(self, index: int) -> TaskRecord:
        state, node = self.state, self.state.nodes[index]
        phase, attempt, visit = state.phases[index], state.attempts[index], state.visits[index]
        if phase is EXECUTING:  # its attempt is not kept before it ends
            attempt -= 1
            visit -= not attempt
        dependencies = [
            state.nodes[one].name
            for one in state.dependencies[index]
            if index not in state.inserted.get(one, ())
        ]
        selected = state.routes.get(index)
        error = self._exceptions.get(index) if phase is FAILED else None
        exception = self._error_records.get(index) if phase is FAILED else None
        if error is not None and exception is None:  # the library's own error
            exception = ErrorRecord(type(error).__name__, str(error), "")
        started, ended = self._times.get(index, (None, None))
        task = node.task
        return TaskRecord(
            name=node.name,
            position=index,
            phase=phase.name if phase.name in PHASES else "WAITING",
            type=task.type,
            objective=task.objective,
            params=self._digests[index],
            depends_on=tuple(dependencies),
            visit=visit,
            attempt=attempt,
            result=state.results[index],
            error=state.errors[index],
            exception=exception,
            route=None if selected is None else tuple(state.nodes[one].name for one in selected),
            waits_for=self._waits_for.get(index) if index in state.held else None,
            feedback=dict(state.feedback.get(index, {})),
            usage=self._usages.get(index),
            seconds=self._seconds.get(index, 0.0),
            started=started,
            ended=ended,
            spawned_by=self._spawners.get(index),
            spawn=self._definitions.get(index),
            waits=self._waits.get(index, ()) if phase is PARKED else (),
            running=phase is EXECUTING,
            spans=self._spans.explicit(index),
        )

    # Spawned tasks of a durable run

    def names_of(self, dependencies: Sequence[Dependency]) -> List[str]:
        """Return the names of tasks that a spawned task depends on."""
        with self.lock:
            state = self.state
            names = []
            for one in dependencies:
                index = state.indexes.get(one.id) if isinstance(one, Task) else None
                if isinstance(index, int):
                    names.append(state.nodes[index].name)
                elif isinstance(one, str):
                    names.append(one)  # otherwise the state raises
            return names

    def _note_spawned(
        self, index: int, spawner: str, definition: Mapping[str, Any], digest: str
    ) -> None:
        self._spawners[index] = spawner
        self._definitions[index] = definition
        self._digests += [""] * (index + 1 - len(self._digests))
        self._digests[index] = digest

    def _finish_children(self, index: int) -> None:
        """Keep what a task has spawned, now that its handler will not run again.

        Drop what an earlier drive of it had spawned, and this one has not.
        """
        name = self.state.nodes[index].name
        if self.state.phases[index].is_final:
            self._mark(*self.state.spawned.get(index, ()))
        spawners = [name]
        for spawner in spawners:  # grows during the walk
            for record in list(self._adoptable.values()):
                if record.spawned_by == spawner:
                    del self._adoptable[record.name]
                    self._removed[record.name] = None
                    spawners.append(record.name)

    def _adopt(self, index: int) -> None:
        """Restore the outcome that an earlier drive has kept of a task that is spawned again."""
        node = self.state.nodes[index]
        record = self._adoptable.get(node.name)
        if record is None:
            return
        same = (
            record.spawned_by == self._spawners[index]
            and record.type == node.task.type
            and record.params == self._digests[index]
            and record.spawn == self._definitions[index]
        )
        if not same or not PHASES[record.phase].status.is_final:
            return
        if self.state.phases[index].is_final:  # the run has stopped, and skips it
            return
        del self._adoptable[node.name]
        # Its own children first: they may come before its dependents.
        children = self._spawn_restored([record.name])
        for number, restored in [(index, record), *children]:
            self.state.restore_spawned(number, restored)
            self._restore_details(number, restored)
        self.state.stop_after_failure([index, *(number for number, _ in children)])

    def _restore(self) -> None:
        """Put what earlier drives have kept in place, before the first step."""
        records, state = self._restored.records, self.state
        self._adoptable = {
            name: record for name, record in records.items() if record.spawned_by is not None
        }
        end = self._restored.end
        everything = end is not None
        if end is not None:
            state.reason = end.reason
        self._spawn_restored(
            node.name
            for node in state.nodes
            if node.name in records
            and (everything or PHASES[records[node.name].phase].status.is_final)
        )
        by_index: Dict[int, TaskRecord] = {}
        for name, record in records.items():
            index = state.indexes.get(name)
            if isinstance(index, int):
                by_index[index] = record
                self._restore_details(index, record)
        state.restore(by_index, everything)
        parked = (index for index, record in by_index.items() if PHASES[record.phase] is PARKED)
        self._mark(*(index for index in parked if index not in state.parked))

    def _spawn_restored(self, spawners: Iterable[str]) -> List[Tuple[int, TaskRecord]]:
        """Spawn again what finished tasks had spawned, and what those tasks had.

        Returns their indexes and records.

        A task comes after those that it depends on, which other tasks may have spawned. A
        dependency that is not part of the run any more counts as revoked.
        """
        state, everything = self.state, self._restored.end is not None
        children: Dict[Optional[str], List[TaskRecord]] = {}
        for record in self._adoptable.values():
            children.setdefault(record.spawned_by, []).append(record)
        walk = list(spawners)
        found: Dict[str, TaskRecord] = {}
        for spawner in walk:  # grows during the walk
            for record in children.get(spawner, ()):
                found[record.name] = record
                if everything or PHASES[record.phase].status.is_final:
                    walk.append(record.name)
        left = sorted(found.values(), key=lambda record: record.position)
        spawned: List[Tuple[int, TaskRecord]] = []
        while left:
            later = []
            for record in left:
                is_early = record.spawned_by not in state.indexes
                if is_early or not found.keys().isdisjoint(record.depends_on):
                    later.append(record)
                else:
                    spawned.append((self._spawn_again(record), record))
                    del found[record.name]
            if len(later) == len(left):  # they depend on each other: the record is broken
                raise GraphError(f"the stored tasks {sorted(found)} wait for each other")
            left = later
        return spawned

    def _spawn_again(self, record: TaskRecord) -> int:
        del self._adoptable[record.name]
        state, node = self.state, self._nodes[record.name]
        known = [
            one for one in node.depends_on if node.resolve(str(one), state.indexes) is not None
        ]
        parent = state.indexes[record.spawned_by]
        assert isinstance(parent, int) and record.spawn is not None
        node = node._replace(depends_on=tuple(known))
        index = state.spawn(parent, node, bool(record.spawn.get("before_dependents")))
        self._note_spawned(index, str(record.spawned_by), record.spawn, record.params)
        return index

    def _restore_details(self, index: int, record: TaskRecord) -> None:
        """Restore what the engine knows of a task beside its state."""
        if record.usage is not None:
            self._usages[index] = record.usage
        if record.started is not None:
            self._seconds[index] = record.seconds
            self._times[index] = (record.started, record.ended)
            self._spans.restore(index, record)
        if record.waits:
            self._waits[index] = record.waits
        if record.waits_for is not None:
            self._waits_for[index] = record.waits_for
        if record.exception is not None:
            self._error_records[index] = record.exception
            self._exceptions[index] = rebuild_exception(record.exception)


def describe_attempt(attempt: Attempt) -> ActiveTask:
    """Return the name of a running attempt, and what it is doing."""
    activities = attempt.activities
    if activities:
        return ActiveTask(attempt.name, activities[-1].text, activities[-1].until)
    fraction, text = attempt.progress or (None, "")
    if isinstance(fraction, (int, float)):  # a handler may report anything
        text = f"{fraction:.0%} {text}".rstrip()
    return ActiveTask(attempt.name, text, None)


def _causes(error: Optional[BaseException]) -> Iterator[BaseException]:
    """Iterate over an exception and those that it was raised from, or while handling."""
    seen: Set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
