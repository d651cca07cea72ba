"""An async facade with blocking methods, which lets the tests of a cache run unchanged."""

import asyncio
import inspect
import threading

from asimov_sync.aio import AsyncCache, AsyncDelivery

from ..waiting import DEADLINE


class Loop:
    """An event loop on its own thread."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def await_(self, coroutine):
        """Run a coroutine on the loop in a copy of this thread's context, and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(3 * DEADLINE)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE)
        self.loop.close()


class Blocking:
    """A facade whose coroutines block. Its views and deliveries are Blocking, too."""

    def __init__(self, facade, loop):
        self._facade = facade
        self._loop = loop

    def __getattr__(self, name):
        value = getattr(self._facade, name)
        if not inspect.ismethod(value):
            return value

        def call(*args, **kwargs):
            result = value(*args, **kwargs)
            if inspect.iscoroutine(result):
                result = self._loop.await_(result)
            return (
                Blocking(result, self._loop)
                if isinstance(result, (AsyncCache, AsyncDelivery))
                else result
            )

        return call

    def __enter__(self):
        self._loop.await_(self._facade.__aenter__())
        return self

    def __exit__(self, *exc_info):
        self._loop.await_(self._facade.__aexit__(*exc_info))

    def __repr__(self):
        return repr(self._facade)
