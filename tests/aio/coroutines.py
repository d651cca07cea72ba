"""Helpers for tests that are coroutines."""

import asyncio
import functools
import threading

from ..waiting import DEADLINE


def async_test(test):
    """Decorate a test that is a coroutine: run it on a new event loop, with a deadline."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        async def run_bounded():
            return await asyncio.wait_for(test(*args, **kwargs), 3 * DEADLINE)

        return asyncio.run(run_bounded())

    return run


async def wait_until(condition, what="the condition"):
    """Return once `condition()` is true, without blocking the loop; fail after DEADLINE seconds."""
    for _ in range(int(DEADLINE / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{what} did not become true")


def waiting_threads():
    """Return the number of dedicated threads of all facades, idle ones included."""
    return sum(thread.name.startswith("asimov-aio-wait") for thread in threading.enumerate())
