"""Running graphs on threads: a task starts the moment its own dependencies are done."""

from concurrent.futures import Executor
from typing import Any, Callable, Dict, List, Mapping, Optional, Set, Tuple, TypeVar, overload

from asimov_sync.budget import Budget
from asimov_sync.cache.base import Cache
from asimov_sync.cancellation import Cancellation, require_number
from asimov_sync.errors import WorkersClosed
from asimov_sync.forking import ForkSafeLock
from asimov_sync.graph.audience import Audience
from asimov_sync.graph.building import TaskGraph
from asimov_sync.graph.claims import Hold, claim, release
from asimov_sync.graph.context import Handler, Middleware
from asimov_sync.graph.driver import Driver
from asimov_sync.graph.listeners import Callback, Listener
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.run import Run, RunEvents
from asimov_sync.graph.workforce import Workforce

__all__ = ["TaskScheduler"]

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
        self.handlers: Dict[str, Handler] = dict(handlers or {})
        self.max_workers = max_workers
        self.last_result: Optional[RunResult] = None
        """The result of the run that ended last. A run that a task of this scheduler started does not count.

        After an exception in `run()`, the result of that call: what its run had finished.
        """
        self._cache = cache
        self._workforce = Workforce(self.handlers, max_workers, executor)
        self._guard = ForkSafeLock()  # guards the cache's making, the runs that go on, and whether it is closed
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
            self._workforce.middleware += (function,)
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
            self._callbacks += ((callback, blocking),)
        return callback

    # Three views of one thing

    def submit(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> Run:
        """Start a run, and return its handle. With max_workers=0 it goes on while the result or the events are asked for.

        run_id: its name, made up where not given. timeout: seconds after which it is cancelled. on_failure: "continue", so
        that only what depends on a FAILED task is skipped, or "stop", so that nothing more is started. budget: for all that
        its tasks ask of models; once a request is refused because it is used up, the run ends. cancellation: a token that
        ends the run, the current one where not given.

        GraphError, before anything runs, for a cycle, an unknown dependency, a type without a handler, or a graph
        that is running already.
        """
        return self._submit(graph, run_id, timeout, on_failure, budget, cancellation, True, [])

    def run(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> RunResult:
        """Run a graph to its end, and return what came of it; the arguments are those of `submit`.

        Failures are in the result (`raise_for_failure()` makes an exception of them). Whatever interrupts the wait, Ctrl-C
        say, cancels the run and is raised again at once; `last_result` then has what was finished.
        """
        made: List[Driver] = []
        try:
            return self._submit(graph, run_id, timeout, on_failure, budget, cancellation, False, made).result()
        except BaseException as interruption:  # wherever between here and there it struck
            for driver in made:
                driver.interrupt(interruption)
                if driver.result is not None:
                    self.finished(driver, driver.result)  # another thread's run may have ended since
            raise

    def stream(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> RunEvents:
        """Run a graph, and iterate over what happens; the last event is RunFinished. Closing the iterator cancels the run."""
        return self._submit(graph, run_id, timeout, on_failure, budget, cancellation, True, []).events()

    def _submit(
        self,
        graph: TaskGraph,
        run_id: Optional[str],
        timeout: Optional[float],
        on_failure: str,
        budget: Optional[Budget],
        cancellation: Optional[Cancellation],
        recording: bool,
        made: List[Driver],
    ) -> Run:
        """Start a run; it is in `made` from the moment on at which it has to be ended."""
        if on_failure not in ("continue", "stop"):
            raise ValueError('on_failure is "continue" or "stop", not {!r}'.format(on_failure))
        require_number("timeout=", timeout)
        plan = graph.plan()
        self._workforce.require_handlers(plan.nodes)
        mine = Hold()
        try:
            claim(plan.nodes, mine)
            force = self._workforce
            listeners = [Listener(callback, blocking or force.inline) for callback, blocking in self._callbacks]
            audience = Audience(listeners, recording, force)
            driver = Driver(self, force, plan, mine, run_id, on_failure, budget, cancellation, audience, graph.name)
            made.append(driver)
            with self._guard.lock:
                if self._closed:
                    raise WorkersClosed("this scheduler was closed: make a new one")
                self._runs.add(driver)
            driver.begin(timeout)
            force.begin(driver)
            return Run(driver)
        except BaseException as interruption:
            for driver in made:
                driver.interrupt(interruption)
            release(plan.nodes, mine)
            raise

    def finished(self, driver: Driver, result: RunResult) -> None:
        """Remember the result of a run that is over."""
        with self._guard.lock:
            self._runs.discard(driver)
            if not driver.nested:
                self.last_result = result

    # Life

    def close(self) -> None:
        """Cancel what goes on, and take no more runs. Never waits."""
        with self._guard.lock:
            self._closed = True
            drivers = list(self._runs)
        for driver in drivers:
            driver.cancel("the scheduler was closed")
        self._workforce.close()

    def __enter__(self) -> "TaskScheduler":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        types: List[str] = sorted(self.handlers)
        return "<TaskScheduler of {}, {!r}>".format(", ".join(types) or "no types", self._workforce)
