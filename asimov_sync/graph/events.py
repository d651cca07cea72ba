"""The events of a run.

Each has the id of the run, a sequence number and the time; those of tasks have the task's name,
attempt and visit, and a copy of the task at that moment.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Dict, FrozenSet, Optional, Tuple

from asimov_sync._json import to_jsonable
from asimov_sync.graph.journal import Wait
from asimov_sync.messages import Event, Usage
from asimov_sync.tasks import Task

if TYPE_CHECKING:
    from asimov_sync.graph.results import RunResult

__all__ = [
    "RunEvent",
    "RunFinished",
    "RunStarted",
    "TaskEvent",
    "TaskFinished",
    "TaskParked",
    "TaskProgress",
    "TaskRetried",
    "TaskSkipped",
    "TaskStarted",
    "TaskText",
    "TaskUndone",
]


_JSON_TYPES = frozenset([str, int, bool, type(None)])


@dataclass
class RunEvent(Event):
    """Base of all events of a run.

    run_id: the id of the run.
    sequence: the number of the event in its run, from 1. It grows from one event to the next. Where
        events were merged for a slow reader, the numbers of all but the first are missing.
    time: seconds since the epoch.
    """

    __slots__ = ("run_id", "sequence", "time")
    run_id: str
    sequence: int
    time: float

    _left_out: ClassVar[FrozenSet[str]] = frozenset()
    """The fields that `to_dict()` leaves out unless it is full."""

    def to_dict(self, full: bool = False) -> Dict[str, Any]:
        """Return the type and the fields as values that JSON can hold.

        full: include the params of the task, and the task itself in TaskProgress and TaskText;
            default False, so that events stay small.
        """
        fields: Dict[str, Any] = {"type": self.type}
        for field in dataclasses.fields(self):
            if full or field.name not in self._left_out:
                fields[field.name] = self._jsonable(field.name, full)
        return fields

    def _jsonable(self, name: str, full: bool) -> Any:
        return to_jsonable(getattr(self, name))

    def to_log(self) -> Dict[str, Any]:
        """Return `to_dict()` for the log of a durable run, which keeps results in its tasks."""
        return self.to_dict()


@dataclass
class RunStarted(RunEvent):
    """The run started. Always the first event.

    restored: in a durable run that is continued, the names of the tasks that an earlier drive has
        finished. They have no other events in this drive.
    """

    __slots__ = ("restored",)
    type = "run_started"
    restored: Tuple[str, ...]


@dataclass
class TaskEvent(RunEvent):
    """Base of all events of a task.

    name: the name of the task in the run.
    task: a copy of the task, with the status, result and error of that moment. Its params and its
        result are the same objects as in the run, and not copies.
    attempt, visit: the numbers of the task's attempt and visit, from 1; 0 before the first.
    """

    __slots__ = ("attempt", "name", "task", "visit")
    name: str
    task: Task
    attempt: int
    visit: int

    def to_log(self) -> Dict[str, Any]:
        """Return `to_dict()` without the result and the params of the task."""
        task = self.task
        values: Dict[str, Any] = {"type": self.type}
        for field in dataclasses.fields(self):
            name = field.name
            value = getattr(self, name)
            if name == "task":
                value = {
                    "id": str(task.id),
                    "type": task.type,
                    "objective": task.objective,
                    "status": task.status.value,
                    "error": task.error,
                }
            elif type(value) not in _JSON_TYPES and name not in ("time", "seconds"):
                value = self._jsonable(name, False)
            values[name] = value
        return values

    def _jsonable(self, name: str, full: bool) -> Any:
        if name != "task":
            return super()._jsonable(name, full)
        # One by one, so that a result with a cycle in it does not affect the others.
        return {
            field: to_jsonable(getattr(self.task, field))
            for field in type(self.task).model_fields
            if full or field != "params"
        }


@dataclass
class TaskStarted(TaskEvent):
    """An attempt started: the task is EXECUTING."""

    __slots__ = ()
    type = "task_started"


@dataclass
class TaskProgress(TaskEvent):
    """A handler called `context.report`, or yielded a value. For a slow reader, only the last one
    of an attempt is kept.

    fraction: 0 to 1, or None if it is unknown.
    text: the text that the handler passed.
    data: the value that the handler yielded or passed as `data`, or None.
    """

    __slots__ = ("data", "fraction", "text")
    type = "task_progress"
    _left_out = frozenset(["task"])
    fraction: Optional[float]
    text: str
    data: Any


@dataclass
class TaskText(TaskEvent):
    """A piece of text of a reply arrived, from any model that the task called. For a slow reader,
    pieces of the same reply are joined.

    text: the piece of text. An empty one says that the reply was cut: its pieces do not count.
    reply: the number of the reply within the attempt, from 1. A reply that was cut and is requested
        again gets a new number, and its text starts from the beginning.
    """

    __slots__ = ("reply", "text")
    type = "task_text"
    _left_out = frozenset(["task"])
    text: str
    reply: int


@dataclass
class TaskRetried(TaskEvent):
    """An attempt failed and will be repeated; the task is WAITING until then.

    attempt: the number of the failed attempt.
    error: its error.
    wait: the seconds until the next attempt.
    """

    __slots__ = ("error", "wait")
    type = "task_retried"
    error: str
    wait: float


@dataclass
class TaskParked(TaskEvent):
    """A task waits for an answer, and no thread waits with it; it is WAITING until then.

    wait: what it waits for.
    """

    __slots__ = ("wait",)
    type = "task_parked"
    wait: Wait

    def _jsonable(self, name: str, full: bool) -> Any:
        return self.wait.to_dict() if name == "wait" else super()._jsonable(name, full)


@dataclass
class TaskFinished(TaskEvent):
    """A task is COMPLETE, PARTIAL or FAILED. A loop may start it again.

    seconds: how long the task took, the sum of all its attempts in the run.
    usage: the tokens that these attempts used.
    """

    __slots__ = ("seconds", "usage")
    type = "task_finished"
    seconds: float
    usage: Usage


@dataclass
class TaskSkipped(TaskEvent):
    """A task will not run; it stays WAITING. A loop may start it after all.

    reason: why it will not run.
    """

    __slots__ = ("reason",)
    type = "task_skipped"
    reason: str


@dataclass
class TaskUndone(TaskEvent):
    """The earlier events of a task do not count any more; it is WAITING again, without a result.

    reason: why: a loop went back, or the attempt that spawned the task is repeated.
    removed: True if the task was spawned, and is not part of the run any more.
    """

    __slots__ = ("reason", "removed")
    type = "task_undone"
    reason: str
    removed: bool


@dataclass
class RunFinished(RunEvent):
    """The run ended, or is parked: `result.status` is WAITING then. Always the last event.

    result: the result of the run.
    """

    __slots__ = ("result",)
    type = "run_finished"
    result: "RunResult"

    def _jsonable(self, name: str, full: bool) -> Any:
        return self.result.to_dict() if name == "result" else super()._jsonable(name, full)
