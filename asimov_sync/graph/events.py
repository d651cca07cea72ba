"""What happens in a run, as it happens: typed events, each with a copy of its task and the time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Dict, Optional

from asimov_sync.messages import Event
from asimov_sync.tasks import Task

if TYPE_CHECKING:
    from asimov_sync.graph.results import RunResult

__all__ = ["RunFinished", "TaskFinished", "TaskProgress", "TaskSkipped", "TaskStarted"]


@dataclass
class TaskStarted(Event):
    """A task went to EXECUTING. time: seconds since the epoch, here and below."""

    __slots__ = ("name", "task", "time")
    type = "task_started"
    name: str
    task: Task
    time: float


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
class TaskFinished(Event):
    """A task was settled: COMPLETE, PARTIAL or FAILED."""

    __slots__ = ("name", "task", "time")
    type = "task_finished"
    name: str
    task: Task
    time: float


@dataclass
class TaskSkipped(Event):
    """A task will not be started, for this reason; it stays WAITING."""

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
