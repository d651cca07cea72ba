"""Ends of all kinds: of facades while others wait, of event loops while calls go on, of streams in the middle, of threads."""

import asyncio
import gc
import os
import threading

import pytest

from asimov_sync import (
    Cancelled,
    MemoryCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    WorkersClosed,
)
from asimov_sync.aio import to_async
from asimov_sync.testing import ScriptedInferenceClient
from asimov_sync.workers import WorkerPool

from ..waiting import Background, in_child, wait_for
from .running import awaited, until


def waiting():
    """A scheduler whose task waits until it is cancelled, and its graph."""
    graph = TaskGraph()
    graph.add(Task(type="wait"), name="x")
    return TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20)}), graph


@awaited
async def test_a_stream_that_is_read_on_after_its_facade_was_closed():
    """Whoever asks for more is told, and does not wait for a thread that is gone."""
    scheduler, graph = waiting()
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


@awaited
async def test_closing_beside_readers():
    """At whatever moment a facade is closed, its readers come to an end: the whole, or an error of ours."""
    for turns in range(40):
        client = to_async(ScriptedInferenceClient(["one two three four five six seven eight"]))

        async def read(client=client):
            return [text async for text in client.stream("go").text_stream]

        reader = asyncio.ensure_future(read())
        for _ in range(turns):
            await asyncio.sleep(0)
        await client.close()
        (end,) = await asyncio.wait_for(asyncio.gather(reader, return_exceptions=True), 20)
        assert isinstance(end, (Cancelled, WorkersClosed)) or "".join(end) == "one two three four five six seven eight"


@awaited
async def test_a_close_that_is_cancelled_goes_on():
    """The closing does not depend on who waits for it, and whoever closes again waits for the same."""
    for turns in range(6):
        scheduler, graph = waiting()
        facade = to_async(scheduler)
        run = await facade.submit(graph)
        closing = asyncio.ensure_future(facade.close())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await facade.close()
        assert scheduler._closed
        assert run.done()
        with pytest.raises(WorkersClosed):
            await facade.submit(graph.copy())


def left_by_its_loop():
    """A facade with one thread, on which a read of "box" goes on although its loop was closed; and that read, to be kept."""
    facade = to_async(MemoryCache(), max_threads=1)
    loop = asyncio.new_event_loop()
    reader = loop.create_task(facade.get_message("box"))
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()
    reader._log_destroy_pending = False  # as asyncio's own tests do
    return facade, reader


def test_a_loop_that_ends_with_a_call_going_on():
    """A message that comes when its reader's loop is closed goes back, and the reader's place is another's."""
    facade, _reader = left_by_its_loop()
    facade.sync.publish_to_mailbox("box", "precious")
    wait_for(lambda: not facade._threads._lanes.open, "the end of the reader's thread")
    assert facade.sync.mailbox_length("box") == 1
    assert asyncio.run(facade.get_message("box", timeout=5)) == "precious"


def test_a_loop_that_ends_leaves_its_place():
    """Waits of closed loops take nobody's place, although nothing ends them."""
    facade, _reader = left_by_its_loop()
    assert asyncio.run(facade.get_message("other", timeout=0)) is None
    wait_for(lambda: not facade._threads._lanes.open, "the end of the reader's thread")


@awaited
async def test_a_stream_that_was_closed_is_not_opened():
    """Closed before it was opened, a stream asks nothing and starts nothing, however it is used then."""
    scheduler, graph = waiting()
    async with to_async(scheduler) as facade:
        events = facade.stream(graph)
        await events.close()
        with pytest.raises(Cancelled):
            async with events:
                pass
        with pytest.raises(Cancelled):
            await events
        assert graph["x"].status is TaskStatus.WAITING and not facade._threads._lanes.open


@awaited
async def test_an_opening_that_failed_stays_one():
    """A stream that could not be opened is not taken for an open one by a second await."""
    client = to_async(ScriptedInferenceClient([]))
    stream = client.stream("go")
    with pytest.raises(Exception, match="no reply left|script|answer"):
        await stream
    with pytest.raises(Cancelled, match="could not be opened"):
        await stream


@awaited
async def test_a_graph_may_run_again_at_once():
    """After a break in the middle of its events a graph may run again, and the thread is another's, without a wait between."""
    scheduler = TaskScheduler({"t": lambda task, context: context.name})
    graph = TaskGraph()
    graph.map(Task(type="t"), range(20), name="t")
    async with to_async(scheduler, max_threads=1) as facade:
        for _ in range(30):
            async for _event in facade.stream(graph):
                break
            assert (await facade.run(graph)).status is TaskStatus.COMPLETE


@awaited
async def test_a_call_whose_turn_had_not_come_is_not_made():
    """Cancelled before its thread took it up, a read takes nothing: order and deliveries of the messages stay."""
    async with to_async(MemoryCache()) as cache:
        for number in range(3):
            await cache.publish_to_mailbox("box", number)
        await cache.get_message("none", timeout=0)
        starter = cache._threads._starters[asyncio.get_running_loop()]
        for read in (cache.get_message, cache.receive):
            start = threading.Event()
            starter.submit(start.wait, 20)
            reader = asyncio.ensure_future(read("box"))
            await asyncio.sleep(0)
            reader.cancel()
            await asyncio.sleep(0)
            start.set()
            with pytest.raises(asyncio.CancelledError):
                await reader
        read = [await cache.receive("box", timeout=5) for _ in range(3)]
        assert [(delivery.message, delivery.deliveries) for delivery in read] == [(0, 1), (1, 1), (2, 1)]


def test_a_closed_facade_in_a_forked_child():
    """It is closed there, too, and says so."""
    facade = to_async(MemoryCache())
    asyncio.run(facade.close())

    def use():
        with pytest.raises(WorkersClosed):
            asyncio.run(facade.get_message("box", timeout=0.1))

    in_child(use)


def test_an_open_facade_in_a_forked_child():
    """A child of a process with a reader has the facade to itself, with all of its threads to come."""
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


def test_a_busy_loop_holds_up_no_other():
    """Threads of one loop are started at its own pace, whatever another loop of the same facade does."""
    facade = to_async(MemoryCache())
    busy, go_on = threading.Event(), threading.Event()

    async def hold():
        readers = [asyncio.ensure_future(facade.get_message("box")) for _ in range(60)]
        await asyncio.sleep(0)
        busy.set()
        assert go_on.wait(20)  # on the loop's own thread
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    holding = Background(asyncio.run, hold())
    assert busy.wait(20)
    assert Background(asyncio.run, facade.get_message("x", timeout=0)).result() is None
    assert not go_on.is_set()
    go_on.set()
    holding.result()
    asyncio.run(facade.close())


def test_threads_that_run_out(monkeypatch):
    """Where no thread can be started for a call, it is no other's that may wait for ever: the call raises."""
    pool = WorkerPool(None)
    release = threading.Event()
    first = pool.submit(release.wait, 20)

    def no_thread(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(WorkersClosed, match="can't start new thread"):
            pool.submit(int)
    release.set()
    assert first.result(20)
    assert pool.submit(int).result(20) == 0
    pool.shutdown()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_start_that_is_interrupted_loses_no_worker(error, monkeypatch):
    """An interruption before a thread runs leaves its place free."""
    pool = WorkerPool(1)

    def interrupted(self):
        raise error()

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises((KeyboardInterrupt, WorkersClosed)):
            pool.submit(int)
    assert pool.submit(str).result(20) == ""
    pool.shutdown()


@awaited
async def test_streams_that_the_garbage_collector_finds():
    """Half-read streams in reference cycles are closed when they are found."""
    client = to_async(ScriptedInferenceClient(lambda body: "one two three"), max_threads=8)
    for _ in range(8):
        stream = await client.stream("go")
        await stream.__anext__()
        cycle = [stream]
        cycle.append(cycle)
    del stream, cycle
    gc.collect()
    await until(lambda: not client._threads._lanes.open, "the end of the threads")
    await client.close()
