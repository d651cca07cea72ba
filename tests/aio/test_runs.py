"""Runs of task graphs for coroutines."""

import asyncio
import gc
import threading

import pytest

from asimov_sync import RunFinished, RunTimeout, Task, TaskGraph, TaskScheduler, TaskStatus, WorkersClosed
from asimov_sync.aio import to_async

from .running import awaited, until


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


@awaited
async def test_a_run(scheduler):
    """Its result is awaited, its events are iterated over, and its tasks do not run on the event loop's thread."""
    async with to_async(scheduler) as facade:
        result = await facade.run(graph_of(a="echo", b="echo"))
        assert [name for name, _ in result.results.values()] == ["a", "b"]
        assert threading.get_ident() not in [thread for _, thread in result.results.values()]
        assert facade.last_result is result
        types = [event.type async for event in facade.stream(graph_of(a="echo"))]
        assert (types[0], types[-1]) == ("task_started", "run_finished")


@awaited
async def test_inline_tasks_have_one_thread():
    """With max_workers=0 all tasks of a run are called on one and the same thread, event by event."""
    scheduler = TaskScheduler({"echo": lambda task, context: threading.get_ident()}, max_workers=0)
    async with to_async(scheduler) as facade:
        events = [event async for event in facade.stream(graph_of(a="echo", b="echo", c="echo"))]
        assert len(set(events[-1].result.results.values())) == 1


@awaited
async def test_a_handle(scheduler):
    """submit returns a handle: its events, its result, whether it is over; RunTimeout leaves the run going on."""
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


@pytest.mark.parametrize("what", ["run", "stream", "result", "events"])
@awaited
async def test_a_coroutine_that_is_cancelled(scheduler, what):
    """Cancelling the coroutine that waits for a run stops the run; what was finished is in last_result."""
    async with to_async(scheduler) as facade:
        graph = graph_of(a="echo", b="wait")

        async def work():
            if what == "run":
                await facade.run(graph)
            elif what == "stream":
                async for _ in facade.stream(graph):
                    pass
            else:
                run = await facade.submit(graph)
                if what == "result":
                    await run.result()
                async for _ in run.events():
                    pass

        task = asyncio.ensure_future(work())
        await until(lambda: graph["b"].status is TaskStatus.EXECUTING)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: facade.last_result is not None, "the end of the run")
        assert list(facade.last_result.results) == ["a"]
        assert (await facade.run(graph_of(a="echo"))).status is TaskStatus.COMPLETE
        await until(lambda: not facade._threads._lanes.open, "the end of the thread")


@pytest.mark.parametrize("how", ["break", "drop"])
@awaited
async def test_events_that_are_left_early(how):
    """Leaving the events of a run, or losing them, cancels it."""
    async with to_async(TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20)})) as facade:
        events = facade.stream(graph_of(a="wait"))
        if how == "break":
            async for _ in events:
                break
        else:
            await events.__anext__()
            del events
            gc.collect()
        await until(lambda: facade.last_result is not None, "the end of the run")
        assert facade.last_result.status is TaskStatus.FAILED


@awaited
async def test_a_submit_that_is_cancelled_leaves_no_run_behind(monkeypatch):
    """A run that was started although its coroutine was cancelled is ended: nobody has its handle."""
    started, go_on = threading.Event(), threading.Event()
    scheduler = TaskScheduler({"wait": lambda task, context: context.cancellation.wait(20)})
    submit = scheduler.submit

    def slowly(*args):
        run = submit(*args)
        started.set()
        assert go_on.wait(20)
        return run

    monkeypatch.setattr(scheduler, "submit", slowly)
    async with to_async(scheduler) as facade:
        task = asyncio.ensure_future(facade.submit(graph_of(a="wait")))
        await until(started.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        await until(lambda: facade.last_result is not None, "the end of the run")


@awaited
async def test_many_runs_at_once(scheduler):
    """A hundred runs at once on one scheduler."""
    async with to_async(scheduler) as facade:
        results = await asyncio.gather(*[facade.run(graph_of(a="echo", b="echo")) for _ in range(100)])
        assert all(result.status is TaskStatus.COMPLETE for result in results)


@awaited
async def test_registering(scheduler):
    """Handlers, middleware and callbacks are registered without waiting, with the same decorators."""
    async with to_async(scheduler) as facade:
        seen = []

        @facade.handler("double")
        def double(task, context):
            return 2 * task.params["item"]

        @facade.middleware
        def around(call_next, task, context):
            return call_next(task, context) + 1

        @facade.on_event
        def told(event):
            seen.append(event.type)

        @facade.on_event(blocking=True)
        def told_too(event):
            seen.append(event.type)

        graph = TaskGraph()
        graph.add(Task(type="double", params={"item": 21}), name="x")
        assert (await facade.run(graph)).results == {"x": 43}
        assert seen.count("run_finished") == 2
        await facade.cache.set("key", 1)
        assert scheduler.cache.get("key") == 1


@awaited
async def test_a_closed_scheduler(scheduler):
    """close() cancels what goes on; later runs are refused."""
    facade = to_async(scheduler)
    graph = graph_of(a="wait")
    task = asyncio.ensure_future(facade.run(graph))
    await until(lambda: graph["a"].status is TaskStatus.EXECUTING)
    await facade.close()
    assert (await task).status is TaskStatus.FAILED
    with pytest.raises(WorkersClosed):
        await facade.run(graph_of(a="wait"))


@awaited
async def test_the_synchronous_classes_beside_a_running_loop():
    """On a thread with a running event loop the synchronous classes do what they do everywhere."""
    with TaskScheduler({"echo": lambda task, context: context.name}) as scheduler:
        assert scheduler.run(graph_of(a="echo", b="echo")).results == {"a": "a", "b": "b"}
        assert [event.type for event in scheduler.stream(graph_of(a="echo"))][-1] == "run_finished"
        assert await asyncio.sleep(0, "the loop goes on") == "the loop goes on"
