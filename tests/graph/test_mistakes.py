"""Mistakes with graphs, schedulers and tasks: each has an error that says what to do."""

import copy
import logging
import multiprocessing.pool
import pickle
import threading

import pytest

import asimov_sync
from asimov_sync import Cancellation, GraphError, MemoryCache, Task, TaskGraph, TaskScheduler
from asimov_sync.aio import to_async

from .graphs import single


def handler(task, context):
    return task.objective


async def coroutine_handler(task, context):
    return "never"


async def async_generator_handler(task, context):
    yield "never"


def run(graph=None, **options):
    with TaskScheduler({"ok": handler}) as scheduler:
        return scheduler.run(single("ok") if graph is None else graph, **options)


def register(function):
    TaskScheduler().handler("fetch")(function)


def result_of(function, **options):
    """Run one task with a handler, and raise what the handler raised."""
    graph = TaskGraph()
    graph.add(handler, name="first")
    graph.add(function, name="second", **options)
    result = asimov_sync.run(graph)
    if "second" in result.exceptions:
        raise result.exceptions["second"]
    return result


def graph_with(name, **options):
    graph = TaskGraph()
    graph.add(Task(type="ok"), name=name, **options)
    return graph


MISTAKES = [
    # Schedulers
    (lambda: TaskScheduler(8), TypeError, "handlers= is a dict .* not 8; .*max_workers=8"),
    (lambda: TaskScheduler({"a": None}), TypeError, "handler of 'a' is a function of .*not None"),
    (lambda: TaskScheduler(cache=5), TypeError, "cache= is a cache, such as MemoryCache"),
    (lambda: TaskScheduler(cache=to_async(MemoryCache())), TypeError, "cache= is a cache"),
    (lambda: TaskScheduler(max_workers=1.5), TypeError, "max_workers= is a number .*not 1.5"),
    (lambda: TaskScheduler(max_workers=None), TypeError, "max_workers= is a number .*not None"),
    (lambda: TaskScheduler(max_workers="2"), TypeError, "max_workers= is a number .*not '2'"),
    (lambda: TaskScheduler(max_workers=True), TypeError, "max_workers= is a number .*not True"),
    (lambda: TaskScheduler(max_workers=-1), ValueError, "max_workers= is a number .*not -1"),
    (lambda: TaskScheduler(executor=5), TypeError, "ThreadPoolExecutor.* 5 has no submit"),
    (lambda: TaskScheduler(remote=True), ValueError, "remote=True .* needs executor="),
    (
        lambda: TaskScheduler(executor=int).run(TaskGraph()),
        GraphError,
        r"executor= made 0, which has no submit\(\)",
    ),
    (
        lambda: TaskScheduler({"a": "tasks.a"}),
        TypeError,
        "'package.module:function', not 'tasks.a'",
    ),
    # Handlers, middleware, callbacks
    (
        lambda: register(lambda task: 1),
        TypeError,
        r"\(task, context\), and this one takes \(task\)",
    ),
    (lambda: register(lambda a, b, c: 1), TypeError, r"and this one takes \(a, b, c\)"),
    (lambda: register(coroutine_handler), TypeError, "is a coroutine function.*asyncio.run"),
    (lambda: register(async_generator_handler), TypeError, "is a coroutine function"),
    (lambda: TaskScheduler().handler(5), TypeError, "a task type is a string.*not 5"),
    (lambda: TaskScheduler().handler(lambda task: 1), TypeError, "handler of '<lambda>'"),
    (
        lambda: TaskScheduler().middleware(lambda call_next: 1),
        TypeError,
        "call_next, task, context",
    ),
    (lambda: TaskScheduler().middleware(None), TypeError, "a middleware is a function of"),
    (lambda: TaskScheduler().on_event(coroutine_handler), TypeError, "callback .* is a coroutine"),
    (lambda: TaskScheduler().on_event(lambda: 1), TypeError, r"of \(event\), and this one takes"),
    # Runs
    (lambda: TaskScheduler().run(None), TypeError, r"runs a TaskGraph, not None: .*graph.add"),
    (lambda: run([Task(type="ok")]), TypeError, "runs a TaskGraph, not "),
    (lambda: run("x"), TypeError, "runs a TaskGraph, not 'x'"),
    (lambda: run(timeout="x"), TypeError, "timeout= is a number of seconds, or None; not 'x'"),
    (lambda: run(timeout=float("nan")), ValueError, "timeout= is a number of seconds"),
    (lambda: run(cancellation=5), TypeError, "cancellation= is a Cancellation, or None; not 5"),
    (lambda: run(budget=5), TypeError, r"budget= is a Budget, such as Budget\(requests=10\)"),
    (lambda: run(run_id=5), TypeError, "run_id= is a string, or None; not 5"),
    (lambda: run(on_failure="halt"), ValueError, '"continue" or "stop", not \'halt\''),
    (lambda: run(params=5), GraphError, "params= is a dict of params by task name, not 5"),
    (
        lambda: run(params={"y": {}}),
        GraphError,
        "params= has a task 'y', which is not in the graph",
    ),
    (lambda: run(params={"x": 5}), GraphError, "a dict of params for each task; for 'x' it has 5"),
    # Graphs and tasks
    (lambda: Task("ok"), TypeError, r"Task takes keyword arguments, such as Task\(type=…\)"),
    (lambda: TaskGraph().add("ok"), GraphError, r"holds Tasks and handlers, .*not 'ok', a str"),
    (lambda: TaskGraph().add(len), GraphError, r"handler 'len' .*takes \(obj, /\); graph.call"),
    (lambda: TaskGraph().add(coroutine_handler), GraphError, "is a coroutine function"),
    (lambda: TaskGraph().add(Task(type="ok"), params={}), GraphError, "a Task has its own"),
    (lambda: TaskGraph().add(handler, params=5), GraphError, "params= is a dict .*not 5"),
    (lambda: TaskGraph().add(handler, objective=5), GraphError, "objective= is a string, not 5"),
    (lambda: graph_with("x", middleware=handler), GraphError, "middleware= of 'x' is a list"),
    (lambda: graph_with("x", middleware=[5]), GraphError, "a middleware of 'x' is a function of"),
    (lambda: graph_with("x").validate(5), TypeError, "validate takes a TaskScheduler, not 5"),
    (lambda: graph_with("x").validate(TaskScheduler()), GraphError, "no handler for the type 'ok'"),
    (lambda: run(graph_with("page", depends_on="pgae")), GraphError, "similar names: 'page'"),
    (
        lambda: run(graph_with("a", depends_on=graph_with("x")["x"])),
        GraphError,
        "'a' depends on the task 'ok', which was not added to this graph",
    ),
    # Results and inputs
    (
        lambda: result_of(lambda task, context: context.inputs["first"]),
        KeyError,
        r"'second' has no input 'first' \(its inputs: none\); declare .*depends_on='first'",
    ),
    (
        lambda: result_of(lambda task, context: context.inputs["frist"], depends_on="first"),
        KeyError,
        r"no input 'frist' \(its inputs: 'first'\)",
    ),
    (
        lambda: result_of(lambda task, context: context.inputs[task]),
        TypeError,
        r"a Task cannot be a key.*context.inputs\['fetch'\]",
    ),
    (lambda: run().results[Task(type="ok")], TypeError, r"result\[task\] takes a Task"),
]


@pytest.mark.parametrize("call, error, words", MISTAKES)
def test_mistake(call, error, words):
    """The call that makes the mistake raises an error with these words."""
    with pytest.raises(error, match=words) as caught:
        call()
    assert caught.type is error


def test_multiprocessing_pool():
    """A ThreadPool of multiprocessing is refused when the scheduler is made."""
    pool = multiprocessing.pool.ThreadPool(1)
    try:
        with pytest.raises(TypeError, match="has no submit"):
            TaskScheduler(executor=pool)
    finally:
        pool.terminate()
        pool.join()


def test_handler_in_the_dict_is_checked_before_the_run():
    """`scheduler.handlers` takes anything; the run is refused before a task starts."""
    started = threading.Event()
    with TaskScheduler({"ok": lambda task, context: started.set()}) as scheduler:
        scheduler.handlers["one"] = lambda task: 1
        graph = single("ok")
        graph.add(Task(type="one"), depends_on="x")
        for _ in range(2):
            with pytest.raises(GraphError, match="handler of 'one' .* takes \\(task\\)"):
                scheduler.run(graph)
        with pytest.raises(GraphError, match="handler of 'one'"):
            graph.validate(scheduler)
        assert not started.is_set()


def test_decorator_without_a_type():
    """`@scheduler.handler` registers the function under its name."""
    with TaskScheduler() as scheduler:

        @scheduler.handler
        def fetch(task, context):
            return "fetched"

        assert fetch(None, None) == "fetched"
        assert scheduler.run(single("fetch")).results == {"x": "fetched"}


def test_middleware_that_returns_nothing(caplog):
    """A middleware that drops a handler's value by returning None is logged, once, as a warning."""
    with TaskScheduler({"ok": handler, "none": lambda task, context: None}) as scheduler:

        @scheduler.middleware
        def forgets(call_next, task, context):
            call_next()

        with caplog.at_level(logging.WARNING):
            scheduler.run(single("none"))
            assert caplog.messages == []
            for _ in range(2):
                assert scheduler.run(single("ok")).results == {"x": None}
    assert len(caplog.messages) == 1
    assert "forgets returned None for 'x'" in caplog.text
    assert "has to return the value of call_next()" in caplog.text


def test_inputs_are_a_dict():
    """A handler's inputs equal a dict, and their copies and pickles are plain dicts."""
    result = result_of(lambda task, context: context.inputs, depends_on="first")
    inputs = result["second"]
    assert inputs == {"first": ""} and isinstance(inputs, dict)
    for twin in (copy.copy(inputs), copy.deepcopy(inputs), pickle.loads(pickle.dumps(inputs))):
        assert type(twin) is dict and twin == {"first": ""}


@pytest.mark.parametrize("use", ["copy", "map", "add_graph"])
def test_param_that_cannot_be_copied(use):
    """The error names the task and the param, and nothing is added."""
    task = Task(type="ok", params={"fine": [1], "lock": threading.Lock()})
    graph, outer = TaskGraph(), TaskGraph()
    graph.add(task, name="x")
    calls = {
        "copy": graph.copy,
        "map": lambda: outer.map(task, [1], name="x"),
        "add_graph": lambda: outer.add_graph(graph, name="inner"),
    }
    with pytest.raises(GraphError, match="the param 'lock' of 'x' cannot be copied .*lock"):
        calls[use]()
    assert len(outer) == 0


def test_cancelled_token_is_accepted():
    """A token that was cancelled before the run ends the run; that is not an error of the call."""
    token = Cancellation(parent=None)
    token.cancel("enough")
    assert run(cancellation=token).skipped == {"x": "the run ended early: enough"}
