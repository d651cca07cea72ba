"""Futures: wait in a coroutine for a result of a thread, and handle results that nobody awaits."""

import asyncio
import concurrent.futures
from typing import Any, Callable, Coroutine, Iterable, Optional

__all__ = [
    "LoopEvent",
    "OnOrphan",
    "call_once",
    "get_loop",
    "pass_orphaned_result",
    "start_task",
    "wait_briefly",
    "wrap_future",
]

OnOrphan = Optional[Callable[[Any], Any]]
"""Called with the result of a call whose coroutine was cancelled before the result arrived."""


def get_loop() -> asyncio.AbstractEventLoop:
    """Return the running event loop. Raises RuntimeError if asyncio runs none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "asimov_sync.aio works in coroutines of asyncio only, and no event loop of asyncio is "
            "running; with trio, call the blocking methods in trio.to_thread.run_sync()"
        ) from None


def wrap_future(
    future: "concurrent.futures.Future[Any]", on_orphan: Optional[Callable[[], Any]] = None
) -> "asyncio.Future[None]":
    """Return an asyncio future that finishes when `future` finishes. Its own result is None.

    future: the future of a thread; its result or exception is not touched.
    on_orphan: called on the thread that finishes `future` if the event loop is closed.
    """
    loop = get_loop()
    wrapped: "asyncio.Future[None]" = loop.create_future()

    def finish() -> None:
        if not wrapped.done():
            wrapped.set_result(None)

    def notify(_: Any) -> None:
        try:
            loop.call_soon_threadsafe(finish)
        except RuntimeError:
            if on_orphan is not None:
                on_orphan()

    future.add_done_callback(notify)
    return wrapped


async def wait_briefly(futures: "Iterable[concurrent.futures.Future[Any]]", timeout: float) -> None:
    """Wait until all futures are done, but at most `timeout` seconds."""
    await asyncio.wait([wrap_future(future) for future in futures], timeout=timeout)


def call_once(on_orphan: OnOrphan) -> OnOrphan:
    """Wrap a callback so that it runs once, although the thread and the loop may both call it."""
    if on_orphan is None:
        return None
    remaining = [on_orphan]
    return lambda result: remaining.pop()(result) if remaining else None


def pass_orphaned_result(future: "concurrent.futures.Future[Any]", on_orphan: OnOrphan) -> None:
    """Pass the result of a done future to the callback, if there is a result and a callback."""
    if not future.cancelled() and future.exception() is None and on_orphan is not None:
        on_orphan(future.result())


class LoopEvent:
    """An event that any thread sets, and for which a coroutine of the running loop waits."""

    def __init__(self) -> None:
        self._loop = get_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        """End the wait, or the next one. Does nothing once the loop is closed."""
        self.call(self._event.set)

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function on the loop's thread, soon. Does nothing once the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            pass

    async def wait(self, timeout: Optional[float]) -> None:
        """Wait until the event is set, at most `timeout` seconds, and clear it; None: no limit."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout)
        except asyncio.TimeoutError:
            pass
        self._event.clear()


def start_task(coroutine: "Coroutine[Any, Any, None]") -> "asyncio.Task[None]":
    """Run a coroutine as a task of the running loop. The caller keeps a reference to the task."""
    return get_loop().create_task(coroutine)
