"""The live page of durable runs in Chromium."""

import threading
import time

import pytest

from asimov_sync import (
    Agent,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    ToolCall,
    tool,
)
from asimov_sync.testing import ScriptedInferenceClient
from asimov_sync.web.local_server import LocalServer

from ..display.runs import HANDLERS, HOSTILE, survey
from ..runs.drivers import Driver
from ..tiers import soak
from ..waiting import DEADLINE, wait_for

pytestmark = soak


@pytest.fixture
def store(tmp_path):
    """A store in a file."""
    return RunStore(SQLiteCache(tmp_path / "runs.db", synchronous="normal"))


@pytest.fixture
def serve(store):
    """Starts a server for the store: `serve(**options)`."""
    servers = []

    def start(**options):
        server = LocalServer(store, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


def visit(open_page, server, path="", **options):
    """Open the address of a server, and then a page of it."""
    return open_page(server.address, then=f"http://127.0.0.1:{server.port}/{path}", **options)


def build(sent):
    """Return a graph whose agent asks for an approval, and whose editor is asked for a word."""

    @tool(requires_approval=True)
    def send(to: str, text: str) -> str:
        """Send a text."""
        sent(to, text)
        return "sent"

    def answer(body):
        if len(body["messages"]) > 1:
            return "It is done."
        return [ToolCall(id="c", name="send", arguments={"to": "bob", "text": "hello"})]

    graph = TaskGraph()
    agent = Agent(ScriptedInferenceClient(answer), tools=[send], name="mail")
    graph.add(agent, name="mail", objective="Tell Bob")
    graph.add(
        lambda task, context: context.wait_for("word", prompt="Which word?", type=str),
        name="editor",
    )
    return graph


def drive(path):
    """Run the graph in a process of its own. Returns its status and what was sent."""
    sent = []
    store = RunStore(SQLiteCache(path, synchronous="normal"))
    with TaskScheduler(runs=store) as scheduler:
        result = scheduler.run(build(lambda *call: sent.append(call)), run_id="r")
    return {"status": result.status.value, "sent": sent, "results": result.results}


def run_elsewhere(path):
    """Run the graph in another process, and return what it reports."""
    import json

    driver = Driver(drive, str(path))
    assert driver.wait() == 0
    return json.loads(driver.reply)


def test_an_approval_continues_a_run_of_another_process(tmp_path, serve, open_page, store):
    """A person changes the arguments and approves, and answers; another process continues."""
    path = tmp_path / "runs.db"
    assert run_elsewhere(path)["sent"] == []
    reports = []
    done = threading.Event()

    def resume(run_id):
        def work():
            reports.append(run_elsewhere(path))
            if reports[-1]["status"] != "waiting":
                done.set()

        threading.Thread(target=work, daemon=True).start()

    page = visit(open_page, serve(read_only=False, resume=resume, user="ann"), "runs/r")
    page.get_by_text("Change the arguments").click()
    page.get_by_label("Arguments as JSON").fill('{"to": "eve", "text": "hello"}')
    page.get_by_role("button", name="Approve").click()
    page.get_by_text("The call is approved.").wait_for()
    wait_for(lambda: reports, "the second process")
    assert reports[0]["sent"] == [["eve", "hello"]]
    page.locator("#l-tasks").get_by_text("complete").wait_for()
    page.get_by_label("Answer").fill("tea")
    page.get_by_role("button", name="Answer").click()
    page.get_by_text("The answer is stored.").wait_for()
    assert done.wait(DEADLINE)
    page.locator(".pulse", has_text="ended").wait_for()
    assert page.locator("article.wait").count() == 0
    assert store.get("r").status is RunStatus.COMPLETE


def test_what_is_typed_stays(serve, open_page, store):
    """Updates of the page do not remove what a person is typing, and their form still works."""
    go, seen = threading.Event(), threading.Event()

    def tick(task, context):
        go.wait(DEADLINE)
        context.report(0.5, "half of it")
        seen.wait(DEADLINE)

    graph = TaskGraph()
    graph.add(lambda task, context: context.wait_for("word", type=str), name="editor")
    graph.add(tick, name="tick")
    with TaskScheduler(runs=store) as scheduler:
        run = scheduler.submit(graph, run_id="r")
        wait_for(lambda: store.waits("r"), "the wait")
        page = visit(open_page, serve(read_only=False), "runs/r")
        page.get_by_label("Answer").fill("half a wo")
        go.set()
        page.get_by_text("half of it").wait_for()
        seen.set()
        page.locator("#l-tasks").get_by_text("complete").wait_for()
        assert page.get_by_label("Answer").input_value() == "half a wo"
        page.get_by_label("Answer").fill("half a word")
        page.get_by_role("button", name="Answer").click()
        page.get_by_text("The answer is stored.").wait_for()
        run.result(DEADLINE)
    assert [wait.name for wait in store.waits("r")] == []


def test_without_javascript(serve, open_page, store):
    """Reading, answering and going back to the list need no JavaScript."""
    with TaskScheduler(max_workers=0, runs=store) as scheduler:
        scheduler.run(build(lambda *call: None), run_id="r")
    page = visit(open_page, serve(read_only=False), java_script_enabled=False)
    page.locator("#l-runs a.row").click()
    page.get_by_label("Answer").fill("tea")
    page.get_by_role("button", name="Answer").click()
    page.get_by_text("The answer is stored.").wait_for()
    page.get_by_role("link", name="Runs").click()
    page.locator("a.chip", has_text="parked").click()
    assert page.get_by_role("heading", name="Runs").count() == 1
    assert [wait.task for wait in store.waits("r")] == ["mail"]


def test_the_list_is_followed(serve, open_page, store):
    """New runs appear in the list, also one whose id is the name of a property in JavaScript."""
    page = open_page(serve().address)
    with TaskScheduler({"good": lambda task, context: "fine"}, runs=store) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="good"), name="good")
        for run_id in ("constructor", "__proto__", "r"):
            scheduler.run(graph, run_id=run_id)
    page.wait_for_selector("#l-runs a.row >> nth=2")
    names = page.locator("#l-runs a.row .name bdi").all_inner_texts()
    assert names == ["r", "__proto__", "constructor"]


def test_a_run_of_500_tasks_is_followed(serve, open_page, store):
    """The page keeps up with 500 tasks that end in a few seconds: it shows their end at once."""
    graph = TaskGraph()
    graph.add(Task(type="work"), name="start")
    graph.map(
        Task(type="work", objective="Digest a page"), range(498), name="page", depends_on="start"
    )
    graph.add(Task(type="work"), name="end", depends_on="page")
    gate = threading.Event()

    def work(task, context):
        gate.wait(DEADLINE)
        time.sleep(0.05)
        return task.params.get("item")

    with TaskScheduler({"work": work}, max_workers=8, runs=store) as scheduler:
        run = scheduler.submit(graph, run_id="r")
        page = visit(open_page, serve(), "runs/r")
        assert page.locator("#l-tasks > *").count() == 500
        page.evaluate(
            "window.counts = []; new MutationObserver(() => counts.push("
            "document.querySelectorAll('#l-tasks .s-complete').length"
            ")).observe(document.getElementById('l-tasks'), {childList: true})"
        )
        gate.set()
        run.result(60)
        ended = time.monotonic()
        page.locator(".pulse", has_text="ended").wait_for(timeout=10_000)
        late = time.monotonic() - ended
    counts = page.evaluate("counts")
    assert page.locator("#l-tasks .s-complete").count() == 500
    assert late < 3, late
    assert len(set(counts)) >= 4 and counts == sorted(counts), counts


def test_a_hostile_run(serve, take_screenshots, store, tmp_path):
    """Names, prompts, data and errors of a run cannot run a script or widen the page."""
    name = HOSTILE.replace("\ud800", "")

    def shout(task, context):
        raise ValueError(HOSTILE * 100_000)

    graph = TaskGraph()
    graph.add(shout, name=name, objective=HOSTILE)
    graph.add(
        lambda task, context: context.wait_for("word", prompt=name * 200, data={name: name * 9999}),
        name="x" * 3000,
    )
    with TaskScheduler(runs=store) as scheduler:
        scheduler.run(graph, run_id="r", tags={name: name})
    server = serve(read_only=False)
    for path in ("", "runs/r"):
        address = f"http://127.0.0.1:{server.port}/{path}"
        take_screenshots(server.address, part=path, then=address)


def test_pictures(serve, take_screenshots, store):
    """Pictures of the list, of a run with a question and an approval, and of a task."""
    handlers = dict(HANDLERS)
    with TaskScheduler(handlers, max_workers=0, runs=store) as scheduler:
        for number in range(5):
            scheduler.run(survey(), run_id=f"survey-{number}", tags={"tenant": str(number)})
        scheduler.run(build(lambda *call: None), run_id="mail-7", tags={"tenant": "acme"})
    server = serve(read_only=False, user="ann")
    for path in ("", "runs/mail-7", "runs/survey-1", "runs/mail-7/task?name=mail"):
        address = f"http://127.0.0.1:{server.port}/{path}"
        take_screenshots(server.address, part=path, then=address)
