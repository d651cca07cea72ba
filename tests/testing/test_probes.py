"""Probes: numbers of callbacks, runs and threads."""

import asyncio
import threading

from asimov_sync import Cancellation, MemoryCache, Task, TaskGraph, TaskScheduler
from asimov_sync.aio import to_async
from asimov_sync.testing import count_callbacks, count_runs, count_threads

from ..waiting import Background, wait_for


def test_count_callbacks():
    """A blocked call counts at its token and at the token's parent."""
    parent = Cancellation(parent=None)
    token = Cancellation(parent=parent)
    assert count_callbacks(token) == count_callbacks(parent) == 0
    waiting = Background(token.wait)
    wait_for(lambda: count_callbacks(token) == 1)
    wait_for(lambda: count_callbacks(parent) == 1)
    parent.cancel()
    assert waiting.result() is True
    assert count_callbacks(token) == 0


def test_count_runs():
    """A run counts until it is over."""
    release = threading.Event()
    graph = TaskGraph()
    graph.add(Task(type="t"), name="t")
    with TaskScheduler({"t": lambda task, context: release.wait(10)}) as scheduler:
        assert count_runs(scheduler) == 0
        run = scheduler.submit(graph)
        assert count_runs(scheduler) == 1
        release.set()
        run.result(10)
        assert count_runs(scheduler) == 0


def test_count_threads():
    """A reader of a mailbox has a thread of the facade."""

    async def read():
        facade = to_async(MemoryCache())
        reader = asyncio.ensure_future(facade.receive("box"))
        await asyncio.sleep(0)
        counts = [count_threads(facade)]
        await facade.publish_to_mailbox("box", "there")
        await reader
        counts.append(count_threads(facade))
        await facade.close()
        return counts

    assert asyncio.run(read()) == [1, 0]
