"""TaskContext: the second argument of a handler, beside its task."""

import contextvars
import threading
import urllib.parse
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NoReturn,
    Optional,
    Sequence,
    TypeVar,
    Union,
)

from asimov_sync.cache.base import Cache
from asimov_sync.cancellation import require_number
from asimov_sync.concurrency import scope
from asimov_sync.errors import GraphError, Parked, WaitTimeout
from asimov_sync.graph.attempt import Attempt
from asimov_sync.graph.functions import make_task
from asimov_sync.graph.journal import Answer, Wait
from asimov_sync.graph.node import DEFAULT_MAX_VISITS, Dependencies, Node, When, make_node
from asimov_sync.graph.retry import Retry
from asimov_sync.instrumentation import Activity
from asimov_sync.tasks import Task

__all__ = [
    "Entries",
    "Handler",
    "Middleware",
    "RunServices",
    "TaskContext",
    "current_context",
    "open_entries",
]

T = TypeVar("T")
_Class = type
Handler = Callable[[Task, "TaskContext"], Any]
Middleware = Callable[[Callable[..., Any], Task, "TaskContext"], Any]


class RunServices:
    """The part of a run that a TaskContext uses.

    enclosing_task: the TaskContext of the task that started the run; None outside of tasks.
    """

    enclosing_task: "Optional[TaskContext]" = None

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

    # Of a durable run

    def run_step(self, attempt: Attempt, name: str, call: Callable[[], Any]) -> Any:
        """Call a function once for a visit of a task, and return its result."""
        raise NotImplementedError

    def read_entries(self, attempt: Attempt, kind: str) -> Optional[List[Any]]:
        """Return what was appended for this visit of a task; None if the run is not durable."""
        raise NotImplementedError

    def append_entry(self, attempt: Attempt, kind: str, value: Any) -> None:
        """Keep a value for this visit of a task, before this returns."""
        raise NotImplementedError

    def keep_value(self, value: Any) -> Any:
        """Return a value as it is given back later."""
        raise NotImplementedError

    def find_answers(
        self, attempt: Attempt, waits: Sequence[Wait]
    ) -> "Optional[List[Optional[Answer]]]":
        """Return the answer to each wait, None without one; None for all if not durable."""
        raise NotImplementedError

    def open_waits(self, attempt: Attempt, waits: Sequence[Wait]) -> None:
        """Note what the task waits for. Its handler raises Parked next."""
        raise NotImplementedError

    def now(self) -> float:
        """Return the present moment by the clock of the store."""
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
        "_lists",
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
        self._lists: Optional[Dict[str, int]] = None  # how many of each kind were opened
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

    def input(self, name: str, type: Any = None) -> Any:
        """Return the result of a dependency.

        name: the name of the dependency.
        type: a type that pydantic validates the result as; default None, as it is. In a durable
            run, results are what JSON gives back, so that a model arrives as a dict.

        Raises KeyError if there is no such result, and ValidationError of pydantic.
        """
        value = self.inputs[name]
        if type is None or (isinstance(type, _Class) and isinstance(value, type)):
            return value
        from pydantic import TypeAdapter  # imported here, because most programs never need it

        return TypeAdapter(type).validate_python(value)

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

    def begin_activity(self, activity: Activity) -> None:
        """Note what the task is doing; the tasks around its run are doing it as well."""
        self._attempt.begin_activity(activity)
        if self._services.enclosing_task is not None:
            self._services.enclosing_task.begin_activity(activity)

    def end_activity(self, activity: Activity) -> None:
        """Note that the task is not doing this any more."""
        self._attempt.end_activity(activity)
        if self._services.enclosing_task is not None:
            self._services.enclosing_task.end_activity(activity)

    # Durable runs

    @property
    def idempotency_key(self) -> str:
        """A text for side effects that must not happen twice, such as a payment.

        The same for every attempt of this visit of the task, also after a crash; in a tool it
        contains the id of the call, and in a step the name of the step.
        """
        parts = [self.run_id, self.name, str(self.visit), *scope.current().operation]
        return "/".join(urllib.parse.quote(part, safe="") for part in parts)

    def step(self, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call a function and return its result. In a durable run, call it only once.

        There, the result is stored before this returns, and another call of the handler, after a
        crash, a retry or a wait, gets it without a call of the function. What is returned is what
        JSON makes of the result, the first time, too.

        name: the name of the step; the steps of a visit have different names.
        function, args, kwargs: what is called.

        Raises what the function raises, and CacheValueError if the result cannot be stored.
        """
        if not isinstance(name, str) or not name:
            raise GraphError(f"a step is named by a text, as in step('pay', pay); not {name!r}")

        def call() -> T:
            # A context of its own: the name must not outlive this call.
            return contextvars.copy_context().run(_call_step, name, function, args, kwargs)

        result: T = self._services.run_step(self._attempt, name, call)
        return result

    def wait_for(
        self,
        name: str,
        *,
        prompt: Optional[str] = None,
        data: Any = None,
        type: Any = None,
        timeout: Optional[float] = None,
    ) -> Any:
        """Return the answer to a question. Without one yet, end the handler until it is there.

        In a durable run only. The task waits without a thread, also in another process, and its
        handler starts again from the top when `store.answer` has brought the answer: what must not
        run twice goes into a `step`.

        name: the name of the wait, for `store.answer`. A wait belongs to this visit of the task.
        prompt: what to ask; default none.
        data: a JSON value to show with it; default none.
        type: a type that pydantic validates the answer as; default any JSON value.
        timeout: the seconds to wait, from the first call on; by default unlimited.

        Raises WaitTimeout if they have passed, GraphError in a run that is not durable and on a
        thread that is not the handler's own; and, to end the handler, Parked, which
        derives from BaseException.
        """
        if not isinstance(name, str) or not name:
            raise GraphError(f"a wait is named by a text, as in wait_for('review'); not {name!r}")
        if threading.get_ident() != self._attempt.thread:
            raise GraphError("wait_for() works on the handler's own thread only")
        from pydantic import TypeAdapter  # imported here, because most programs never need it

        adapter = None if type is None else TypeAdapter(type)
        schema = None if adapter is None else adapter.json_schema()
        require_number("timeout=", timeout)
        services = self._services
        wait = Wait(self.run_id, self.name, name, self.visit, prompt, None, schema)
        answers = services.find_answers(self._attempt, [wait])
        if answers is None:
            raise GraphError(
                f"{self.name!r} waits for {name!r}, and the run is not durable: give the scheduler "
                "runs=RunStore(…) and the run a run_id="
            )
        (answer,) = answers
        if answer is not None:
            return answer.message if adapter is None else adapter.validate_python(answer.message)
        if timeout is not None:
            wait = wait._replace(deadline=self._find_deadline(name, timeout))
        prompt, data = services.keep_value(prompt), services.keep_value(data)
        wait = wait._replace(prompt=prompt, data=data)
        services.open_waits(self._attempt, [wait])
        raise Parked(name)

    def _find_deadline(self, name: str, timeout: float) -> float:
        """Return the deadline of a wait. Raises WaitTimeout if it has passed."""
        # Stored at the first call: the handler may start again for another wait.
        services, kind = self._services, f"deadline:{name}"
        now = services.now()
        kept = services.read_entries(self._attempt, kind)
        deadline: float = kept[0] if kept else now + timeout
        if deadline <= now:
            raise WaitTimeout(f"nobody answered {name!r} within {timeout} s")
        if not kept:
            services.append_entry(self._attempt, kind, deadline)
        return deadline

    def check_route(self, names: Sequence[str]) -> None:
        """Raise GraphError if a Route to one of these tasks would be invalid.

        A handler that pays for its decision calls this first.

        names: names of tasks, each of which has to depend on this task or come before it.
        """
        self._services.check_route(self._attempt, names)

    def __dir__(self) -> Iterable[str]:
        """List the documented attributes, which a shell completes."""
        private = (
            "_attempt",
            "_find_deadline",
            "_lists",
            "_services",
            "begin_activity",
            "end_activity",
        )
        return [name for name in super().__dir__() if name not in private]

    def __repr__(self) -> str:
        return f"<TaskContext of {self.name!r}, attempt {self.attempt}>"


class Entries:
    """A list that a durable run keeps for one visit of a task. Library code uses it in handlers.

    attempt, services: those of the handler's context.
    kind: what the list is for.
    number: the number of the list among those of its kind, from 1.
    """

    def __init__(self, attempt: Attempt, services: RunServices, kind: str, number: int) -> None:
        self.number = number
        self._attempt = attempt
        self._services = services
        self._kind = f"{kind}:{number}"

    def read(self) -> List[Any]:
        """Return the values that were appended so far, in earlier drives too."""
        return self._services.read_entries(self._attempt, self._kind) or []

    def append(self, value: Any) -> Any:
        """Keep a value before this returns, and return it as `read` does.

        value: a value that JSON can hold.

        Raises CacheValueError if it cannot be stored.
        """
        kept = self._services.keep_value(value)
        self._services.append_entry(self._attempt, self._kind, kept)
        return kept

    def find_answers(self, waits: Sequence[Wait]) -> List[Optional[Answer]]:
        """Return the answer to each wait, None without one."""
        return self._services.find_answers(self._attempt, waits) or [None for _ in waits]

    def park(self, waits: Sequence[Wait]) -> NoReturn:
        """End the handler until one of the waits is answered.

        Raises Parked, which derives from BaseException.
        """
        self._services.open_waits(self._attempt, waits)
        raise Parked(", ".join(wait.name for wait in waits))


def open_entries(context: TaskContext, kind: str) -> Optional[Entries]:
    """Return a list that the run keeps for this visit of a task; None if the run is not durable.

    A handler that starts again gets the same lists in the same order. None is also returned on
    another thread than the handler's own, where that order is not certain.

    context: the handler's context.
    kind: what the list is for.
    """
    attempt, services = context._attempt, context._services
    if attempt.thread != threading.get_ident() or services.read_entries(attempt, kind) is None:
        return None
    if context._lists is None:
        context._lists = {}
    number = context._lists[kind] = context._lists.get(kind, 0) + 1
    return Entries(attempt, services, kind, number)


def _call_step(name: str, function: Callable[..., T], args: Any, kwargs: Any) -> T:
    """Call the function of a step, for the rest of the current context."""
    scope.replace(operation=scope.current().operation + (name,))
    return function(*args, **kwargs)


def current_context() -> Optional[TaskContext]:
    """Return the TaskContext of the handler that is running; None outside of handlers.

    It is also returned in tools, nested agents and `when` conditions, on any thread that the
    library starts for them. On a thread that the handler starts itself, it is returned only inside
    a copy of the handler's context (`contextvars.copy_context`).
    """
    context: Optional[TaskContext] = scope.current().task_context
    return context
