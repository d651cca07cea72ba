"""ActiveRun: one run in progress. Joins its engine, its backend and its event bus.

The engine decides; ActiveRun carries out its effects, after the engine's lock is released.
"""

import collections
import contextvars
import itertools
import logging
import os
import sys
import threading
import time
import types
import uuid
from typing import (
    Any,
    Callable,
    Deque,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from asimov_sync import instrumentation
from asimov_sync._json import format_error
from asimov_sync.cache.address import CacheAddress
from asimov_sync.cache.base import Cache
from asimov_sync.cache.opening import find_address
from asimov_sync.cancellation import Cancellation, Registration
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.log_context import describe_error, get_logger
from asimov_sync.concurrency.timers import Timer, timers
from asimov_sync.concurrency.tracebacks import remove_outer_frames
from asimov_sync.errors import Cancelled, GraphError, LeaseLost, Parked
from asimov_sync.graph.attempt import Attempt, failed_outcome
from asimov_sync.graph.backends import Backend, Work, on_main_thread
from asimov_sync.graph.context import RunServices, TaskContext
from asimov_sync.graph.effects import AttemptFailure, Effects
from asimov_sync.graph.engine import RunEngine
from asimov_sync.graph.envelope import CallEvent, CallReport, Envelope, make_envelope
from asimov_sync.graph.events import RunFinished, TaskText
from asimov_sync.graph.graph_lock import RunLock, release
from asimov_sync.graph.handlers import HandlerRegistry, outcome_of, run_generator
from asimov_sync.graph.journal import Batch, JournaledRun, Restored, RunJournal, Wait
from asimov_sync.graph.node import Node
from asimov_sync.graph.plan import Plan, RunParams
from asimov_sync.graph.publisher import Publisher
from asimov_sync.graph.results import Outcome, RunResult
from asimov_sync.graph.snapshot import RunSnapshot
from asimov_sync.graph.state import RunState
from asimov_sync.graph.subscribers import Callback, EventBus
from asimov_sync.graph.travel import dump, restore
from asimov_sync.instrumentation import Observation
from asimov_sync.messages import ToolCall, Usage
from asimov_sync.tasks import Task, TaskStatus
from asimov_sync.usage import Budget, BudgetUsage, UsageCounter

__all__ = ["ActiveRun", "RunOptions"]

logger = get_logger("asimov_sync.graph")

POLL_SECONDS = 0.2
"""Seconds between two looks at whether the journal is still written by another thread."""

FINALIZER_TIMEOUT = 0.2
"""The longest wait, in seconds, of a destructor for the lock of an inline run, and of a closed
stream for the end of its run.

A destructor waits for the lock so that it can call the callbacks on its own thread.
"""

RELEASE_SECONDS = 0.4
"""The longest wait, in seconds, of an interrupted run for the release of its lease.

A store that is busy or silent must not delay the end of a program. The release continues in the
background; if the process ends first, other processes of this machine find its owner dead.
"""


class RunOptions(NamedTuple):
    """The arguments of `TaskScheduler.submit`, which documents them, without the graph."""

    run_id: Optional[str]
    timeout: Optional[float]
    on_failure: str
    budget: Optional[Budget]
    cancellation: Optional[Cancellation]
    max_tasks: Optional[int]
    params: Optional[RunParams]


class ActiveRun(Work, RunServices, JournaledRun):
    """One run in progress.

    plan: the graph with its names resolved.
    graph_lock: the lock of its tasks, which is held already.
    name: the name of its graph, for telemetry.
    options: the arguments of the run.
    backend: calls the handlers.
    handlers: finds the handlers.
    callbacks: the callbacks for its events, each with whether it is blocking.
    readable: whether inboxes may open later.
    streamed: whether to open one now.
    open_cache: returns the scheduler's cache.
    on_finished: called with this run and its result when the run is over.
    journal: keeps the run, if it is durable.
    digests: for a durable run, the digests of the tasks' params.

    failure: what ended a durable run that cannot be kept any more; `Run.result` raises it.
    cancellation: the run's token.
    enclosing: the token around the run, which ends it.
    publisher: makes its events, and opens inboxes for them.
    first_inbox: the inbox that was open from the beginning, if it is streamed.
    result: the result, once the run is over.
    nested: whether a task of the same scheduler started it.
    """

    def __init__(
        self,
        plan: Plan,
        graph_lock: RunLock,
        name: Optional[str],
        options: RunOptions,
        backend: Backend,
        handlers: HandlerRegistry,
        callbacks: Sequence[Tuple[Callback, bool]],
        readable: bool,
        streamed: bool,
        open_cache: Callable[[], Cache],
        on_finished: Callable[["ActiveRun", RunResult], None],
        journal: Optional[RunJournal] = None,
        digests: Sequence[str] = (),
    ) -> None:
        self.id = options.run_id if options.run_id is not None else uuid.uuid4().hex
        self.backend = backend
        self.inline = backend.inline
        self.nested = backend.occupies_slot()
        self.enclosing_task = scope.current().task_context
        self.result: Optional[RunResult] = None
        self.enclosing = options.cancellation or Cancellation.current()
        self.cancellation = Cancellation(parent=self.enclosing)
        lock = threading.RLock()
        self.failure: Optional[BaseException] = None
        self._journal = journal
        restored = Restored() if journal is None else journal.restored
        self.publisher = Publisher(self.id, lock, readable, restored.sequence)
        self._log_inbox = None if journal is None else self.publisher.open_inbox()
        if self._log_inbox is not None:
            self._log_inbox.polled = True
        self.first_inbox = self.publisher.open_inbox() if streamed else None
        self.bus = EventBus(
            self.publisher,
            callbacks,
            backend.inline,
            backend.call_in_background,
            lambda: backend.occupy_slot(backend.current_job()),
        )
        self._handlers = handlers
        self._open_cache = open_cache
        self._on_finished = on_finished
        self._graph_lock = graph_lock
        self._process = os.getpid()
        self._timers: List[Timer] = []
        self._registration: Optional[Registration] = None
        self._ending_spans = threading.Lock()  # its holder reports the ends of spans
        self._logging = threading.Lock()  # its holder logs the entries of the effects
        self._saving = threading.Lock()  # its holder writes to the journal
        self._committing = threading.Lock()  # its holder commits a step of another process
        self._batch_waiters: Deque[Any] = collections.deque()  # locks that it releases then
        self._last_batch: Optional[Batch] = None
        self._released: Optional[threading.Event] = None
        self._releases = False  # whether it is about to release its lease, and ends after that
        self._wait_deadline: Optional[float] = None
        self._name = name
        self._timeout = options.timeout
        self._given_timeout = options.timeout
        if self._timeout is not None:
            self._timeout -= restored.seconds
        usage_counter = UsageCounter()
        self._scope = contextvars.copy_context()  # handlers run in copies of it
        self._scope.run(self._enter_scope, usage_counter, options.budget)
        self._budget = options.budget
        self._dollars_before = 0.0 if self._budget is None else self._budget.spent.dollars
        if journal is not None and self._budget is not None:
            self._spent_before = restored.spent or BudgetUsage(0, 0, 0.0)
            self._budget.carry_over(self.id, self._spent_before)
            self._spent_at_start = self._budget.spent
        self._hooks = instrumentation.installed
        self.watch: Optional[Observation] = None
        if self._hooks is not None:
            self.watch = Observation(self._hooks.run, self.id, name, context=self._scope)
        self._effects = Effects(self.publisher)
        self._publishes = self.publisher.is_active
        self.engine = RunEngine(
            self.id,
            lock,
            RunState(
                plan,
                stop_on_failure=options.on_failure == "stop",
                max_tasks=options.max_tasks,
                is_durable=journal is not None,
            ),
            self._effects,
            self.cancellation,
            self.enclosing,
            usage_counter,
            graph_lock,
            self._check_spawned,
            backend.worker_limit,
            options.budget,
            self._hooks is not None,
            journal,
            digests,
        )
        self.needs_workers = self.engine.needs_workers  # type: ignore[method-assign]

    def _check_spawned(self, node: Node) -> None:
        """Raise GraphError if a spawned task has no handler."""
        if self.backend.remote:  # a handler of its own has travelled already
            self._handlers.check_known([node])
        else:
            self._handlers.check([node])

    def _enter_scope(self, usage_counter: UsageCounter, budget: Optional[Budget]) -> None:
        """Set the context variables that apply to all tasks of the run."""
        scope.extend(usage_counter=usage_counter)
        if budget is not None:
            scope.extend(budget=budget)
        if self.inline:
            scope.replace(run_inline=True)

    def begin(self) -> None:
        """Register with the cancellation and start the time-out. Ends a run without tasks."""
        keeps_events = self.publisher.keeps_state or self.first_inbox is not None
        if keeps_events or self._journal is not None:
            timers.start()  # a destructor may need the timer thread, and cannot start it
        if logger.isEnabledFor(logging.INFO):
            graph = "" if self._name is None else f" of {self._name!r}"
            count = len(self.engine.state.nodes)
            noun = "task" if count == 1 else "tasks"
            logger.info("run %s%s started: %d %s", self.id, graph, count, noun, extra=self._extra())
        self._unpark_answered()  # before the run is found to be parked
        self.engine.begin_run()  # first: the token or a time-out may end the run at once
        if self._journal is not None:
            self._journal.start(self)
            if self._journal.cancel_reason is not None:  # an earlier drive did not notice it
                self.cancel(self._journal.cancel_reason)
        self._registration = self.enclosing.on_cancel(self._on_cancel)
        if self._timeout is not None:
            reason = f"the run's time-out of {self._given_timeout} s passed"
            self._add_timer(
                clock.monotonic() + max(0.0, self._timeout), lambda: self.cancel(reason)
            )
        if self.enclosing.deadline is not None:
            # Reading `cancelled` after the deadline cancels the token.
            self._add_timer(self.enclosing.deadline, lambda: self.enclosing.cancelled)
        self._apply_effects()

    def _add_timer(self, moment: float, function: Callable[[], Any]) -> None:
        self._timers.append(self._start_timer(moment, function))

    def _start_timer(self, moment: float, function: Callable[[], Any]) -> Timer:
        """Call a function at a moment, on a background thread.

        The function may wait, for this run's lock or in a callback of a cancellation. The timer
        thread must not wait, because it also fires the timers of other runs.
        """
        return timers.call_at(moment, lambda: self.backend.call_in_background(function))

    # For backends

    def reserve_workers(self, limit: int) -> int:
        """Reserve workers for the ready tasks, at most `limit`, and return how many."""
        count = self.engine.reserve_workers(limit)
        if self._effects.pending:
            self._apply_effects()
            if not count and self._journal is not None:
                # This thread may have written what others left to it, and tasks may start now.
                count = self.engine.reserve_workers(limit)
        return count

    def next_attempt(self, worker: Any) -> Optional[Attempt]:
        """Start the first attempt of a worker that was reserved."""
        attempt = self.engine.next_attempt(worker)
        if self._effects.pending:
            self._apply_effects()
        return attempt

    def next_attempt_for_helper(self) -> Optional[Attempt]:
        """Start an attempt on a thread that waits for the run."""
        attempt = self.engine.next_attempt_for_helper()
        if self._effects.pending:
            self._apply_effects()
            if attempt is None and self._journal is not None:  # as in `reserve_workers`
                attempt = self.engine.next_attempt_for_helper()
        return attempt

    def finish_attempt(
        self, attempt: Attempt, outcome: Optional[Outcome], take_next: bool
    ) -> Optional[Attempt]:
        """End an attempt, and return the worker's next one if `take_next`."""
        if self._journal is not None:
            # What a worker does next does not start before its last outcome is written. So at most
            # one task for each worker has to run again if the process dies.
            batch = self.engine.finish_durable(attempt, outcome, take_next)
            self._apply_effects(batch)
            following = self.engine.take_following(attempt) if take_next else None
        else:
            following = self.engine.finish_attempt(attempt, outcome, take_next)
        if self._effects.pending:
            self._apply_effects()
        return following

    def call_handler(self, attempt: Attempt) -> Optional[Outcome]:
        """Call the handler of an attempt, after its `when`; None if it was not called."""
        if attempt.abandoned is not None:
            return None  # the run ended after the attempt was taken
        node = attempt.node
        task = node.task
        scope = self._scope.copy()
        context = TaskContext(attempt, self)
        logs = logger.isEnabledFor(logging.DEBUG)
        attempt.thread = threading.get_ident()
        try:
            if node.when is not None and attempt.start is None:
                if not self._meets_condition(attempt, scope, context):
                    return None
                scope, context = self._scope.copy(), TaskContext(attempt, self)
            if self._hooks is not None and not self._observe(attempt, scope):
                return None
            if node.params is not None:
                task = node.copy_task()
            handler = self._handlers.find(node)
            if logs:
                self._log_start(attempt)
            result = scope.run(self._call_in_scope, handler, attempt, context, task, context)
            if type(result) is types.GeneratorType:
                result = scope.run(run_generator, result, context)
        except BaseException as error:
            if isinstance(error, Parked) and attempt.waits:
                return Outcome(TaskStatus.WAITING, waits=attempt.waits)
            if not isinstance(error, Exception) and (self.inline or on_main_thread()):
                raise  # Ctrl-C on the calling thread
            remove_outer_frames(error)
            if attempt.is_overdue:
                timeout_error = attempt.timeout_error()
                timeout_error.__cause__, error = error, timeout_error
            return self._failed_outcome(attempt, error)
        if attempt.is_overdue:  # the deadline freed the handler before the timer fired
            return self._failed_outcome(attempt, attempt.timeout_error())
        outcome = outcome_of(attempt, result)
        if self._journal is not None:
            outcome = self._keep_outcome(attempt, outcome)
        if logs:
            self._log_return(attempt, outcome)
        return outcome

    def _meets_condition(
        self, attempt: Attempt, scope: contextvars.Context, context: TaskContext
    ) -> bool:
        """Evaluate the `when` of an attempt. Return whether the attempt has started."""
        node = attempt.node
        assert node.when is not None
        arguments: Tuple[Any, ...] = (dict(attempt.inputs),)
        if node.when_takes_context:
            arguments += (context,)
        met = scope.run(self._call_in_scope, node.when, attempt, context, *arguments)
        if isinstance(met, types.CoroutineType):
            met.close()
            raise TypeError(
                f"when= of {attempt.name!r} returned a coroutine, which is always true: "
                "it has to return whether the task runs"
            )
        return self._apply_condition(attempt, bool(met))

    def _failed_outcome(self, attempt: Attempt, error: BaseException) -> Outcome:
        outcome = failed_outcome(attempt, error)
        return outcome if self._journal is None else self._keep_error(outcome, error)

    def _keep_error(self, outcome: Outcome, error: BaseException) -> Outcome:
        """Return a failed outcome with the text of its error as the journal gives it back."""
        assert self._journal is not None
        record = self._journal.keep_error(error)
        return outcome._replace(exception_record=record, error=record.text)

    def _keep_outcome(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Return an outcome as the journal gives it back later."""
        assert self._journal is not None
        try:
            if outcome.exception is not None:
                return self._keep_error(outcome, outcome.exception)
            result = self._journal.keep_value(outcome.result)
            error = self._journal.keep_text(outcome.error)
            return outcome._replace(result=result, error=error)
        except Exception as error:
            return self._failed_outcome(attempt, error)

    def _call_in_scope(
        self, function: Callable[..., Any], attempt: Attempt, context: TaskContext, *args: Any
    ) -> Any:
        """Call a handler or a `when` with the attempt's context, token, counter and text listener.

        Sets them and does not restore the old ones: call it in a context of its own.
        """
        scope.extend(
            attempt.usage_counter,
            None,
            self._text_listener(attempt) if self._publishes else None,
            (self.backend.threads, attempt.worker),
            context,
            attempt.cancellation.scope_entry,
            attempt,
        )
        return function(*args)

    def _text_listener(self, attempt: Attempt) -> Callable[[], Callable[[str], None]]:
        if attempt.reply_numbers is None:
            # Made here, since tools on several threads may start replies at once.
            attempt.reply_numbers = itertools.count(1)
        numbers = attempt.reply_numbers

        def start_reply() -> Callable[[str], None]:
            number = next(numbers)

            def on_text(text: str) -> None:
                if not self.publisher.has_inboxes:
                    return
                self.engine.publish_text(attempt, number, text)
                if self._effects.pending:
                    self._apply_effects_in_handler()

            return on_text

        return start_reply

    def _observe(self, attempt: Attempt, scope: contextvars.Context) -> bool:
        """Call the hook of an attempt, in its context. Return whether the attempt still counts."""
        assert self._hooks is not None
        attempt.watch = Observation(self._hooks.task, attempt, context=scope)
        if attempt.abandoned is not None:  # perhaps before the observation existed
            attempt.watch.end(None, attempt.abandoned)
        return attempt.abandoned is None

    def _apply_condition(self, attempt: Attempt, met: bool) -> bool:
        started = self.engine.apply_condition(attempt, met)
        if self._effects.pending:
            self._apply_effects_in_handler()
        return started

    # For handlers in other processes

    @property
    def is_durable(self) -> bool:
        """Return whether calls may need the journal of the run."""
        return self._journal is not None

    def prepare_call(
        self, attempt: Attempt, call: str, channel: Optional[CacheAddress]
    ) -> Union[None, Outcome, Tuple[bytes, bytes]]:
        """Return what another process needs to call the handler of an attempt.

        call, channel: the id of the call, and the address of the cache through which it reaches
            this process meanwhile; None without.

        Returns None if the handler is not called, or the outcome if it cannot be called.
        """
        if attempt.abandoned is not None:
            return None
        node = attempt.node
        scope = self._scope.copy()
        attempt.thread = threading.get_ident()
        try:
            if node.when is not None and attempt.start is None:
                if not self._meets_condition(attempt, scope, TaskContext(attempt, self)):
                    return None
                scope = self._scope.copy()
            trace: Mapping[str, str] = {}
            if self._hooks is not None:
                if not self._observe(attempt, scope):
                    return None
                if self._hooks.inject is not None:
                    trace = scope.run(self._hooks.inject)
            if logger.isEnabledFor(logging.DEBUG):
                self._log_start(attempt)
            envelope = make_envelope(
                attempt,
                self._publishes,
                self._budgets,
                trace,
                self._journal is not None,
                find_address(self.open_cache()),
                call,
                channel,
                self.backend.by_value,
            )
            return self._handlers.make_reference(node, self.backend.by_value), self._dump_envelope(
                envelope
            )
        except BaseException as error:  # that of a `when`: this is a thread of the backend
            if isinstance(error, Parked) and attempt.waits:
                return Outcome(TaskStatus.WAITING, waits=attempt.waits)
            return self._failed_outcome(attempt, error)

    def _dump_envelope(self, envelope: Envelope) -> bytes:
        try:
            return dump(envelope, envelope.by_value)
        except Exception as error:  # what the classes of the values raise
            raise GraphError(
                f"the params or the inputs of {envelope.node.name!r} cannot be sent to another "
                f"process: {format_error(error)}"
            ) from error

    @property
    def _budgets(self) -> Tuple[Budget, ...]:
        """The budgets around the run's tasks, each of them once."""
        entered = self._scope.run(scope.current).budgets
        return tuple({id(budget): budget for budget in entered}.values())

    def receive_report(self, attempt: Attempt, pickled: bytes, replayed: int) -> Optional[Outcome]:
        """Return the outcome of an attempt from the report of the process that called its handler.

        replayed: how many events of the call were published before.

        None if the attempt does not count any more.
        """
        try:
            report: CallReport = restore(pickled)
        except BaseException as unreadable:  # a class that this process does not have
            return self._failed_outcome(attempt, _unreadable(attempt, unreadable))
        self._charge(attempt, report)
        if attempt.abandoned is not None:
            return None
        self.replay(attempt, report.events[replayed:])
        outcome, error = report.outcome, report.rebuild_error(self._budgets)
        try:
            for node, before_dependents in report.spawned:
                self.spawn(attempt, node, before_dependents)
            if error is None:
                outcome = outcome._replace(result=restore(report.result))
        except GraphError as refusal:
            return self._failed_outcome(attempt, refusal)
        except BaseException as unreadable:  # what the classes of the result raise
            return self._failed_outcome(attempt, _unreadable(attempt, unreadable))
        if attempt.is_overdue:
            timeout_error = attempt.timeout_error()
            timeout_error.__cause__ = error
            return self._failed_outcome(attempt, timeout_error)
        if error is not None:
            outcome = outcome._replace(exception=error)
        if self._journal is not None and not outcome.waits:
            outcome = self._keep_outcome(attempt, outcome)
        if error is None and logger.isEnabledFor(logging.DEBUG):
            self._log_return(attempt, outcome)
        return outcome

    def fail_call(self, attempt: Attempt, error: BaseException, final: bool) -> Outcome:
        """Return the outcome of an attempt whose call was lost.

        final: whether another attempt would not help.
        """
        outcome = self._failed_outcome(attempt, error)
        return outcome._replace(wait=None) if final else outcome

    def _charge(self, attempt: Attempt, report: CallReport) -> None:
        """Count what a call in another process has used."""
        if report.usage is not None:
            for counter in self._scope.run(scope.current).usage_counters:
                counter.add(report.usage)
            attempt.usage_counter.add(report.usage)
        for span in report.spans:
            # The clock of the other process may differ: the times begin with the attempt.
            span = span.shift(attempt.start or 0.0)
            for recorder in (*self._scope.run(scope.current).span_recorders, attempt):
                recorder.add(span)
        for budget, spent in zip(self._budgets, report.spent):
            budget.charge(spent)

    def answer_request(self, attempt: Attempt, do: str, args: Sequence[Any]) -> Any:
        """Do for a call in another process what needs the journal of the run.

        do, args: "read" (kind), "append" (kind, value, usage), "commit" (likewise, if there is
            nothing yet; returns what is kept), "keep" (value), "now" (), or "answers" (pairs of a
            wait's name and whether it is an approval).

        Raises ValueError for anything else.
        """
        journal = self._journal
        if journal is not None and do == "read" and len(args) == 1:
            return journal.read_entries(attempt.name, attempt.visit, str(args[0]))
        if journal is not None and do == "commit" and len(args) == 3:
            with self._committing:
                kept = journal.read_entries(attempt.name, attempt.visit, str(args[0]))
                if not kept:
                    kept = [journal.keep_value(args[1])]
                    self._append_entry(attempt, str(args[0]), kept[0], Usage(**args[2]))
            return kept[0]
        if do == "append" and len(args) == 3:
            self._append_entry(attempt, str(args[0]), args[1], Usage(**args[2]))
            return None
        if do == "keep" and len(args) == 1:
            return self.keep_value(args[0])
        if journal is not None and do == "now" and not args:
            return journal.now()
        if do == "answers" and len(args) == 1:
            call = ToolCall(id="", name="")  # the answer does not depend on which one
            waits = [
                Wait(self.id, attempt.name, str(name), attempt.visit, call=call if shown else None)
                for name, shown in args[0]
            ]
            return self.find_answers(attempt, waits)
        raise ValueError(f"a call asks for {do!r}, which is unknown")

    def replay(self, attempt: Attempt, events: Sequence[CallEvent]) -> None:
        """Publish the progress and the text of a call in another process."""
        for event in events:
            if event.reply:
                self.engine.publish_text(attempt, event.reply, event.text)
            else:
                attempt.progress = (event.fraction, event.text)
                self.engine.report(attempt, event.fraction, event.text, event.data)
        if self._effects.pending:
            self._apply_effects_in_handler()

    # For handlers

    def open_cache(self) -> Cache:
        """Return the run's namespace of the scheduler's cache."""
        return self._open_cache().with_prefix("run").with_prefix(self.id)

    def report(self, attempt: Attempt, fraction: Optional[float], text: str, data: Any) -> None:
        """Publish the progress of an attempt."""
        attempt.progress = (fraction, text)
        if not self.publisher.has_inboxes:
            return
        self.engine.report(attempt, fraction, text, data)
        if self._effects.pending:
            self._apply_effects_in_handler()

    def check_route(self, attempt: Attempt, names: Sequence[str]) -> None:
        """Raise GraphError if the attempt's task cannot return a Route to these names."""
        self.engine.check_route(attempt, names)

    def spawn(self, attempt: Attempt, node: Node, before_dependents: bool) -> Task:
        """Add a task on behalf of an attempt, and start a worker for it if needed."""
        if self._journal is None:
            task = self.engine.spawn(attempt, node, before_dependents)
        else:
            dependencies = self.engine.names_of(node.depends_on)
            definition = self._journal.define(node, dependencies, before_dependents)
            digest = self._journal.digest(node.task.params)
            task = self.engine.spawn(attempt, node, before_dependents, definition, digest)
        if self._effects.pending:
            self._apply_effects()
        self.backend.ensure_workers(self)
        return task

    # For handlers of a durable run

    def run_step(self, attempt: Attempt, name: str, call: Callable[[], Any]) -> Any:
        """Call a function once for a visit of a task, and return its result."""
        journal = self._journal
        if journal is None:
            return call()
        kind = f"step:{name}"
        for value in journal.read_entries(attempt.name, attempt.visit, kind):
            return value
        value = journal.keep_value(call())
        self.append_entry(attempt, kind, value)
        return value

    def read_entries(self, attempt: Attempt, kind: str) -> Optional[List[Any]]:
        """Return what was appended for this visit of a task; None if the run is not durable."""
        if self._journal is None:
            return None
        return self._journal.read_entries(attempt.name, attempt.visit, kind)

    def append_entry(self, attempt: Attempt, kind: str, value: Any) -> None:
        """Keep a value for this visit of a task, before this returns."""
        self._append_entry(attempt, kind, value, attempt.usage_counter.usage)

    def _append_entry(self, attempt: Attempt, kind: str, value: Any, usage: Usage) -> None:
        assert self._journal is not None
        if not self.engine.is_running(attempt):
            attempt.cancellation.raise_if_cancelled()
            raise Cancelled(f"{attempt.name!r} has ended")
        try:
            self._journal.append_entry(attempt.name, attempt.visit, kind, value, usage)
        except LeaseLost as error:
            self.fail(error)
            raise
        if self._effects.pending:  # a signal handler has left them, in the middle of the write
            self._apply_effects_in_handler()

    def keep_value(self, value: Any) -> Any:
        """Return a value as it is given back later."""
        return value if self._journal is None else self._journal.keep_value(value)

    def find_answers(self, attempt: Attempt, waits: Sequence[Wait]) -> Optional[List[Any]]:
        """Return the answers to waits of a task, each None without; None for all if not durable."""
        if self._journal is None:
            return None
        return [self._journal.find_answer(wait) for wait in waits]

    def open_waits(self, attempt: Attempt, waits: Sequence[Wait]) -> None:
        """Note what the task waits for. Its handler raises Parked next."""
        attempt.waits = tuple(waits)

    def now(self) -> float:
        """Return the present moment by the clock of the store."""
        assert self._journal is not None
        return self._journal.now()

    # For the journal

    def check_waits(self) -> None:
        """Continue the parked tasks whose answer is there, or whose deadline has passed."""
        if self.result is None and self._unpark_answered():
            self._apply_effects()
            self.backend.ensure_workers(self)

    def _unpark_answered(self) -> bool:
        journal = self._journal
        if journal is None:
            return False
        now, answered, deadlines = journal.now(), [], []
        for index, waits in self.engine.parked_waits():
            due = [wait.deadline for wait in waits if wait.deadline is not None]
            deadlines += due
            if any(moment <= now for moment in due) or any(map(journal.find_answer, waits)):
                answered.append(index)
        if answered:
            return self.engine.unpark(answered)
        if deadlines:
            self._call_at_deadline(min(deadlines), now)
        return False

    def _call_at_deadline(self, deadline: float, now: float) -> None:
        """Look at the waits again at the deadline of the first one."""
        if self._wait_deadline is None or not now < self._wait_deadline <= deadline:
            self._wait_deadline = deadline
            self._add_timer(clock.monotonic() + max(0.0, deadline - now), self.check_waits)

    def fail(self, error: BaseException) -> None:
        """End the drive, because the journal cannot keep the run any more."""
        if self.result is None:
            if self.failure is None:
                self.failure = error
            self.end(str(error))

    def _save(self, batch_number: Optional[int]) -> bool:
        """Write what has changed. Return whether nothing is left to write.

        One thread writes at a time, and writes what all have left meanwhile together. Another one
        that comes leaves its changes, and its effects, to that one.

        batch_number: wait until this batch is written, too.
        """
        assert self._journal is not None
        engine = self.engine
        if self._journal.is_busy_here:  # a signal handler, in the middle of another write
            self._effects.pending = True
            return False
        while engine.needs_saving:
            if not self._saving.acquire(False):
                if batch_number is None or engine.saved_batch >= batch_number:
                    return False
                self._wait_for_batch()
                continue
            try:
                batch = self._number(engine.take_batch)
                if batch is not None:
                    self._save_batch(batch)
                engine.mark_saved()
            finally:
                self._saving.release()
                self._wake_batch_waiters()
        return True

    def _wait_for_batch(self) -> None:
        """Wait until the thread that writes to the journal has written a batch."""
        written = threading.Lock()
        written.acquire()
        self._batch_waiters.append(written)
        # After the append: otherwise nobody may release the lock. Ctrl-C may stop the other thread
        # before it does, so this one looks itself now and then.
        while self._saving.locked() and not written.acquire(timeout=POLL_SECONDS):
            pass

    def _wake_batch_waiters(self) -> None:
        while self._batch_waiters:
            try:
                self._batch_waiters.popleft().release()
            except IndexError:  # another thread has taken it
                return

    def _number(self, take: Callable[[], Optional[Batch]]) -> Optional[Batch]:
        """Take a batch, and note which events tell of what it contains."""
        with self.engine.lock:
            batch = take()
            return None if batch is None else batch._replace(sequence=self.publisher.sequence)

    def _save_batch(self, batch: Batch) -> None:
        assert self._journal is not None
        try:
            written = self._journal.save(self._add_spent(batch))
        except BaseException:
            self.engine.put_back(batch, False)
            raise
        if not written:  # the run was about to park, and something was posted meanwhile
            self.engine.put_back(batch, True)
            if self._journal.cancel_reason is not None:
                self.cancel(self._journal.cancel_reason)
            self._unpark_answered()
            self.engine.retry_end()

    def _add_spent(self, batch: Batch) -> Batch:
        """Add what the run has spent of its budget."""
        budget = self._budget
        if budget is None:
            return batch
        spent = self._spent_before.plus(budget.spent.beyond(self._spent_at_start))
        budget.note_run(self.id, spent)
        return batch._replace(spent=spent)

    def take_events(self) -> List[Dict[str, Any]]:
        """Return the events since the last call, for the log, with the pieces of a text joined."""
        inbox, events = self._log_inbox, []
        texts: Dict[Any, Dict[str, Any]] = {}
        # Not those that handlers publish meanwhile: they might be faster than this loop.
        number, last = 0, self.publisher.last_sequence
        while inbox and number < last:
            event = inbox.take()
            number = event.sequence
            values = event.to_log()
            if isinstance(event, TaskText):
                key = (event.name, event.visit, event.attempt, event.reply)
                if key in texts:
                    # An empty piece withdraws the earlier ones.
                    texts[key]["text"] = event.text and texts[key]["text"] + event.text
                    continue
                texts[key] = values
            elif isinstance(event, RunFinished):
                continue  # the journal writes how the drive ended
            events.append(values)
        return events

    # For timers

    def _expire(self, attempt: Attempt) -> None:
        self.engine.expire(attempt)
        self._apply_effects()
        self.backend.ensure_workers(self)

    def _release_due(self) -> None:
        self.engine.release_due()
        self._apply_effects()
        self.backend.ensure_workers(self)

    # For waiting threads

    def help(self, max_tasks: int = sys.maxsize) -> None:
        """Run ready tasks on the calling thread before it waits, if no worker may do it."""
        if self.inline:
            self.bus.pump_here()
        self.backend.help_run(self, max_tasks)

    @property
    def delivered(self) -> bool:
        """Return whether the run is over, and all callbacks and hooks have been called."""
        over = self.result is not None and not self.ending_spans
        return over and not self._effects.log_entries and self.bus.all_delivered

    @property
    def ending_spans(self) -> bool:
        """Return whether the run is over, and hooks have not been called yet."""
        over = self.result is not None
        return over and bool(self._effects.span_ends) and not self.in_forked_child

    def flush(self) -> None:
        """Call the hooks and the callbacks that have not been called yet after the end."""
        self._write_log()
        self._end_spans()
        self.bus.pump()

    # The end

    def cancel(self, reason: str) -> bool:
        """Cancel the run: it ends as soon as its tasks with `always` have ended.

        In a signal handler or a destructor that interrupts a step of this run on this thread, the
        run is cancelled right after the step. The same holds for `end`.

        Returns False if the run was over.
        """
        if self.result is not None or self.in_forked_child:
            return False
        if self.engine.in_step:
            self._effects.cancel_reason = reason
            self._effects.pending = True
        else:
            self._end_now(reason, keep_always=True)
        return True

    def end(self, reason: str) -> None:
        """End the run now, without any further task."""
        if self.result is not None or self.in_forked_child:
            return
        if self.engine.in_step:
            self._effects.end_reason = reason
            self._effects.pending = True
        else:
            self._end_now(reason)

    def interrupt(self, interruption: BaseException) -> None:
        """Cancel because a step or a wait raised; a step may have been interrupted half-way.

        The run ends even if a second interruption arrives during this call.
        """
        if self.result is None and not self.in_forked_child:
            reason = f"interrupted by {type(interruption).__name__}"
            try:
                self._end_now(reason)
            finally:
                self._end_now(reason)

    def _on_cancel(self) -> None:
        """The token around the run was cancelled."""
        self.end(self.keep_text(self.enclosing.reason or "cancelled"))

    def keep_text(self, text: str) -> str:
        """Return a text as it is stored of a durable run, or as it is."""
        return text if self._journal is None else self._journal.keep_text(text) or ""

    def _end_now(self, reason: str, keep_always: bool = False) -> None:
        interrupts = self._journal is not None and not keep_always
        if interrupts:
            self._detach()
        self.engine.end(reason, keep_always)  # first: later results of handlers are discarded
        self.cancellation.cancel(reason)
        if interrupts:
            try:
                self._release_in_background(reason)
            finally:
                self._releases = False
        self._apply_effects()
        if self._journal is not None and not interrupts and self.engine.needs_workers():
            self._add_timer(clock.monotonic(), self._release_due)

    def _detach(self) -> None:
        """Keep nothing of what happens from now on in a durable run."""
        # Another thread that sees the end of the run may run it again, so the lease is released
        # before.
        self._releases = True
        with self.engine.lock:
            self._last_batch = self._number(self.engine.detach) or self._last_batch
            if self._log_inbox is not None:
                self._log_inbox.closed = True  # what is in it is still taken

    def _release_in_background(self, reason: str) -> None:
        """Release the lease on another thread, and wait for that at most RELEASE_SECONDS."""
        if self._released is not None:  # a second interruption does not wait again
            return
        released = self._released = threading.Event()

        def release() -> None:
            try:
                self._release(reason)
            finally:
                released.set()

        self._start_timer(clock.monotonic(), release)
        released.wait(RELEASE_SECONDS)

    def _release(self, reason: str) -> None:
        """Give up the lease of a durable run that is interrupted."""
        assert self._journal is not None
        try:
            batch = self._last_batch
            self._journal.release(None if batch is None else self._add_spent(batch), reason)
        except Exception as error:
            logger.warning(
                "run %s: its lease could not be given up, and ends by itself: %s",
                self.id,
                describe_error(error),
                extra=self._extra(),
            )

    def snapshot(self) -> RunSnapshot:
        """Return the present state of the run, for a display."""
        budget = self._budget
        dollars = 0.0
        if budget is not None:
            dollars = budget.spent.dollars - self._dollars_before
        return self.engine.snapshot(self._name, dollars)

    @property
    def in_forked_child(self) -> bool:
        """Return whether the run is the parent process's; its lock may never be free here."""
        return os.getpid() != self._process

    def mark_closing(self) -> None:
        """Note that the run is about to be closed: the next run of its graph waits for that."""
        self._graph_lock.closing = True

    def close_from_finalizer(self, reason: str, wait: bool = False) -> None:
        """Cancel from a destructor, or from the end of a generator, which may be a destructor.

        The garbage collector may call this at any moment, on any thread, with any locks held. To
        end the run here could deadlock: it may start a thread, and the interrupted code may hold
        the lock that `threading` needs for that. So another thread ends the run, and the next run
        of the graph waits for that. An inline run has no other thread, and its callbacks have to
        be called on this one.

        wait: whether to wait for the end, at most FINALIZER_TIMEOUT seconds; for that of a durable
            run also RELEASE_SECONDS.
        """
        if self.in_forked_child or self.result is not None:
            return
        self.mark_closing()
        here = self.inline and not self.engine.in_step
        if not here or not self.engine.lock.acquire(timeout=FINALIZER_TIMEOUT):
            self._start_timer(0.0, lambda: self.end(reason))
            if wait and not self.engine.in_step:
                longer = RELEASE_SECONDS if self._journal is not None else 0.0
                self._graph_lock.released.wait(FINALIZER_TIMEOUT + longer)
            return
        if self._journal is not None:
            self._detach()
            self._releases = False  # no other thread sees the end of an inline run
        try:
            self.engine.end(reason)
            self._finish()
        finally:
            self.engine.lock.release()
        self.cancellation.cancel(reason)
        self._apply_effects()
        if self._journal is not None:
            self._release_in_background(reason)

    # Effects

    def _apply_effects(self, batch_number: Optional[int] = None) -> None:
        """Carry out the effects that the engine recorded. Called without the engine's lock.

        batch_number: as for `_save`; default None.
        """
        effects = self._effects
        effects.pending = False  # first: effects that are added from now on set it again
        try:
            if self._journal is not None and not self._write_journal(batch_number):
                return
            if effects.result is not None and self.result is None and not self._releases:
                # Another thread may have recorded it since, and still be writing it.
                if self._journal is None or self.engine.end_is_written:
                    self._finish()
            if effects.log_entries:
                self._write_log()
            if effects.wake:
                effects.wake = False
                self.bus.wake()
            if effects.abandoned:
                self._cancel_abandoned()
            if effects.cancel_reason is not None:
                reason, effects.cancel_reason = effects.cancel_reason, None
                self.cancel(reason)
            if effects.end_reason is not None:
                reason, effects.end_reason = effects.end_reason, None
                self.end(reason)
            if effects.timers:
                self._start_timers()
            if effects.span_ends:
                self._end_spans()
            if self._publishes:
                self.bus.pump()
        except BaseException:
            effects.pending = True  # the rest is done when the run is ended because of this
            raise
        if self.result is not None:  # the token and the timers must not keep the run alive
            if self._registration is not None:
                self._registration.remove()
            for timer in self._timers:
                timer.cancel()

    def _apply_effects_in_handler(self) -> None:
        """Carry out the effects on the thread of a handler, which continues."""
        self._apply_effects()
        if self._journal is not None:
            # It may have written what other workers left to it, and these have returned since.
            self.backend.ensure_workers(self)

    def _write_journal(self, batch_number: Optional[int]) -> bool:
        """Write what has changed in a durable run. Return whether to carry out the effects.

        They follow what is written. Only the cancellation of attempts does not wait for it.
        batch_number: as for `_save`.
        """
        if not self.engine.needs_saving:
            return True
        if self._effects.abandoned:
            self._cancel_abandoned()
        try:
            saved = self._save(batch_number)
            if saved and self.engine.state.parked:
                self.check_waits()
            return saved
        except Exception as error:
            if self.engine.is_kept:  # otherwise the release of the lease came first
                self.fail(error)
            return True

    def _cancel_abandoned(self) -> None:
        """Cancel abandoned attempts, and have their workers replaced."""
        effects = self._effects
        with self.engine.lock:
            abandoned, effects.abandoned = effects.abandoned, []
        try:
            while abandoned:
                attempt = abandoned[-1]
                attempt.cancellation.cancel(str(attempt.abandoned))
                self.backend.replace_worker(attempt)
                abandoned.pop()
        finally:
            if abandoned:  # Ctrl-C: the rest is done when the run is ended because of it
                with self.engine.lock:
                    effects.abandoned += abandoned

    def _start_timers(self) -> None:
        timers = self._effects.timers
        while timers:
            try:
                moment, attempt = timers.popleft()
            except IndexError:  # another thread has taken it
                return
            if attempt is None:
                self._add_timer(moment, self._release_due)
            else:
                self._start_timeout(moment, attempt)

    def _start_timeout(self, moment: float, attempt: Attempt) -> None:
        attempt.timer = timer = self._start_timer(moment, lambda: self._expire(attempt))
        if not self.engine.is_running(attempt):  # the engine has not seen the timer
            timer.cancel()

    def _finish(self) -> None:
        """Publish the result. If Ctrl-C interrupts this, the end of the run calls it again."""
        with self.engine.lock:
            result = self._effects.result
            if result is None or self.result is not None:
                return
            self._on_finished(self, result)
            release(self.engine.state.nodes, self._graph_lock)
            self._graph_lock.released.set()
            if self._publishes:
                self._publish_end(result)
            if self._hooks is not None:
                self._effects.end_span(self, result, None)
            self._effects.log(result)
            self.result = result
            self._effects.wake_waiters()

    def _publish_end(self, result: RunResult) -> None:
        if not self.publisher.has_finished:  # an interrupted call may have published it
            self._effects.publish(RunFinished, result)
        self.bus.set_ended()

    def _end_spans(self) -> None:
        """Report the ends of spans in their order, from one thread at a time.

        So the end of the run is the last one.
        """
        span_ends = self._effects.span_ends
        while span_ends and self._ending_spans.acquire(False):
            try:
                while span_ends:
                    owner, result, error = span_ends[0]
                    if owner.watch is not None:
                        owner.watch.end(result, error)
                    span_ends.popleft()  # last: waiting threads wait until it is empty
            finally:
                self._ending_spans.release()
        self.bus.wake()

    # The log

    def _write_log(self) -> None:
        """Log the entries of the effects in their order, from one thread at a time."""
        entries = self._effects.log_entries
        while entries and self._logging.acquire(False):
            try:
                while entries:
                    entry = entries[0]
                    if isinstance(entry, AttemptFailure):
                        self._log_failure(entry)
                    else:
                        self._log_end(entry)
                    entries.popleft()  # last: waiting threads wait until it is empty
            finally:
                self._logging.release()
        self.bus.wake()

    def _extra(self, attempt: Optional[Attempt] = None) -> Dict[str, Any]:
        """Return the attributes of a log record about the run or about an attempt."""
        if attempt is None:
            return {"run_id": self.id}
        return {"run_id": self.id, "task": attempt.name, "attempt": attempt.number}

    def _log_start(self, attempt: Attempt) -> None:
        visit = f", visit {attempt.visit}" if attempt.visit > 1 else ""
        logger.debug(
            "task %r started: attempt %d%s",
            attempt.name,
            attempt.number,
            visit,
            extra=self._extra(attempt),
        )

    def _log_return(self, attempt: Attempt, outcome: Outcome) -> None:
        assert attempt.start is not None
        logger.debug(
            "the handler of task %r returned after %.3f s: %s",
            attempt.name,
            time.perf_counter() - attempt.start,
            outcome.status.name,
            extra=self._extra(attempt),
        )

    def _log_failure(self, failure: AttemptFailure) -> None:
        attempt = failure.attempt
        error = describe_error(failure.error)
        retry = attempt.node.retry
        if failure.wait is None or retry is None:
            logger.info("task %r failed: %s", attempt.name, error, extra=self._extra(attempt))
            return
        logger.info(
            "task %r failed: %s; attempt %d of %d starts in %.1f s",
            attempt.name,
            error,
            attempt.number + 1,
            retry.attempts,
            failure.wait,
            extra=self._extra(attempt),
        )

    def _log_end(self, result: RunResult) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        reason = self.cancellation.reason
        counts = collections.Counter(task.status for task in result.tasks.values())
        names = {status: status.name for status in TaskStatus}
        names[TaskStatus.WAITING] = "skipped"
        counted = [f"{counts[status]} {names[status]}" for status in names if counts[status]]
        if result.usage.total_tokens:
            counted.append(f"{result.usage.total_tokens} tokens")
        interrupted = self._journal is not None and not self.engine.is_kept and not result.restored
        logger.info(
            "run %s %s after %.2f s: %s%s",
            self.id,
            "was interrupted" if interrupted else f"is {result.status.name}",
            result.duration,
            ", ".join(counted) or "no tasks",
            "" if reason is None else f"; it ended early: {reason}",
            extra=self._extra(),
        )
        if logger.isEnabledFor(logging.DEBUG):
            for name in result.skipped:
                extra = dict(self._extra(), task=name)
                logger.debug("task %r was skipped", name, extra=extra)


def _unreadable(attempt: Attempt, error: BaseException) -> TypeError:
    """Return the error of a task whose result this process cannot read."""
    unreadable = TypeError(
        f"what the process of {attempt.name!r} has sent back cannot be read here "
        f"({format_error(error)}): its classes have to be importable in both processes"
    )
    unreadable.__cause__ = error
    return unreadable
