"""The report: whole, bounded and safe, whatever the run contains."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from asimov_sync import (
    Agent,
    AnthropicInferenceClient,
    MemoryCache,
    Price,
    RunStore,
    Task,
    TaskGraph,
    TaskScheduler,
    Usage,
)
from asimov_sync.display import (
    MessageView,
    RunView,
    SpanView,
    TaskView,
    report_html,
    view_record,
    view_result,
)
from asimov_sync.testing import Failure, ModelServer, ScriptedInferenceClient

from ..tiers import suite
from .runs import HANDLERS, HOSTILE, survey

UNSAFE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"


class Page(HTMLParser):
    """Reads a page: its elements, its text, and the contents of its scripts and styles."""

    VOID = {"meta", "input", "br", "img"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.raw = [], [], [], {"script": [], "style": []}
        self.attributes = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in self.raw:
            self.raw[self.open[-1]].append(data)
        else:
            self.texts.append(data)

    @property
    def text(self):
        return "".join(self.texts)


@pytest.fixture(scope="module")
def result():
    with TaskScheduler(HANDLERS, max_workers=0) as scheduler:
        return scheduler.run(survey())


def test_a_report_is_one_file_with_everything_in_it(result, tmp_path):
    """The file has the failures with their tracebacks, the graph, and each task with its result."""
    path = tmp_path / "run.html"
    result.save_report(path)
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    for expected in ("Failures", "Graph", "Tasks", "page[2]", "Traceback (most recent call last)"):
        assert expected in page.text
    assert page.tags.count("details") == len(result.tasks)
    result.save_report(str(path), redact=lambda text: text.replace("no such page", "…"))
    assert "no such page" not in path.read_text(encoding="utf-8")


def test_a_report_loads_and_runs_nothing_else(result):
    """The policy allows the one script and the one style sheet by their hashes, and nothing else.

    No element has a style or an event handler of its own, and no address leaves the page.
    """
    page = Page(report_html(view_result(result)))
    (policy,) = [value for name, value in page.attributes if name == "content" and "-src" in value]
    assert policy.startswith("default-src 'none'")
    for kind in ("script", "style"):
        (content,) = page.raw[kind]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "style", "srcset", "action", "formaction", "ping"}
    assert not [name for name in names if name.startswith("on")]
    addresses = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert addresses and all(value.startswith("#") for value in addresses)


def hostile(text, count=1):
    """Return a view in which everything that a run controls is this text."""
    usage = Usage(input_tokens=5, requests=1)
    spans = (SpanView("model", text, 1.0, 2.0, usage, 0.1, text, ((text, text),)),)
    messages = (MessageView(text[:100], ((text, text), ("text", text))),)
    name = text[:1000]
    tasks = [
        TaskView(
            f"{number} {name}", text, text, "failed", (text,), (), 1.0, 2.0, 1.0, 1, 1, usage, 0.1,
            text, text, text, spans, (), text, (text,), (text,), messages,
        )
        for number in range(count)
    ]  # fmt: skip
    return RunView(text, "failed", tuple(tasks), text, tags={text: text}, facts=((text, text),))


def test_hostile_text_stays_text():
    """Text of a run adds no element, and no control or direction character reaches the page."""
    html = report_html(hostile(HOSTILE))
    page, calm = Page(html), Page(report_html(hostile("calm")))
    assert page.tags == calm.tags
    assert not re.search(UNSAFE, html)
    assert "<U+202E>" in page.text
    html.encode("utf-8")


@suite
@pytest.mark.parametrize(
    "text", ["x" * 10_000_000, "\u202e" * 20_000, '"&<' * 10_000, "語" * 20_000]
)
def test_a_report_is_bounded(text):
    """However long the texts are, a report is at most 5 MB, and a note says what is left out."""
    for count in (1, 300):
        html = report_html(hostile(text, count))
        assert len(html.encode("utf-8")) < 5_000_000
        assert "characters)" in html


@suite
def test_a_report_of_very_many_tasks_is_bounded():
    """A run of 10,000 tasks has a report of at most 5 MB, in which the failed ones are listed."""
    graph = TaskGraph()
    graph.map(Task(type="read"), range(10_000), name="page")
    with TaskScheduler(HANDLERS, max_workers=0) as scheduler:
        html = report_html(view_result(scheduler.run(graph)))
    assert len(html.encode("utf-8")) < 5_000_000
    assert "ValueError: no such page" in html
    assert "7,000 more tasks are not listed" in html


def test_conversations_are_shown_where_they_were_kept(tmp_path):
    """A report has the messages of agents that kept them: in the cache, or as a task's result."""
    client = ScriptedInferenceClient(["It is sunny.", "It rains."] * 2)
    keeping = Agent(client, keep_transcript=True, name="ask")
    agent = Agent(client)
    graph = TaskGraph()
    graph.add(keeping, objective="Rome?", name="kept")

    def ask_again():
        return agent.run("Oslo?")

    graph.call(ask_again)
    cache = MemoryCache()
    with TaskScheduler(cache=cache, max_workers=0) as scheduler:
        result = scheduler.run(graph)
    store = RunStore(cache)
    with TaskScheduler(cache=cache, max_workers=0, runs=store) as scheduler:
        scheduler.run(graph, run_id="stored")
    view = view_record(store.get("stored"), cache=store.cache)
    assert [task.name for task in view.tasks if task.messages] == ["kept"]
    for given, expected in ((cache, 2), (None, 1)):
        result.save_report(tmp_path / "run.html", cache=given)
        page = Page((tmp_path / "run.html").read_text(encoding="utf-8"))
        assert page.text.count("Conversation: 2 messages") == expected
        assert "Oslo?" in page.text


def test_no_report_has_a_key():
    """If a server quotes the key that it refuses, neither the report nor a notebook shows it."""
    key = "sk-secret-0123456789"
    with ModelServer([Failure(403, message=f"the key {key} may not do this")]) as server:
        client = AnthropicInferenceClient("m", api_key=key, api_url=server.url, max_retries=0)
        graph = TaskGraph()
        graph.add(Agent(client, name="ask"), objective="Hello?")
        with client, TaskScheduler(max_workers=0) as scheduler:
            result = scheduler.run(graph)
    for shown in (report_html(view_result(result)), result._repr_html_(), repr(result)):
        assert key not in shown
    assert "the key … may not do this" in report_html(view_result(result))


def test_usage_and_cost_are_summed_by_model_and_by_type():
    """The tables have the requests, the tokens and the cost of each model and each type of task."""
    usage = Usage(input_tokens=1_000_000, output_tokens=1000, requests=2)
    spans = [SpanView("model", f"model-{number}", 1.0, 2.0, usage, 1.5) for number in (1, 2)]
    task = TaskView("a", "ask", "", "complete", (), usage=usage + usage, spans=tuple(spans))
    page = Page(report_html(RunView("run", "complete", (task._replace(cost=3.0),), cost=3.0)))
    assert "model-2" in page.text and "$1.50" in page.text and "$3.00" in page.text
    assert "1,000,000" in page.text and "2,000,000" in page.text


def test_prices_are_used_for_the_cost(result, tmp_path):
    """`prices=` is accepted; without requests there is no cost."""
    result.save_report(tmp_path / "run.html", prices={"model": Price(1, 2)})
    assert "Cost" not in (tmp_path / "run.html").read_text(encoding="utf-8")
