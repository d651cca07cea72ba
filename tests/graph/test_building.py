"""Building graphs: names, dependencies, and what is wrong with a graph before anything runs."""

import pytest

from asimov_sync import GraphError, Retry, Task, TaskGraph, TaskStatus


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


# Options, groups, subgraphs


@pytest.mark.parametrize(
    "options, told",
    [
        ({"when": 1}, "callable"),
        ({"retry": 3}, "Retry"),
        ({"timeout": 0}, "above 0"),
        ({"max_visits": 0}, "at least 1"),
        ({"depends_on": [7]}, "7"),
        ({"depends_on": [["a"]]}, "not in the graph"),
    ],
    ids=str,
)
def test_options_that_cannot_be(options, told):
    """A wrong argument is an error that names the task and says what is expected."""
    graph = TaskGraph()
    with pytest.raises(GraphError, match=told) as caught:
        graph.add(task(), name="x", **options)
        graph.plan()
    assert "'x'" in str(caught.value)


def test_options_of_a_map():
    """The options of map are those of each of its tasks, and a copy of the graph has them, too."""
    retry = Retry(attempts=2)
    graph = TaskGraph()
    graph.map(task(), "ab", name="m", when=bool, retry=retry, timeout=3.0, max_visits=7)
    for nodes in (graph.plan().nodes, graph.copy().plan().nodes):
        assert [(node.when, node.retry, node.timeout, node.max_visits) for node in nodes] == [(bool, retry, 3.0, 7)] * 2


def test_the_name_of_a_map():
    """As a dependency it means all of its tasks, those of an empty map being none; it is no other task's name."""
    graph = TaskGraph()
    graph.add(task(), name="merge", depends_on=["page", "none"])
    graph.map(task(), "ab", name="page")
    graph.map(task(), "", name="none")
    assert graph.plan().dependencies[0] == graph.copy().plan().dependencies[0] == (1, 2)
    with pytest.raises(GraphError, match="'page' already"):
        graph.add(task(), name="page")
    with pytest.raises(GraphError, match="'merge' already"):
        graph.map(task(), "ab", name="merge")


def fetch_and_check():
    """fetch → parse → check, and log beside them."""
    graph = TaskGraph()
    graph.add(task(), name="fetch")
    graph.add(task(), name="parse", depends_on="fetch", timeout=2.0)
    graph.add(task(), name="check", depends_on="parse")
    graph.add(task(), name="log")
    return graph


def test_a_subgraph():
    """Its tasks are copies with longer names; its beginnings wait for depends_on, and its name stands for its ends."""
    inner, outer = fetch_and_check(), TaskGraph()
    first = outer.add(task(), name="first")
    ends = outer.add_graph(inner, name="one", depends_on=first)
    assert ends == [outer["one.check"], outer["one.log"]]
    outer.add_graph(inner, name="two", depends_on="one")
    outer.add(task(), name="last", depends_on=["two", first])
    plan = outer.plan()
    names = [node.name for node in plan.nodes]
    told = {names[place]: [names[one] for one in before] for place, before in enumerate(plan.dependencies)}
    assert told == {
        "first": [],
        "one.fetch": ["first"],
        "one.parse": ["one.fetch"],
        "one.check": ["one.parse"],
        "one.log": ["first"],
        "two.fetch": ["one.check", "one.log"],
        "two.parse": ["two.fetch"],
        "two.check": ["two.parse"],
        "two.log": ["one.check", "one.log"],
        "last": ["two.check", "two.log", "first"],
    }
    assert outer["one.fetch"].id != inner["fetch"].id
    assert plan.nodes[2].timeout == 2.0
    assert [(one.dependencies, one.dependents) for one in (outer.copy().plan(), plan)][0] == (
        plan.dependencies,
        plan.dependents,
    )


def test_names_that_a_subgraph_would_take():
    """A name of the graph, and one that a task of the subgraph would have, are errors before anything is added."""
    outer = TaskGraph()
    outer.add(task(), name="one")
    outer.add(task(), name="two.check")
    for name, told in (("one", "'one'"), ("two", "'two.check'")):
        with pytest.raises(GraphError, match=told):
            outer.add_graph(fetch_and_check(), name=name)
    assert len(outer) == 2


def test_local_names():
    """In a subgraph within a subgraph, a task speaks of others by the shortest name, the nearest first."""
    inner, middle, outer = fetch_and_check(), TaskGraph(), TaskGraph()
    middle.add(task(), name="begin")
    middle.add_graph(inner, name="inner", depends_on="begin")
    outer.add(task(), name="begin")
    outer.add_graph(middle, name="middle", depends_on="begin")
    plan = outer.plan()
    nodes = {node.name: node for node in plan.nodes}
    places = {name: place for place, name in enumerate(nodes)}
    fetch = nodes["middle.inner.fetch"]
    assert fetch.scopes == ("middle.inner.", "middle.")
    assert [fetch.local(name) for name in nodes] == ["begin", "begin", "fetch", "parse", "check", "log"]
    assert fetch.named("parse", places) == places["middle.inner.parse"]
    assert fetch.named("begin", places) == places["middle.begin"]
    assert fetch.named("middle.begin", places) == places["middle.begin"]
    assert fetch.named("nobody", places) is None


def test_an_empty_subgraph():
    """A graph without tasks adds none, and nothing waits for it."""
    outer = TaskGraph()
    assert outer.add_graph(TaskGraph(), name="none") == []
    outer.add(task(), name="after", depends_on="none")
    assert outer.plan().dependencies == [()]
