"""Values in notebooks and terminals: their HTML and their reprs."""

import re

import pytest

from asimov_sync import Agent, Reply, Task, TaskGraph, TaskScheduler, ToolError, Usage, tool
from asimov_sync.testing import ScriptedInferenceClient, calls

from .runs import HANDLERS, HOSTILE, survey
from .test_report import Page


@tool
def weather(city: str) -> str:
    """Report the weather of a city."""
    if city != "Rome":
        raise ToolError(HOSTILE)
    return HOSTILE


@pytest.fixture(scope="module")
def agent():
    script = [calls(("weather", {"city": "Rome"}), ("weather", {"city": HOSTILE})), HOSTILE]
    return Agent(
        ScriptedInferenceClient(script), tools=[weather], system="Be brief.", name="forecaster"
    )


@pytest.fixture(scope="module")
def run(agent):
    return agent.run(HOSTILE)


@pytest.fixture(scope="module")
def values(agent, run):
    """One of each value that has HTML."""
    graph = survey()
    with TaskScheduler(HANDLERS, max_workers=0) as scheduler:
        result = scheduler.run(graph)
    return [graph, result, run, run.reply, run.usage, agent, Usage()]


def test_html_is_safe_and_independent_of_other_cells(values):
    """The HTML has no script, id, address or event handler, and hostile text stays text."""
    for value in values:
        html = value._repr_html_()
        page = Page(html)
        assert page.open == []
        assert not set(page.tags) & {"script", "img", "link", "iframe"}
        names = {name for name, _ in page.attributes}
        assert not names & {"id", "href", "src", "style"}
        assert not [name for name in names if name.startswith("on")]
        assert not re.search("[\x00-\x08\u202a-\u202e\u2066-\u2069]", html)
        assert len(html) < 60_000


def test_a_result_shows_a_table_with_the_failed_tasks():
    """The table of a long run begins with the failed tasks, and says how many are left out."""
    graph = TaskGraph()
    graph.map(Task(type="read"), range(500), name="page")
    with TaskScheduler(HANDLERS, max_workers=0) as scheduler:
        html = scheduler.run(graph)._repr_html_()
    rows = html.split("<tbody>")[1].split("</tr>")
    assert "page[2]" in rows[0] and "no such page" in rows[0]
    assert "and 460 more tasks" in html
    assert len(html) < 60_000


def test_a_tool_run_shows_the_answer_the_calls_and_the_conversation(run):
    """The answer comes first; the whole conversation is folded."""
    page = Page(run._repr_html_())
    assert "The whole conversation: 4 messages" in page.text
    assert page.tags.count("details") == 1
    assert page.text.count("weather") >= 2


def test_reprs_are_short(values, agent, run):
    """The reprs fit a line or two, have names, and say what failed."""
    assert all(len(repr(value)) < 300 for value in values)
    assert repr(values[0]) == "<TaskGraph 'survey': 14 tasks>"
    assert "failed: 'page[2]'" in repr(values[1])
    assert "2 tool calls; failed: weather; end_turn" in repr(run)
    assert repr(run.reply).startswith("<Reply: '<script>document.title=")
    assert str(run.reply) == repr(run.reply)
    assert repr(agent).startswith("<Agent 'forecaster' of <ScriptedInferenceClient")
    assert repr(agent).endswith("1 tool>")


def test_the_repr_of_a_usage_has_no_zeros():
    """The repr of a usage is the call that makes it."""
    usage = Usage(input_tokens=5, requests=1)
    assert repr(usage) == "Usage(input_tokens=5, requests=1)"
    assert eval(repr(usage)) == usage
    assert repr(Usage()) == "Usage()"
    assert "tool" not in repr(Reply(message={"role": "assistant", "content": "Hello."}))
