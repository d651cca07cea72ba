"""The events of a run. Each has the time; those of tasks have a copy of the task at that moment."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Optional

from asimov_sync.messages import Event
from asimov_sync.tasks import Task

if TYPE_CHECKING:
    from asimov_sync.graph.results import RunResult

__all__ = [
    "RunFinished",
    "TaskFinished",
    "TaskProgress",
    "TaskRetried",
    "TaskSkipped",
    "TaskStarted",
    "TaskText",
]


@dataclass
class TaskStarted(Event):
    """An attempt started: the task is EXECUTING.

    name, task: the task's name in the run, and a copy of the task; as in all events of tasks.
    time: seconds since the epoch; as in all events.
    attempt, visit: counted from 1.
    """

    __slots__ = ("attempt", "name", "task", "time", "visit")
    type = "task_started"
    name: str
    task: Task
    time: float
    attempt: int
    visit: int


@dataclass
class TaskProgress(Event):
    """A handler called `context.report`, or a generator handler yielded a value.

    fraction: 0 to 1, or None if it is unknown.
    text: what the handler said about it.
    data: any value; that which the generator yielded. None if there is none.
    """

    __slots__ = ("data", "fraction", "name", "task", "text", "time")
    type = "task_progress"
    name: str
    task: Task
    time: float
    fraction: Optional[float]
    text: str
    data: Any


@dataclass
class TaskText(Event):
    """A piece of text of a reply arrived, from any model that the task called.

    reply: the number of the reply within the attempt, from 1. A reply that was interrupted and is
        requested again gets a new number, and its text starts from the beginning.
    """

    __slots__ = ("name", "reply", "task", "text", "time")
    type = "task_text"
    name: str
    task: Task
    time: float
    text: str
    reply: int


@dataclass
class TaskRetried(Event):
    """An attempt failed and will be repeated; the task is WAITING until then.

    attempt: the number of the failed attempt.
    error: its error.
    wait: the seconds until the next attempt.
    """

    __slots__ = ("attempt", "error", "name", "task", "time", "wait")
    type = "task_retried"
    name: str
    task: Task
    time: float
    attempt: int
    error: str
    wait: float


@dataclass
class TaskFinished(Event):
    """A task is COMPLETE, PARTIAL or FAILED. A loop may start it again."""

    __slots__ = ("name", "task", "time")
    type = "task_finished"
    name: str
    task: Task
    time: float


@dataclass
class TaskSkipped(Event):
    """A task will not run, for this reason; it stays WAITING. A loop may start it after all."""

    __slots__ = ("name", "reason", "task", "time")
    type = "task_skipped"
    name: str
    task: Task
    time: float
    reason: str


@dataclass
class RunFinished(Event):
    """The run ended. Always the last event."""

    __slots__ = ("result", "time")
    type = "run_finished"
    result: "RunResult"
    time: float

    def to_dict(self) -> Dict[str, Any]:
        """Return the type, the time and the whole result as JSON-safe values."""
        return {"type": self.type, "time": self.time, "result": self.result.to_dict()}
