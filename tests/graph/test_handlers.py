"""Handlers and middleware: what they may return and raise."""

import concurrent.futures

import pytest

from asimov_sync import (
    GraphError,
    Partial,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)

from ..waiting import Background
from .graphs import single
from .test_scheduler import diamond, echo


@pytest.fixture(params=["threads", "calling thread", "executor"])
def scheduler(request):
    """Return a scheduler in each of its modes."""
    options = {
        "threads": {"max_workers": 2},
        "calling thread": {"max_workers": 0},
        "executor": {"executor": concurrent.futures.ThreadPoolExecutor(2)},
    }[request.param]
    with TaskScheduler({"echo": echo}, **options) as new_scheduler:
        yield new_scheduler
    if "executor" in options:
        options["executor"].shutdown()


def test_first_middleware_is_the_outermost(scheduler):
    """Each layer wraps those registered after it, around every task."""
    calls = []

    def layer(name):
        def around(call_next, task, context):
            calls.append((context.name, name))
            result = call_next(task, context)
            calls.append((context.name, name))
            return result

        return around

    outer = layer("outer")
    assert scheduler.middleware(outer) is outer
    scheduler.middleware(layer("inner"))
    assert scheduler.run(diamond()).results["d"] == "dbaca"
    for name in "abcd":
        assert [layer for task, layer in calls if task == name] == [
            "outer",
            "inner",
            "inner",
            "outer",
        ]


def test_middleware_returns_the_value(scheduler):
    """Middleware may change the value, skip the handler, or return a Partial or a Route."""

    @scheduler.middleware
    def around(call_next, task, context):
        if context.name == "b":
            return "cached"
        if context.name == "c":
            return Partial(call_next(), "not all")
        return Route("b", "c", result=call_next()) if context.name == "a" else call_next()

    result = scheduler.run(diamond())
    assert result.results == {"a": "a", "b": "cached", "c": "ca", "d": "dcachedca"}
    assert result.errors == {"c": "not all"}


def test_middleware_may_pass_other_arguments(scheduler):
    """`call_next` accepts another task and context. By default it passes the layer's own."""
    seen = []
    scheduler.handlers["see"] = lambda task, context: seen.append((task.objective, context.name))

    @scheduler.middleware
    def around(call_next, task, context):
        call_next()
        return call_next(Task(type="see", objective="another"), context)

    graph = TaskGraph()
    graph.add(Task(type="see", objective="own"), name="x")
    scheduler.run(graph)
    assert seen == [("own", "x"), ("another", "x")]


def test_middleware_sees_errors_and_every_attempt(scheduler):
    """A handler's exception passes through middleware in each attempt; a layer may replace it."""
    caught = []

    @scheduler.middleware
    def around(call_next, task, context):
        try:
            return call_next()
        except ValueError as error:
            caught.append((context.attempt, str(error)))
            raise KeyError("layer") from error

    def handler(task, context):
        raise ValueError(f"attempt {context.attempt}")

    scheduler.handlers["fail"] = handler
    result = scheduler.run(single("fail", retry=Retry(attempts=2, wait=lambda state: 0.0)))
    assert caught == [(1, "attempt 1"), (2, "attempt 2")]
    assert result.errors == {"x": "KeyError: 'layer'"}
    assert isinstance(result.exceptions["x"].__cause__, ValueError)


def test_middleware_does_not_wrap_conditions(scheduler):
    """Middleware is not called around `when`."""
    calls = []
    scheduler.middleware(lambda call_next, task, context: calls.append("in") or call_next())
    scheduler.run(single("echo", when=lambda inputs: calls.append("when") or True))
    assert calls == ["when", "in"]


def test_middleware_of_one_task(scheduler):
    """A task's middleware is called around its attempts only, inside the scheduler's middleware."""
    calls = []

    def layer(name):
        def around(call_next, task, context):
            calls.append((context.name, name))
            return call_next() + name

        return around

    def spawner(task, context):
        context.spawn(Task(type="flaky"), name="spawned", middleware=(layer("s"),))
        return ""

    def flaky(task, context):
        if context.attempt == 1:
            raise ConnectionError()
        return context.name

    scheduler.handlers.update(spawner=spawner, flaky=flaky)
    scheduler.middleware(layer("0"))
    retry = Retry(2, wait=lambda state: 0.0)
    graph = TaskGraph()
    graph.add(Task(type="spawner"), name="a")
    graph.map(Task(type="flaky"), "x", name="m", retry=retry, middleware=(layer("1"), layer("2")))
    result = scheduler.run(graph.copy())
    assert {name: result.get(name) for name in ("a", "m[0]")} == {"a": "0", "m[0]": "m[0]210"}
    assert [name for task, name in calls if task == "m[0]"] == ["0", "1", "2"] * 2
    assert [name for task, name in calls if task == "a"] == ["0"]
    assert [name for task, name in calls if task == "spawned"] == ["0", "s"]


def test_exception_whose_str_raises(scheduler):
    """The task fails, and its error text is the type of the exception."""

    class Bad(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def handler(task, context):
        raise Bad()

    scheduler.handlers["bad"] = handler
    assert Background(scheduler.run, single("bad")).result().errors == {"x": "Bad"}


def test_partial_whose_error_has_no_str(scheduler):
    """The task is PARTIAL, and nothing else is affected."""

    class Bad:
        def __str__(self):
            raise RuntimeError("no text")

    scheduler.handlers["bad"] = lambda task, context: Partial("1", Bad())
    graph = single("bad")
    graph.add(Task(type="echo"), name="y", depends_on="x")
    result = Background(scheduler.run, graph).result()
    assert result.results == {"x": "1", "y": "1"}
    assert result.errors == {"x": "an error of the type Bad"}


def test_coroutine_function_as_handler(scheduler):
    """A coroutine function is a GraphError. A function that returns a coroutine fails its task."""

    async def handler(task, context):
        return "never"

    scheduler.handlers["async"] = handler
    with pytest.raises(GraphError, match="the handler of 'async' is a coroutine function"):
        scheduler.run(single("async"))
    scheduler.handlers["async"] = lambda task, context: handler(task, context)
    result = Background(scheduler.run, single("async")).result()
    assert "the handler of 'async' returned a coroutine" in result.errors["x"]


@pytest.mark.parametrize("status", [TaskStatus.COMPLETE, TaskStatus.WAITING], ids=str)
def test_handler_that_moves_its_own_task(scheduler, status):
    """The handler's return value determines the status, whatever status the handler set."""
    scheduler.handlers["move"] = lambda task, context: task.move(status) or "returned"
    assert Background(scheduler.run, single("move")).result().results == {"x": "returned"}
