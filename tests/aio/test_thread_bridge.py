"""The threads of a facade: closing, closed event loops, forks and failed thread starts."""

import asyncio
import gc
import os
import threading

import pytest

from asimov_sync import (
    Cancelled,
    ClosedError,
    MemoryCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.aio import to_async
from asimov_sync.aio.thread_bridge import CHECK_SECONDS
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.testing import Clock, ScriptedInferenceClient, count_threads

from ..waiting import DEADLINE, Background, in_child, wait_for
from .coroutines import async_test, wait_until


def waiting_scheduler():
    """Return a scheduler whose task waits until it is cancelled, and its graph."""
    graph = TaskGraph()
    graph.add(Task(type="wait"), name="x")
    return TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20)}), graph


@async_test
async def test_reading_after_close():
    """Reading a stream of a closed facade raises an error and does not wait."""
    scheduler, graph = waiting_scheduler()
    facade, client = to_async(scheduler), to_async(ScriptedInferenceClient(["one two three"]))
    events, stream = await facade.stream(graph), await client.stream("go")
    await events.__anext__()
    await facade.close()
    await client.close()
    for _ in range(2):
        with pytest.raises(Cancelled):
            await stream.__anext__()
        with pytest.raises((Cancelled, StopAsyncIteration)):
            await events.__anext__()


@async_test
async def test_closing_while_reading():
    """Whenever a facade is closed, its readers get the whole text or an error of this library."""
    for turns in range(40):
        client = to_async(ScriptedInferenceClient(["one two three four five six seven eight"]))

        async def read(client=client):
            return [text async for text in client.stream("go").text_stream]

        reader = asyncio.ensure_future(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
        (end,) = await asyncio.wait_for(asyncio.gather(reader, return_exceptions=True), 20)
        assert (
            isinstance(end, (Cancelled, ClosedError))
            or "".join(end) == "one two three four five six seven eight"
        )


@async_test
async def test_cancelled_close_continues():
    """Closing continues if its coroutine is cancelled; a second close() waits for the same end."""
    for turns in range(6):
        scheduler, graph = waiting_scheduler()
        facade = to_async(scheduler)
        run = await facade.submit(graph)
        closing = asyncio.ensure_future(facade.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await facade.close()
        assert run.done()
        with pytest.raises(ClosedError):
            scheduler.submit(graph.copy())
        with pytest.raises(ClosedError):
            await facade.submit(graph.copy())


def ignore(loop, context):
    """Handle the exceptions of a closed loop: asyncio reports each task that it left pending."""


def facade_with_closed_loop():
    """Return a facade whose only thread still reads "box" for a closed loop, and the task to keep
    alive.
    """
    facade = to_async(MemoryCache(), max_threads=1)
    loop = asyncio.new_event_loop()
    reader = loop.create_task(facade.get_message("box"))
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    loop.set_exception_handler(ignore)
    return facade, reader


def test_message_for_a_closed_loop():
    """A message for a reader of a closed loop is put back, and its thread is freed."""
    facade, _reader = facade_with_closed_loop()
    facade.sync.publish_to_mailbox("box", "precious")
    wait_for(lambda: not count_threads(facade), "the end of the reader's thread")
    assert facade.sync.mailbox_length("box") == 1
    assert asyncio.run(facade.get_message("box", timeout=5)) == "precious"


def test_closed_loop_frees_its_threads():
    """Waits of closed loops do not count towards the limit."""
    facade, _reader = facade_with_closed_loop()
    assert asyncio.run(facade.get_message("other", timeout=0)) is None
    wait_for(lambda: not count_threads(facade), "the end of the reader's thread")


def test_closed_loop_ends_its_run():
    """If an event loop is closed without `asyncio.run`, its run is cancelled soon."""
    scheduler, graph = waiting_scheduler()
    facade = to_async(scheduler)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(ignore)
    with Clock() as clock:
        _running = loop.create_task(facade.run(graph))
        loop.run_until_complete(wait_until(lambda: graph["x"].status is TaskStatus.EXECUTING))
        loop.close()
        clock.advance(CHECK_SECONDS)
        wait_for(lambda: graph["x"].status is TaskStatus.FAILED, "the end of the run")
        wait_for(lambda: not count_threads(facade), "the end of the run's thread")
    assert scheduler.last_result.status is TaskStatus.FAILED
    asyncio.run(facade.close())


def test_other_event_loops():
    """Without a running asyncio loop, as under trio, a call raises an error that says so."""
    facade = to_async(MemoryCache())
    for call in (
        facade.set("key", 1),
        facade.receive("box"),
        to_async(waiting_scheduler()[0]).run(TaskGraph()),
    ):
        with pytest.raises(RuntimeError, match="coroutines of asyncio only"):
            call.send(None)
    assert not facade.sync.keys()


@async_test
async def test_stream_closed_before_opening():
    """A stream that was closed before it was opened starts nothing."""
    scheduler, graph = waiting_scheduler()
    async with to_async(scheduler) as facade:
        events = facade.stream(graph)
        await events.close()
        with pytest.raises(Cancelled):
            async with events:
                pass
        with pytest.raises(Cancelled):
            await events
        assert graph["x"].status is TaskStatus.WAITING and not count_threads(facade)


@async_test
async def test_failed_opening():
    """A stream that could not be opened does not count as open for a second await."""
    client = to_async(ScriptedInferenceClient([]))
    stream = client.stream("go")
    with pytest.raises(Exception, match="no reply left|script|answer"):
        await stream
    with pytest.raises(Cancelled, match="could not be opened"):
        await stream


@async_test
async def test_graph_runs_again_after_break():
    """After a `break` the graph can run again at once, on the same thread."""
    scheduler = TaskScheduler({"t": lambda task, context: context.name})
    graph = TaskGraph()
    graph.map(Task(type="t"), range(20), name="t")
    async with to_async(scheduler, max_threads=1) as facade:
        for _ in range(30):
            async for _event in facade.stream(graph):
                break
            assert (await facade.run(graph)).status is TaskStatus.COMPLETE


@async_test
async def test_cancelled_before_the_call(monkeypatch):
    """A read that is cancelled before its thread starts takes no message."""
    starting, release, start = threading.Event(), threading.Event(), threading.Thread.start

    def start_late(thread):
        if thread.name == "asimov-aio-wait":
            starting.set()
            assert release.wait(DEADLINE)
        start(thread)

    blocking = MemoryCache()
    for number in range(3):
        blocking.publish_to_mailbox("box", number)
    monkeypatch.setattr(threading.Thread, "start", start_late)
    for name in ("get_message", "receive"):
        starting.clear()
        release.clear()
        cache = to_async(blocking)  # a new facade, which has no thread yet
        reader = asyncio.ensure_future(getattr(cache, name)("box"))
        await wait_until(starting.is_set, "the start of the thread")
        reader.cancel()
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await wait_until(lambda cache=cache: not count_threads(cache), "the end of the thread")
        await cache.close()
    async with to_async(blocking) as cache:
        read = [await cache.receive("box", timeout=5) for _ in range(3)]
        assert [(delivery.message, delivery.deliveries) for delivery in read] == [
            (0, 1),
            (1, 1),
            (2, 1),
        ]


def test_closed_facade_after_fork():
    """A closed facade is closed in a forked child, too."""
    facade = to_async(MemoryCache())
    asyncio.run(facade.close())

    def use():
        with pytest.raises(ClosedError):
            asyncio.run(facade.get_message("box", timeout=0.1))

    in_child(use)


def test_open_facade_after_fork():
    """In a forked child, a facade has no threads of its parent, and can use its whole limit."""
    facade = to_async(MemoryCache(), max_threads=1)

    def use():
        async def exchange():
            await facade.publish_to_mailbox("box", os.getpid())
            return await facade.get_message("box", timeout=5)

        assert asyncio.run(exchange()) == os.getpid()

    async def main():
        reader = asyncio.ensure_future(facade.get_message("other"))
        await asyncio.sleep(0.05)
        return reader

    loop = asyncio.new_event_loop()
    reader = loop.run_until_complete(main())
    in_child(use)
    reader.cancel()
    loop.run_until_complete(asyncio.gather(reader, return_exceptions=True))
    loop.run_until_complete(facade.close())
    loop.close()


def test_busy_loop_delays_no_other_loop():
    """Threads of one loop start even while another loop is blocked."""
    facade = to_async(MemoryCache())
    busy, release = threading.Event(), threading.Event()

    async def hold():
        readers = [asyncio.ensure_future(facade.get_message("box")) for _ in range(60)]
        await asyncio.sleep(0)
        busy.set()
        assert release.wait(20)  # on the loop's own thread
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    holder = Background(asyncio.run, hold())
    assert busy.wait(20)
    assert Background(asyncio.run, facade.get_message("x", timeout=0)).result() is None
    assert not release.is_set()
    release.set()
    holder.result()
    asyncio.run(facade.close())


def test_pool_without_threads(monkeypatch):
    """If a pool cannot start a thread, submit() raises an error, and later calls work."""
    pool = WorkerPool(None)
    release = threading.Event()
    first = pool.submit(release.wait, 20)

    def no_thread(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(ClosedError, match="can't start new thread"):
            pool.submit(int)
    release.set()
    assert first.result(20)
    assert pool.submit(int).result(20) == 0
    pool.shutdown()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_thread_start(error, monkeypatch):
    """An interruption before a thread runs frees its slot."""
    pool = WorkerPool(1)

    def interrupted(self):
        raise error()

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises((KeyboardInterrupt, ClosedError)):
            pool.submit(int)
    assert pool.submit(str).result(20) == ""
    pool.shutdown()


@async_test
async def test_garbage_collected_streams():
    """Streams in reference cycles are closed when they are collected."""
    client = to_async(ScriptedInferenceClient(lambda body: "one two three"), max_threads=8)
    for _ in range(8):
        stream = await client.stream("go")
        await stream.__anext__()
        cycle = [stream]
        cycle.append(cycle)
    del stream, cycle
    gc.collect()
    await wait_until(lambda: not count_threads(client), "the end of the threads")
    await client.close()
