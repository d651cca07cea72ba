"""Generator handlers: yielded values are progress, and the return value is the result."""

import threading

import pytest

import asimov_sync
from asimov_sync import Partial, Retry, Task, TaskGraph, TaskScheduler

from .graphs import single

WAIT = 20


@pytest.fixture(params=[0, 2], ids=["calling thread", "threads"])
def scheduler(request):
    """Return a scheduler with and without threads."""
    with TaskScheduler(max_workers=request.param) as made:
        yield made


def progress(events):
    return [(one.name, one.fraction, one.data) for one in events if one.type == "task_progress"]


def test_values_are_progress(scheduler):
    """Each yielded value is the data of a progress event. The return value is the result."""

    @scheduler.handler
    def count(task, context):
        context.report(0.5, "half", data={"a": 1})
        yield 1
        yield {"page": [2]}
        return "the end"

    events = list(scheduler.stream(single("count")))
    assert progress(events) == [
        ("x", 0.5, {"a": 1}),
        ("x", None, 1),
        ("x", None, {"page": [2]}),
    ]
    assert events[-1].result["x"] == "the end"
    assert [one.to_dict()["data"] for one in events if one.type == "task_progress"][2] == {
        "page": [2]
    }


def test_result_of_a_generator(scheduler):
    """A generator may return what a handler may return. Without a return, the result is None."""

    def partial(task, context):
        yield 1
        return Partial("half", "the rest")

    def nothing(task, context):
        yield 1

    graph = TaskGraph()
    graph.add(partial)
    graph.add(nothing)
    result = scheduler.run(graph)
    assert result.results == {"partial": "half", "nothing": None}
    assert result.errors == {"partial": "the rest"}


def test_error_in_a_generator_is_retried(scheduler):
    """An exception between two values fails the attempt, and the next one starts anew."""

    def flaky(task, context):
        yield context.attempt
        if context.attempt == 1:
            raise ConnectionError("once more")
        return "done"

    graph = TaskGraph()
    graph.add(flaky, retry=Retry(2, wait=lambda state: 0.0))
    events = list(scheduler.stream(graph))
    assert [data for _, _, data in progress(events)] == [1, 2]
    assert events[-1].result["flaky"] == "done"


def test_middleware_sees_the_end_of_a_generator(scheduler):
    """`call_next` returns what the generator returned, after its last value."""
    seen = []

    @scheduler.middleware
    def around(call_next, task, context):
        seen.append("before")
        seen.append(call_next())
        return seen[-1]

    def generate(task, context):
        yield seen.append("inside")
        return "the end"

    graph = TaskGraph()
    graph.add(generate)
    assert scheduler.run(graph)["generate"] == "the end"
    assert seen == ["before", "inside", "the end"]


@pytest.mark.parametrize("end", ["run.cancel", "task timeout", "closed stream", "loop"])
def test_cancelled_generator_is_closed(end):
    """The generator is closed at its next value, on the thread on which it runs."""
    yielded, closed = threading.Event(), threading.Event()
    threads = []

    def endless(task, context):
        threads.append(threading.current_thread())
        try:
            yield "started"
            yielded.set()
            while True:
                context.cancellation.wait(WAIT)
                yield "more"
        finally:
            if threading.current_thread() in threads:
                closed.set()

    def back(task, context):
        assert yielded.wait(WAIT)
        return asimov_sync.Route("start") if context.visit == 1 else "enough"

    graph = TaskGraph()
    graph.add(lambda task, context: None, name="start")
    if end == "loop":
        graph.add(back, depends_on="start")
        graph.add(endless, depends_on="start", when=lambda inputs: not yielded.is_set())
    else:
        graph.add(endless, timeout=0.05 if end == "task timeout" else WAIT)
    with TaskScheduler() as scheduler:
        if end == "closed stream":
            with scheduler.stream(graph) as events:
                assert next(one for one in events if one.type == "task_progress")
                assert yielded.wait(WAIT)
        else:
            run = scheduler.submit(graph)
            assert yielded.wait(WAIT)
            if end == "run.cancel":
                run.cancel("enough")
            run.result(WAIT)
        assert closed.wait(WAIT)


def test_plain_generator_function():
    """graph.call and graph.map also run generator functions to their end."""

    def generate(count):
        for number in range(count):
            yield number
        return count

    graph = TaskGraph()
    graph.call(generate, 2)
    graph.map(generate, [1], name="map")
    graph.add(Task(type="generator"), name="by type")
    handlers = {"generator": lambda task, context: generate(3)}
    assert asimov_sync.run(graph, handlers).results == {"generate": 2, "map[0]": 1, "by type": 3}
