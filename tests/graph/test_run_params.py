"""Params for one run; asimov_sync.run; edges and validate."""

import asyncio

import pytest

import asimov_sync
from asimov_sync import GraphError, Retry, Task, TaskGraph, TaskScheduler
from asimov_sync.aio import to_async


def show(task, context):
    return dict(task.params)


def two_tasks():
    graph = TaskGraph()
    graph.add(show, params={"a": 1, "b": [2]}, name="x")
    graph.add(Task(type="show", params={"c": 3}), name="y", depends_on="x")
    return graph


def test_params_for_one_run():
    """params= is merged over the params of the tasks for one run. The graph does not change."""
    graph = two_tasks()
    task = graph["x"]
    new = {"x": {"a": 5, "d": 6}}
    with TaskScheduler({"show": show}) as scheduler:
        events = list(scheduler.stream(graph, params=new))
        result = events[-1].result
        assert result["x"] == {"a": 5, "b": [2], "d": 6} and result["y"] == {"c": 3}
        assert result["x"] == result[task] == result.tasks["x"].params
        started = next(one for one in events if one.type == "task_started")
        assert started.task.params == result["x"] and started.task.id == task.id
        assert task.params == {"a": 1, "b": [2]} and task.status.is_final
        assert new == {"x": {"a": 5, "d": 6}}
        assert scheduler.submit(graph, params={"y": {"c": 4}}).result()["y"] == {"c": 4}
        assert scheduler.run(graph, params={}).results == {
            "x": {"a": 1, "b": [2]},
            "y": {"c": 3},
        }
    assert asimov_sync.run(graph, {"show": show}, params=new)["x"]["a"] == 5
    facade = to_async(TaskScheduler({"show": show}))

    async def main():
        async with facade:
            return await facade.run(graph, params=new)

    assert asyncio.run(main())["x"]["a"] == 5


def test_params_of_a_function():
    """For a function, a value in params= replaces an argument, even one that is a task."""

    def join(left, right="r", *rest):
        return "/".join((left, right) + rest)

    graph = TaskGraph()
    one = graph.call(str, 1)
    graph.call(join, one, "b", "c")
    assert asimov_sync.run(graph)["join"] == "1/b/c"
    result = asimov_sync.run(graph, params={"join": {"right": "new", "rest": ()}})
    assert result["join"] == "1/new"
    assert asimov_sync.run(graph, params={"join": {"left": "x"}})["join"] == "x/b/c"
    with pytest.raises(GraphError, match="'join', has no parameter 'rihgt'; similar .*'right'"):
        asimov_sync.run(graph, params={"join": {"rihgt": "new"}})


def test_every_attempt_has_fresh_params():
    """An attempt does not see changes that an earlier attempt made to the params."""

    def flaky(task, context):
        assert "seen" not in task.params
        task.params["seen"] = True
        if context.attempt == 1:
            raise ConnectionError()
        return task.params["a"]

    graph = TaskGraph()
    graph.add(flaky, retry=Retry(2, wait=lambda state: 0.0))
    assert asimov_sync.run(graph, params={"flaky": {"a": 1}}).results == {"flaky": 1}
    assert graph["flaky"].params == {}


def test_unknown_task_in_params():
    """An unknown task in params= is refused before a task starts; the message has similar names."""
    graph = two_tasks()
    graph.add(show, name="pages")
    with pytest.raises(GraphError, match="has a task 'page', which .*similar names: 'pages'"):
        asimov_sync.run(graph, {"show": show}, params={"page": {}})
    assert asimov_sync.run(graph, {"show": show}).status == "complete"


def test_run_with_a_scheduler_of_its_own():
    """asimov_sync.run takes handlers and run options, and raises the scheduler's errors."""
    graph = TaskGraph()
    graph.call(str, 5)
    result = asimov_sync.run(graph, run_id="r", timeout=20, on_failure="stop")
    assert (result.results, result.run_id) == ({"str": "5"}, "r")
    with pytest.raises(GraphError, match="no handler for the type 'show'"):
        asimov_sync.run(two_tasks())
    with pytest.raises(ValueError, match="on_failure="):
        asimov_sync.run(graph, on_failure="x")


def test_edges():
    """edges has the pairs of names in the order of the tasks. Groups are resolved."""
    graph = two_tasks()
    graph.map(str, [1, 2], name="page", depends_on="y")
    graph.call(len, "abc")
    graph.with_options(depends_on="page").call(print)
    assert graph.edges == [
        ("x", "y"),
        ("y", "page[0]"),
        ("y", "page[1]"),
        ("page[0]", "print"),
        ("page[1]", "print"),
    ]
    graph.add(show, name="bad", depends_on="nobody")
    with pytest.raises(GraphError, match="nobody"):
        graph.edges


def test_validate():
    """validate raises the errors of a run, and starts nothing."""
    graph = two_tasks()
    scheduler = TaskScheduler({"show": show})
    graph.validate(scheduler)
    with pytest.raises(GraphError, match="no handler for the type 'show' of task 'y'"):
        graph.validate(TaskScheduler())
    graph.add(show, name="a", depends_on="b")
    with pytest.raises(GraphError, match="'a' depends on 'b'"):
        graph.validate(scheduler)
    graph.add(show, name="b", depends_on="a")
    with pytest.raises(GraphError, match="'a' → 'b' → 'a'"):
        graph.validate(scheduler)
    assert scheduler.last_result is None
    scheduler.close()
