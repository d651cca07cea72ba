"""Drives one run: all that changes its state, under one lock, and all that is told about it.

Workers bring what came of their tasks by `settle`, which gives them the next one. A worker that finds another one settling
leaves its outcome to that one and goes home, since it would be waiting for the lock at a moment when the interpreter has just
switched threads inside of it, and from then on every worker would be waiting for every other, at each task (a lock convoy).
"""

import collections
import contextvars
import itertools
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Tuple

from asimov_sync import instrumentation
from asimov_sync._json import format_error
from asimov_sync.cancellation import Cancellation, Registration
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.timers import Timer, timers
from asimov_sync.errors import BudgetExceeded, Cancelled, GraphError
from asimov_sync.graph.audience import Audience
from asimov_sync.graph.claims import Hold, claim, release
from asimov_sync.graph.context import TaskContext
from asimov_sync.graph.endings import Endings
from asimov_sync.graph.events import RunFinished, TaskFinished, TaskProgress, TaskRetried, TaskSkipped, TaskStarted, TaskText
from asimov_sync.graph.nodes import Node
from asimov_sync.graph.phases import EXECUTING, FAILED, WAITING
from asimov_sync.graph.plan import Plan
from asimov_sync.graph.results import Outcome, RunResult
from asimov_sync.graph.standing import stands_on
from asimov_sync.graph.state import RunState
from asimov_sync.instrumentation import Observation
from asimov_sync.messages import Usage
from asimov_sync.tasks import Task, TaskStatus
from asimov_sync.usage import Budget, UsageCounter

if TYPE_CHECKING:
    from asimov_sync.graph.scheduler import TaskScheduler
    from asimov_sync.graph.workforce import Workforce

__all__ = ["Driver"]


DROP_SECONDS = 0.2
"""How long a destructor waits for the lock of a run on the calling thread, so that callbacks are called there; and how long
whoever closes a stream waits for the end of its run.
"""


class Driver:
    """The owner of a run's state. Everything that is called from outside takes the lock, and calls out after it."""

    def __init__(
        self,
        scheduler: "TaskScheduler",
        workforce: "Workforce",
        plan: Plan,
        hold: Hold,
        run_id: Optional[str],
        on_failure: str,
        budget: Optional[Budget],
        cancellation: Optional[Cancellation],
        audience: Audience,
        name: Optional[str] = None,
    ) -> None:
        self.id = run_id if run_id is not None else uuid.uuid4().hex
        self.scheduler = scheduler
        self.state = RunState(plan, stop_on_failure=on_failure == "stop")
        self.workforce = workforce
        self.nested = stands_on(workforce.threads)  # started by a task of the same scheduler
        self.audience = audience
        self.result: Optional[RunResult] = None
        self.meter = UsageCounter()
        self.cancellation = Cancellation(parent=cancellation or Cancellation.current())
        self.context = contextvars.copy_context()
        self.context.run(self._prepare, budget)
        self.hooks = instrumentation.installed
        self.watch = Observation(self.hooks.run, self.id, name, context=self.context) if self.hooks is not None else None
        self.hands = 0  # how many workers are on it, or on their way
        # Guards state, hands, and everything below. Re-entrant: before Python 3.10 Ctrl-C may strike between the end of a
        # `with` and the release of its lock, and the thread that it struck is the one that goes on to end the run.
        self.lock = threading.RLock()
        self._coming = 0  # how many are on their way
        self._hold = hold
        self._budget = budget
        self._settling = threading.Lock()  # whose it is settles what is in _outcomes, others' outcomes included
        self._outcomes: Deque[Tuple[TaskContext, Optional[Outcome]]] = collections.deque()
        self._contexts: Dict[int, TaskContext] = {}  # of what goes on
        self._left: List[TaskContext] = []  # to be cancelled, outside of the lock
        self._over = Endings()
        self._ending: Optional[str] = None  # why the run is to be cancelled, outside of the lock
        self._exceptions: Dict[int, BaseException] = {}  # in the order in which they came
        self._seconds: Dict[int, float] = {}
        self._usages: Dict[int, Usage] = {}
        self._start = time.perf_counter()
        self._process = os.getpid()
        self._alarms: List[Timer] = []
        self._upward: Optional[Registration] = None

    def _prepare(self, budget: Optional[Budget]) -> None:
        """Set what holds in all of the run's tasks, in the context that theirs are copies of."""
        scope.extend(usage_counter=self.meter)
        if budget is not None:
            scope.extend(budget=budget)
        if self.workforce.inline:
            scope.replace(run_inline=True)

    def begin(self, timeout: Optional[float]) -> None:
        """Listen to the cancellation, and start the clock of the time-out; a graph without tasks is over at once."""
        if self.audience.events is not None:
            timers.start()  # while it is safe to: a destructor may need them, where no thread can be started
        self._upward = self.cancellation.on_cancel(self._cancelled)
        if timeout is not None:
            reason = "the run's time-out of {} s passed".format(timeout)
            self._call_at(time.monotonic() + timeout, lambda: self.cancel(reason))
        if self.cancellation.deadline is not None:  # a surrounding token's; a deadline alone calls nobody
            self._call_at(self.cancellation.deadline, lambda: self.cancellation.cancelled)
        with self.lock:
            self._finish_if_over()
        self._after()

    def _call_at(self, moment: float, function: Callable[[], Any]) -> None:
        self._alarms.append(self._alarm(moment, function))

    def _alarm(self, moment: float, function: Callable[[], Any]) -> Timer:
        """Have a function called that may wait, for this run's lock or in a callback of a cancellation: not on the thread of
        the alarms, which has those of other runs to ring.
        """
        return timers.call_at(moment, lambda: self.workforce.call_elsewhere(function))

    # For workers

    def take(self, job: Any) -> Optional[TaskContext]:
        """The first task for a worker that was sent here; without one it is off this run."""
        with self.lock:
            self._coming -= 1
            context = self._take(job)
        self._after()
        return context

    def join(self) -> Optional[TaskContext]:
        """The next task for a thread that is no worker of the run, but would be one; None if none is ready."""
        with self.lock:
            self.hands += 1
            context = self._take(None)  # it waits for the run inside of another task, and is not to be replaced for this one
        self._after()
        return context

    def _take(self, job: Any) -> Optional[TaskContext]:
        place = self.state.take(time.monotonic() if self.state.delayed else 0.0)
        if self.state.changes:
            self._follow("")
            self._finish_if_over()
        if place is None:
            self.hands -= 1
            return None
        context = TaskContext(self, place, job)
        self._contexts[place] = context
        if self.state.phases[place] is EXECUTING:
            self._started(context)
        return context

    def decide(self, context: TaskContext, met: bool) -> bool:
        """Whether to go on with a task that has a `when`, after this was asked."""
        with self.lock:
            if self._contexts.get(context.place) is not context:
                return False
            started = self.state.decide(context.place, met)
            if started:
                context.visit = self.state.visits[context.place]
                self._started(context)
            else:
                self._detach(context)
                self._follow("")
                self._finish_if_over()
        self._after()
        return started

    def _started(self, context: TaskContext) -> None:
        context.begin()
        if context.deadline is not None:
            context.alarm = self._alarm(context.deadline, lambda: self._expire(context))
        if self.audience.watched:
            task = context.node.task.model_copy()
            self.audience.tell(TaskStarted(context.name, task, time.time(), context.attempt, context.visit))

    def settle(self, context: TaskContext, outcome: Optional[Outcome], take: bool) -> Optional[TaskContext]:
        """End an attempt, unless the run went on without it; the next task for this worker, if it wants to `take` one.

        outcome: None for one that `decide` has ended. Returns None also where another one settles it.
        """
        following = None
        self._outcomes.append((context, outcome))
        while self._outcomes and self._settling.acquire(False):
            try:
                with self.lock:
                    while self._outcomes:
                        one, its_outcome = self._outcomes.popleft()
                        self._settle(one, its_outcome)
                        if one.left is not None:
                            continue  # its hand was given up when the run went on without it
                        if one is context and take:
                            following = self._take(context.job)
                        else:
                            self.hands -= 1
            finally:
                self._settling.release()
        self._after()
        return following

    @property
    def short(self) -> bool:
        """Whether the run may need more workers; asked without the lock by whoever has just changed what is ready."""
        return self.hands < self.workforce.limit and len(self.state.ready) > self._coming

    def staff(self, most: int) -> int:
        """How many more workers, `most` at the most, are to be sent to the run so that every ready task has one."""
        with self.lock:
            more = max(0, min(len(self.state.ready) - self._coming, self.workforce.limit - self.hands, most))
            self.hands += more
            self._coming += more
        if self._ending is not None:
            self._after()
        return more

    # For handlers

    def report(self, context: TaskContext, fraction: Optional[float], text: str) -> None:
        """Tell the progress of a task that goes on."""
        if self.audience.watched:
            with self.lock:
                if self._contexts.get(context.place) is context:
                    task = context.node.task.model_copy()
                    self.audience.tell(TaskProgress(context.name, task, time.time(), fraction, text))
            self._after()

    def text(self, context: TaskContext, reply: int, text: str) -> None:
        """Tell a piece of a reply that a task that goes on asked for."""
        with self.lock:
            if self._contexts.get(context.place) is context:
                self.audience.tell(TaskText(context.name, context.node.task.model_copy(), time.time(), text, reply))
        self._after()

    def spawn(self, context: TaskContext, node: Node) -> Task:
        """Add a task on behalf of one that goes on. Its name is a local one, or empty for one that is made up."""
        with self.lock:
            if self._contexts.get(context.place) is not context:
                raise GraphError("{!r} is over, and spawns nothing more".format(context.name))
            node = node._replace(name=self._full_name(node))
            self.workforce.require_handlers([node])
            new = node.task.id not in self.state.places  # else the state says what is wrong
            if new:
                claim([node], self._hold, patient=False)  # the lock is held, and the end of another run may wait for it
            try:
                self.state.spawn(context.place, node)
            except BaseException:
                if new:
                    release([node], self._hold)
                raise
            self._follow("")
        self._after()
        self.workforce.staff(self)
        return node.task

    def _full_name(self, node: Node) -> str:
        scope = node.scopes[0] if node.scopes else ""
        if node.name:
            return scope + node.name
        made_up = ("{}{}-{}".format(scope, node.task.type, number) for number in itertools.count(len(self.state.nodes) + 1))
        return next(name for name in made_up if name not in self.state.places)

    # What happens to tasks from elsewhere

    def _expire(self, context: TaskContext) -> None:
        """The time of an attempt is over: the run goes on without it."""
        late = context.timed_out()
        outcome = failure(context, late)
        with self.lock:
            if self._contexts.get(context.place) is not context:
                return
            self._leave(context, late)
            self._conclude(context, outcome)
            self.audience.wake()  # who waits may be who goes on
        self._after()
        self.workforce.staff(self)

    def _ripen(self) -> None:
        """The moment of a retry has come."""
        with self.lock:
            self.state.ripen(time.monotonic())
            self.audience.wake()
        self._after()
        self.workforce.staff(self)

    def cancel(self, reason: str) -> bool:
        """End the run now; False if it was over. Where a signal handler or a destructor calls in the middle of one of this
        thread's steps, the run ends right after that.
        """
        if self.result is not None or self.foreign:
            return False
        if self._in_step:
            self._ending = reason
        else:
            self._cut(reason)
        return True

    def interrupt(self, interruption: BaseException) -> None:
        """Cancel because somebody was interrupted, in the middle of a step perhaps, which then has ended half-way.

        A second interruption, in the middle of that, does not undo it.
        """
        if self.result is None and not self.foreign:
            reason = "interrupted by {}".format(type(interruption).__name__)
            try:
                self._cut(reason)
            finally:
                self._cut(reason)

    def _cut(self, reason: str) -> None:
        self.cancellation.cancel(reason)
        self.end()  # also where an earlier call was interrupted, and the token calls nobody a second time

    def _cancelled(self) -> None:
        """The token was cancelled: the run's own, or one above it."""
        if self._in_step:
            self._ending = self.cancellation.reason
        elif not self.foreign:
            self.end()

    @property
    def _in_step(self) -> bool:
        return self.lock._is_owned()  # type: ignore[attr-defined,no-any-return]  # what threading.Condition asks, too

    @property
    def foreign(self) -> bool:
        """Whether this is a forked child, and the run its parent's: the lock may be held here for ever."""
        return os.getpid() != self._process

    @property
    def heard(self) -> bool:
        """Whether the run is over, and everybody who listens has had all of it."""
        return self.result is not None and not self.ending and self.audience.heard

    @property
    def ending(self) -> bool:
        """Whether the run is over, and the hooks are still to be told so."""
        return self.result is not None and bool(self._over) and not self.foreign

    def catch_up(self) -> None:
        """Tell what is still to be told after the end."""
        self._over.tell()
        self.audience.deliver()

    def leave(self) -> None:
        """The run is about to be dropped."""
        self._hold.dropped = True

    def drop(self, reason: str, wait: bool = False) -> None:
        """Cancel from a destructor, which may be called at any moment, on any thread with any locks; or from a generator's
        end, which may be one. wait: whether to wait for the end: a moment as a rule, and never long.

        The garbage collector may call it in the middle of the start of a thread, where the end of a run, which may start one
        itself, would wait for a lock of threading's own. So another thread does it, and whoever wants the graph next waits for
        that. With max_workers=0 no thread is started, and the callbacks are to be called here.
        """
        if self.foreign or self.result is not None:
            return
        self.leave()
        if not self.workforce.inline or self._in_step or not self.lock.acquire(timeout=DROP_SECONDS):
            self._alarm(0.0, lambda: self.cancel(reason))
            if wait and not self._in_step:
                self._hold.wait(DROP_SECONDS)
            return
        try:
            self._end(reason)
        finally:
            self.lock.release()
        self.cancellation.cancel(reason)
        self._after()

    def end(self) -> None:
        """The run was cancelled: settle all that goes on, and give up the workers that are still in it."""
        with self.lock:
            self._end(self.cancellation.reason or "cancelled")
        self._after()

    # The rest holds the lock, but for _after

    def _end(self, reason: str) -> None:
        if self.result is not None:
            return
        cancelled = Cancelled(reason)
        for place in self.state.end("the run ended early: {}".format(reason), format_error(cancelled)):
            self._exceptions.pop(place, None)  # of an earlier visit
            self._exceptions[place] = cancelled
            self._tell_finished(place)
        self._follow(reason)
        for context in list(self._contexts.values()):  # of these tasks, and of those whose end was interrupted half-way
            self._leave(context, cancelled)
        self._finish_if_over()

    def _settle(self, context: TaskContext, outcome: Optional[Outcome]) -> None:
        if self._contexts.get(context.place) is context:
            assert outcome is not None
            self._detach(context)
            self._conclude(context, outcome)

    def _conclude(self, context: TaskContext, outcome: Outcome) -> None:
        """What came of an attempt, for its task and for others."""
        place = context.place
        error = outcome.exception
        spent = self._budget is not None and any(
            isinstance(cause, BudgetExceeded) and cause.budget is self._budget for cause in causes(error)
        )
        if outcome.wait is not None and not spent and self.state.may_retry(place):
            moment = time.monotonic() + outcome.wait
            self.state.retry(place, moment)
            self._call_at(moment, self._ripen)
            if self.hooks is not None:
                self._over.append((context, None, error))
            if self.audience.watched:
                task = context.node.task.model_copy()
                told = outcome.error or ""
                self.audience.tell(TaskRetried(context.name, task, time.time(), context.attempt, told, outcome.wait))
        else:
            status = self.state.settle(place, outcome.status, outcome.result, outcome.error, outcome.route)
            if status is TaskStatus.FAILED:
                self._exceptions.pop(place, None)  # of an earlier visit
                error = self._exceptions[place] = error or self.state.faults[place]
            if self.hooks is not None:
                self._over.append((context, status, error))
            if self.audience.watched:
                went = status is outcome.status  # else its Route could not be taken
                self._tell_finished(place, outcome if went else None)
        if self.state.changes:
            self._follow("a loop went back to what came before it")
        if spent:
            self._end(str(error))  # in this very step: nothing that waited for this task is to be started
        self._finish_if_over()

    def _follow(self, reason: str) -> None:
        """Tell what happened to other tasks, and leave those of them that go on. `reason`: why they are left."""
        changes, self.state.changes = self.state.changes, []
        for place, phase in changes:
            if place in self._contexts:
                self._leave(self._contexts[place], Cancelled(reason))
            if phase is FAILED:
                self._exceptions.pop(place, None)
                self._exceptions[place] = self.state.faults[place]
                self._tell_finished(place)
            elif phase is not WAITING and self.audience.watched:
                node = self.state.nodes[place]
                self.audience.tell(TaskSkipped(node.name, node.task.model_copy(), time.time(), self.state.errors[place] or ""))

    def _detach(self, context: TaskContext) -> None:
        """Keep what an attempt used, which does not go on any more."""
        place = context.place
        del self._contexts[place]
        if context.alarm is not None:
            context.alarm.cancel()
        if context.start is not None:
            self._seconds[place] = self._seconds.get(place, 0.0) + time.perf_counter() - context.start
        usage = context.meter.usage_or_none
        if usage is not None:
            self._usages[place] = self._usages.get(place, Usage()) + usage

    def _leave(self, context: TaskContext, error: BaseException) -> None:
        """Go on without an attempt: it is cancelled, what comes of it is not waited for, and its worker is replaced."""
        self._detach(context)
        context.left = error
        self.hands -= 1
        self._left.append(context)
        if self.hooks is not None:
            self._over.append((context, None, error))

    def _tell_finished(self, place: int, outcome: Optional[Outcome] = None) -> None:
        """Tell that a task was settled; outcome: as what, where a loop may have had it wait again since."""
        if self.audience.watched:
            node = self.state.nodes[place]
            end = None if outcome is None else {"status": outcome.status, "result": outcome.result, "error": outcome.error}
            self.audience.tell(TaskFinished(node.name, node.task.model_copy(update=end), time.time()))

    def _finish_if_over(self) -> None:
        if self.result is not None or not self.state.over:
            return
        seconds = time.perf_counter() - self._start
        result = RunResult(self.state, self._exceptions, self._seconds, self._usages, self.id, self.meter.usage, seconds)
        # Whoever is interrupted here does it once more, so the run is not over before the last of it is done.
        self.scheduler.finished(self, result)
        release(self.state.nodes, self._hold)
        self._hold.end()
        if self.audience.watched:
            self.audience.tell(RunFinished(result, time.time()))
        if self.hooks is not None:
            self._over.append((self, result, None))
        self.result = result
        self.audience.wake()

    def _after(self) -> None:
        """Without the lock: call out, as the last step asks for."""
        if self._left:
            with self.lock:
                left, self._left = self._left, []
            try:
                while left:
                    context = left[-1]
                    context.cancellation.cancel(str(context.left))
                    self.workforce.abandon(context)
                    left.pop()
            finally:
                if left:  # Ctrl-C: whoever ends the run on account of that does the rest
                    with self.lock:
                        self._left += left
        if self._ending is not None and self.result is None:
            self.cancel(self._ending)
        if self._over:
            self._over.tell()
            self.audience.wake()
        if self.audience.watched:
            self.audience.deliver()
        if self.result is not None:  # nothing that outlives the run may still hold it
            if self._upward is not None:
                self._upward.remove()
            for alarm in self._alarms:
                alarm.cancel()


def failure(context: TaskContext, error: BaseException) -> Outcome:
    """The outcome of an attempt that raised: that its task failed, or is to be tried again."""
    retry, wait = context.node.retry, None
    started = context.start is not None  # else it was its `when` that raised
    if retry is not None and started and context.attempt < retry.attempts and retry.covers(error):
        try:
            wait = retry.seconds(context.attempt, error)
        except Exception as broken:  # its own wait= is somebody's code, too
            error = broken
    return Outcome(TaskStatus.FAILED, None, format_error(error), error, None, wait)


def causes(error: Optional[BaseException]) -> Iterator[BaseException]:
    """An exception, and those that it was raised from, or while handling."""
    seen: Set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
