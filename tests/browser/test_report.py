"""The report of a run in Chromium: it opens fast, looks right, and runs no script of a model."""

import time

import pytest

from asimov_sync import (
    Agent,
    Partial,
    Task,
    TaskGraph,
    TaskScheduler,
    ToolError,
    Usage,
    tool,
)
from asimov_sync.display import RunView, SpanView, TaskView, report_html
from asimov_sync.testing import ScriptedInferenceClient, calls

from ..display.runs import HANDLERS, HOSTILE, survey
from ..tiers import soak
from .conftest import PHONE

pytestmark = soak

OPENING_SECONDS = 2.0
"""The time within which a report of 2,000 tasks is open, from the request to the load event."""


@tool
def look_up(word: str) -> str:
    """Look a word up."""
    if word == "barometre":
        raise ToolError("no such word")
    return "an instrument that measures the pressure of the air"


@pytest.fixture
def report(tmp_path):
    """The report of a run with every status, and with an agent that calls tools."""
    script = [
        calls(("look_up", {"word": "barometer"}), ("look_up", {"word": "barometre"})),
        "A barometer measures the pressure of the air.",
    ]
    client = ScriptedInferenceClient(script)
    agent = Agent(client, tools=[look_up], name="ask", keep_transcript=True)
    graph = survey()
    graph.add(agent, objective="What is a barometer?", name="ask", depends_on="search")
    with TaskScheduler(HANDLERS, max_workers=2) as scheduler:
        result = scheduler.run(graph)
        path = tmp_path / "run.html"
        result.save_report(path, cache=scheduler.cache)
    return path


def many_tasks(count):
    """Return a view of a run with this number of tasks, each with a result and several calls."""
    usage = Usage(input_tokens=1234, output_tokens=567, requests=1)
    tasks = []
    for number in range(count):
        start = 1_700_000_000.0 + number // 16
        spans = [SpanView("attempt", "attempt 1", start, start + 0.9, usage + usage)]
        for part in range(2):
            begin = start + 0.4 * part
            reply = (("reply", "A reply of a model. " * 20),)
            result = (("result", "The result of a tool. " * 10),)
            spans.append(SpanView("model", "claude", begin, begin + 0.2, usage, 0.01, None, reply))
            spans.append(SpanView("tool", "search", begin + 0.2, begin + 0.3, content=result))
        failed = number % 50 == 7
        tasks.append(
            TaskView(
                f"page[{number}]",
                "read",
                "Read the page and say what is on it",
                "failed" if failed else "complete",
                ("search",) if number else (),
                started=start,
                ended=start + 0.9,
                seconds=0.9,
                attempts=1,
                usage=usage + usage,
                error="ValueError: no such page" if failed else None,
                traceback="Traceback …\nValueError: no such page" if failed else None,
                result=None if failed else "The text of the page. " * 40,
                spans=tuple(spans),
            )
        )
    return RunView("many", "partial", tuple(tasks), seconds=130.0, usage=usage)


def test_it_looks_right_everywhere(report, take_screenshots):
    """The report fits a desktop and a phone, light and dark, without an error on the console."""
    assert len(take_screenshots(report)) == 3


def test_it_can_be_printed(report, open_page, screenshots):
    """On paper, the report is light and nothing scrolls."""
    page = open_page(report, "dark")
    page.emulate_media(media="print", color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.pdf(path=str(screenshots / "report.pdf"), format="A4", print_background=True)


def test_a_box_of_the_graph_opens_its_task(report, open_page):
    """A click on a box of the graph opens the task in the list, and moves the focus there."""
    page = open_page(report, size=PHONE)
    page.click("a[href='#t1'] >> nth=0")
    assert page.evaluate("document.getElementById('t1').open")
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"


def test_tasks_are_found_by_name_and_status(report, open_page):
    """The field and the list above the tasks hide the others; the buttons open those shown."""
    page = open_page(report)
    total = page.locator("details.task").count()
    page.fill("input[type=search]", "PAGE[")
    assert page.locator("details.task:visible").count() == 4
    page.select_option("select", "failed")
    assert page.locator("details.task:visible").count() == 1
    assert page.text_content("output") == f"1 of {total}"
    page.fill("input[type=search]", "")
    page.select_option("select", "")
    page.click("text=Open all")
    assert page.locator("details.task[open]").count() == total


def test_the_keyboard_reaches_everything(report, open_page):
    """The Tab key reaches the boxes, the controls and the tasks, and Enter opens one."""
    page = open_page(report)
    reached = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"a", "DIV", "INPUT", "SELECT", "BUTTON", "SUMMARY"} <= reached
    page.focus("#t0 > summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('t0').open")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_report_of_2000_tasks_opens_fast(tmp_path, open_page, javascript):
    """A report of 2,000 tasks is below 5 MB, and is open and painted within two seconds.

    The fastest of three openings counts: the machine may be busy.
    """
    path = tmp_path / "many.html"
    path.write_text(report_html(many_tasks(2000)), encoding="utf-8")
    assert path.stat().st_size < 5_000_000
    page = open_page("about:blank", java_script_enabled=javascript)
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        page.goto(path.as_uri())
        page.screenshot()
        durations.append(time.perf_counter() - start)
        page.goto("about:blank")
    page.goto(path.as_uri())
    assert page.locator("details.task").count() == 2000
    assert min(durations) < OPENING_SECONDS


def test_a_hostile_run_cannot_run_a_script(tmp_path, open_page, screenshots):
    """Text of models, tools and errors stays text: no script, no request, no broken layout."""
    texts = [HOSTILE, "x" * 10_000_000, "\u202e" * 1000, "\x00\x1b[2J" * 1000, "<details>" * 9999]

    def fail(task, context):
        raise ValueError(task.params["item"])

    graph = TaskGraph(HOSTILE)
    graph.map(lambda text: text, texts, name="say")
    graph.map(Task(type="fail", objective=HOSTILE), texts, name=HOSTILE)
    graph.map(Task(type="half"), texts, name="half" + HOSTILE)
    handlers = {
        "fail": fail,
        "half": lambda task, context: Partial(task.params["item"], task.params["item"]),
    }
    with TaskScheduler(handlers) as scheduler:
        scheduler.run(graph).save_report(tmp_path / "run.html")
    html = (tmp_path / "run.html").read_bytes()
    assert len(html) < 5_000_000
    page = open_page("about:blank")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "run.html").as_uri())
    page.click("text=Open all")
    assert requests == [(tmp_path / "run.html").as_uri()]
    assert page.title() != "hacked"
    assert page.locator("script").count() == 1
    assert page.locator("img, iframe, object, embed, form").count() == 0
    assert page.locator("details.task").count() == 15
    assert page.evaluate("document.documentElement.scrollWidth") <= 1200
    page.screenshot(path=str(screenshots / "hostile.png"), full_page=True)


def test_the_policy_refuses_a_script_that_was_smuggled_in(tmp_path, report, open_page):
    """A script that is added to the file does not run: the policy allows one, by its hash."""
    path = tmp_path / "smuggled.html"
    script = "<script>document.title = 'hacked'</script><p onclick=\"document.title = 'hacked'\">x"
    path.write_text(report.read_text("utf-8").replace("<main>", script + "<main>"), "utf-8")
    page = open_page(path, expect_errors=True)
    page.locator("p", has_text="x").first.click()
    assert page.title() != "hacked"


def test_notebook_cells_do_not_affect_each_other(tmp_path, open_page):
    """Several values on one page have no id in common, and a page without them stays as it was."""
    graph = survey()
    with TaskScheduler(HANDLERS, max_workers=2) as scheduler:
        result = scheduler.run(graph)
    agent = Agent(ScriptedInferenceClient(["Hello." + HOSTILE]), name="greeter")
    run = agent.run("Say hello.")
    cells = "".join(
        f"<p class='before'>a cell</p>{value._repr_html_()}"
        for value in (graph, result, graph, run, run.reply, run.usage, agent)
    )
    path = tmp_path / "cells.html"
    path.write_text(f"<!doctype html><meta charset='utf-8'>{cells}", encoding="utf-8")
    page = open_page(path)
    assert page.locator("[id]").count() == 0
    plain = page.evaluate("getComputedStyle(document.querySelector('.before')).fontFamily")
    assert "system-ui" not in plain
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.title() != "hacked"
