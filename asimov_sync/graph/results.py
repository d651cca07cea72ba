"""What came of a run."""

from typing import Any, Dict, List, NamedTuple, Optional

from asimov_sync.errors import RunFailed
from asimov_sync.messages import Usage, jsonable
from asimov_sync.tasks import Task, TaskSnapshot, TaskStatus

__all__ = ["Partial", "Route", "RunResult"]


class Partial(NamedTuple):
    """Returned by a handler that has a result, but not all of it: the task is PARTIAL, and its result flows on."""

    result: Any
    error: str


class Route:
    """Returned by a handler that chooses what runs next: of the task's direct dependents only those named.

    result: the task's result. A name of the task itself, or of one that it depends on, near or far, goes back there: that task
    and all that was started after it run again, and find the result in `context.feedback`.
    """

    __slots__ = ("names", "result")

    def __init__(self, *names: str, result: Any = None) -> None:
        self.names = names
        self.result = result

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Route) and (self.names, self.result) == (other.names, other.result)

    __hash__ = None  # type: ignore[assignment]  # as its result may have none

    def __repr__(self) -> str:
        return "Route({})".format(", ".join([repr(name) for name in self.names] + ["result={!r}".format(self.result)]))


class Outcome(NamedTuple):
    """What came of one call of a handler."""

    status: TaskStatus
    result: Any = None
    error: Optional[str] = None
    exception: Optional[BaseException] = None


class TaskRecord(NamedTuple):
    """What a run knows of one task at its end. seconds is None for a task that was never started."""

    name: str
    task: Task
    snapshot: TaskSnapshot
    exception: Optional[BaseException]
    skipped: Optional[str]
    usage: Usage
    seconds: Optional[float]


class RunResult:
    """What came of a run: a status, and by task name the results, errors and the rest.

    status: COMPLETE if every task is; FAILED if none brought a result; PARTIAL otherwise.
    run_id; usage: all tokens of the run; duration: in seconds, from submit to end.
    """

    def __init__(
        self,
        records: List[TaskRecord],
        status: TaskStatus,
        run_id: str,
        usage: Usage,
        duration: float,
        cause: Optional[BaseException] = None,
    ) -> None:
        self._records = records
        self._tasks: Optional[Dict[str, Task]] = None
        self._cause = cause
        self.status = status
        self.run_id = run_id
        self.usage = usage
        self.duration = duration

    @property
    def results(self) -> Dict[str, Any]:
        """The result of every task that brought one: COMPLETE and PARTIAL."""
        good = (TaskStatus.COMPLETE, TaskStatus.PARTIAL)
        return {record.name: record.snapshot.result for record in self._records if record.snapshot.status in good}

    @property
    def tasks(self) -> Dict[str, Task]:
        """A copy of every task as the run left it; a later run of the same graph does not change it."""
        if self._tasks is None:
            self._tasks = {record.name: record.task.model_copy(update=record.snapshot._asdict()) for record in self._records}
        return self._tasks

    @property
    def errors(self) -> Dict[str, str]:
        """What went wrong with each FAILED and PARTIAL task."""
        return {record.name: record.snapshot.error for record in self._records if record.snapshot.error is not None}

    @property
    def exceptions(self) -> Dict[str, BaseException]:
        """The exception of each FAILED task."""
        return {record.name: record.exception for record in self._records if record.exception is not None}

    @property
    def skipped(self) -> Dict[str, str]:
        """Why each task that was not started was not."""
        return {record.name: record.skipped for record in self._records if record.skipped is not None}

    @property
    def usages(self) -> Dict[str, Usage]:
        """The tokens that each started task used, its agents and tools included."""
        return {record.name: record.usage for record in self._records if record.seconds is not None}

    @property
    def durations(self) -> Dict[str, float]:
        """How many seconds each started task took."""
        return {record.name: record.seconds for record in self._records if record.seconds is not None}

    def raise_for_failure(self) -> None:
        """RunFailed if the run is FAILED or PARTIAL, chained to the exception that came first."""
        if self.status is TaskStatus.COMPLETE:
            return
        told = ["{}: {}".format(name, error) for name, error in self.errors.items()]
        told += ["{}: skipped, {}".format(name, reason) for name, reason in self.skipped.items()]
        shown = "; ".join(told[:5]) + ("; and {} more".format(len(told) - 5) if len(told) > 5 else "")
        raise RunFailed("the run is {}: {}".format(self.status.name, shown)) from self._cause

    def to_dict(self) -> Dict[str, Any]:
        """The whole of it, as JSON can hold it; a result that JSON cannot hold becomes its repr."""
        told = {
            "run_id": self.run_id,
            "status": self.status,
            "results": self.results,
            "errors": self.errors,
            "skipped": self.skipped,
            "usage": self.usage,
            "duration": self.duration,
        }
        return {name: jsonable(value) for name, value in told.items()}

    def __repr__(self) -> str:
        return "<RunResult: {}, {} of {} tasks with a result>".format(self.status.name, len(self.results), len(self._records))
