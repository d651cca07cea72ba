"""What a handler is given beside its task, and what is current while it runs."""

import contextvars
import itertools
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional, Sequence

from asimov_sync.cache.base import Cache
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import TaskTimeout
from asimov_sync.graph.nodes import MAX_VISITS, Dependencies, When, node_of
from asimov_sync.graph.retry import Retry
from asimov_sync.graph.standing import STANDING
from asimov_sync.hooks import Hooks, Watch
from asimov_sync.metering import METERS, Meter
from asimov_sync.taps import TAPS
from asimov_sync.tasks import Task
from asimov_sync.workers import Alarm

if TYPE_CHECKING:
    from asimov_sync.graph.driver import Driver

__all__ = ["Handler", "Middleware", "TaskContext", "execute", "wrapped"]

Handler = Callable[[Task, "TaskContext"], Any]
Middleware = Callable[[Callable[..., Any], Task, "TaskContext"], Any]


class TaskContext:
    """What a handler is given beside its task; each attempt has one of its own.

    name, run_id: which task of which run. inputs: the results of its dependencies by name, in the order of depends_on.
    failed: why dependencies brought no result, for a task that allows failure. feedback: what a Route that came back to this
    task brought, by the name of the task that returned it. attempt, visit: the how manieth they are, from 1 on.
    cancellation: cancelled when the run is, or the attempt's time is over.
    """

    __slots__ = (
        "_driver",
        "_replies",
        "alarm",
        "attempt",
        "cancellation",
        "deadline",
        "failed",
        "feedback",
        "inputs",
        "job",
        "left",
        "meter",
        "name",
        "node",
        "place",
        "start",
        "visit",
        "watch",
    )

    def __init__(self, driver: "Driver", place: int, job: Any) -> None:
        state = driver.state
        node = self.node = state.nodes[place]
        self._driver = driver
        self._replies: Optional["itertools.count[int]"] = None
        self.place = place  # in the plan
        self.job = job  # of the worker that may be replaced if it never comes back
        self.left: Optional[BaseException] = None  # why the run went on without it
        self.watch: Optional[Watch] = None
        self.alarm: Optional[Alarm] = None
        self.name = node.name
        self.attempt = state.attempts[place] or 1
        self.visit = state.visits[place] or 1
        self.cancellation = Cancellation(parent=driver.cancellation)
        self.meter = Meter()
        self.inputs: Dict[str, Any] = state.inputs(place) if state.dependencies[place] else {}
        self.failed: Dict[str, str] = state.failed_dependencies(place) if node.allow_failure else {}
        self.feedback: Dict[str, Any] = state.feedback.get(place) or {}
        self.start: Optional[float] = None  # not before its `when` was asked
        self.deadline: Optional[float] = None  # of the attempt's own time, which begins then, too

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self._driver.id

    @property
    def cache(self) -> Cache:
        """A namespace of the scheduler's cache that belongs to the run."""
        return self._driver.scheduler.cache.with_prefix("run").with_prefix(self._driver.id)

    def spawn(
        self,
        task: Task,
        name: Optional[str] = None,
        depends_on: Dependencies = (),
        when: Optional[When] = None,
        allow_failure: bool = False,
        retry: Optional[Retry] = None,
        timeout: Optional[float] = None,
        max_visits: int = MAX_VISITS,
    ) -> Task:
        """Add a task to the run, not to the graph, as `TaskGraph.add` does; it is started as soon as it may be.

        It may depend on anything in the run, this task included. It belongs to this attempt: if the attempt is retried, or its
        visit undone by a loop, what it spawned is taken back. GraphError for a name that is taken, a dependency that is not
        there, or a type without a handler.
        """
        options = (when, allow_failure, retry, timeout, max_visits)
        return self._driver.spawn(self, node_of(task, "" if name is None else name, depends_on, *options, self.node.scopes))

    def report(self, fraction: Optional[float] = None, text: str = "") -> None:
        """Tell how far the task is (0 to 1, or None) and what it is about; a TaskProgress event to those who watch."""
        self._driver.report(self, fraction, text)

    def tap(self) -> Callable[[str], Any]:
        """Begin a reply whose text is told as TaskText."""
        assert self._replies is not None
        number = next(self._replies)
        return lambda text: self._driver.text(self, number, text)

    def begin(self) -> None:
        """The handler is about to be called: its time begins."""
        self.start = time.perf_counter()
        if self.node.timeout is not None:
            # Not that of its token, which may be the run's; and not later than that, whom it frees is to be found overdue.
            self.deadline = time.monotonic() + self.node.timeout
            self.cancellation = Cancellation(self.node.timeout, parent=self._driver.cancellation)

    def watched(self, hooks: Hooks, own: contextvars.Context) -> bool:
        """Have the attempt watched, in its own context; False if the run has gone on without it."""
        self.watch = Watch(hooks.task, self, context=own)
        if self.left is not None:  # whoever left it may not have seen the watch
            self.watch.end(None, self.left)
        return self.left is None

    @property
    def overdue(self) -> bool:
        """Whether the attempt's own time is over."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def timed_out(self) -> TaskTimeout:
        """The error of an attempt that is overdue."""
        return TaskTimeout("{!r} took longer than {} s".format(self.name, self.node.timeout))

    def __repr__(self) -> str:
        return "<TaskContext of {!r}, attempt {}>".format(self.name, self.attempt)


def execute(function: Callable[..., Any], context: TaskContext, *args: Any) -> Any:
    """Call a handler, or a `when`, with the task's cancellation, meter and tap as the current ones, which they then stay."""
    METERS.set(METERS.get() + (context.meter,))
    STANDING.set(STANDING.get() + ((context._driver.workforce.threads, context.job),))
    if context._driver.audience.watched:
        if context._replies is None:  # made here, since tools on several threads may begin replies at once
            context._replies = itertools.count(1)
        TAPS.set(TAPS.get() + (context.tap,))
    context.cancellation.take_over()
    return function(*args)


def wrapped(handler: Handler, middleware: Sequence[Middleware]) -> Handler:
    """A handler in its layers, the first of them the outermost."""
    for layer in reversed(middleware):
        handler = _layered(layer, handler)
    return handler


def _layered(layer: Middleware, inner: Handler) -> Handler:
    def outer(task: Task, context: TaskContext) -> Any:
        def call_next(task: Task = task, context: TaskContext = context) -> Any:
            return inner(task, context)

        return layer(call_next, task, context)

    return outer
