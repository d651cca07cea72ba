"""Running a test's coroutine, with a deadline."""

import asyncio
import functools
import threading

from ..waiting import DEADLINE


def awaited(test):
    """Run a test that is a coroutine, on a loop of its own."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        async def bounded():
            return await asyncio.wait_for(test(*args, **kwargs), 3 * DEADLINE)

        return asyncio.run(bounded())

    return run


async def until(condition, what="the condition"):
    """Return once `condition()` is true; the loop goes on meanwhile."""
    for _ in range(int(DEADLINE / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("{} did not come true".format(what))


def waiting_threads():
    """How many threads of facades there are that wait for something, or did."""
    return sum(thread.name.startswith("asimov-aio-wait") for thread in threading.enumerate())
