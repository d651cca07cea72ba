"""A TaskContext without a run, for unit tests of handlers."""

import threading
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

from asimov_sync._json import to_jsonable
from asimov_sync.cache.base import Cache
from asimov_sync.cache.memory import MemoryCache
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import GraphError
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.context import RunServices, TaskContext
from asimov_sync.graph.inputs import Inputs
from asimov_sync.graph.journal import Answer, Wait
from asimov_sync.graph.node import Node
from asimov_sync.graph.state import RunState
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.tasks import Task

__all__ = ["RecordingContext", "Report", "task_context"]


class Report(NamedTuple):
    """The arguments of one call of `context.report`."""

    fraction: Optional[float]
    text: str
    data: Any


class RecordingContext(TaskContext):
    """The context that `task_context` returns; it keeps what a handler does with it.

    reports: a Report for each call of `report`, in order.
    spawned: the tasks of `spawn` by name. They do not run.
    waits: what the handler waits for, as it passed it to `wait_for`.
    """

    __slots__ = ("reports", "spawned", "waits")

    def __init__(self, attempt: Attempt, services: "_Recorder") -> None:
        super().__init__(attempt, services)
        self.reports: List[Report] = services.reports
        self.spawned: Dict[str, Task] = services.spawned
        self.waits: List[Wait] = services.waits


def task_context(
    *,
    inputs: Optional[Mapping[str, Any]] = None,
    partial: Optional[Mapping[str, str]] = None,
    failed: Optional[Mapping[str, str]] = None,
    skipped: Optional[Mapping[str, str]] = None,
    feedback: Optional[Mapping[str, Any]] = None,
    answers: Optional[Mapping[str, Any]] = None,
    name: str = "task",
    run_id: str = "test",
    attempt: int = 1,
    visit: int = 1,
    cache: Optional[Cache] = None,
    cancellation: Optional[Cancellation] = None,
) -> RecordingContext:
    """Return a context with which a test calls a handler: `handler(task, task_context(…))`.

    inputs, partial, failed, skipped, feedback: the attributes of the context; default empty.
    answers: the answers to `wait_for` by the names of the waits; a wait without one raises Parked,
        as in a durable run. Default None: as in a run that is not durable, `wait_for` is a
        GraphError. In both cases `step` calls its function once for each name.
    name, run_id, attempt, visit: the attributes of the context.
    cache: the context's cache; by default a MemoryCache of its own.
    cancellation: the token of the attempt; by default a new one.

    The context belongs to the thread of this call.
    """
    graph = TaskGraph()
    graph.add(Task(type=name), name=name)
    token = cancellation if cancellation is not None else Cancellation()
    one = Attempt(run_id, 0, RunState(graph.plan()), token, None)
    one.inputs = Inputs(inputs or {})
    one.inputs.task_name = name
    one.partial, one.failed = dict(partial or {}), dict(failed or {})
    one.skipped, one.feedback = dict(skipped or {}), dict(feedback or {})
    one.number, one.visit, one.cancellation = attempt, visit, token
    one.thread = threading.get_ident()
    return RecordingContext(one, _Recorder(cache, answers))


class _Recorder(RunServices):
    """Stands in for the run of a context, in memory.

    cache, answers: those of `task_context`.
    """

    def __init__(self, cache: Optional[Cache], answers: Optional[Mapping[str, Any]]) -> None:
        self.reports: List[Report] = []
        self.spawned: Dict[str, Task] = {}
        self.waits: List[Wait] = []
        self._cache = cache
        self._answers = answers
        self._steps: Dict[str, Any] = {}
        self._entries: Dict[str, List[Any]] = {}

    def open_cache(self) -> Cache:
        if self._cache is None:
            self._cache = MemoryCache()
        return self._cache

    def report(self, attempt: Attempt, fraction: Optional[float], text: str, data: Any) -> None:
        self.reports.append(Report(fraction, text, data))

    def check_route(self, attempt: Attempt, names: Sequence[str]) -> None:
        pass

    def spawn(self, attempt: Attempt, node: Node, before_dependents: bool) -> Task:
        name = node.name or f"{attempt.name}/{len(self.spawned) + 1}"
        if name in self.spawned:
            raise GraphError(f"{name!r} was spawned already")
        self.spawned[name] = node.task
        return node.task

    def run_step(self, attempt: Attempt, name: str, call: Callable[[], Any]) -> Any:
        if name not in self._steps:
            self._steps[name] = self.keep_value(call())
        return self._steps[name]

    def read_entries(self, attempt: Attempt, kind: str) -> Optional[List[Any]]:
        return None if self._answers is None else self._entries.get(kind, [])

    def append_entry(self, attempt: Attempt, kind: str, value: Any) -> None:
        self._entries.setdefault(kind, []).append(value)

    def keep_value(self, value: Any) -> Any:
        return value if self._answers is None else to_jsonable(value)

    def find_answers(
        self, attempt: Attempt, waits: Sequence[Wait]
    ) -> "Optional[List[Optional[Answer]]]":
        answers = self._answers
        if answers is None:
            return None
        given = [Answer(message, None, time.time()) for message in answers.values()]
        by_name = dict(zip(answers, given))
        return [by_name.get(wait.name) for wait in waits]

    def open_waits(self, attempt: Attempt, waits: Sequence[Wait]) -> None:
        self.waits.extend(waits)

    def now(self) -> float:
        return time.time()
