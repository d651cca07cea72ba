"""Running graphs on threads: a task starts the moment its own dependencies are done."""

import logging
import sys
import time
from concurrent.futures import Executor, Future
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple, TypeVar, Union, overload

from asimov_sync.budget import Budget
from asimov_sync.cache.contract import Cache
from asimov_sync.errors import GraphError, WorkersClosed, described
from asimov_sync.forking import ForkSafeLock
from asimov_sync.graph.building import TaskGraph
from asimov_sync.graph.claims import Hold, claim, release
from asimov_sync.graph.context import Handler, Middleware, TaskContext, execute, wrapped
from asimov_sync.graph.driver import STANDING, Driver, failure
from asimov_sync.graph.listeners import Callback, Listener
from asimov_sync.graph.nodes import Node
from asimov_sync.graph.results import Outcome, Partial, Route, RunResult
from asimov_sync.graph.run import Run, RunEvents
from asimov_sync.tasks import TaskStatus
from asimov_sync.workers import WorkerPool, alarms

__all__ = ["TaskScheduler"]

logger = logging.getLogger(__name__)

STUCK_SECONDS = 1.0
"""How long after its cancellation a handler that still goes on is said to hang."""

AnyHandler = TypeVar("AnyHandler", bound=Handler)
AnyMiddleware = TypeVar("AnyMiddleware", bound=Middleware)
AnyCallback = TypeVar("AnyCallback", bound=Callback)


class TaskScheduler:
    """Runs task graphs: each task by the handler of its type, as soon as its dependencies are done.

    handlers: by task type, callables `(task, context) -> value`. max_workers: how many tasks go on at once, of all its runs
    together; 0 runs everything on the calling thread, for debuggers and for test cases that own a transaction.
    cache: what `context.cache` is a view of; a MemoryCache of its own where not given. executor: a
    `concurrent.futures.Executor` of this process's threads to call the handlers on, in place of threads of its own; then its
    size bounds how many go on, and a handler that ignores its cancellation is not replaced.

    Safe from every thread, and in a forked child. A handler that raises makes its task FAILED, and nothing else.
    """

    def __init__(
        self,
        handlers: Optional[Mapping[str, Handler]] = None,
        max_workers: int = 8,
        cache: Optional[Cache] = None,
        executor: Optional[Executor] = None,
    ) -> None:
        if max_workers < 0:
            raise ValueError("max_workers is a number of threads, or 0 for the calling thread; not {}".format(max_workers))
        if executor is not None:
            _require_threads(executor)
        self.handlers: Dict[str, Handler] = dict(handlers or {})
        self.max_workers = max_workers
        self.inline = max_workers == 0 and executor is None
        self.last_result: Optional[RunResult] = None
        """The result of the run that ended last; what an interrupted run had finished is here."""
        self._cache = cache
        self._executor = executor
        self._pool = WorkerPool(max_workers, name="asimov-task") if max_workers and executor is None else None
        self._callers = WorkerPool(None, name="asimov-events")  # they call the callbacks
        self._guard = ForkSafeLock()  # guards the cache's making, the runs that go on, and whether it is closed
        self._middleware: Tuple[Middleware, ...] = ()
        self._callbacks: Tuple[Tuple[Callback, bool], ...] = ()
        self._runs: Set[Driver] = set()
        self._closed = False

    @property
    def cache(self) -> Cache:
        """The cache that was given, or a MemoryCache made on first use."""
        with self._guard.lock:
            if self._cache is None:
                from asimov_sync.cache.memory import MemoryCache

                self._cache = MemoryCache()
            return self._cache

    # What is called

    def handler(self, type: str) -> Callable[[AnyHandler], AnyHandler]:
        """Decorate the handler of a task type."""

        def register(function: AnyHandler) -> AnyHandler:
            self.handlers[type] = function
            return function

        return register

    def middleware(self, function: AnyMiddleware) -> AnyMiddleware:
        """Have `function(call_next, task, context)` called around every handler; what it returns is the handler's value.

        It calls `call_next(task, context)`, or `call_next()`, once, several times or not at all. The first that was registered
        is the outermost. Returns the function, so that it is a decorator, too.
        """
        with self._guard.lock:
            self._middleware += (function,)
        return function

    @overload
    def on_event(self, callback: AnyCallback, blocking: bool = False) -> AnyCallback: ...

    @overload
    def on_event(self, *, blocking: bool = False) -> Callable[[AnyCallback], AnyCallback]: ...

    def on_event(self, callback: Optional[AnyCallback] = None, blocking: bool = False) -> Any:
        """Have `callback(event)` called for all that happens in the runs that are started from now on.

        Each run calls it in order, with one event at a time, on a thread beside its own, so that a slow one holds up nobody;
        with blocking=True where the event happens, so that a slow one holds up just that. With max_workers=0, always on the
        calling thread. What it raises is logged. `run()` and `result()` return when it has had the run's last event. A
        decorator, too.
        """
        if callback is None:
            return lambda function: self.on_event(function, blocking)
        with self._guard.lock:
            self._callbacks += ((callback, blocking or self.inline),)
        return callback

    # Three views of one thing

    def submit(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
    ) -> Run:
        """Start a run, and return its handle. With max_workers=0 it goes on while the result or the events are asked for.

        run_id: its name, made up where not given. timeout: seconds after which it is cancelled. on_failure: "continue", so
        that only what depends on a FAILED task is skipped, or "stop", so that nothing more is started. budget: for all that
        its tasks ask of models; once a request is refused because it is used up, the run ends.

        GraphError, before anything runs, for a cycle, an unknown dependency, a type without a handler, or a graph
        that is running already.
        """
        return self._submit(graph, run_id, timeout, on_failure, budget, True, [])

    def run(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
    ) -> RunResult:
        """Run a graph to its end, and return what came of it; the arguments are those of `submit`.

        Failures are in the result (`raise_for_failure()` makes an exception of them). Whatever interrupts the wait, Ctrl-C
        say, cancels the run and is raised again at once; `last_result` then has what was finished.
        """
        made: List[Run] = []
        try:
            return self._submit(graph, run_id, timeout, on_failure, budget, False, made).result()
        except BaseException as interruption:  # wherever between here and there it struck
            for run in made:
                run.interrupt(interruption)
            raise

    def stream(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
    ) -> RunEvents:
        """Run a graph, and iterate over what happens; the last event is RunFinished. Closing the iterator cancels the run."""
        return self._submit(graph, run_id, timeout, on_failure, budget, True, []).events()

    def _submit(
        self,
        graph: TaskGraph,
        run_id: Optional[str],
        timeout: Optional[float],
        on_failure: str,
        budget: Optional[Budget],
        recording: bool,
        made: List[Run],
    ) -> Run:
        """Start a run; it is in `made` from the moment on at which it has to be ended."""
        if on_failure not in ("continue", "stop"):
            raise ValueError('on_failure is "continue" or "stop", not {!r}'.format(on_failure))
        plan = graph.plan()
        self.require_handlers(plan.nodes)
        mine = Hold()
        try:
            claim(plan.nodes, mine)
            listeners = [Listener(callback, blocking) for callback, blocking in self._callbacks]
            limit = self.max_workers if self._executor is None else sys.maxsize
            driver = Driver(self, plan, mine, run_id, on_failure, budget, listeners, recording, limit)
            run = Run(driver)
            made.append(run)
            with self._guard.lock:
                if self._closed:
                    raise WorkersClosed("this scheduler was closed: make a new one")
                self._runs.add(driver)
            driver.begin(timeout)
            self.staff(driver)
            return run
        except BaseException as interruption:
            for run in made:
                run.interrupt(interruption)
            release(plan.nodes, mine)
            raise

    def require_handlers(self, nodes: Sequence[Node]) -> None:
        """GraphError for a task of a type without a handler."""
        if not {node.task.type for node in nodes} <= self.handlers.keys():
            node = next(node for node in nodes if node.task.type not in self.handlers)
            raise GraphError(
                "no handler for the type {!r} of task {!r}; there are handlers for {}".format(
                    node.task.type, node.name, ", ".join(map(repr, self.handlers)) or "no type"
                )
            )

    # Workers

    def staff(self, driver: Driver) -> None:
        """Put workers on a run that has more ready tasks than workers. One worker here, which puts the next one on it: whoever
        makes many tasks ready has its own to go on with.
        """
        if not driver.short:
            return
        try:
            if self._pool is not None:
                for _ in range(driver.staff(1)):
                    self._pool.submit(self._work, driver)
            elif self._executor is not None:
                for _ in range(driver.staff(sys.maxsize)):
                    future = self._executor.submit(self._work_once, driver)
                    future.add_done_callback(lambda future: _check(future, driver))
        except Exception:
            if driver.result is None:  # else the scheduler was closed after the run, and before the last worker noticed
                raise

    def _work(self, driver: Driver) -> None:
        """A worker's stay on a run: one ready task after the other, going on itself with what it makes ready.

        It leaves where other runs wait for a worker, and comes back last in the queue.
        """
        assert self._pool is not None
        pool = self._pool
        try:
            context = driver.take(pool.job)
            if driver.short:
                self.staff(driver)
            while context is not None:
                outcome = self._outcome(driver, context)
                context = driver.settle(context, outcome, take=not pool.crowded)
                if driver.short:
                    self.staff(driver)
        except BaseException as broken:  # of the scheduler itself, since _outcome has those of handlers
            logger.exception("run %s cannot go on", driver.id)
            Run(driver).interrupt(broken)
            raise

    def _work_once(self, driver: Driver) -> None:
        """A call on somebody else's executor: one task, so that others have their turn on it."""
        context = driver.take(None)
        if context is not None:
            driver.settle(context, self._outcome(driver, context), take=False)
        self.staff(driver)

    def _outcome(self, driver: Driver, context: TaskContext) -> Optional[Outcome]:
        """What came of calling a task's handler; None where it was not called."""
        if context.left:
            return None  # the run ended between its taking and this
        node = context.node
        task = node.task
        own = driver.context.copy()
        try:
            if node.when is not None and context.start is None:
                if not driver.decide(context, bool(own.run(execute, node.when, context, dict(context.inputs)))):
                    return None
                own = driver.context.copy()
            handler = self.handlers[task.type]
            if self._middleware:
                handler = wrapped(handler, self._middleware)
            result = own.run(execute, handler, context, task, context)
        except BaseException as error:
            if self.inline and not isinstance(error, Exception):
                raise  # Ctrl-C on the calling thread itself
            if context.overdue:
                late = context.timed_out()
                late.__cause__, error = error, late
            return failure(context, error)
        if context.overdue:  # and whom its deadline has freed is here before the alarm
            return failure(context, context.timed_out())
        route = None
        if isinstance(result, Route):
            route, result = result.names, result.result
        if isinstance(result, Partial):
            return Outcome(TaskStatus.PARTIAL, result.result, str(result.error), None, route)
        return Outcome(TaskStatus.COMPLETE, result, None, None, route)

    def lend_hand(self, driver: Driver, tasks: Optional[int] = None) -> None:
        """Let a thread that is about to wait for a run execute its ready tasks, at most `tasks`, if nobody else might.

        That is so without threads, and inside of a task of this very scheduler: were every worker to wait for a run inside its
        task, none would be left to work.
        """
        if not self.inline and self not in STANDING.get():
            return
        if self.inline:
            driver.deliver()
        context = driver.join()
        while context is not None:
            if tasks is not None:
                tasks -= 1
            context = driver.settle(context, self._outcome(driver, context), take=tasks != 0, patient=True)
            self.staff(driver)
            if context is None and tasks != 0:
                context = driver.join()  # another thread has settled it: there may be more to do

    def abandon(self, context: TaskContext) -> None:
        """Replace the worker that is in a task which the run went on without."""
        if self._pool is not None and context.job is not None:
            self._pool.abandon(context.job)
            alarms.call_at(time.monotonic() + STUCK_SECONDS, lambda: self._tell_stuck(context))

    def _tell_stuck(self, context: TaskContext) -> None:
        if self._pool is not None and self._pool.busy(context.job):
            logger.warning(
                "the handler of %r in run %s goes on although it was cancelled; its thread was given up (%d are)",
                context.name,
                context.run_id,
                self._pool.abandoned,
            )

    def call_elsewhere(self, function: Callable[..., Any], *args: Any) -> None:
        """Call this on a thread that has nothing else to do."""
        try:
            self._callers.submit(function, *args)
        except WorkersClosed:
            function(*args)  # the last events of a scheduler that was just closed

    def finished(self, driver: Driver, result: RunResult) -> None:
        """Remember the result of a run that is over."""
        with self._guard.lock:
            self._runs.discard(driver)
            self.last_result = result

    # Life

    def close(self) -> None:
        """Cancel what goes on, and take no more runs. Never waits."""
        with self._guard.lock:
            self._closed = True
            drivers = list(self._runs)
        for driver in drivers:
            driver.cancel("the scheduler was closed")
        if self._pool is not None:
            self._pool.shutdown(wait=False)
        self._callers.shutdown(wait=False)

    def __enter__(self) -> "TaskScheduler":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        types: List[str] = sorted(self.handlers)
        where = "{} workers".format(self.max_workers) if self._executor is None else repr(self._executor)
        return "<TaskScheduler of {}, {}>".format(", ".join(types) or "no types", where)


def _require_threads(executor: Executor) -> None:
    processes = sys.modules.get("concurrent.futures.process")  # not imported just for this question
    if processes is not None and isinstance(executor, processes.ProcessPoolExecutor):
        raise ValueError("executor= calls handlers in this process, which a ProcessPoolExecutor does not: give one of threads")


def _check(future: "Future[Any]", driver: Driver) -> None:
    """End a run whose call an executor did not make."""
    error: Union[str, None] = "it was cancelled" if future.cancelled() else None
    if error is None and future.exception() is not None:
        error = described(future.exception() or GraphError())
    if error is not None:
        driver.cancel("the executor did not make a call: {}".format(error))
