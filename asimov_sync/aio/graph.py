"""A scheduler for coroutines: runs are awaited, or iterated over; handlers are functions as ever, called on its threads."""

from typing import Any, Callable, Optional, TypeVar, overload

from asimov_sync.aio.cache import AsyncCache
from asimov_sync.aio.streams import AsyncRunEvents
from asimov_sync.aio.threads import CANCELLED, Threads
from asimov_sync.budget import Budget
from asimov_sync.cancellation import Cancellation
from asimov_sync.graph.context import Handler, Middleware
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.run import Run
from asimov_sync.graph.subscribers import Callback
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.scheduler import TaskScheduler

__all__ = ["AsyncRun", "AsyncTaskScheduler"]

AnyHandler = TypeVar("AnyHandler", bound=Handler)
AnyMiddleware = TypeVar("AnyMiddleware", bound=Middleware)
AnyCallback = TypeVar("AnyCallback", bound=Callback)


class AsyncTaskScheduler:
    """`TaskScheduler` for coroutines, with the same methods and arguments. sync: the scheduler beneath, for use meanwhile.

    With max_workers=0 a run's tasks are called on the one thread on which it is waited for, not on the event loop's.
    """

    def __init__(self, sync: TaskScheduler, threads: Threads) -> None:
        self.sync = sync
        self._threads = threads

    # What is called: registering it waits for nobody

    def handler(self, type: str) -> Callable[[AnyHandler], AnyHandler]:
        """Decorate the handler of a task type, a function. See `TaskScheduler.handler`."""
        return self.sync.handler(type)

    def middleware(self, function: AnyMiddleware) -> AnyMiddleware:
        """Have a function called around every handler. See `TaskScheduler.middleware`."""
        return self.sync.middleware(function)

    @overload
    def on_event(self, callback: AnyCallback, blocking: bool = False) -> AnyCallback: ...

    @overload
    def on_event(self, *, blocking: bool = False) -> Callable[[AnyCallback], AnyCallback]: ...

    def on_event(self, callback: Optional[AnyCallback] = None, blocking: bool = False) -> Any:
        """Have a function called, on a thread, for all that happens. See `TaskScheduler.on_event`."""
        return self.sync.on_event(blocking=blocking) if callback is None else self.sync.on_event(callback, blocking)

    # Three views of one thing

    async def submit(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> "AsyncRun":
        """Start a run, and return its handle. See `TaskScheduler.submit`."""
        run = await self._threads.short(
            self.sync.submit,
            graph,
            run_id,
            timeout,
            on_failure,
            budget,
            cancellation,
            undo=lambda run: run.cancel(CANCELLED),
        )
        return AsyncRun(run, self._threads)

    async def run(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> RunResult:
        """Run a graph to its end. Cancelled, it stops; `last_result` has what was finished. See `TaskScheduler.run`."""
        return await self._threads.wait(self.sync.run, graph, run_id, timeout, on_failure, budget, cancellation=cancellation)

    def stream(
        self,
        graph: TaskGraph,
        run_id: Optional[str] = None,
        timeout: Optional[float] = None,
        on_failure: str = "continue",
        budget: Optional[Budget] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> AsyncRunEvents:
        """What happens in a run, which starts when this is awaited or iterated over. See `TaskScheduler.stream`."""
        return AsyncRunEvents(
            self._threads, lambda: self.sync.stream(graph, run_id, timeout, on_failure, budget), cancellation
        )

    @property
    def last_result(self) -> Optional[RunResult]:
        """The result of the run that ended last. See `TaskScheduler.last_result`."""
        return self.sync.last_result

    @property
    def cache(self) -> AsyncCache:
        """What the `context.cache` of tasks is a view of. See `TaskScheduler.cache`."""
        return AsyncCache(self.sync.cache, self._threads, owner=False)

    @property
    def stuck_threads(self) -> int:
        """The number of threads that were replaced. See `TaskScheduler.stuck_threads`."""
        return self.sync.stuck_threads

    # Life

    async def close(self) -> None:
        """Cancel what goes on, and take no more runs. See `TaskScheduler.close`."""
        await self._threads.close(self.sync.close)

    async def __aenter__(self) -> "AsyncTaskScheduler":
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def __repr__(self) -> str:
        return "<AsyncTaskScheduler of {!r}>".format(self.sync)


class AsyncRun:
    """`Run` for coroutines: a run that goes on, whether or not anybody waits for it. sync: the handle beneath."""

    def __init__(self, sync: Run, threads: Threads) -> None:
        self.sync = sync
        self._threads = threads

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.sync.id

    async def result(self, timeout: Optional[float] = None, cancellation: Optional[Cancellation] = None) -> RunResult:
        """Wait for the end; RunTimeout after `timeout` seconds, and the run goes on. Cancelled, the run ends, too, as it does
        where the wait for it is interrupted otherwise: `asyncio.shield` keeps it. See `Run.result`.
        """
        return await self._threads.wait(
            self.sync.result, timeout, cancellation=cancellation, free=lambda: self.sync.cancel(CANCELLED)
        )

    def events(self) -> AsyncRunEvents:
        """What happens, from the start of the run to its RunFinished. See `Run.events`."""
        return AsyncRunEvents(self._threads, self.sync.events, free=lambda: self.sync.cancel(CANCELLED))

    async def cancel(self, reason: str = "cancelled") -> bool:
        """End the run now; False if it was over. See `Run.cancel`."""
        return await self._threads.short(self.sync.cancel, reason)

    def done(self) -> bool:
        """Whether it is over; no coroutine, since it only looks."""
        return self.sync.done()

    def __repr__(self) -> str:
        return "<AsyncRun of {!r}>".format(self.sync)
