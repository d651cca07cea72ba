"""What happens in a run, as it happens: typed events, each with a copy of its task and the time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Optional

from asimov_sync.messages import Event
from asimov_sync.tasks import Task

if TYPE_CHECKING:
    from asimov_sync.graph.results import RunResult

__all__ = ["RunFinished", "TaskFinished", "TaskProgress", "TaskRetried", "TaskSkipped", "TaskStarted", "TaskText"]


@dataclass
class TaskStarted(Event):
    """A task went to EXECUTING. time: seconds since the epoch, here and below. attempt, visit: which one it is, from 1 on."""

    __slots__ = ("attempt", "name", "task", "time", "visit")
    type = "task_started"
    name: str
    task: Task
    time: float
    attempt: int
    visit: int


@dataclass
class TaskProgress(Event):
    """A handler called `context.report`. fraction: 0 to 1, or None where it cannot say."""

    __slots__ = ("fraction", "name", "task", "text", "time")
    type = "task_progress"
    name: str
    task: Task
    time: float
    fraction: Optional[float]
    text: str


@dataclass
class TaskText(Event):
    """A piece of text arrived of a reply that the task asked a model for.

    reply: which of the attempt's replies, from 1 on. One that was cut and is asked for again has a new number, and its text
    begins anew.
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
    """An attempt failed and is to be made again after `wait` seconds; the task is WAITING till then."""

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
    """A task was settled: COMPLETE, PARTIAL or FAILED. A loop may start it again."""

    __slots__ = ("name", "task", "time")
    type = "task_finished"
    name: str
    task: Task
    time: float


@dataclass
class TaskSkipped(Event):
    """A task will not be started, for this reason; it stays WAITING. A loop may start it after all."""

    __slots__ = ("name", "reason", "task", "time")
    type = "task_skipped"
    name: str
    task: Task
    time: float
    reason: str


@dataclass
class RunFinished(Event):
    """The run is over. Always the last event."""

    __slots__ = ("result", "time")
    type = "run_finished"
    result: "RunResult"
    time: float

    def to_dict(self) -> Dict[str, Any]:
        """The type, the time and the whole result, as JSON can hold them."""
        return {"type": self.type, "time": self.time, "result": self.result.to_dict()}
