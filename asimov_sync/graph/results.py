"""What came of a run."""

from typing import Any, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

from asimov_sync._json import to_jsonable
from asimov_sync.errors import RunFailed
from asimov_sync.graph.phases import COMPLETE, FAILED, PARTIAL, RULED_OUT, SKIPPED, TAKEN_BACK, Phase
from asimov_sync.graph.state import RunState
from asimov_sync.messages import Usage
from asimov_sync.tasks import Task, TaskStatus

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
    """What came of one call of a handler. route: the names of a Route. wait: the seconds until it is to be tried again."""

    status: TaskStatus
    result: Any = None
    error: Optional[str] = None
    exception: Optional[BaseException] = None
    route: Optional[Sequence[str]] = None
    wait: Optional[float] = None


class RunResult:
    """What came of a run: a status, and by task name the results, errors and the rest.

    status: COMPLETE if every task is that was not ruled out; FAILED if none brought a result; PARTIAL otherwise.
    run_id; usage: all tokens of the run; duration: in seconds, from submit to end.

    A result can be copied, and pickled if its results and exceptions can.
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
    ) -> None:
        # Whatever is looked at is made of these when it is asked for: a run of many tasks ends at once.
        self._nodes = state.nodes
        self._phases = state.phases
        self._results = state.results
        self._errors = state.errors
        self._exceptions = {place: error for place, error in exceptions.items() if state.phases[place] is FAILED}
        self._seconds = seconds
        self._usages = usages
        self._tasks: Optional[Dict[str, Task]] = None
        self.status = state.status
        self.run_id = run_id
        self.usage = usage
        self.duration = duration

    def __getstate__(self) -> Dict[str, Any]:
        """Leave out the conditions and retry policies: no method needs them, and a lambda cannot be pickled."""
        nodes = [node._replace(when=None, retry=None) for node in self._nodes]
        return dict(self.__dict__, _nodes=nodes)

    def _named(self, *phases: Phase) -> Iterator[Tuple[str, int]]:
        """The names and places of the tasks that ended in one of these phases."""
        for place, phase in enumerate(self._phases):
            if phase in phases:
                yield self._nodes[place].name, place

    @property
    def results(self) -> Dict[str, Any]:
        """The result of every task that brought one: COMPLETE and PARTIAL."""
        return {name: self._results[place] for name, place in self._named(COMPLETE, PARTIAL)}

    @property
    def tasks(self) -> Dict[str, Task]:
        """A copy of every task as the run left it; a later run of the same graph does not change it."""
        if self._tasks is None:
            ends = (COMPLETE, PARTIAL, FAILED)
            self._tasks = {
                node.name: node.task.model_copy(
                    update={
                        "status": phase.status,
                        "result": self._results[place],
                        "error": self._errors[place] if phase in ends else None,
                    }
                )
                for place, (node, phase) in enumerate(zip(self._nodes, self._phases))
                if phase is not TAKEN_BACK
            }
        return self._tasks

    @property
    def errors(self) -> Dict[str, str]:
        """What went wrong with each FAILED and PARTIAL task."""
        return {name: self._errors[place] or "" for name, place in self._named(FAILED, PARTIAL)}

    @property
    def exceptions(self) -> Dict[str, BaseException]:
        """The exception of each FAILED task."""
        return {self._nodes[place].name: self._exceptions[place] for place in sorted(self._exceptions)}

    @property
    def skipped(self) -> Dict[str, str]:
        """Why each task that was not started was not: skipped, or ruled out by a Route or a `when`."""
        return {name: self._errors[place] or "" for name, place in self._named(SKIPPED, RULED_OUT)}

    @property
    def usages(self) -> Dict[str, Usage]:
        """The tokens that each started task used, its agents and tools included."""
        return {name: self._usages.get(place) or Usage() for name, place in self._started()}

    @property
    def durations(self) -> Dict[str, float]:
        """How many seconds each started task took, in all its attempts together."""
        return {name: self._seconds[place] for name, place in self._started()}

    def _started(self) -> Iterator[Tuple[str, int]]:
        for place, phase in enumerate(self._phases):
            if place in self._seconds and phase is not TAKEN_BACK:
                yield self._nodes[place].name, place

    def raise_for_failure(self) -> None:
        """RunFailed if the run is FAILED or PARTIAL, chained to the exception that came first."""
        if self.status is TaskStatus.COMPLETE:
            return
        told = ["{}: {}".format(name, error) for name, error in self.errors.items()]
        told += ["{}: skipped, {}".format(self._nodes[place].name, self._errors[place]) for _, place in self._named(SKIPPED)]
        shown = "; ".join(told[:5]) + ("; and {} more".format(len(told) - 5) if len(told) > 5 else "")
        cause = next(iter(self._exceptions.values()), None)
        raise RunFailed("the run is {}: {}".format(self.status.name, shown)) from cause

    def to_dict(self) -> Dict[str, Any]:
        """The whole of it, as JSON can hold it; a result that JSON cannot hold becomes its repr."""
        told = {
            "run_id": self.run_id,
            "status": self.status,
            "results": None,
            "errors": self.errors,
            "skipped": self.skipped,
            "usage": self.usage,
            "duration": self.duration,
        }
        results = {name: to_jsonable(result) for name, result in self.results.items()}  # one that is a cycle is no loss to others
        return dict({name: to_jsonable(value) for name, value in told.items()}, results=results)

    def __repr__(self) -> str:
        whole = len(self._phases) - self._phases.count(TAKEN_BACK)
        return "<RunResult: {}, {} of {} tasks with a result>".format(self.status.name, len(self.results), whole)
