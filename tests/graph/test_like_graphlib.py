"""A graph orders its tasks as graphlib requires, and refuses what graphlib refuses."""

import random
import sys

import pytest

from asimov_sync import GraphError, Task, TaskGraph, TaskScheduler

from ..optional_packages import import_or_skip
from ..tiers import by_tier


def graph_of(dependencies):
    """Return the graph of a dict: the name of each task, and the names it depends on."""
    graph = TaskGraph()
    for name, before in dependencies.items():
        graph.add(Task(type="task"), name=name, depends_on=list(before))
    return graph


def order_of(graph):
    """Run the graph on the calling thread; return the names in the order of execution."""
    order = []
    names = {task.id: name for name, task in graph.tasks.items()}

    def work(task, context):
        order.append(names[task.id])

    with TaskScheduler({"task": work}, max_workers=0) as scheduler:
        scheduler.run(graph).raise_for_failure()
    return order


def assert_topological(order, dependencies):
    """Assert that each task is there once, after its dependencies."""
    assert sorted(order) == sorted(dependencies)
    position = {name: index for index, name in enumerate(order)}
    for name, before in dependencies.items():
        assert all(position[one] < position[name] for one in before)


def cycle_of(dependencies):
    """Return the names in the cycle that GraphError reports; None if there is no cycle."""
    try:
        graph_of(dependencies).edges
    except GraphError as error:
        return [name.strip("'") for name in str(error).split(": ")[1].split(" → ")]
    return None


def assert_cycle(cycle, dependencies):
    """Assert that each task in the cycle depends on the next, and the last is the first."""
    assert cycle[0] == cycle[-1]
    assert len(set(cycle)) == len(cycle) - 1
    assert all(after in dependencies[name] for name, after in zip(cycle, cycle[1:]))


def random_dependencies(seed, acyclic):
    """Return a dict of dependencies, with tasks in random order."""
    source = random.Random(seed)
    names = [f"task{number}" for number in range(source.randint(1, 12))]
    dependencies = {}
    for index, name in enumerate(names):
        others = names[:index] if acyclic else names
        dependencies[name] = source.sample(others, min(len(others), source.randint(0, 2)))
    items = list(dependencies.items())
    source.shuffle(items)
    return dict(items)


@pytest.mark.parametrize(
    "dependencies",
    [
        {},
        {"a": []},
        {"c": ["b"], "b": ["a"], "a": []},
        {"d": ["b", "c"], "b": ["a"], "c": ["a"], "a": []},
        {"b": ["a"], "a": [], "d": ["c"], "c": []},
        {"c": ["a", "b"], "b": ["a"], "a": [], "alone": []},
    ],
    ids=["empty", "one", "chain", "diamond", "two parts", "shortcut"],
)
def test_order_is_topological(dependencies):
    """Each task is executed once, after all its dependencies, however they were added."""
    assert_topological(order_of(graph_of(dependencies)), dependencies)


@pytest.mark.parametrize(
    "dependencies",
    [
        {"a": ["a"]},
        {"a": ["b"], "b": ["a"]},
        {"a": ["c"], "b": ["a"], "c": ["b"], "d": ["a"], "e": []},
        {"a": ["b"], "b": ["a"], "c": ["d"], "d": ["c"]},
    ],
    ids=["itself", "pair", "with others", "two cycles"],
)
def test_a_cycle_is_refused(dependencies):
    """GraphError names a closed cycle of the graph."""
    assert_cycle(cycle_of(dependencies), dependencies)


def test_equal_graphs_have_equal_orders():
    """Two graphs built alike are executed in the same order on the calling thread."""
    for seed in range(10):
        dependencies = random_dependencies(seed, acyclic=True)
        assert order_of(graph_of(dependencies)) == order_of(graph_of(dependencies))


def test_a_repeated_name_is_refused():
    """A graph has one task of each name; graphlib merges the dependencies instead."""
    graph = graph_of({"a": []})
    with pytest.raises(GraphError, match="'a'"):
        graph.add(Task(type="task"), name="a")


def test_a_missing_dependency_is_refused():
    """A dependency must be a task of the graph; graphlib adds it instead."""
    with pytest.raises(GraphError, match="missing"):
        graph_of({"a": ["missing"]}).edges


if sys.version_info >= (3, 9):  # graphlib is new in Python 3.9

    def test_random_graphs_agree_with_graphlib():
        """Graphs with a cycle are those that graphlib refuses; all others run in a valid order."""
        graphlib = import_or_skip("graphlib")
        refused = 0
        rounds = by_tier(60, soak=3000)
        for seed in range(rounds):
            dependencies = random_dependencies(seed, acyclic=seed % 2 == 0)
            cycle = cycle_of(dependencies)
            try:
                graphlib.TopologicalSorter(dependencies).prepare()
            except graphlib.CycleError:
                refused += 1
                assert_cycle(cycle, dependencies)
            else:
                assert cycle is None
                assert_topological(order_of(graph_of(dependencies)), dependencies)
        assert 0 < refused < rounds
