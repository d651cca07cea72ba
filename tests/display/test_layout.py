"""The layout of pictures: arrows point to the right, boxes do not overlap, and it is fast."""

import itertools
import time

from hypothesis import given, settings, strategies as st

from asimov_sync import Task, TaskGraph
from asimov_sync.display import view_graph
from asimov_sync.display.folding import MAX_BOXES, fold
from asimov_sync.display.layout import place

from ..tiers import by_tier, suite

EDGES = st.integers(1, 12).flatmap(
    lambda count: st.tuples(
        st.just(count),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=30),
    )
)


def is_acyclic(edges):
    return all(source < target for source, target in edges)


@settings(max_examples=by_tier(30, 1000))
@given(EDGES)
def test_boxes_are_apart_and_arrows_point_to_the_right(graph):
    """Boxes of one column are at least a height apart. Only arrows of a cycle point to the left."""
    count, edges = graph
    layout = place(count, edges)
    assert len(layout.columns) == len(layout.heights) == count
    for one, other in itertools.combinations(range(count), 2):
        if layout.columns[one] == layout.columns[other]:
            assert abs(layout.heights[one] - layout.heights[other]) > 1
    if is_acyclic(edges):
        for source, target in edges:
            assert layout.columns[source] < layout.columns[target]
    assert place(count, edges) == layout


def test_a_tree_is_drawn_without_crossings():
    """The children of a box keep together, whatever the order in which they were added."""
    edges = [(0, 1), (0, 2), (1, 3), (2, 4), (1, 5), (2, 6)]
    heights = place(7, edges).heights
    first, second = sorted([heights[3], heights[5]]), sorted([heights[4], heights[6]])
    assert first[1] < second[0] or second[1] < first[0]


def wide(count):
    """Return a graph with a long map, one item of which has a dependent of its own."""
    graph = TaskGraph()
    graph.add(Task(type="search"), name="search")
    graph.map(Task(type="read"), range(count), name="page", depends_on="search")
    graph.add(Task(type="merge"), name="merge", depends_on="page")
    return graph


def chain(count):
    """Return a graph of tasks that run one after the other."""
    graph = TaskGraph()
    for number in range(count):
        before = [str(number - 1)] if number else []
        graph.add(Task(type=f"type-{number}"), name=str(number), depends_on=before)
    return graph


def random_graph(count):
    """Return a graph without any regularity."""
    graph = TaskGraph()
    for number in range(count):
        before = {str(number * factor // 10) for factor in (3, 5, 9)} if number else ()
        graph.add(Task(type=f"type-{number % 89}"), name=str(number), depends_on=before)
    return graph


def test_a_long_map_is_one_box():
    """The items of a map of more than a dozen items are one box."""
    boxes, arrows = fold(view_graph(wide(300)).tasks)
    assert [(box.label, len(box.tasks)) for box in boxes] == [
        ("search", 1),
        ("page[…]", 300),
        ("merge", 1),
    ]
    assert [(arrow.source, arrow.target) for arrow in arrows] == [(0, 1), (1, 2)]
    assert len(fold(view_graph(wide(5)).tasks)[0]) == 7


def test_repeated_tasks_are_one_box():
    """Tasks that are named name-1, name-2 and so on are folded; the parts of subgraphs are not."""
    graph = TaskGraph()
    for _ in range(40):
        graph.call(len, "text")
    assert [(box.label, len(box.tasks)) for box in fold(view_graph(graph).tasks)[0]] == [
        ("len", 1),
        ("len-…", 39),
    ]
    graph = TaskGraph()
    for number in range(5):
        graph.add_graph(wide(4), name=f"part{number}")
    assert len(fold(view_graph(graph).tasks)[0]) == len(graph) == 30


def test_a_failed_item_keeps_its_box():
    """A few failed tasks are not folded."""
    tasks = list(view_graph(wide(300)).tasks)
    tasks[17] = tasks[17]._replace(status="failed")
    assert [box.label for box in fold(tasks)[0]] == ["search", "page[…]", "page[16]", "merge"]


@suite
def test_large_graphs_are_folded_in_time():
    """A picture of 2,000 tasks has a bounded number of boxes, and is drawn in a second."""
    for graph in (wide(2000), chain(2000), random_graph(2000)):
        start = time.perf_counter()
        svg = graph.to_svg()
        assert time.perf_counter() - start < 5
        assert len(svg) < 200_000
        boxes, arrows = fold(view_graph(graph).tasks)
        assert len(boxes) <= MAX_BOXES
        assert sum(len(box.tasks) for box in boxes) == len(graph)
        columns = place(len(boxes), [(one.source, one.target) for one in arrows]).columns
        assert all(columns[one.source] < columns[one.target] for one in arrows)
