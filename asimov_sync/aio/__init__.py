"""An async facade: `to_async(cache | client | agent | scheduler)` returns awaitable methods.

There is no second implementation and no event loop here: each call is made on a thread, and
awaited. It works under any running asyncio loop, including those of Jupyter and of Django's async
views.
"""

from typing import Any, Union, overload

from asimov_sync.agents.agent import Agent
from asimov_sync.aio.agent import AsyncAgent
from asimov_sync.aio.cache import AsyncCache, AsyncDelivery
from asimov_sync.aio.client import AsyncInferenceClient
from asimov_sync.aio.scheduler import AsyncRun, AsyncTaskScheduler
from asimov_sync.aio.streams import AsyncReplyStream, AsyncRunEvents, AsyncToolStream
from asimov_sync.aio.thread_bridge import MAX_THREADS, ThreadBridge
from asimov_sync.cache.base import Cache
from asimov_sync.inference.client import InferenceClient
from asimov_sync.scheduler import TaskScheduler

__all__ = [
    "AsyncAgent",
    "AsyncCache",
    "AsyncDelivery",
    "AsyncInferenceClient",
    "AsyncReplyStream",
    "AsyncRun",
    "AsyncRunEvents",
    "AsyncTaskScheduler",
    "AsyncToolStream",
    "to_async",
]


@overload
def to_async(obj: Cache, max_threads: int = MAX_THREADS) -> AsyncCache: ...


@overload
def to_async(obj: InferenceClient, max_threads: int = MAX_THREADS) -> AsyncInferenceClient: ...


@overload
def to_async(obj: Agent, max_threads: int = MAX_THREADS) -> AsyncAgent: ...


@overload
def to_async(obj: TaskScheduler, max_threads: int = MAX_THREADS) -> AsyncTaskScheduler: ...


def to_async(
    obj: Union[Cache, InferenceClient, Agent, TaskScheduler], max_threads: int = MAX_THREADS
) -> Any:
    """Return an async facade of an object: the same methods and arguments, as coroutines.

    Methods are used with `await`, `async for` and `async with`. Cancelling a coroutine ends the
    blocking call. The object itself can still be used.

    obj: a cache, an inference client, an agent or a scheduler.
    max_threads: the maximum number of streams, runs, replies and mailboxes that wait at the same
        time (default: 256), each on a dedicated thread. One more raises WorkersExhausted.

    Raises TypeError for any other object, and ValueError if max_threads is less than 1.
    """
    bridge = ThreadBridge(max_threads)
    if isinstance(obj, Cache):
        return AsyncCache(obj, bridge)
    if isinstance(obj, InferenceClient):
        return AsyncInferenceClient(obj, bridge)
    if isinstance(obj, Agent):
        return AsyncAgent(obj, bridge)
    if isinstance(obj, TaskScheduler):
        return AsyncTaskScheduler(obj, bridge)
    raise TypeError(
        f"to_async() takes a cache, an inference client, an agent or a scheduler, not {obj!r}. "
        "A task handler, such as a ModelRouter, is called by a scheduler: to_async(scheduler)"
    )
