"""Partial, Route and RunResult: the values that handlers and runs return."""

import os
import uuid
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from asimov_sync import _drawing
from asimov_sync._json import to_jsonable
from asimov_sync.cache.base import Cache
from asimov_sync.errors import RunFailed, RunParked
from asimov_sync.graph.journal import ErrorRecord, TaskRecord, Wait
from asimov_sync.graph.state import (
    COMPLETE,
    FAILED,
    NOT_SELECTED,
    PARTIAL,
    REVOKED,
    SKIPPED,
    Phase,
    RunState,
)
from asimov_sync.graph.task_spans import TaskSpans
from asimov_sync.messages import Usage
from asimov_sync.spans import Span
from asimov_sync.tasks import Task, TaskStatus
from asimov_sync.usage import Price

__all__ = ["Outcome", "Partial", "Route", "RunResult"]

SHOWN_FAILURES = 5
"""The number of failures that the message of a RunFailed spells out."""

SHOWN_NAMES = 3
"""The number of failed tasks that the repr of a result names."""

SHOWN_CHARACTERS = 600
"""The length to which the message of a RunFailed shortens the text of each failure. Without it, the
messages of nested runs would grow without bound, since a failed run inside a task is a failure.
"""


class Partial(NamedTuple):
    """Returned by a handler that has an incomplete result: the task is PARTIAL.

    Dependents run, with the result as their input and the error in `context.partial`.

    result: the part of the result that is available.
    error: what is missing, or why.
    waits_for: what the task waits for, such as "approval". All tasks downstream are then skipped,
        even with `allow_failure=True`. Default None: dependents run.
    """

    result: Any
    error: str
    waits_for: Optional[str] = None


class Route:
    """Returned by a handler to choose what runs next.

    Of the tasks that depend directly on the task, only the named ones run. A Route that names the
    task itself, or tasks upstream of it, goes back instead: the named tasks and everything
    downstream of them run again, and find the result in `context.feedback`.

    names: the names of tasks.
    result: the task's result; default None.
    """

    __slots__ = ("names", "result")

    def __init__(self, *names: str, result: Any = None) -> None:
        self.names = names
        self.result = result

    def __eq__(self, other: object) -> bool:
        mine = (self.names, self.result)
        return isinstance(other, Route) and mine == (other.names, other.result)

    __hash__ = None  # type: ignore[assignment]  # the result may not be hashable

    def __repr__(self) -> str:
        arguments = [repr(name) for name in self.names] + [f"result={self.result!r}"]
        return f"Route({', '.join(arguments)})"


class Outcome(NamedTuple):
    """The end of one attempt.

    route: the names of a Route, if the handler returned one.
    wait: the seconds until the next attempt, if the task's Retry allows one.
    waits_for: that of the Partial, if the handler returned one.
    waits: what the task waits for, if its handler parked.
    exception_record: in a durable run, the exception as it is stored.
    """

    status: TaskStatus
    result: Any = None
    error: Optional[str] = None
    exception: Optional[BaseException] = None
    route: Optional[Sequence[str]] = None
    wait: Optional[float] = None
    waits_for: Optional[str] = None
    waits: Tuple[Wait, ...] = ()
    exception_record: Optional[ErrorRecord] = None


class RunResult:
    """The result of a run: its status, and by task name the results, errors and more.

    `result["fetch"]` or `result[task]` is the result of a task that is COMPLETE or PARTIAL. For a
    task without a result it raises RunFailed, which says why and is chained to the exception of
    the task or, if it was skipped, to that of the dependency which failed. For an unknown task it
    raises KeyError, which lists similar names.

    A RunResult can be copied, and can be pickled if the results and exceptions in it can.

    status: COMPLETE if every selected task is COMPLETE, FAILED if no task produced a result,
        otherwise PARTIAL; WAITING if a durable run is parked.
    waiting: for each task of a parked run that waits for answers, by name, the names of its waits
        or the ids of its tool calls.
    restored: whether this is the stored result of a durable run that had ended before.
    run_id: the id of the run.
    reason: why the run ended early, such as "cancelled"; None if it ended by itself.
    usage: the tokens that the whole run used.
    duration: the seconds from submit to the end; for a durable run, of all its drives together.
    """

    def __init__(
        self,
        state: RunState,
        exceptions: Dict[int, BaseException],
        seconds: Dict[int, float],
        usages: Dict[int, Usage],
        run_id: str,
        usage: Usage,
        duration: float,
        waits: Mapping[int, Sequence[Wait]] = {},
        restored: bool = False,
        spans: Optional[TaskSpans] = None,
    ) -> None:
        # The properties are computed when they are read, so that a run of many tasks ends at once.
        self._nodes = state.nodes
        self._phases = state.phases
        self._results = state.results
        self._errors = state.errors
        self._exceptions = {
            index: error for index, error in exceptions.items() if state.phases[index] is FAILED
        }
        self._seconds = seconds
        self._usages = usages
        self._spans = spans if spans is not None else TaskSpans()
        self._attempts = state.attempts
        self._visits = state.visits
        self._dependencies = state.dependencies
        self._routes = state.routes
        self._feedback = state.feedback
        self._spawned = state.spawned
        self._waits = {index: tuple(waits[index]) for index in sorted(waits)}
        self._tasks: Optional[Dict[str, Task]] = None
        self._indexes: Optional[Dict[Union[str, uuid.UUID], int]] = None
        self.status = state.status
        # A run that was stopped when nothing was left to do has not ended early.
        self.reason = None if self.status is TaskStatus.COMPLETE else state.reason
        self.run_id = run_id
        self.usage = usage
        self.duration = duration
        self.waiting: Dict[str, List[str]] = {
            state.nodes[index].name: [wait.name for wait in these]
            for index, these in self._waits.items()
        }
        self.restored = restored

    def __getstate__(self) -> Dict[str, Any]:
        """Leave out conditions, functions and values of loops: unused, and may not pickle."""
        unused: Any = {"when": None, "retry": None, "handler": None, "middleware": ()}
        nodes = [node._replace(**unused) for node in self._nodes]
        feedback = {index: dict.fromkeys(values) for index, values in self._feedback.items()}
        return dict(self.__dict__, _nodes=nodes, _feedback=feedback, _indexes=None)

    def __getitem__(self, task: Union[str, Task]) -> Any:
        index = self._find(task)
        if index is None:
            raise KeyError(self._describe_unknown(task))
        phase = self._phases[index]
        if phase is COMPLETE or phase is PARTIAL:
            return self._results[index]
        if not phase.is_final:
            raise self._make_parked(f"{self._nodes[index].name!r} has no result yet")
        happened = {FAILED: "failed", SKIPPED: "was skipped"}.get(phase, "was ruled out")
        why = _shorten(self._errors[index] or "")
        text = f"{self._nodes[index].name!r} has no result: it {happened}: {why}"
        raise self._make_error(text) from self._find_cause(index)

    # Without this, iteration and `in` would fall back to result[0], result[1] ...
    __iter__ = None

    def get(self, task: Union[str, Task], default: Any = None) -> Any:
        """Return the result of a task, or a default if the run has no result of it.

        task: the task or its name.
        default: what is returned for a task that is FAILED, was skipped, was ruled out, or is not
            in the run; default None.
        """
        index = self._find(task)
        if index is None or self._phases[index] not in (COMPLETE, PARTIAL):
            return default
        return self._results[index]

    def _find(self, task: Union[str, Task]) -> Optional[int]:
        """Return the index of a task, given by name or as a Task; None if it is not in the run."""
        if self._indexes is None:
            indexes: Dict[Union[str, uuid.UUID], int] = {}
            for index, node in enumerate(self._nodes):
                if self._phases[index] is not REVOKED:
                    indexes[node.name] = indexes[node.task.id] = index
            self._indexes = indexes
        return self._indexes.get(task.id if isinstance(task, Task) else task)

    def _describe_unknown(self, task: Union[str, Task]) -> str:
        if isinstance(task, Task):
            return f"the task {task.objective or task.type!r} is not in the run"
        import difflib  # imported here, because most programs never need it

        names = [name for name in self._indexes or () if isinstance(name, str)]
        near = difflib.get_close_matches(str(task), names)
        hint = f"; similar names: {', '.join(map(repr, near))}" if near else ""
        return f"there is no task named {task!r} in the run{hint}"

    def _find_cause(self, index: int) -> Optional[BaseException]:
        """Return the exception because of which a task has no result.

        It is the task's own, or that of the first failed task upstream of a skipped one.
        """
        walk = [index]
        seen = {index}
        for one in walk:  # grows during the walk
            if one in self._exceptions:
                return self._exceptions[one]
            if self._phases[one] is SKIPPED:
                new = [before for before in self._dependencies[one] if before not in seen]
                seen.update(new)
                walk += new
        return None

    def _make_error(self, text: str) -> RunFailed:
        error = RunFailed(text)
        error.result = self
        return error

    def _in_phase(self, *phases: Phase) -> Iterator[Tuple[str, int]]:
        """Iterate over the names and indexes of the tasks in one of these phases."""
        for index, phase in enumerate(self._phases):
            if phase in phases:
                yield self._nodes[index].name, index

    def _make_parked(self, text: str) -> RunParked:
        waits = "; ".join(f"{task!r}: {', '.join(names)}" for task, names in self.waiting.items())
        error = RunParked(
            f"{text}: run {self.run_id} waits for answers ({waits}); answer them with "
            "store.answer() or store.approve(), and run it again"
        )
        error.result = self
        error.waiting = self.waiting
        return error

    @property
    def results(self) -> Dict[str, Any]:
        """The result of each COMPLETE and PARTIAL task."""
        return {name: self._results[index] for name, index in self._in_phase(COMPLETE, PARTIAL)}

    @property
    def tasks(self) -> Dict[str, Task]:
        """A copy of each task as the run left it; later runs of the graph do not change it."""
        if self._tasks is None:
            with_error = (COMPLETE, PARTIAL, FAILED)
            self._tasks = {
                node.name: node.copy_task(
                    status=phase.status,
                    result=self._results[index],
                    error=self._errors[index] if phase in with_error else None,
                )
                for index, (node, phase) in enumerate(zip(self._nodes, self._phases))
                if phase is not REVOKED
            }
        return self._tasks

    @property
    def records(self) -> Dict[str, TaskRecord]:
        """The record of each task, as `RunRecord.tasks` has it for a stored run.

        It has the dependencies, the numbers of the last attempt and visit, what a loop or a Route
        did, and what a parked task waits for. `params` is empty, and `exception` None: see
        `exceptions`.
        """
        names = [node.name for node in self._nodes]
        spawners = {
            child: names[index] for index, children in self._spawned.items() for child in children
        }
        records = {}
        for index, (node, phase) in enumerate(zip(self._nodes, self._phases)):
            if phase is REVOKED:
                continue
            route = self._routes.get(index)
            spans: List[Span] = []
            if index in self._seconds:
                spans = self._spans.of(index, self._seconds[index], self._usages.get(index))
            attempts = [span for span in spans if span.kind == "attempt"]
            records[node.name] = TaskRecord(
                name=node.name,
                position=index,
                phase=phase.name,
                type=node.task.type,
                objective=node.task.objective,
                params="",
                depends_on=tuple(names[one] for one in self._dependencies[index]),
                visit=self._visits[index],
                attempt=self._attempts[index],
                result=self._results[index],
                error=self._errors[index],
                route=None if route is None else tuple(names[one] for one in sorted(route)),
                feedback=self._feedback.get(index, {}),
                usage=self._usages.get(index),
                seconds=self._seconds.get(index, 0.0),
                started=attempts[-1].start if attempts else None,
                ended=attempts[-1].end if attempts else None,
                spans=tuple(spans),
                spawned_by=spawners.get(index),
                waits=self._waits.get(index, ()),
            )
        return records

    @property
    def errors(self) -> Dict[str, str]:
        """The error text of each FAILED and PARTIAL task."""
        return {name: self._errors[index] or "" for name, index in self._in_phase(FAILED, PARTIAL)}

    @property
    def exceptions(self) -> Dict[str, BaseException]:
        """The exception of each FAILED task."""
        return {
            self._nodes[index].name: self._exceptions[index] for index in sorted(self._exceptions)
        }

    @property
    def skipped(self) -> Dict[str, str]:
        """Why each task that did not run was skipped, or ruled out by a Route or a `when`."""
        return {
            name: self._errors[index] or "" for name, index in self._in_phase(SKIPPED, NOT_SELECTED)
        }

    @property
    def usages(self) -> Dict[str, Usage]:
        """The tokens that each started task used, those of its agents and tools included."""
        return {name: self._usages.get(index) or Usage() for name, index in self._started()}

    @property
    def durations(self) -> Dict[str, float]:
        """The seconds that each started task took, the sum of all its attempts."""
        return {name: self._seconds[index] for name, index in self._started()}

    @property
    def spans(self) -> Dict[str, List[Span]]:
        """The attempts of each started task, with the requests and tool calls in them.

        Those of agents and nested runs are included. The last 200 of each task are kept. A durable
        run keeps no spans of attempts whose driver died.
        """
        return {
            name: self._spans.of(index, self._seconds[index], self._usages.get(index))
            for name, index in self._started()
        }

    def _started(self) -> Iterator[Tuple[str, int]]:
        for index, phase in enumerate(self._phases):
            if index in self._seconds and phase is not REVOKED:
                yield self._nodes[index].name, index

    def raise_for_failure(self) -> None:
        """Raise RunFailed, chained to the first exception, if the run is FAILED or PARTIAL.

        For a parked run it raises RunParked.

        Its message says why the run ended early, if it did, and how tasks failed. Its `result` is
        this RunResult.
        """
        if self.status is TaskStatus.COMPLETE:
            return
        if self.status is TaskStatus.WAITING:
            raise self._make_parked("the run is not over")
        failures = [f"{name}: {error}" for name, error in self.errors.items()]
        failures += [
            f"{name}: skipped, {self._errors[index]}" for name, index in self._in_phase(SKIPPED)
        ]
        parts = [] if self.reason is None else [_shorten(self.reason)]
        parts += [_shorten(failure) for failure in failures[:SHOWN_FAILURES]]
        if len(failures) > SHOWN_FAILURES:
            parts.append(f"and {len(failures) - SHOWN_FAILURES} more")
        text = "; ".join(parts)
        cause = next(iter(self._exceptions.values()), None)
        raise self._make_error(f"the run is {self.status.name}: {text}") from cause

    def to_dict(self) -> Dict[str, Any]:
        """Return the result as JSON-safe values; a value that JSON cannot hold becomes its repr.

        "tasks" has for each task by name: its type and status, the seconds and the usage of all its
        attempts, and the numbers of its last attempt and visit, which are 0 if it did not start.
        """
        values = {
            "run_id": self.run_id,
            "status": self.status,
            "reason": self.reason,
            "waiting": self.waiting,
            "results": None,
            "errors": self.errors,
            "skipped": self.skipped,
            "tasks": {
                node.name: {
                    "type": node.task.type,
                    "status": phase.status,
                    "seconds": self._seconds.get(index, 0.0),
                    "usage": self._usages.get(index) or Usage(),
                    "attempt": self._attempts[index],
                    "visit": self._visits[index],
                }
                for index, (node, phase) in enumerate(zip(self._nodes, self._phases))
                if phase is not REVOKED
            },
            "usage": self.usage,
            "duration": self.duration,
        }
        # One by one, so that a result with a cycle in it does not affect the others.
        results = {name: to_jsonable(result) for name, result in self.results.items()}
        return dict({name: to_jsonable(value) for name, value in values.items()}, results=results)

    def save_report(
        self,
        path: Union[str, "os.PathLike[str]"],
        *,
        redact: Optional[Callable[[str], str]] = None,
        prices: Optional[Mapping[str, Price]] = None,
        cache: Optional[Cache] = None,
    ) -> None:
        """Write a report of the run: one HTML file that needs no network and no other file.

        It has the graph, a timeline, the usage and the cost, and for each task its result, or its
        error with the traceback. Long texts are shortened, so that the file stays below 5 MB.

        path: the file; one that exists is replaced.
        redact: changes each text of the run but names before it is written; default none.
        prices: the price of each model, for the cost; default those of genai-prices, if it is
            installed.
        cache: the cache of the scheduler, in which agents with `keep_transcript=True` have stored
            their messages; default none.

        Raises OSError if the file cannot be written, and a CacheError if the cache fails.
        """
        text = _drawing.draw("report_of_result", self, redact=redact, prices=prices, cache=cache)
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)

    def _repr_html_(self) -> str:
        """Return a table of the tasks, for notebooks."""
        return _drawing.draw("notebook_html", self)

    def __repr__(self) -> str:
        count = len(self._phases) - self._phases.count(REVOKED)
        text = f"{self.status.name}, {len(self.results)} of {count} tasks with a result"
        failed = [name for name, _ in self._in_phase(FAILED)]
        if self.waiting:
            text += f"; waiting: {', '.join(map(repr, list(self.waiting)[:SHOWN_NAMES]))}"
        if failed:
            text += f"; failed: {', '.join(map(repr, failed[:SHOWN_NAMES]))}"
        if len(failed) > SHOWN_NAMES:
            text += f" and {len(failed) - SHOWN_NAMES} more"
        if self.reason is not None:
            text += f"; ended early: {_shorten(self.reason)}"
        return f"<RunResult: {text}>"


def _shorten(text: str) -> str:
    """Remove the middle of a long text. The end has the first of nested errors."""
    half = SHOWN_CHARACTERS // 2
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:half]} … {text[-half:]}"
