"""What a handler is given beside its task, and what is current while it runs."""

from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

from asimov_sync.cache.contract import Cache
from asimov_sync.cancellation import Cancellation
from asimov_sync.metering import METERS, Meter
from asimov_sync.tasks import Task, TaskStatus

if TYPE_CHECKING:
    from asimov_sync.graph.run import Run

__all__ = ["TaskContext", "execute"]


class TaskContext:
    """What a handler is given beside its task.

    name, run_id: which task of which run. inputs: the results of its dependencies by name, in the order of depends_on.
    failed: why dependencies brought no result, for a task that allows failure. cancellation: cancelled when the run is.
    """

    __slots__ = ("_run", "cancellation", "failed", "inputs", "meter", "name", "place")

    def __init__(self, run: "Run", place: int) -> None:
        node = run.state.nodes[place]
        self._run = run
        self.place = place  # in the plan
        self.name = node.name
        self.cancellation = Cancellation(parent=run.cancellation)
        self.meter = Meter()
        self.inputs: Dict[str, Any] = {}
        for dependency in node.dependencies:
            before = run.state.nodes[dependency]
            status, result, _ = before.task.snapshot()
            if status in (TaskStatus.COMPLETE, TaskStatus.PARTIAL):
                self.inputs[before.name] = result
        self.failed: Dict[str, str] = run.state.failed_dependencies(place) if node.allow_failure else {}

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._run.id

    @property
    def cache(self) -> Cache:
        """A namespace of the scheduler's cache that belongs to the run."""
        return self._run.scheduler.cache.with_prefix("run").with_prefix(self._run.id)

    def report(self, fraction: Optional[float] = None, text: str = "") -> None:
        """Tell how far the task is (0 to 1, or None) and what it is about; a TaskProgress event to those who watch."""
        self._run.report(self.place, fraction, text)


def execute(handler: Callable[[Task, TaskContext], Any], context: TaskContext, task: Task) -> Any:
    """Call a handler with the task's cancellation and meters as the current ones."""
    METERS.set(METERS.get() + (context._run.meter, context.meter))
    with context.cancellation:
        return handler(task, context)
