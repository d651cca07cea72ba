"""TaskContext: the second argument of a handler, beside its task."""

from typing import Any, Callable, Iterable, Mapping, Optional, Sequence, Union

from asimov_sync.cache.base import Cache
from asimov_sync.concurrency import scope
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.functions import make_task
from asimov_sync.graph.node import DEFAULT_MAX_VISITS, Dependencies, Node, When, make_node
from asimov_sync.graph.retry import Retry
from asimov_sync.tasks import Task

__all__ = ["Handler", "Middleware", "RunServices", "TaskContext", "current_context"]

Handler = Callable[[Task, "TaskContext"], Any]
Middleware = Callable[[Callable[..., Any], Task, "TaskContext"], Any]


class RunServices:
    """The part of a run that a TaskContext uses."""

    def open_cache(self) -> Cache:
        """Return the run's namespace of the scheduler's cache."""
        raise NotImplementedError

    def report(self, attempt: Attempt, fraction: Optional[float], text: str, data: Any) -> None:
        """Publish the progress of an attempt."""
        raise NotImplementedError

    def check_route(self, attempt: Attempt, names: Sequence[str]) -> None:
        """Raise GraphError if the attempt's task cannot return a Route to these names."""
        raise NotImplementedError

    def spawn(self, attempt: Attempt, node: Node, before_dependents: bool) -> Task:
        """Add a task on behalf of an attempt, and return it."""
        raise NotImplementedError


class TaskContext:
    """The second argument of a handler, beside its task. Each attempt has its own.

    name, run_id: the name of the task in the run, and the id of the run.
    inputs: the results of the task's dependencies by name, in the order of depends_on.
    partial: for each dependency with a Partial result, by name, the error of the Partial.
    failed: for each dependency that failed, or was skipped because of a failure, the reason.
    skipped: for each dependency that did not run, the reason; it was skipped or ruled out.
    feedback: the results of the Routes that went back to this task, by the name of their tasks.
    attempt, visit: counted from 1.
    cancellation: is cancelled when the run is, or when the attempt's time-out expires.
    """

    __slots__ = (
        "_attempt",
        "_services",
        "attempt",
        "cancellation",
        "failed",
        "feedback",
        "inputs",
        "name",
        "partial",
        "run_id",
        "skipped",
        "visit",
    )

    def __init__(self, attempt: Attempt, services: RunServices) -> None:
        self._attempt = attempt
        self._services = services
        self.name = attempt.name
        self.run_id = attempt.run_id
        self.inputs = attempt.inputs
        self.partial = attempt.partial
        self.failed = attempt.failed
        self.skipped = attempt.skipped
        self.feedback = attempt.feedback
        self.attempt = attempt.number
        self.visit = attempt.visit
        self.cancellation = attempt.cancellation

    @property
    def cache(self) -> Cache:
        """The run's namespace of the scheduler's cache."""
        return self._services.open_cache()

    def spawn(
        self,
        task: "Union[Task, Handler]",
        *,
        objective: str = "",
        params: Optional[Mapping[str, Any]] = None,
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = DEFAULT_MAX_VISITS,
        always: bool = False,
        middleware: "Iterable[Middleware]" = (),
        before_dependents: bool = False,
    ) -> Task:
        """Add a task to the run, but not to the graph; it starts when its dependencies are done.

        The task may depend on any task of the run, this one included. It belongs to this attempt:
        if the attempt is retried, or a loop resets this task, the spawned task is revoked.

        before_dependents: whether the tasks that depend on this one depend on the new task as
            well: they start after it and find its result in their inputs. Tasks that this one
            spawns are not among them. Default False.

        The other arguments are those of `TaskGraph.add`. Returns the task. Raises GraphError if
        the name or the task is in the run already, for an unknown dependency, a type without a
        handler, or a task that would wait for itself, and if the run has `max_tasks` already.
        """
        new, handler = make_task(task, objective, params)
        node = make_node(
            new,
            "" if name is None else name,
            depends_on,
            when,
            allow_failure,
            retry,
            timeout,
            max_visits,
            self._attempt.node.namespaces,
            handler,
            middleware,
            always,
        )
        return self._services.spawn(self._attempt, node, before_dependents)

    def report(self, fraction: Optional[float] = None, text: str = "", *, data: Any = None) -> None:
        """Publish the progress of the task as a TaskProgress event.

        fraction: 0 to 1; None if it is unknown.
        text: what the task is doing.
        data: any value, for the readers of the event; default None.
        """
        self._services.report(self._attempt, fraction, text, data)

    def check_route(self, names: Sequence[str]) -> None:
        """Raise GraphError if a Route to one of these tasks would be invalid.

        A handler that pays for its decision calls this first.

        names: names of tasks, each of which has to depend on this task or come before it.
        """
        self._services.check_route(self._attempt, names)

    def __dir__(self) -> Iterable[str]:
        """List the documented attributes, which a shell completes."""
        private = ("_attempt", "_services")
        return [name for name in super().__dir__() if name not in private]

    def __repr__(self) -> str:
        return f"<TaskContext of {self.name!r}, attempt {self.attempt}>"


def current_context() -> Optional[TaskContext]:
    """Return the TaskContext of the handler that is running; None outside of handlers.

    It is also returned in tools, nested agents and `when` conditions, on any thread that the
    library starts for them. On a thread that the handler starts itself, it is returned only inside
    a copy of the handler's context (`contextvars.copy_context`).
    """
    context: Optional[TaskContext] = scope.current().task_context
    return context
