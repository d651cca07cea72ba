"""Schedulers for coroutines. Runs are awaited or iterated over; handlers stay functions on
threads.
"""

from typing import Any, Callable, Dict, Mapping, Optional, Type, TypeVar, Union, overload

from asimov_sync.aio.cache import AsyncCache
from asimov_sync.aio.dedicated_thread import COROUTINE_CANCELLED
from asimov_sync.aio.streams import AsyncRunEvents
from asimov_sync.aio.thread_bridge import ThreadBridge
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import ClosedError, WorkersExhausted
from asimov_sync.graph.context import Handler, Middleware
from asimov_sync.graph.plan import RunParams
from asimov_sync.graph.results import RunResult
from asimov_sync.graph.run import Run
from asimov_sync.graph.subscribers import Callback
from asimov_sync.graph.task_graph import TaskGraph
from asimov_sync.runs.options import IfChanged
from asimov_sync.runs.store import RunStore
from asimov_sync.scheduler import AnyFlow, Flow, TaskScheduler
from asimov_sync.usage import Budget

__all__ = ["AsyncRun", "AsyncTaskScheduler"]

AnyHandler = TypeVar("AnyHandler", bound=Handler)
AnyMiddleware = TypeVar("AnyMiddleware", bound=Middleware)
AnyCallback = TypeVar("AnyCallback", bound=Callback)


class AsyncTaskScheduler:
    """`TaskScheduler` for coroutines, with the same methods and arguments.

    With max_workers=0, the tasks of a run are called on the thread that waits for it, not on the
    event loop's thread.

    sync: the blocking scheduler; it can be used at the same time.
    bridge: the threads of the facade.
    """

    def __init__(self, sync: TaskScheduler, bridge: ThreadBridge) -> None:
        self.sync = sync
        self._bridge = bridge

    # Registration: not coroutines, since they do not wait

    @overload
    def handler(self, type: str) -> Callable[[AnyHandler], AnyHandler]: ...

    @overload
    def handler(self, type: AnyHandler) -> AnyHandler: ...

    def handler(self, type: Union[str, Handler]) -> Any:
        """Decorate a function that handles a task type. See `TaskScheduler.handler`."""
        return self.sync.handler(type)

    def middleware(self, function: AnyMiddleware) -> AnyMiddleware:
        """Register a function that is called around every handler. See
        `TaskScheduler.middleware`.
        """
        return self.sync.middleware(function)

    @overload
    def on_event(self, callback: AnyCallback, *, blocking: bool = False) -> AnyCallback: ...

    @overload
    def on_event(self, *, blocking: bool = False) -> Callable[[AnyCallback], AnyCallback]: ...

    def on_event(self, callback: Optional[AnyCallback] = None, *, blocking: bool = False) -> Any:
        """Register a callback, called on a thread. See `TaskScheduler.on_event`."""
        return (
            self.sync.on_event(blocking=blocking)
            if callback is None
            else self.sync.on_event(callback, blocking=blocking)
        )

    # Runs

    async def submit(
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
    ) -> "AsyncRun":
        """Start a run and return its handle. See `TaskScheduler.submit`."""
        run = await self._bridge.run_short(
            lambda: self.sync.submit(
                graph,
                run_id=run_id,
                timeout=timeout,
                on_failure=on_failure,
                budget=budget,
                cancellation=cancellation,
                max_tasks=max_tasks,
                params=params,
                args=args,
                tags=tags,
                restart=restart,
                retry_failed=retry_failed,
                if_running=if_running,
                if_changed=if_changed,
            ),
            on_orphan=lambda run: run.cancel(COROUTINE_CANCELLED),
        )
        return AsyncRun(run, self._bridge)

    async def run(
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
        """Run a graph to its end. See `TaskScheduler.run`.

        Cancelling the coroutine ends the run; `last_result` then has the results so far.
        """
        return await self._bridge.run_blocking(
            lambda: self.sync.run(
                graph,
                run_id=run_id,
                timeout=timeout,
                on_failure=on_failure,
                budget=budget,
                max_tasks=max_tasks,
                params=params,
                args=args,
                tags=tags,
                restart=restart,
                retry_failed=retry_failed,
                if_running=if_running,
                if_changed=if_changed,
                progress=progress,
            ),
            cancellation=cancellation,
        )

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
    ) -> AsyncRunEvents:
        """Return the events of a run, which starts when they are awaited or iterated over. See
        `TaskScheduler.stream`.
        """
        return AsyncRunEvents(
            self._bridge,
            lambda: self.sync.stream(
                graph,
                run_id=run_id,
                timeout=timeout,
                on_failure=on_failure,
                budget=budget,
                max_tasks=max_tasks,
                params=params,
                args=args,
                tags=tags,
                restart=restart,
                retry_failed=retry_failed,
                if_running=if_running,
                if_changed=if_changed,
            ),
            cancellation,
        )

    async def resume(self, run_id: str, **options: Any) -> RunResult:
        """Continue a stored run that a flow has built. See `TaskScheduler.resume`."""
        cancellation = options.pop("cancellation", None)
        return await self._bridge.run_blocking(
            lambda: self.sync.resume(run_id, **options), cancellation=cancellation
        )

    async def enqueue(
        self,
        flow: str,
        *,
        run_id: str,
        args: Optional[Mapping[str, Any]] = None,
        tags: Optional[Mapping[str, str]] = None,
    ) -> bool:
        """Store a run of a flow, for any process to run. See `TaskScheduler.enqueue`."""
        return await self._bridge.run_short(
            lambda: self.sync.enqueue(flow, run_id=run_id, args=args, tags=tags)
        )

    def flow(self, name: str) -> Callable[[AnyFlow], AnyFlow]:
        """Register a function that builds a graph. See `TaskScheduler.flow`."""
        return self.sync.flow(name)

    @property
    def runs(self) -> Optional[RunStore]:
        """The store of durable runs, whose methods block. See `TaskScheduler.runs`."""
        return self.sync.runs

    @property
    def flows(self) -> Dict[str, Flow]:
        """The functions that build graphs, by their names. See `TaskScheduler.flows`."""
        return self.sync.flows

    @property
    def last_result(self) -> Optional[RunResult]:
        """The result of the run that ended last. See `TaskScheduler.last_result`."""
        return self.sync.last_result

    @property
    def cache(self) -> AsyncCache:
        """The cache whose views are the `context.cache` of tasks. See `TaskScheduler.cache`."""
        return AsyncCache(self.sync.cache, self._bridge, owner=False)

    @property
    def stuck_threads(self) -> int:
        """The number of threads that were replaced. See `TaskScheduler.stuck_threads`."""
        return self.sync.stuck_threads

    # Closing

    async def shutdown(
        self, wait: bool = True, *, timeout: Optional[float] = None, cancel: bool = False
    ) -> bool:
        """Accept no more runs, and wait for those that were submitted.

        See `TaskScheduler.shutdown`. Cancelling the coroutine cancels the runs. Once all runs have
        ended, the facade is closed as well.

        Raises WorkersExhausted, and cancels the runs, if no thread is left to wait on.
        """
        try:
            ended = await self._bridge.run_blocking(
                lambda: self.sync.shutdown(wait, timeout=timeout, cancel=cancel),
                unblock=self.sync.close,
            )
        except ClosedError:  # it was closed before
            return True
        except WorkersExhausted:  # there is no thread to wait on
            await self.close()
            raise
        if ended or cancel:
            await self.close()
        return ended

    async def close(self) -> None:
        """Cancel all runs and accept no more. See `TaskScheduler.close`."""
        await self._bridge.close(self.sync.close)

    async def __aenter__(self) -> "AsyncTaskScheduler":
        return self

    async def __aexit__(self, kind: Optional[Type[BaseException]], *exc_info: Any) -> None:
        if kind is None:
            await self.shutdown()
        else:
            await self.close()

    def __repr__(self) -> str:
        return f"<AsyncTaskScheduler of {self.sync!r}>"


class AsyncRun:
    """`Run` for coroutines: the handle of a run that continues whether or not it is awaited.

    sync: the blocking handle.
    """

    def __init__(self, sync: Run, bridge: ThreadBridge) -> None:
        self.sync = sync
        self._bridge = bridge

    @property
    def id(self) -> str:
        """The id of the run."""
        return self.sync.id

    async def result(
        self, timeout: Optional[float] = None, *, cancellation: Optional[Cancellation] = None
    ) -> RunResult:
        """Wait for the end and return the result. See `Run.result`.

        Raises RunTimeout after `timeout` seconds; the run continues. Cancelling the coroutine
        cancels the run, as an interrupted wait does elsewhere; `asyncio.shield` prevents it.
        """
        return await self._bridge.run_blocking(
            self.sync.result,
            timeout,
            cancellation=cancellation,
            unblock=lambda: self.sync._active_run.end(COROUTINE_CANCELLED),
        )

    async def progress(
        self, timeout: Optional[float] = None, *, cancellation: Optional[Cancellation] = None
    ) -> RunResult:
        """Wait for the end and draw the progress meanwhile. See `Run.progress`.

        Cancelling the coroutine cancels the run, as for `result`.
        """
        return await self._bridge.run_blocking(
            self.sync.progress,
            timeout,
            cancellation=cancellation,
            unblock=lambda: self.sync._active_run.end(COROUTINE_CANCELLED),
        )

    def events(self) -> AsyncRunEvents:
        """Return the events of the run, from its start to RunFinished. See `Run.events`.

        Leaving them early, also by the cancellation of the coroutine, does not affect the run.
        """
        return AsyncRunEvents(self._bridge, self.sync.events)

    async def cancel(self, reason: str = "cancelled") -> bool:
        """End the run now; False if it was finished. See `Run.cancel`."""
        return await self._bridge.run_short(self.sync.cancel, reason)

    def done(self) -> bool:
        """Return whether the run is finished. Not a coroutine, since it does not wait."""
        return self.sync.done()

    def __repr__(self) -> str:
        return f"<AsyncRun of {self.sync!r}>"
