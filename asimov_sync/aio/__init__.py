"""The library for coroutines: `to_async(cache | client | agent | scheduler)`, with the threads underneath.

There is no second implementation, and no event loop here: each call is made on a thread, and awaited. It runs under any
running asyncio loop, those of Jupyter and of Django's async views included.
"""

from typing import Any, Union, overload

from asimov_sync.agents.agent import Agent
from asimov_sync.aio.cache import AsyncCache, AsyncDelivery
from asimov_sync.aio.graph import AsyncRun, AsyncTaskScheduler
from asimov_sync.aio.inference import AsyncAgent, AsyncInferenceClient
from asimov_sync.aio.streams import AsyncReplyStream, AsyncRunEvents, AsyncToolStream
from asimov_sync.aio.threads import MAX_THREADS, Threads
from asimov_sync.cache.base import Cache
from asimov_sync.graph.scheduler import TaskScheduler
from asimov_sync.inference.client import InferenceClient

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


def to_async(obj: Union[Cache, InferenceClient, Agent, TaskScheduler], max_threads: int = MAX_THREADS) -> Any:
    """The same object for coroutines: the same names and arguments, with `await`, `async for` and `async with`.

    max_threads: how many of its streams, runs, replies and mailboxes may be waited for at once, each on a thread of its own;
    one more raises WorkersExhausted. Cancelling a coroutine ends the call beneath. The object itself may be used meanwhile.
    """
    threads = Threads(max_threads)
    if isinstance(obj, Cache):
        return AsyncCache(obj, threads)
    if isinstance(obj, InferenceClient):
        return AsyncInferenceClient(obj, threads)
    if isinstance(obj, Agent):
        return AsyncAgent(obj, threads)
    if isinstance(obj, TaskScheduler):
        return AsyncTaskScheduler(obj, threads)
    raise TypeError("to_async() takes a cache, an inference client, an agent or a scheduler, not {!r}".format(obj))
