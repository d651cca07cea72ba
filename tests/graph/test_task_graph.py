"""TaskGraph and its plan: names, dependencies, and the errors found before anything runs."""

import math

import pytest

from asimov_sync import GraphError, Retry, Task, TaskGraph, TaskStatus
from asimov_sync.graph.node import make_node

from ..tiers import suite


def task(objective="o", **params):
    return Task(type="t", objective=objective, params=params)


def test_names_and_order():
    """Tasks are kept under their names, in the order in which they were added."""
    graph = TaskGraph()
    first = graph.add(task("first"), name="b")
    second = graph.add(task("second"), name="a", depends_on=[first])
    assert graph["b"] is first
    assert list(graph.tasks.items()) == [("b", first), ("a", second)]
    assert len(graph) == 2 and "a" in graph and "c" not in graph


def test_iteration_gives_the_names():
    """Iterating over a graph yields the names in the order of adding; len() and `in` agree."""
    graph = TaskGraph()
    assert list(graph) == [] and len(graph) == 0
    graph.add(task(), name="b")
    graph.map(task(), range(2), name="a")
    assert list(graph) == list(graph.tasks) == ["b", "a[0]", "a[1]"]
    assert len(graph) == 3
    assert all(name in graph for name in graph) and "a" not in graph
    assert {name: graph[name] for name in graph} == graph.tasks


def test_default_name_is_stable():
    """A default name consists of type and number, so each run of a program has the same names."""
    graph = TaskGraph()
    graph.add(task(), name="x")
    graph.add(task())
    assert list(graph.tasks) == ["x", "t-2"]


def test_duplicates():
    """A name or a task can be added to a graph only once."""
    graph = TaskGraph()
    first = graph.add(task("get it"), name="a")
    with pytest.raises(GraphError, match="'a'"):
        graph.add(task(), name="a")
    with pytest.raises(GraphError, match="'get it'.*as 'a'"):
        graph.add(first, name="b")
    with pytest.raises(GraphError, match="str"):
        graph.add("a")


def test_dependencies_by_task_and_by_name():
    """depends_on takes tasks and names, one or several, also names that are added later."""
    graph = TaskGraph()
    graph.add(task(), name="last", depends_on=["early", "late"])
    early = graph.add(task(), name="early")
    graph.add(task(), name="late", depends_on="early")
    graph.add(task(), name="single", depends_on=early)
    graph.add(task(), name="twice", depends_on=[early, "early"])
    assert graph.plan().dependencies == [(1, 2), (), (1,), (1,), (1,)]


def test_unknown_dependencies():
    """The error names an unknown name or task."""
    graph = TaskGraph()
    graph.add(task(), name="a", depends_on=["nobody"])
    with pytest.raises(GraphError, match="'a' depends on 'nobody'"):
        graph.plan()
    graph = TaskGraph()
    graph.add(task(), name="a", depends_on=[task("elsewhere")])
    with pytest.raises(
        GraphError, match="'a' depends on the task 'elsewhere', which was not added"
    ):
        graph.plan()


def test_cycles():
    """The error spells out the cycle, without tasks that only depend on it."""
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


@suite
def test_long_chain_needs_no_recursion():
    """A chain of 5,000 tasks can be planned, and a cycle in it is found."""
    graph = TaskGraph()
    for number in range(5000):
        graph.add(task(), name=str(number), depends_on=[str(number - 1)] if number else [])
    assert len(graph.plan().nodes) == 5000
    graph = TaskGraph()
    for number in range(5000):
        graph.add(task(), name=str(number), depends_on=[str((number - 1) % 5000)])
    with pytest.raises(GraphError, match="→"):
        graph.plan()


def test_map():
    """map() adds a copy of its task for each item, named by number, with the item in params."""
    graph = TaskGraph()
    source = graph.add(task(), name="source")
    pages = graph.map(task("digest", depth=1), ["x", "y"], name="page", depends_on=source)
    assert [page.params for page in pages] == [{"depth": 1, "item": "x"}, {"depth": 1, "item": "y"}]
    assert list(graph.tasks) == ["source", "page[0]", "page[1]"]
    assert len({page.id for page in pages}) == 2
    assert graph.plan().dependencies == [(), (0,), (0,)]
    assert list(graph.map(task(), "z")[0].params.values()) == ["z"]


def test_copy_is_a_new_graph():
    """A copy has the same names and edges, and tasks of its own, all WAITING."""

    class Special(Task):
        weight: int = 1

    graph = TaskGraph()
    first = graph.add(Special(type="t", weight=5), name="a")
    graph.add(task(), name="b", depends_on=[first], allow_failure=True)
    first.move(TaskStatus.EXECUTING)
    first.move(TaskStatus.COMPLETE, result=1)
    duplicate = graph.copy()
    assert list(duplicate.tasks) == ["a", "b"]
    assert duplicate["a"].id != first.id
    assert duplicate["a"].snapshot() == (TaskStatus.WAITING, None, None)
    assert duplicate["a"].weight == 5
    assert duplicate.plan().dependencies == [(), (0,)]
    assert [node.allow_failure for node in duplicate.plan().nodes] == [False, True]
    assert first.status is TaskStatus.COMPLETE


# Options, groups, subgraphs


@pytest.mark.parametrize(
    "options, message",
    [
        ({"when": 1}, "function"),
        ({"retry": 3}, "Retry"),
        ({"timeout": 0}, "timeout=.*above 0"),
        ({"timeout": -1}, "timeout=.*above 0"),
        ({"timeout": math.nan}, "timeout=.*above 0"),
        ({"timeout": "3"}, "timeout=.*above 0"),
        ({"max_visits": 0}, "max_visits=.*at least 1"),
        ({"max_visits": 1.5}, "max_visits=.*at least 1"),
        ({"max_visits": None}, "max_visits=.*at least 1"),
        ({"depends_on": None}, "depends_on=.*tasks and names"),
        ({"depends_on": 7}, "depends_on=.*tasks and names"),
        ({"depends_on": [7]}, "depends_on=.*tasks and names"),
        ({"depends_on": [["a"]]}, "depends_on=.*tasks and names"),
        ({"depends_on": TaskGraph()}, "depends_on=.*tasks and names"),
    ],
    ids=str,
)
def test_invalid_options(options, message):
    """The error, raised at the call, names the task, the option and what it takes."""
    graph = TaskGraph()
    calls = [
        lambda: graph.add(task(), name="x", **options),
        lambda: graph.map(task(), (), name="x", **options),
    ]
    if "depends_on" in options:
        calls.append(lambda: graph.add_graph(TaskGraph(), name="x", **options))
    for call in calls:
        with pytest.raises(GraphError, match=message) as caught:
            call()
        assert "'x'" in str(caught.value)
    assert "x" not in graph
    assert graph.map(task(), (), name="x") == []  # no group of that name was left


def test_invalid_arguments():
    """A name that is not a string, a non-Task, a non-iterable and a non-graph are GraphErrors."""
    graph = TaskGraph()
    for call, message in (
        (lambda: graph.add(task(), name=5), "name= is a string, not 5"),
        (lambda: graph.map(task(), "ab", name=5), "name= is a string, not 5"),
        (lambda: graph.add_graph(TaskGraph(), name=None), "name= is a string, not None"),
        (lambda: graph.map("t", "ab"), "map takes a Task, a handler, or a function of the item"),
        (lambda: graph.map(task(), 5), "items= of 't' .* not 5"),
        (lambda: graph.add_graph([task()], name="x"), "takes a TaskGraph, not"),
    ):
        with pytest.raises(GraphError, match=message):
            call()
    assert len(graph) == 0


def test_options_of_a_map():
    """The options of a map apply to each of its tasks, also in a copy of the graph."""
    retry = Retry(attempts=2)
    graph = TaskGraph()
    graph.map(task(), "ab", name="m", when=bool, retry=retry, timeout=3.0, max_visits=7)
    for nodes in (graph.plan().nodes, graph.copy().plan().nodes):
        assert [(node.when, node.retry, node.timeout, node.max_visits) for node in nodes] == [
            (bool, retry, 3.0, 7)
        ] * 2


def test_name_of_a_map():
    """In depends_on, a map's name stands for all of its tasks. No task can have the name."""
    graph = TaskGraph()
    graph.add(task(), name="merge", depends_on=["page", "none"])
    graph.map(task(), "ab", name="page")
    graph.map(task(), "", name="none")
    assert graph.plan().dependencies[0] == graph.copy().plan().dependencies[0] == (1, 2)
    with pytest.raises(GraphError, match="'page' already"):
        graph.add(task(), name="page")
    with pytest.raises(GraphError, match="'merge' already"):
        graph.map(task(), "ab", name="merge")


def test_default_names_avoid_groups():
    """A generated name is neither that of a task nor that of a map."""
    graph = TaskGraph()
    graph.map(task(), [1], name="t-2")
    graph.add(task())
    assert list(graph.tasks) == ["t-2[0]", "t-3"]


def test_map_is_added_whole_or_not_at_all():
    """If a name is taken, or the items raise, nothing is added and the name is free."""
    graph = TaskGraph()
    graph.add(task(), name="page[1]")
    with pytest.raises(GraphError, match=r"'page\[1\]' already"):
        graph.map(task(), "ab", name="page")
    with pytest.raises(ZeroDivisionError):
        graph.map(task(), (1 // number for number in (1, 0)), name="other")
    assert list(graph.tasks) == ["page[1]"]
    assert [one.params["item"] for one in graph.map(task(), "a", name="page")] == ["a"]
    graph.map(task(), "a", name="other")


def test_subgraph_is_added_whole_or_not_at_all():
    """If the name of one of its groups is taken, nothing is added."""
    inner, outer = TaskGraph(), TaskGraph()
    inner.map(task(), "a", name="page")
    outer.add(task(), name="sub.page")
    with pytest.raises(GraphError, match="'sub.page' already"):
        outer.add_graph(inner, name="sub")
    assert list(outer.tasks) == ["sub.page"]
    outer.add(task(), name="sub")


def test_graph_in_itself():
    """A graph can be added to itself: it is copied as it is at the call."""
    graph = TaskGraph()
    graph.map(task(), "ab", name="page")
    graph.add(task(), name="total", depends_on="page")
    graph.add_graph(graph, name="again", depends_on="total")
    names = list(graph.tasks)
    assert names == ["page[0]", "page[1]", "total", "again.page[0]", "again.page[1]", "again.total"]
    assert graph.plan().dependencies == [(), (), (0, 1), (2,), (2,), (3, 4)]
    graph.add(task(), name="late", depends_on="again.page")
    assert graph.plan().dependencies[-1] == (3, 4)


def waits(graph):
    """Return the dependencies of each task, by name, and those that determine only the order."""
    plan = graph.plan()
    names = [node.name for node in plan.nodes]
    return {
        name: (
            [names[one] for one in before],
            {names[one] for one in plan.order_only.get(index, ())},
        )
        for index, (name, before) in enumerate(zip(names, plan.dependencies))
    }


def test_name_of_an_empty_map():
    """In depends_on, the name of an empty map stands for the map's dependencies, transitively.

    They determine the order only; their results are not inputs.
    """
    graph = TaskGraph()
    graph.add(task(), name="total", depends_on="page")
    graph.add(task(), name="both", depends_on=["page", "fetch"])
    graph.map(task(), "", name="page", depends_on=["line", "fetch"])
    graph.map(task(), "", name="line", depends_on=["begin", "line"])
    fetch = graph.add(task(), name="fetch")
    graph.map(task(), "ab", name="begin", depends_on=fetch)
    for one in (graph, graph.copy()):
        found = waits(one)
        assert found["total"] == (
            ["fetch", "begin[0]", "begin[1]"],
            {"fetch", "begin[0]", "begin[1]"},
        )
        assert found["both"] == (["fetch", "begin[0]", "begin[1]"], {"begin[0]", "begin[1]"})


@pytest.mark.parametrize("order", [1, -1], ids=["forwards", "backwards"])
def test_long_chain_of_empty_maps(order):
    """The last map's name stands for the first map's dependencies, in any order of adding."""
    graph = TaskGraph()
    graph.add(task(), name="fetch")
    for link in list(range(300))[::order]:
        graph.map(
            task(), "", name=f"page {link}", depends_on=f"page {link - 1}" if link else "fetch"
        )
    graph.add(task(), name="total", depends_on="page 299")
    assert waits(graph)["total"] == (["fetch"], {"fetch"})


def test_empty_map_in_a_subgraph():
    """The map's name stands for its dependencies; if it has none, for those of the subgraph."""
    inner, outer = TaskGraph(), TaskGraph()
    fetch = inner.add(task(), name="fetch")
    inner.map(task(), "", name="page", depends_on=fetch)
    inner.map(task(), "", name="free")
    inner.add(task(), name="total", depends_on=["page"])
    inner.add(task(), name="other", depends_on=["free"])
    outer.add(task(), name="before")
    outer.add_graph(inner, name="sub", depends_on="before")
    outer.add_graph(TaskGraph(), name="none", depends_on="sub")
    outer.add(task(), name="after", depends_on="none")
    found = waits(outer)
    assert found["sub.total"] == (["sub.fetch"], {"sub.fetch"})
    assert found["sub.other"] == (["before"], {"before"})
    assert found["after"] == (["sub.total", "sub.other"], {"sub.total", "sub.other"})


def test_empty_map_is_checked_too():
    """Unknown dependencies of an empty map, and a cycle through it, are errors."""
    graph = TaskGraph()
    graph.map(task(), "", name="page", depends_on="nobody")
    with pytest.raises(GraphError, match="'page' depends on 'nobody'"):
        graph.plan()
    graph.add(task(), name="nobody", depends_on="page")
    with pytest.raises(GraphError, match="'nobody' → 'nobody'"):
        graph.plan()


def fetch_and_check():
    """Return the graph fetch → parse → check, and log beside them."""
    graph = TaskGraph()
    graph.add(task(), name="fetch")
    graph.add(task(), name="parse", depends_on="fetch", timeout=2.0)
    graph.add(task(), name="check", depends_on="parse")
    graph.add(task(), name="log")
    return graph


def test_subgraph():
    """A subgraph's tasks are added as copies with prefixed names.

    depends_on= applies to its first tasks, and its name stands for its last tasks.
    """
    inner, outer = fetch_and_check(), TaskGraph()
    first = outer.add(task(), name="first")
    ends = outer.add_graph(inner, name="one", depends_on=first)
    assert ends == [outer["one.check"], outer["one.log"]]
    outer.add_graph(inner, name="two", depends_on="one")
    outer.add(task(), name="last", depends_on=["two", first])
    plan = outer.plan()
    names = [node.name for node in plan.nodes]
    found = {
        names[index]: [names[one] for one in before]
        for index, before in enumerate(plan.dependencies)
    }
    assert found == {
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


def test_names_taken_by_a_subgraph():
    """A clash with a name in the graph, or with a task of the subgraph, is an error."""
    outer = TaskGraph()
    outer.add(task(), name="one")
    outer.add(task(), name="two.check")
    for name, message in (("one", "'one'"), ("two", "'two.check'")):
        with pytest.raises(GraphError, match=message):
            outer.add_graph(fetch_and_check(), name=name)
    assert len(outer) == 2


def test_local_names():
    """In nested subgraphs, names are shortened, and the innermost namespace is searched first."""
    inner, middle, outer = fetch_and_check(), TaskGraph(), TaskGraph()
    middle.add(task(), name="begin")
    middle.add_graph(inner, name="inner", depends_on="begin")
    outer.add(task(), name="begin")
    outer.add_graph(middle, name="middle", depends_on="begin")
    plan = outer.plan()
    nodes = {node.name: node for node in plan.nodes}
    indexes = {name: index for index, name in enumerate(nodes)}
    fetch = nodes["middle.inner.fetch"]
    assert fetch.namespaces == ("middle.inner.", "middle.")
    assert [fetch.local_name(name) for name in nodes] == [
        "begin",
        "begin",
        "fetch",
        "parse",
        "check",
        "log",
    ]
    assert fetch.resolve("parse", indexes) == indexes["middle.inner.parse"]
    assert fetch.resolve("begin", indexes) == indexes["middle.begin"]
    assert fetch.resolve("middle.begin", indexes) == indexes["middle.begin"]
    assert fetch.resolve("nobody", indexes) is None


def test_ambiguous_local_names():
    """A short name that is ambiguous is not used; full names are unique."""
    node = make_node(
        task(), "first.second.x", (), None, False, None, None, 5, ("first.second.", "first.")
    )
    found = node.local_names(
        ["a", "first.a", "first.b", "first.second.b", "first.c", "c.d", "first.second.first.c"]
    )
    assert found == {
        "a": "a",
        "first.a": "first.a",
        "first.b": "first.b",
        "first.second.b": "first.second.b",
        "first.c": "c",
        "c.d": "c.d",
        "first.second.first.c": "first.second.first.c",
    }


def test_empty_subgraph():
    """A graph without tasks adds none; dependents of it wait for its depends_on= instead."""
    outer = TaskGraph()
    assert outer.add_graph(TaskGraph(), name="none") == []
    outer.add(task(), name="after", depends_on="none")
    assert outer.plan().dependencies == [()]
