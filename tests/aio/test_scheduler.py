"""Schedulers and runs for coroutines."""

import asyncio
import gc
import threading

import pytest

from asimov_sync import (
    ClosedError,
    RunFinished,
    RunTimeout,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.aio import to_async
from asimov_sync.testing import count_threads

from ..waiting import refuses_runs
from .coroutines import async_test, wait_until


@pytest.fixture(params=[4, 0], ids=["threads", "max_workers=0"])
def scheduler(request):
    return TaskScheduler(
        {
            "echo": lambda task, context: (context.name, threading.get_ident()),
            "wait": lambda task, context: context.cancellation.wait(20) and "cancelled",
        },
        max_workers=request.param,
    )


def graph_of(**types):
    graph = TaskGraph()
    for name, type in types.items():
        graph.add(Task(type=type), name=name)
    return graph


@async_test
async def test_run_and_stream(scheduler):
    """Results are awaited, events are iterated over, and tasks do not run on the loop's thread."""
    async with to_async(scheduler) as facade:
        result = await facade.run(graph_of(a="echo", b="echo"))
        assert [name for name, _ in result.results.values()] == ["a", "b"]
        assert threading.get_ident() not in [thread for _, thread in result.results.values()]
        assert facade.last_result is result
        types = [event.type async for event in facade.stream(graph_of(a="echo"))]
        assert (types[0], types[-1]) == ("run_started", "run_finished")


@async_test
async def test_inline_tasks_have_one_thread():
    """With max_workers=0 all tasks of a run are called on the same thread."""
    scheduler = TaskScheduler({"echo": lambda task, context: threading.get_ident()}, max_workers=0)
    async with to_async(scheduler) as facade:
        events = [event async for event in facade.stream(graph_of(a="echo", b="echo", c="echo"))]
        assert len(set(events[-1].result.results.values())) == 1


@async_test
async def test_run_handle(scheduler):
    """submit() returns a handle. After a RunTimeout the run continues."""
    async with to_async(scheduler) as facade:
        run = await facade.submit(graph_of(a="echo"), run_id="report")
        assert run.id == "report"
        assert (await run.result()).status is TaskStatus.COMPLETE
        assert run.done()
        assert isinstance([event async for event in run.events()][-1], RunFinished)
        waiting = await facade.submit(graph_of(a="wait"))
        if scheduler.max_workers:
            with pytest.raises(RunTimeout):
                await waiting.result(timeout=0.05)
            assert not waiting.done()
        assert await waiting.cancel("enough")
        result = await waiting.result()
        assert result.status is TaskStatus.FAILED
        assert not await waiting.cancel()


@pytest.mark.parametrize("phase", ["run", "stream", "result"])
@async_test
async def test_cancelled_coroutine(scheduler, phase):
    """Cancelling the coroutine cancels the run; last_result has the results so far."""
    async with to_async(scheduler) as facade:
        graph = graph_of(a="echo", b="wait")

        async def work():
            if phase == "run":
                await facade.run(graph)
            elif phase == "stream":
                async for _ in facade.stream(graph):
                    pass
            else:
                await (await facade.submit(graph)).result()

        task = asyncio.ensure_future(work())
        await wait_until(lambda: graph["b"].status is TaskStatus.EXECUTING)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(lambda: facade.last_result is not None, "the end of the run")
        assert list(facade.last_result.results) == ["a"]
        assert (await facade.run(graph_of(a="echo"))).status is TaskStatus.COMPLETE
        await wait_until(lambda: not count_threads(facade), "the end of the thread")


@pytest.mark.parametrize("way", ["break", "close", "drop", "cancel"])
@async_test
async def test_events_of_a_submitted_run_that_are_left(way):
    """The run continues: only the events of stream() own their run."""
    release = threading.Event()
    handlers = {"wait": lambda task, context: release.wait(20), "echo": lambda task, context: 1}
    async with to_async(TaskScheduler(handlers)) as facade:
        graph = graph_of(a="echo", b="wait")
        run = await facade.submit(graph)

        async def read(events):
            async for event in events:
                if event.type == "task_finished" and way == "break":
                    break

        events = run.events()
        if way == "drop":
            await events
        else:
            reader = asyncio.ensure_future(read(events))
            await wait_until(lambda: graph["a"].status is TaskStatus.COMPLETE)
            if way == "close":
                await events.close()
            elif way == "cancel":
                reader.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reader
            if way != "cancel":
                await reader
            del reader
        del events
        gc.collect()
        await wait_until(lambda: not count_threads(facade), "the end of the thread")
        assert not run.done()
        release.set()
        assert (await run.result(20)).results == {"a": 1, "b": True}


@pytest.mark.parametrize("way", ["break", "drop"])
@async_test
async def test_abandoned_events(way):
    """Leaving or losing the events of a run cancels it."""
    async with to_async(
        TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20)})
    ) as facade:
        events = facade.stream(graph_of(a="wait"))
        if way == "break":
            async for _ in events:
                break
        else:
            await events.__anext__()
            del events
            gc.collect()
        await wait_until(lambda: facade.last_result is not None, "the end of the run")
        assert facade.last_result.status is TaskStatus.FAILED


@async_test
async def test_cancelled_submit(monkeypatch):
    """A run that starts after its coroutine was cancelled is cancelled."""
    started, release = threading.Event(), threading.Event()
    scheduler = TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20)})
    submit = scheduler.submit

    def slowly(graph, **options):
        run = submit(graph, **options)
        started.set()
        assert release.wait(20)
        return run

    monkeypatch.setattr(scheduler, "submit", slowly)
    async with to_async(scheduler) as facade:
        task = asyncio.ensure_future(facade.submit(graph_of(a="wait")))
        await wait_until(started.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        await wait_until(lambda: facade.last_result is not None, "the end of the run")


@async_test
async def test_many_runs_at_once(scheduler):
    """A hundred runs at once on one scheduler succeed."""
    async with to_async(scheduler) as facade:
        results = await asyncio.gather(
            *[facade.run(graph_of(a="echo", b="echo")) for _ in range(100)]
        )
        assert all(result.status is TaskStatus.COMPLETE for result in results)


@async_test
async def test_registration(scheduler):
    """Handlers, middleware and callbacks are registered with the same decorators, without await."""
    async with to_async(scheduler) as facade:
        seen = []

        @facade.handler("double")
        def double(task, context):
            return 2 * task.params["item"]

        @facade.middleware
        def around(call_next, task, context):
            return call_next(task, context) + 1

        @facade.on_event
        def record(event):
            seen.append(event.type)

        @facade.on_event(blocking=True)
        def record_blocking(event):
            seen.append(event.type)

        graph = TaskGraph()
        graph.add(Task(type="double", params={"item": 21}), name="x")
        assert (await facade.run(graph)).results == {"x": 43}
        assert seen.count("run_finished") == 2
        await facade.cache.set("key", 1)
        assert scheduler.cache.get("key") == 1


@async_test
async def test_closed_scheduler(scheduler):
    """close() cancels running tasks; later runs are refused."""
    facade = to_async(scheduler)
    graph = graph_of(a="wait")
    task = asyncio.ensure_future(facade.run(graph))
    await wait_until(lambda: graph["a"].status is TaskStatus.EXECUTING)
    await facade.close()
    assert (await task).status is TaskStatus.FAILED
    with pytest.raises(ClosedError):
        await facade.run(graph_of(a="wait"))


@async_test
async def test_async_with_waits_for_submitted_runs(scheduler):
    """Leaving the block waits until all runs have ended."""
    async with to_async(scheduler) as facade:
        runs = [await facade.submit(graph_of(a="echo", b="echo")) for _ in range(3)]
    assert all(run.done() for run in runs)
    assert [list(run.sync.result().results) for run in runs] == [["a", "b"]] * 3
    with pytest.raises(ClosedError):
        await facade.submit(graph_of(a="echo"))
    assert await facade.shutdown() is True
    await facade.close()


@async_test
async def test_exception_in_async_with_cancels(scheduler):
    """An exception in the block cancels the runs and is raised at once."""
    with pytest.raises(ValueError, match="out of the block"):
        async with to_async(scheduler) as facade:
            run = await facade.submit(graph_of(a="wait"))
            raise ValueError("out of the block")
    assert run.done() and run.sync.result().status is TaskStatus.FAILED


@async_test
async def test_shutdown(scheduler):
    """shutdown() returns False after its time-out; cancel=True cancels the runs."""
    facade = to_async(scheduler)
    run = await facade.submit(graph_of(a="wait"))
    if scheduler.max_workers:
        assert await facade.shutdown(timeout=0.05) is False
        assert not run.done()
    assert await facade.shutdown(cancel=True) is True
    assert run.sync.result().status is TaskStatus.FAILED


@async_test
async def test_cancelled_shutdown(scheduler):
    """Cancelling the coroutine that waits cancels the runs."""
    facade = to_async(scheduler)
    graph = graph_of(a="wait")
    run = await facade.submit(graph)
    shutdown = asyncio.ensure_future(facade.shutdown())
    await wait_until(lambda: refuses_runs(scheduler))
    await wait_until(lambda: graph["a"].status is TaskStatus.EXECUTING)
    shutdown.cancel()
    with pytest.raises(asyncio.CancelledError):
        await shutdown
    await wait_until(run.done, "the end of the run")
    assert run.sync.result().status is TaskStatus.FAILED
    await facade.close()


@async_test
async def test_blocking_classes_in_a_loop():
    """The blocking classes work on a thread with a running event loop."""
    with TaskScheduler({"echo": lambda task, context: context.name}) as scheduler:
        assert scheduler.run(graph_of(a="echo", b="echo")).results == {"a": "a", "b": "b"}
        assert [event.type for event in scheduler.stream(graph_of(a="echo"))][-1] == "run_finished"
        assert await asyncio.sleep(0, "the loop runs") == "the loop runs"
