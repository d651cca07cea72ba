"""Building graphs: names, dependencies, and what is wrong with a graph before anything runs."""

import pytest

from asimov_sync import GraphError, Task, TaskGraph, TaskStatus


def task(objective="o", **params):
    return Task(type="t", objective=objective, params=params)


def test_names_and_order():
    """Tasks are kept in the order in which they were added, under their names."""
    graph = TaskGraph()
    first = graph.add(task("first"), name="b")
    second = graph.add(task("second"), name="a", depends_on=[first])
    assert graph["b"] is first
    assert list(graph.tasks.items()) == [("b", first), ("a", second)]
    assert len(graph) == 2 and "a" in graph and "c" not in graph


def test_a_task_without_a_name_gets_a_stable_one():
    """The name is made of type and place, so the same program makes the same names."""
    graph = TaskGraph()
    graph.add(task(), name="x")
    graph.add(task())
    assert list(graph.tasks) == ["x", "t-2"]


def test_duplicates():
    """A name or a task is in a graph once."""
    graph = TaskGraph()
    first = graph.add(task("get it"), name="a")
    with pytest.raises(GraphError, match="'a'"):
        graph.add(task(), name="a")
    with pytest.raises(GraphError, match="'get it'.*as 'a'"):
        graph.add(first, name="b")
    with pytest.raises(GraphError, match="str"):
        graph.add("a")


def test_dependencies_by_task_and_by_name():
    """A dependency is a task or a name, one or several; a name may be added later; twice is once."""
    graph = TaskGraph()
    graph.add(task(), name="last", depends_on=["early", "late"])
    early = graph.add(task(), name="early")
    graph.add(task(), name="late", depends_on="early")
    graph.add(task(), name="single", depends_on=early)
    graph.add(task(), name="twice", depends_on=[early, "early"])
    assert graph.plan().dependencies == [(1, 2), (), (1,), (1,), (1,)]


def test_unknown_dependencies():
    """A name or task that the graph does not have is named in the error."""
    graph = TaskGraph()
    graph.add(task(), name="a", depends_on=["nobody"])
    with pytest.raises(GraphError, match="'a' depends on 'nobody'"):
        graph.plan()
    graph = TaskGraph()
    graph.add(task(), name="a", depends_on=[task("elsewhere")])
    with pytest.raises(GraphError, match="'a' depends on 'elsewhere'"):
        graph.plan()


def test_cycles():
    """A cycle is named in the order of its waits, without those that only hang on it."""
    graph = TaskGraph()
    graph.add(task(), name="before")
    graph.add(task(), name="a", depends_on=["c", "before"])
    graph.add(task(), name="b", depends_on=["a"])
    graph.add(task(), name="c", depends_on=["b"])
    graph.add(task(), name="after", depends_on=["c"])
    with pytest.raises(GraphError, match="'a' → 'c' → 'b' → 'a'"):
        graph.plan()
    graph = TaskGraph()
    graph.add(task(), name="self", depends_on=["self"])
    with pytest.raises(GraphError, match="'self' → 'self'"):
        graph.plan()


def test_a_long_chain_needs_no_recursion():
    """A chain of 20,000 tasks is planned, and so is found its cycle."""
    graph = TaskGraph()
    for number in range(20000):
        graph.add(task(), name=str(number), depends_on=[str(number - 1)] if number else [])
    assert len(graph.plan().nodes) == 20000
    graph = TaskGraph()
    for number in range(20000):
        graph.add(task(), name=str(number), depends_on=[str((number - 1) % 20000)])
    with pytest.raises(GraphError, match="→"):
        graph.plan()


def test_map():
    """map() adds a copy of its task for every item, named by place, with the item in params."""
    graph = TaskGraph()
    source = graph.add(task(), name="source")
    pages = graph.map(task("digest", depth=1), ["x", "y"], name="page", depends_on=source)
    assert [page.params for page in pages] == [{"depth": 1, "item": "x"}, {"depth": 1, "item": "y"}]
    assert list(graph.tasks) == ["source", "page[0]", "page[1]"]
    assert len({page.id for page in pages}) == 2
    assert graph.plan().dependencies == [(), (0,), (0,)]
    assert list(graph.map(task(), "z")[0].params.values()) == ["z"]


def test_a_copy_is_a_new_graph():
    """A copy has the same names and edges, and tasks of its own, all WAITING."""

    class Special(Task):
        weight: int = 1

    graph = TaskGraph()
    first = graph.add(Special(type="t", weight=5), name="a")
    graph.add(task(), name="b", depends_on=[first], allow_failure=True)
    first.move(TaskStatus.EXECUTING)
    first.move(TaskStatus.COMPLETE, result=1)
    twin = graph.copy()
    assert list(twin.tasks) == ["a", "b"]
    assert twin["a"].id != first.id
    assert twin["a"].snapshot() == (TaskStatus.WAITING, None, None)
    assert twin["a"].weight == 5
    assert twin.plan().dependencies == [(), (0,)]
    assert [node.allow_failure for node in twin.plan().nodes] == [False, True]
    assert first.status is TaskStatus.COMPLETE
