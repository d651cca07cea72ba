"""Pictures: SVG and Mermaid of graphs and runs, and timelines."""

import re
import xml.etree.ElementTree as etree

import pytest

from asimov_sync import GraphError, Task, TaskGraph, TaskScheduler, Usage
from asimov_sync.display import (
    RunView,
    SpanView,
    TaskView,
    graph_svg,
    mermaid,
    timeline_svg,
    view_graph,
    view_result,
)

from .runs import HANDLERS, HOSTILE, survey

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def result():
    with TaskScheduler(HANDLERS, max_workers=0) as scheduler:
        return scheduler.run(survey())


def texts(svg):
    """Return the texts of a picture, after a check that it is XML."""
    root = etree.fromstring(svg)
    assert root.tag == SVG + "svg"
    return ["".join(element.itertext()) for element in root.iter(SVG + "text")]


def test_a_picture_shows_each_task_and_its_status_in_words(result):
    """The status is in the words and the class of each box, and not only in its colour."""
    shown = texts(graph_svg(view_result(result)))
    assert "page[2]" in shown and "extra" in shown
    assert any(text.startswith("failed") for text in shown)
    assert any(text.endswith("2 visits") for text in shown)
    svg = graph_svg(view_result(result))
    for status in ("complete", "failed", "skipped", "not-selected", "partial"):
        assert f'class="s-{status}"' in svg
    for kind in ("unselected", "loop", "spawned"):
        assert f'class="arrow {kind}"' in svg


def test_a_graph_that_has_not_run_shows_types_and_options():
    """Before a run, the boxes have the types and the options of the tasks, and no status."""
    shown = texts(survey().to_svg())
    assert "good, when" in shown
    assert not any("waiting" in text for text in shown)


def test_a_graph_shows_the_status_of_its_last_run():
    """After a run, the graph's own picture shows what happened."""
    graph = survey()
    with TaskScheduler(HANDLERS, max_workers=0) as scheduler:
        scheduler.run(graph)
    assert 'class="s-failed"' in graph.to_svg()
    assert ":::failed" in graph.to_mermaid()


def test_hostile_names_are_escaped():
    """No name ends an element, an attribute or a label, or changes the direction of the text."""
    graph = TaskGraph(HOSTILE)
    graph.add(Task(type=HOSTILE, objective=HOSTILE), name=HOSTILE)
    graph.add(Task(type="x" * 10_000), name="y" * 10_000, depends_on=HOSTILE)
    svg = graph.to_svg()
    assert len(texts(svg)) == 3
    assert not re.search("<script|<img|[\x00-\x08\u202a-\u202e\u2066-\u2069]", svg)
    assert len(svg) < 20_000
    chart = graph.to_mermaid()
    (line,) = [line for line in chart.splitlines() if line.startswith("    n0(")]
    assert re.fullmatch(r'    n0\("[\w #;<>/,.:…-]*"\)', line)
    assert "<" not in line
    assert len(chart) < 2000


def test_an_empty_graph_and_a_cycle():
    """An empty graph is an empty picture. A graph with a cycle has none; a notebook says why."""
    assert texts(TaskGraph().to_svg()) == []
    graph = TaskGraph()
    graph.add(Task(type="a"), name="a", depends_on="b")
    graph.add(Task(type="b"), name="b", depends_on="a")
    with pytest.raises(GraphError):
        graph.to_svg()
    with pytest.raises(GraphError):
        graph.to_mermaid()
    assert "these tasks wait for one another" in graph._repr_html_()


def test_mermaid_has_a_node_for_each_task_and_its_status(result):
    """The flowchart has the names, the statuses and the arrows."""
    chart = mermaid(view_result(result))
    assert chart.startswith("flowchart LR\n")
    assert 'n3{{"page#91;2#93;<br/>failed' in chart
    assert "-.->|back|" in chart
    assert "classDef failed" in chart
    assert "classDef" not in mermaid(view_graph(survey()))


def working(name, start, end, status="complete", spans=()):
    usage = Usage(input_tokens=10, output_tokens=5, requests=1)
    return TaskView(
        name, name, "", status, (), started=start, ended=end, spans=tuple(spans), usage=usage
    )


def test_a_timeline_has_the_calls_inside_the_tasks():
    """Each task has a bar, and each call in it one that lies within."""
    spans = [
        SpanView("attempt", "attempt 1", 100.0, 103.0, error="ValueError: once more"),
        SpanView("attempt", "attempt 2", 104.0, 108.0),
        SpanView("model", "claude-haiku-4-5", 104.5, 106.0, Usage(input_tokens=3, requests=1)),
        SpanView("tool", "search", 106.0, 107.0, error=HOSTILE),
    ]
    tasks = (working("first", 100.0, 108.0, spans=spans), working("second", 105.0, 110.0))
    svg = timeline_svg(RunView("run", "complete", tasks))
    assert {"first", "second", "0", "2 s"} <= set(texts(svg))
    bars = {
        rect.find(SVG + "title").text: (float(rect.get("x")), float(rect.get("width")))
        for rect in etree.fromstring(svg).iter(SVG + "rect")
    }
    assert len(bars) == 5
    (model,) = [bar for title, bar in bars.items() if title.startswith("model claude-haiku")]
    (attempt,) = [bar for title, bar in bars.items() if "attempt 2" in title]
    assert attempt[0] < model[0] and sum(model) < sum(attempt)
    assert "model claude-haiku-4-5, 1.5 s, 3 in, 0 out" in bars


def test_a_picture_of_one_task_names_one_task():
    """The name of a picture, which screen readers read, has the noun of its number."""
    view = RunView("run", "complete", (working("only", 100.0, 108.0),))
    assert 'aria-label="Timeline of 1 task over 8.0 s"' in timeline_svg(view)
    assert 'aria-label="run: 1 task"' in graph_svg(view)


def test_many_tasks_share_the_rows_of_a_timeline():
    """The bars of more than 120 tasks are packed, and no two of them overlap."""
    tasks = [working(str(number), float(number), number + 4.0) for number in range(1000)]
    svg = timeline_svg(RunView("run", "complete", tuple(tasks)))
    rows = {}
    for rect in etree.fromstring(svg).iter(SVG + "rect"):
        rows.setdefault(rect.get("y"), []).append((float(rect.get("x")), float(rect.get("width"))))
    assert len(rows) < 10
    for row in rows.values():
        row.sort()
        assert all(sum(one) <= other[0] for one, other in zip(row, row[1:]))


def test_a_long_time_without_work_is_cut():
    """The bars of a run that was parked for two days are as wide as without the wait."""
    day = 86400.0
    spans = [
        SpanView("attempt", "attempt 1", 10.0, 14.0),
        SpanView("attempt", "attempt 1", 2 * day, 2 * day + 4),
    ]
    asked = working("ask", 10.0, 2 * day + 4, spans=spans)
    tasks = (working("first", 0.0, 10.0), asked, working("last", 2 * day + 4, 2 * day + 10))
    svg = timeline_svg(RunView("run", "complete", tasks))
    bars = [
        (float(rect.get("x")), float(rect.get("width")))
        for rect in etree.fromstring(svg).iter(SVG + "rect")
        if "attempt" in rect.get("class")
    ]
    assert all(width > 100 for _, width in bars)
    assert all(sum(one) <= other[0] + 0.2 for one, other in zip(bars, bars[1:]))
    assert "1 d 23 h" in texts(svg)
    assert "no work for 1 d 23 h" in svg
    short = tuple(working(str(number), number * 10.0, number * 10.0 + 8) for number in range(9))
    assert "no work" not in timeline_svg(RunView("run", "complete", short))


def test_without_times_there_is_no_timeline():
    """A graph that has not run has no timeline."""
    assert timeline_svg(view_graph(survey())) == ""
