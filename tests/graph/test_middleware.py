"""Middleware: layers around every attempt of every task."""

import concurrent.futures

import pytest

from asimov_sync import Partial, Retry, Route, Task, TaskGraph, TaskScheduler

from .graphs import single
from .test_scheduler import diamond, echo


@pytest.fixture(params=["threads", "calling thread", "executor"])
def scheduler(request):
    """A scheduler in each of its modes."""
    options = {
        "threads": {"max_workers": 2},
        "calling thread": {"max_workers": 0},
        "executor": {"executor": concurrent.futures.ThreadPoolExecutor(2)},
    }[request.param]
    with TaskScheduler({"echo": echo}, **options) as made:
        yield made
    if "executor" in options:
        options["executor"].shutdown()


def test_the_first_is_the_outermost(scheduler):
    """Each layer is around those that were registered after it, and around every task."""
    told = []

    def layer(name):
        def around(call_next, task, context):
            told.append((context.name, name))
            result = call_next(task, context)
            told.append((context.name, name))
            return result

        return around

    outer = layer("outer")
    assert scheduler.middleware(outer) is outer
    scheduler.middleware(layer("inner"))
    assert scheduler.run(diamond()).results["d"] == "dbaca"
    for name in "abcd":
        assert [layer for task, layer in told if task == name] == ["outer", "inner", "inner", "outer"]


def test_what_it_returns_is_the_value(scheduler):
    """It may change the value, answer in the handler's place, or make a Partial or a Route of it."""

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


def test_it_may_call_with_others(scheduler):
    """`call_next` takes another task and context; without arguments they are its own."""
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


def test_it_sees_errors_and_every_attempt(scheduler):
    """A handler's exception passes through it, once for each attempt; what it raises itself is the task's error."""
    caught = []

    @scheduler.middleware
    def around(call_next, task, context):
        try:
            return call_next()
        except ValueError as error:
            caught.append((context.attempt, str(error)))
            raise KeyError("layer") from error

    def handler(task, context):
        raise ValueError("attempt {}".format(context.attempt))

    scheduler.handlers["fail"] = handler
    result = scheduler.run(single("fail", retry=Retry(attempts=2, wait=lambda state: 0.0)))
    assert caught == [(1, "attempt 1"), (2, "attempt 2")]
    assert result.errors == {"x": "KeyError: 'layer'"}
    assert isinstance(result.exceptions["x"].__cause__, ValueError)


def test_a_condition_is_asked_outside_of_it(scheduler):
    """A `when` is no handler: no layer is around it."""
    told = []
    scheduler.middleware(lambda call_next, task, context: told.append("in") or call_next())
    scheduler.run(single("echo", when=lambda inputs: told.append("when") or True))
    assert told == ["when", "in"]
