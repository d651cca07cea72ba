"""TaskScheduler: runs task graphs. A task starts as soon as its own dependencies are done."""

import weakref
from concurrent.futures import Executor
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
    overload,
)

from asimov_sync.cache.base import Cache
from asimov_sync.cancellation import Cancellation, require_number
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.fork import ForkSafeLock
from asimov_sync.errors import CacheError, ClosedError, GraphError, LeaseLost, RunTimeout
from asimov_sync.graph.active_run import ActiveRun, RunOptions
from asimov_sync.graph.backend_choice import UndecidedBackend, make_backend
from asimov_sync.graph.backends import Backend
from asimov_sync.graph.context import Handler, Middleware
from asimov_sync.graph.functions import find_argument_fault, find_fault
from asimov_sync.graph.graph_lock import RunLock, acquire, release
from asimov_sync.graph.handlers import (
    HandlerOwner,
    HandlerRegistry,
    NamedHandler,
    check_handler,
)
from asimov_sync.graph.journal import RunJournal
from asimov_sync.graph.node import Node
from asimov_sync.graph.plan import Plan, RunParams, replace_params
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.run import LAST_RESULT, Run, RunEvents, require_stack
from asimov_sync.graph.subscribers import Callback
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.runs.options import IfChanged, StoreOptions
from asimov_sync.usage import Budget

if TYPE_CHECKING:
    from asimov_sync.runs.store import Opened, RunStore

__all__ = ["TaskScheduler", "run"]

AnyHandler = TypeVar("AnyHandler", bound=Handler)
AnyMiddleware = TypeVar("AnyMiddleware", bound=Middleware)
AnyCallback = TypeVar("AnyCallback", bound=Callback)
Flow = Callable[..., TaskGraph]
AnyFlow = TypeVar("AnyFlow", bound=Flow)


class TaskScheduler(HandlerOwner):
    """Runs task graphs: each task by the handler of its type.

    A handler that raises makes its task FAILED and affects nothing else. A scheduler may be used
    from any thread, and in a forked child.

    The end of a `with` block waits for submitted runs, as that of an Executor does; an exception
    in the block cancels them, and interrupts durable ones. See `shutdown` and `close`.

    handlers: by task type, callables `(task, context) -> value`, or the importable names of such
        callables: "package.module:attribute". Default none.
    max_workers: how many tasks run at once, in all of its runs together; default 8. 0 runs
        everything on the thread that waits, for debuggers and for tests that own a transaction.
    cache: the cache behind `context.cache`; by default a MemoryCache of its own.
    executor: a `concurrent.futures.Executor` to call the handlers on, of threads or of processes,
        or a function that makes one. Its size then limits how many tasks run at once, and a worker
        whose handler ignores its cancellation is not replaced. An executor that was given is never
        shut down; one that the function made is, and another is made if it breaks. By default the
        scheduler has threads of its own.
    remote: whether the executor's calls run in other processes. By default (None), one call at the
        first run finds out.
    runs: keeps the runs that have a `run_id`, so that they survive this process. Default none.
    """

    _hint = LAST_RESULT

    def __init__(
        self,
        handlers: Optional[Mapping[str, NamedHandler]] = None,
        *,
        max_workers: int = 8,
        cache: Optional[Cache] = None,
        executor: "Union[Executor, Callable[[], Executor], None]" = None,
        remote: Optional[bool] = None,
        runs: "Optional[RunStore]" = None,
    ) -> None:
        if handlers is not None and not isinstance(handlers, Mapping):
            raise TypeError(
                f"handlers= is a dict of handlers by task type, not {handlers!r}; the number of "
                "threads is TaskScheduler(max_workers=8)"
            )
        _require("cache", cache, Cache, "a cache, such as MemoryCache()")
        if runs is not None:
            from asimov_sync.runs.store import RunStore  # here: most programs never need it

            _require("runs", runs, RunStore, "a store, such as RunStore(SQLiteCache('runs.db'))")
        self.handlers: Dict[str, NamedHandler] = dict(handlers or {})
        for type, handler in self.handlers.items():
            check_handler(type, handler, TypeError)
        self.max_workers = max_workers
        self.last_result: Optional[RunResult] = None
        """The result of the run that ended last; runs that its own tasks started do not count.

        After an exception in `run()`, this is the result of that call, with the finished tasks.
        """
        self.flows: Dict[str, Flow] = {}
        """The functions that build graphs, by their names; see `flow`."""
        self._runs_store = runs
        self._cache = cache
        self._backend = make_backend(max_workers, executor, remote)
        self._registry = HandlerRegistry(self.handlers)
        self._guard = ForkSafeLock()  # guards everything below, and the creation of the cache
        self._callbacks: Tuple[Tuple[Callback, bool], ...] = ()
        self._runs: Set[ActiveRun] = set()
        # Runs that have ended, and whose callbacks may not have had all events yet.
        self._undelivered: "weakref.WeakSet[ActiveRun]" = weakref.WeakSet()
        self._closed = False
        self._refuses_nested = False  # whether tasks of its runs cannot start runs any more, either

    @property
    def cache(self) -> Cache:
        """The cache that was given, or a MemoryCache that is made on first use."""
        with self._guard.lock:
            if self._cache is None:
                from asimov_sync.cache.memory import MemoryCache

                self._cache = MemoryCache()
            return self._cache

    @property
    def runs(self) -> "Optional[RunStore]":
        """The store of durable runs that was given; None without."""
        return self._runs_store

    @property
    def stuck_threads(self) -> int:
        """The number of threads that were replaced because their handler ignored its cancellation.

        A thread counts until its handler returns. Always 0 with max_workers=0 or an executor.
        """
        return self._backend.stuck_threads

    # Handlers, middleware, callbacks

    @overload
    def handler(self, type: str) -> Callable[[AnyHandler], AnyHandler]: ...

    @overload
    def handler(self, type: AnyHandler) -> AnyHandler: ...

    def handler(self, type: Union[str, Handler]) -> Any:
        """Return a decorator that registers the handler of a task type.

        type: the task type. `@scheduler.handler` alone registers the function under its name.

        Raises TypeError for a function that cannot be called as a handler.
        """
        if not isinstance(type, str):
            if not isinstance(getattr(type, "__name__", None), str):
                raise TypeError(f"a task type is a string, as in handler('fetch'); not {type!r}")
            return self.handler(type.__name__)(type)
        task_type = type

        def register(function: AnyHandler) -> AnyHandler:
            check_handler(task_type, function, TypeError)
            self.handlers[task_type] = function
            return function

        return register

    def middleware(self, function: AnyMiddleware) -> AnyMiddleware:
        """Call `function(call_next, task, context)` around every handler. Also a decorator.

        The function calls `call_next(task, context)`, or `call_next()`, once, several times or not
        at all. Its return value replaces the handler's. The function that is registered first is
        the outermost.

        Returns the function. Raises TypeError if it cannot be called like this.
        """
        fault = find_fault(function, "(call_next, task, context)")
        if fault:
            raise TypeError(f"a middleware {fault}")
        with self._guard.lock:
            self._registry.middleware += (function,)
        return function

    def flow(self, name: str) -> Callable[[AnyFlow], AnyFlow]:
        """Return a decorator that registers a function which builds a graph.

        `run(name, args={…}, run_id=…)` builds the graph and runs it, and `resume(run_id)` in any
        process in which the flow is registered continues the run. Only the name and the arguments
        are stored.

        name: the name of the flow.

        Raises TypeError if the name is not a string.
        """
        if not isinstance(name, str):
            raise TypeError(f"a flow has a name, as in flow('report'); not {name!r}")

        def register(function: AnyFlow) -> AnyFlow:
            self.flows[name] = function
            return function

        return register

    @overload
    def on_event(self, callback: AnyCallback, *, blocking: bool = False) -> AnyCallback: ...

    @overload
    def on_event(self, *, blocking: bool = False) -> Callable[[AnyCallback], AnyCallback]: ...

    def on_event(self, callback: Optional[AnyCallback] = None, *, blocking: bool = False) -> Any:
        """Call `callback(event)` for every event of the runs that start from now on.

        Also a decorator, with or without arguments. The callback receives the events of each run
        in order, one at a time. `run()` and `result()` return after it has handled the run's last
        event. Exceptions of the callback are logged.

        callback: the function.
        blocking: call it on the thread on which the event happens, which waits for it. By default
            it is called on a separate thread, so that a slow callback delays nothing. With
            max_workers=0 it is always called on the waiting thread.

        Returns the callback. Raises TypeError if it cannot be called with an event.
        """
        if callback is None:
            return lambda function: self.on_event(function, blocking=blocking)
        fault = find_fault(callback, "(event)")
        if fault:
            raise TypeError(f"a callback for events {fault}")
        with self._guard.lock:
            self._callbacks += ((callback, blocking),)
        return callback

    def _check_nodes(self, nodes: Sequence[Node]) -> None:
        """Raise GraphError if a task has no handler that this scheduler can call.

        With an executor of processes, also if the handler cannot be sent there.
        """
        if self._decide_backend().remote:
            self._registry.check_travel(nodes)
        else:
            self._registry.check(nodes)

    def _decide_backend(self) -> Backend:
        """Return the backend. Before the first run on an executor, it may have to make a call."""
        backend = self._backend
        if isinstance(backend, UndecidedBackend):
            decided = backend.decide(lambda: self.cache)
            with self._guard.lock:
                if self._backend is backend:
                    self._backend = decided
                return self._backend
        return backend

    # Three ways to run

    def submit(
        self,
        graph: Union[TaskGraph, str],
        *,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
        max_tasks: Optional[int] = None,
        params: Optional[RunParams] = None,
        args: Optional[Mapping[str, Any]] = None,
        tags: Optional[Mapping[str, str]] = None,
        restart: bool = False,
        retry_failed: bool = False,
        if_running: str = "raise",
        if_changed: IfChanged = "raise",
    ) -> Run:
        """Start a run and return its handle.

        With max_workers=0 it makes progress while a thread waits for its result or its events.

        graph: the graph to run, or the name of a flow that builds it.
        run_id: the id of the run; by default a generated one. With `runs=`, a run with an id is
            durable: the same call continues it where it was, or returns its stored result.
        timeout: the seconds after which the run is cancelled; by default unlimited.
        on_failure: "continue" (the default) skips the dependents of a FAILED task; "stop" starts
            no further task after a failure.
        budget: limits the requests to models of all its tasks together; by default unlimited. When
            it has refused a request, no task is started or retried, and the run ends when the
            tasks that are running have ended.
        cancellation: a token that ends the run; by default the current one.
        max_tasks: how many tasks the run may have, those of the graph and those that its tasks
            spawn; by default unlimited. A spawn beyond it is a GraphError in its handler.
        params: for this run alone, new params by task name, which are merged over the params of
            these tasks; by default none. The graph does not change.
        args: the arguments of the flow, by name; default none.

        The others are for durable runs:

        tags: strings by name, to find the run by; they count when it is created. Default none.
        restart: delete what is stored of the run, and start anew; default False.
        retry_failed: run FAILED tasks again, and what follows from them; default False.
        if_running: "raise" (the default) raises RunInProgress if another driver has the run; "wait"
            waits for that driver, and continues the run or returns its result.
        if_changed: what to do if a finished task was changed or removed: "raise" (the default)
            raises GraphChanged, "keep" keeps its result, "rerun" runs it again; or a dict of these
            by task name.

        Raises GraphError, before any task runs, for a cycle, an unknown dependency, a type without
        a handler, a graph that is in another run or has more than `max_tasks`; TypeError or
        ValueError for an unsuitable argument; ClosedError after `shutdown()` or `close()`. For a
        durable run also RunInProgress, GraphChanged, StoredFormatError and CacheError.
        """
        options = RunOptions(run_id, timeout, on_failure, budget, cancellation, max_tasks, params)
        stored = StoreOptions(tags, restart, retry_failed, if_running, if_changed, None, args)
        return Run(self._start(graph, options, stored, [], readable=True))

    def run(
        self,
        graph: Union[TaskGraph, str],
        *,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
        max_tasks: Optional[int] = None,
        params: Optional[RunParams] = None,
        args: Optional[Mapping[str, Any]] = None,
        tags: Optional[Mapping[str, str]] = None,
        restart: bool = False,
        retry_failed: bool = False,
        if_running: str = "raise",
        if_changed: IfChanged = "raise",
        progress: bool = False,
    ) -> RunResult:
        """Run a graph to its end and return the result.

        progress: draw the progress, as `Run.progress` does; default False. The cost of
            the tokens is part of it if the prices of the models are known: from the package
            genai-prices, or from the prices of `budget`.

        The other arguments are those of `submit`. Failures are in the result, whose
        `raise_for_failure()` raises them. An exception that interrupts the wait, such as Ctrl-C,
        cancels the run and is raised again at once; `last_result` then has the finished tasks. It
        interrupts a durable run, which the next `run` continues.
        """
        options = RunOptions(run_id, timeout, on_failure, budget, cancellation, max_tasks, params)
        stored = StoreOptions(tags, restart, retry_failed, if_running, if_changed, None, args)
        if progress and budget is None:
            options = options._replace(budget=Budget())  # it adds up the cost
        started: List[ActiveRun] = []
        try:
            run = Run(self._start(graph, options, stored, started), self._hint)
            return run.progress() if progress else run.result()
        except BaseException as interruption:  # anywhere between the first line and the last
            for active_run in started:
                active_run.interrupt(interruption)
                if active_run.result is not None:
                    # Another thread's run may have ended since.
                    self._on_finished(active_run, active_run.result)
            raise

    def stream(
        self,
        graph: Union[TaskGraph, str],
        *,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
        max_tasks: Optional[int] = None,
        params: Optional[RunParams] = None,
        args: Optional[Mapping[str, Any]] = None,
        tags: Optional[Mapping[str, str]] = None,
        restart: bool = False,
        retry_failed: bool = False,
        if_running: str = "raise",
        if_changed: IfChanged = "raise",
    ) -> RunEvents:
        """Run a graph and iterate over its events; the last one is RunFinished.

        The arguments are those of `submit`. The iterator owns the run: closing it before the end,
        or dropping it, cancels the run. It interrupts a durable run.
        """
        options = RunOptions(run_id, timeout, on_failure, budget, cancellation, max_tasks, params)
        stored = StoreOptions(tags, restart, retry_failed, if_running, if_changed, None, args)
        active_run = self._start(graph, options, stored, [], streamed=True)
        assert active_run.first_inbox is not None
        return RunEvents(Run(active_run), active_run.first_inbox, owns_run=True)

    def resume(self, run_id: str, **options: Any) -> RunResult:
        """Continue a stored run that a flow has built, and return its result.

        options: those of `run`, but for run_id and args.

        Raises KeyError if there is no such run; GraphError if it was started with a graph, or if
        its flow is not registered here; and what `run` raises.
        """
        store = self._require_store("resume()")
        record = store.get(run_id)
        if record.flow is None:
            raise GraphError(
                f"run {run_id!r} was started with a graph: run that graph again, with its run_id; "
                "resume() is for runs that a flow has built"
            )
        self._find_flow(record.flow)
        return self.run(record.flow, args=record.args, run_id=run_id, **options)

    def enqueue(
        self,
        flow: str,
        *,
        run_id: str,
        args: Optional[Mapping[str, Any]] = None,
        tags: Optional[Mapping[str, str]] = None,
    ) -> bool:
        """Store a run of a flow, for any process to run, and return at once.

        `RunStore.ready` lists the run until a driver takes it: `asimov-sync work`, or a call of
        `resume(run_id)`, in a process in which the flow is registered.

        flow: the name of a flow that is registered here. It is not called.
        run_id: the id of the run.
        args: the arguments of the flow, by name; default none.
        tags: strings by name, to find the run by; default none.

        Returns False, and leaves the stored run as it is, if there is a run with this id. So a
        call that is repeated enqueues one run. Raises GraphError for an unknown flow; TypeError for
        arguments that the flow does not take; ValueError for an unsuitable run_id or without
        `runs=`; CacheValueError for arguments that cannot be stored, and CacheError.
        """
        store = self._require_store("enqueue()")
        fault = find_argument_fault(self._find_flow(flow), _check_args(args) or {})
        if fault:
            raise TypeError(f"the flow {flow!r} cannot be called with args={args!r}: {fault}")
        return store.create(run_id, flow, args, tags)

    def _require_store(self, what: str) -> "RunStore":
        if self._runs_store is None:
            raise ValueError(f"{what} needs a store: TaskScheduler(…, runs=RunStore(…))")
        return self._runs_store

    def _find_flow(self, name: str) -> Flow:
        flow = self.flows.get(name)
        if flow is None:
            known = ", ".join(map(repr, self.flows)) or "none"
            raise GraphError(f"there is no flow named {name!r}; these are registered: {known}")
        return flow

    def _build(self, name: str, args: Optional[Mapping[str, Any]]) -> TaskGraph:
        """Return the graph of a flow."""
        graph = self._find_flow(name)(**(_check_args(args) or {}))
        if not isinstance(graph, TaskGraph):
            raise GraphError(f"the flow {name!r} returned {graph!r}, not a TaskGraph")
        return graph

    def _open_journal(
        self, plan: Plan, options: RunOptions, stored: StoreOptions
    ) -> "Optional[Opened]":
        """Open a durable run; None for a run that is not durable."""
        if self._runs_store is None or options.run_id is None:
            given = stored._replace(flow=None, args=None) != StoreOptions()
            if given:
                raise ValueError(
                    "tags=, restart=, retry_failed=, if_running= and if_changed= are for durable "
                    "runs: give the scheduler runs=RunStore(…), and the run a run_id="
                )
            return None
        for node in plan.nodes:
            if "<lambda>" in node.name:
                raise GraphError(
                    f"the task {node.name!r} of a durable run needs a name of its own: name="
                )
        cancellation = options.cancellation or Cancellation.current()
        return self._runs_store.open(options.run_id, plan, stored, self.handlers, cancellation)

    def _start(
        self,
        graph: Union[TaskGraph, str],
        options: RunOptions,
        stored: StoreOptions,
        started: List[ActiveRun],
        readable: bool = False,
        streamed: bool = False,
    ) -> ActiveRun:
        """Start a run.

        started: a list to which the run is added as soon as it has to be ended after an exception.
        readable: whether its events may be read later.
        streamed: whether its events are kept from the first one on, for a reader that follows.
        """
        if isinstance(graph, str) and self.flows:
            args = stored.args
            if args is not None and self._runs_store is not None:
                args = self._runs_store.keep_value(args)
            stored = stored._replace(flow=graph, args=args)
            graph = self._build(graph, args)
        elif stored.args is not None:
            raise ValueError("args= are the arguments of a flow, and this is a graph")
        if not isinstance(graph, TaskGraph):
            raise TypeError(
                f"a scheduler runs a TaskGraph, not {graph!r}: graph = TaskGraph(); graph.add(…)"
            )
        require_stack()
        _check_options(options)
        plan = graph.plan()
        if options.max_tasks is not None and len(plan.nodes) > options.max_tasks:
            raise GraphError(
                f"the graph has {len(plan.nodes)} tasks, more than max_tasks={options.max_tasks}"
            )
        if options.params is not None:
            plan = replace_params(plan, options.params)
        self._check_nodes(plan.nodes)
        with self._guard.lock:
            self._check_open(self._backend.occupies_slot())
        opened = self._open_journal(plan, options, stored)
        journal: Optional[RunJournal] = None
        digests: List[str] = []
        if opened is not None:
            journal, plan, digests, _ = opened
        graph_lock = RunLock()
        try:
            acquire(plan.nodes, graph_lock)
            backend = self._backend
            active_run = ActiveRun(
                plan,
                graph_lock,
                graph.name,
                options,
                backend,
                self._registry,
                self._callbacks,
                readable,
                streamed,
                lambda: self.cache,
                self._on_finished,
                journal,
                digests,
            )
            started.append(active_run)
            with self._guard.lock:
                self._check_open(active_run.nested)
                self._runs.add(active_run)
            active_run.begin()
            backend.start_workers(active_run)
            return active_run
        except BaseException as interruption:
            for active_run in started:
                active_run.interrupt(interruption)
            release(plan.nodes, graph_lock)
            if opened is not None and not started and opened.created:
                assert options.run_id is not None and self._runs_store is not None
                self._runs_store.delete(options.run_id)
            elif journal is not None:
                journal.release(None, "it could not be started")
            raise

    def _check_open(self, nested: bool) -> None:
        """Raise ClosedError if no run can start. nested: whether a task of a run starts it.

        The caller holds the lock.
        """
        if self._closed and (self._refuses_nested or not nested):
            raise ClosedError("this scheduler was closed: make a new one")

    def _on_finished(self, active_run: ActiveRun, result: RunResult) -> None:
        """Remember the result of a run that is over."""
        with self._guard.lock:
            self._runs.discard(active_run)
            self._undelivered.add(active_run)
            if not active_run.nested:
                self.last_result = result

    # The end

    def shutdown(
        self, wait: bool = True, *, timeout: Optional[float] = None, cancel: bool = False
    ) -> bool:
        """Accept no more runs. The end of a `with` block without an exception calls this.

        Runs that continue may start further runs in their tasks. An executor that was given is
        not shut down.

        wait: wait until all runs have ended and callbacks have received their events; default True.
            With max_workers=0, this thread executes the runs while it waits.
        timeout: the seconds to wait at most; by default unlimited. The runs continue after that.
        cancel: cancel the runs; default False. Their tasks cannot start runs any more.

        Returns whether all runs have ended. Any exception that interrupts the wait, such as Ctrl-C,
        cancels the runs and is raised at once. Raises GraphError in a blocking callback of a run,
        where the wait could not end. Do not wait in a task of this scheduler: it is part of a run.
        """
        require_number("timeout=", timeout)
        with self._guard.lock:
            self._closed = True
            self._refuses_nested = self._refuses_nested or cancel
        if cancel:
            self._cancel_runs()
        try:
            ended = self._wait_for_runs(timeout if wait else 0.0)
        except GraphError:
            raise
        except BaseException:
            self.close()
            raise
        if ended or cancel:
            self._backend.close()
        return ended

    def close(self) -> None:
        """Cancel all runs and accept no more: `shutdown(wait=False, cancel=True)`.

        Durable runs are interrupted: the next `run` continues them. Never waits for tasks.
        """
        self.shutdown(wait=False, cancel=True)

    def _cancel_runs(self) -> None:
        with self._guard.lock:
            runs = list(self._runs)
        for active_run in runs:
            active_run.end("the scheduler was closed")

    def _wait_for_runs(self, timeout: Optional[float]) -> bool:
        """Wait for all runs, and for those that they start meanwhile.

        timeout: the seconds to wait; None for ever, 0 only to look.

        Returns whether all have ended; then no more runs can start.
        """
        end = None if timeout is None else clock.monotonic() + timeout
        while True:
            with self._guard.lock:
                runs = [run for run in self._runs if not run.in_forked_child]
                ending = [run for run in self._undelivered if not run.delivered]
                waiting = runs + [run for run in ending if not run.in_forked_child]
                if not waiting:
                    self._refuses_nested = True
                    return True
            left = None if end is None else end - clock.monotonic()
            if left is not None and left <= 0:
                return False
            try:
                Run(waiting[0]).result(left)
            except RunTimeout:
                return False
            except (LeaseLost, CacheError):
                continue  # the run has ended because of it, and its own handle raises it

    def __enter__(self) -> "TaskScheduler":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], *exc_info: Any) -> None:
        if kind is None:
            self.shutdown()
        else:
            self.close()

    def __repr__(self) -> str:
        types = ", ".join(sorted(self.handlers)) or "no types"
        return f"<TaskScheduler of {types}, {self._backend!r}>"


class _OwnScheduler(TaskScheduler):
    """The scheduler of one run, whose `last_result` nobody can read."""

    _hint = ""


def run(
    graph: TaskGraph,
    handlers: Optional[Mapping[str, NamedHandler]] = None,
    *,
    run_id: Optional[str] = None,
    timeout: Optional[float] = None,
    on_failure: str = "continue",
    budget: Optional[Budget] = None,
    cancellation: Optional[Cancellation] = None,
    max_tasks: Optional[int] = None,
    params: Optional[RunParams] = None,
    progress: bool = False,
) -> RunResult:
    """Run a graph to its end on a scheduler of its own, and return the result.

    graph: the graph to run.
    handlers: callables `(task, context) -> value` by task type, or their importable names, for the
        tasks that were not added with a handler or a function; default none.

    The other arguments and the exceptions are those of `TaskScheduler.run`. Failures are in the
    result, as in `TaskScheduler.run`.
    """
    with _OwnScheduler(handlers) as scheduler:
        return scheduler.run(
            graph,
            run_id=run_id,
            timeout=timeout,
            on_failure=on_failure,
            budget=budget,
            cancellation=cancellation,
            max_tasks=max_tasks,
            params=params,
            progress=progress,
        )


def _check_args(args: Optional[Mapping[str, Any]]) -> Optional[Mapping[str, Any]]:
    """Return the arguments of a flow. Raise TypeError if they are no dict."""
    if not isinstance(args, (Mapping, type(None))):
        raise TypeError(f"args= is a dict of a flow's arguments by name, not {args!r}")
    return args


def _require(name: str, value: Any, kind: Any, expected: str) -> None:
    """Raise TypeError unless an argument is None or of a type."""
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise TypeError(f"{name}= is {expected}, or None; not {value!r}")


def _check_options(options: RunOptions) -> None:
    """Raise TypeError or ValueError for an unsuitable argument of a run."""
    if options.on_failure not in ("continue", "stop"):
        raise ValueError(f'on_failure= is "continue" or "stop", not {options.on_failure!r}')
    _require("run_id", options.run_id, str, "a string")
    _require("timeout", options.timeout, (int, float), "a number of seconds")
    require_number("timeout=", options.timeout)
    _require("budget", options.budget, Budget, "a Budget, such as Budget(requests=10)")
    _require("cancellation", options.cancellation, Cancellation, "a Cancellation")
    limit = options.max_tasks
    is_integer = isinstance(limit, int) and not isinstance(limit, bool)
    if limit is not None and not (is_integer and limit >= 1):
        raise ValueError(f"max_tasks= is an integer of at least 1, or None; not {limit!r}")
