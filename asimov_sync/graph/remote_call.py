"""The side of a worker process: calls the handler of one attempt that a run has sent.

`run_call` is what executors are given. It raises nothing that a handler raises: that travels in
the CallReport.
"""

import contextlib
import contextvars
import itertools
import os
import socket
import threading
import time
from types import GeneratorType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from asimov_sync import instrumentation
from asimov_sync._json import format_error, to_jsonable
from asimov_sync.cache.base import Cache
from asimov_sync.cache.opening import open_address
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency import scope
from asimov_sync.errors import BudgetExceeded, GraphError, Parked
from asimov_sync.graph.attempt import Attempt, failed_outcome
from asimov_sync.graph.context import RunServices, TaskContext
from asimov_sync.graph.envelope import CallEvent, CallReport, Envelope
from asimov_sync.graph.handlers import HandlerRegistry, outcome_of, run_generator
from asimov_sync.graph.inputs import Inputs
from asimov_sync.graph.journal import Answer, Wait
from asimov_sync.graph.node import Node
from asimov_sync.graph.remote_channel import CallChannel
from asimov_sync.graph.results import Outcome
from asimov_sync.graph.stored_errors import class_name, describe_exception
from asimov_sync.graph.travel import TravelCheck, dump, load_handler, restore
from asimov_sync.tasks import Task, TaskStatus
from asimov_sync.usage import UsageCounter

__all__ = ["find_process", "run_call"]

NO_STORE = (
    "the run's store is in another process: give the scheduler a cache that both share, as in "
    "TaskScheduler(…, cache=RedisCache(url=…))"
)

NO_CACHE = (
    "the scheduler's cache is in the memory of its process, or its client was made by the "
    "application, so that this process cannot open it: give the scheduler a "
    "SQLiteCache(path) or a RedisCache(url=…)"
)


def find_process() -> Tuple[str, int]:
    """Return the host and the id of this process."""
    return socket.gethostname(), os.getpid()


def run_call(call: Tuple[bytes, bytes]) -> bytes:
    """Call a handler in this process, and return the pickle of a CallReport.

    call: the pickles of a HandlerReference and of an Envelope.

    Raises KeyboardInterrupt, if Ctrl-C reaches this process.
    """
    # A context of its own: a forked process has that of the thread which forked.
    return contextvars.Context().run(_run, *call)


def _run(reference: bytes, pickled: bytes) -> bytes:
    try:
        envelope: Envelope = restore(pickled)
    except Exception as error:  # a class that this process does not have
        refusal = GraphError(f"this process cannot read what the task was sent: {error!r}")
        refusal.__cause__ = error
        outcome = Outcome(TaskStatus.FAILED, None, format_error(refusal), refusal)
        return dump(_make_report(outcome))
    return _Call(envelope).run(reference)


class _RemoteAttempt(Attempt):
    """An attempt in the process that calls its handler. Has what its TaskContext needs."""

    __slots__ = ()

    def __init__(self, envelope: Envelope) -> None:
        for name in Attempt.__slots__:  # what nothing here uses
            setattr(self, name, None)
        self.activities = ()
        self.spans = None
        node = envelope.node
        self.run_id = envelope.run_id
        self.name = node.name
        self.node = node
        self.number = envelope.number
        self.visit = envelope.visit
        self.inputs = Inputs(envelope.inputs)
        self.inputs.task_name = node.name
        self.partial = envelope.partial
        self.failed = envelope.failed
        self.skipped = envelope.skipped
        self.feedback = envelope.feedback
        self.cancellation = Cancellation(envelope.remaining, parent=None)
        self.usage_counter = UsageCounter()
        self.start = 0.0  # it has started
        self.thread = threading.get_ident()
        self.waits = ()


class _Call(RunServices):
    """One call of a handler."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._attempt = _RemoteAttempt(envelope)
        self._events: List[CallEvent] = []
        self._spawned: List[Tuple[Node, bool]] = []
        self._replies = itertools.count(1)
        self._checks = TravelCheck()
        self._channel: Optional[CallChannel] = None
        if envelope.channel is not None:
            self._channel = CallChannel(
                envelope.channel, envelope.call, self._events, self._attempt.cancellation
            )

    def run(self, reference: bytes) -> bytes:
        """Call the handler, and return the pickle of the report."""
        attempt, envelope = self._attempt, self._envelope
        spent_before = [budget.spent for budget in envelope.budgets]
        began = time.perf_counter()
        with self._channel or contextlib.nullcontext():
            outcome = self._call_handler(reference)
        try:
            result = dump(outcome.result, envelope.by_value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what its classes raise
            refusal = TypeError(
                f"the result of {attempt.name!r} cannot be sent back from its process "
                f"({format_error(error)}): return what it is made of"
            )
            refusal.__cause__ = error
            outcome = failed_outcome(attempt, refusal)
            result = dump(None)
        report = _make_report(outcome)._replace(
            result=result,
            refused_by=self._find_refusal(outcome.exception),
            usage=attempt.usage_counter.usage_or_none,
            spent=tuple(
                budget.spent.beyond(before)
                for budget, before in zip(envelope.budgets, spent_before)
            ),
            events=self._events,
            spawned=self._spawned,
            spans=tuple(span.shift(-began) for span in tuple(attempt.spans or ())),
        )
        try:
            return dump(report, envelope.by_value)
        except Exception:  # the data of an event, which becomes its JSON form
            events = [event._replace(data=to_jsonable(event.data)) for event in self._events]
            return dump(report._replace(events=events), envelope.by_value)

    def _call_handler(self, reference: bytes) -> Outcome:
        attempt, task = self._attempt, self._envelope.node.task
        context = TaskContext(attempt, self)
        try:
            handler = self._load(reference)
            result = self._call_in_scope(handler, task, context)
            if type(result) is GeneratorType:
                result = run_generator(result, context)
        except KeyboardInterrupt:
            raise  # Ctrl-C, which reaches all processes of a terminal
        except BaseException as error:
            if isinstance(error, Parked) and attempt.waits:
                return Outcome(TaskStatus.WAITING, waits=attempt.waits)
            return failed_outcome(attempt, error)
        return outcome_of(attempt, result)

    def _load(self, reference: bytes) -> Callable[..., Any]:
        try:
            loaded = load_handler(reference)
        except GraphError:
            raise
        except Exception as error:  # what the import of a module raises
            raise GraphError(
                f"the handler of {self._attempt.node.task.type!r} cannot be loaded in the "
                f"executor's process: {format_error(error)}; define it in a module that this "
                "process can import"
            ) from error
        registry = HandlerRegistry({})
        registry.middleware = loaded.middleware
        return registry.find(self._envelope.node._replace(handler=loaded.handler))

    def _call_in_scope(self, handler: Callable[..., Any], task: Task, context: TaskContext) -> Any:
        attempt, envelope = self._attempt, self._envelope
        hooks = instrumentation.installed
        if hooks is not None and hooks.attach is not None and envelope.trace:
            hooks.attach(envelope.trace)
        scope.extend(
            attempt.usage_counter,
            None,
            self._start_reply if envelope.publishes else None,
            None,
            context,
            attempt.cancellation.scope_entry,
            attempt,
        )
        for budget in envelope.budgets:
            scope.extend(budget=budget)
        return handler(task, context)

    def _start_reply(self) -> Callable[[str], None]:
        number = next(self._replies)
        return lambda text: self._events.append(CallEvent(number, text))

    def _find_refusal(self, error: Optional[BaseException]) -> Optional[int]:
        """Return the index of the budget that refused a request, if that made the handler fail."""
        seen = set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            if isinstance(error, BudgetExceeded):
                for index, budget in enumerate(self._envelope.budgets):
                    if budget is error.budget:
                        return index
            error = error.__cause__ or error.__context__
        return None

    # For the handler's context

    def open_cache(self) -> Cache:
        """Return the run's namespace of the scheduler's cache."""
        if self._envelope.cache is None:
            raise GraphError(NO_CACHE)
        return open_address(self._envelope.cache)

    def report(self, attempt: Attempt, fraction: Optional[float], text: str, data: Any) -> None:
        """Note the progress of the attempt."""
        if self._envelope.publishes:
            self._events.append(CallEvent(0, text, fraction, data))

    def check_route(self, attempt: Attempt, names: Sequence[str]) -> None:
        """Do nothing: the run checks the Route when the handler has returned it."""

    def spawn(self, attempt: Attempt, node: Node, before_dependents: bool) -> Task:
        """Note a task to add to the run when the handler has ended, and return it."""
        self._checks.check_spawned(node)
        self._spawned.append((node, before_dependents))
        return node.task

    def run_step(self, attempt: Attempt, name: str, call: Callable[[], Any]) -> Any:
        """Call a function; in a durable run, once for a visit of a task."""
        if not self._envelope.durable:
            return call()
        if self._channel is None:
            raise GraphError(f"step({name!r}) cannot commit here: {NO_STORE}")
        kind = f"step:{name}"
        for value in self._channel.ask("read", kind):
            return value
        # Another process may have taken the step meanwhile, if the executor calls twice.
        return self._channel.ask("commit", kind, call(), attempt.usage_counter.usage.model_dump())

    def read_entries(self, attempt: Attempt, kind: str) -> Optional[List[Any]]:
        """Return what was appended for this visit of a task; None if nothing can be kept."""
        if not self._envelope.durable or self._channel is None:
            return None
        values: List[Any] = self._channel.ask("read", kind)
        return values

    def append_entry(self, attempt: Attempt, kind: str, value: Any) -> None:
        """Keep a value for this visit of a task, before this returns."""
        assert self._channel is not None
        self._channel.ask("append", kind, value, attempt.usage_counter.usage.model_dump())

    def keep_value(self, value: Any) -> Any:
        """Return a value as it is given back later."""
        if not self._envelope.durable or self._channel is None:
            return value
        return self._channel.ask("keep", value)

    def open_waits(self, attempt: Attempt, waits: Sequence[Wait]) -> None:
        """Note what the task waits for. Its handler raises Parked next."""
        attempt.waits = tuple(waits)

    def now(self) -> float:
        """Return the present moment by the clock of the store."""
        assert self._channel is not None
        moment: float = self._channel.ask("now")
        return moment

    def find_answers(
        self, attempt: Attempt, waits: Sequence[Wait]
    ) -> "Optional[List[Optional[Answer]]]":
        """Return the answer to each wait, None without one; None for all if not durable."""
        if not self._envelope.durable:
            return None
        if self._channel is None:
            raise GraphError(f"{attempt.name!r} cannot wait for an answer here: {NO_STORE}")
        asked = [[wait.name, wait.call is not None] for wait in waits]
        return [
            None if answer is None else Answer(*answer)
            for answer in self._channel.ask("answers", asked)
        ]


def _make_report(outcome: Outcome) -> CallReport:
    """Return the report of an outcome, without its result and what the call has used."""
    error, record, pickled = outcome.exception, None, None
    if error is not None:
        record = describe_exception(error)
        if class_name(type(error)) is not None:
            try:
                pickled = dump(error)
            except Exception:  # an attribute that cannot be pickled
                pass
    bare = outcome._replace(result=None, exception=None)
    values: Dict[str, Any] = {"usage": None, "spent": (), "events": [], "spawned": []}
    return CallReport(bare, dump(None), record, pickled, None, **values)
