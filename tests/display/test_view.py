"""Views: the values of a graph, a result and a stored run, from which everything is drawn."""

import pytest

from asimov_sync import Agent, MemoryCache, RunStore, TaskGraph, TaskScheduler, run, tool
from asimov_sync.display import report_html, view_graph, view_record, view_result
from asimov_sync.testing import ScriptedInferenceClient, calls

from .runs import HANDLERS, survey


@pytest.fixture(scope="module")
def stored():
    """Return the result of a durable run, its stored result, and its record."""
    store = RunStore(MemoryCache())
    with TaskScheduler(HANDLERS, max_workers=0, runs=store) as scheduler:
        result = scheduler.run(survey(), run_id="survey-1")
    return {
        "result": result,
        "stored result": store.result("survey-1"),
        "record": store.get("survey-1"),
    }


def test_the_view_of_a_graph_has_its_tasks_dependencies_and_options():
    """A graph that has not run has the options of its tasks, and no status of its own."""
    view = view_graph(survey())
    tasks = {task.name: task for task in view.tasks}
    assert (view.title, view.status) == ("survey", None)
    assert tasks["index"].depends_on == ("page[0]", "page[1]", "page[2]", "page[3]")
    assert tasks["merge"].options == ("allow_failure", "timeout 30 s")
    assert tasks["rare"].options == ("when",)
    assert {task.status for task in view.tasks} == {"waiting"}


@pytest.mark.parametrize("source", ["result", "stored result", "record"])
def test_the_view_of_a_run_is_the_same_from_its_result_and_its_record(stored, source):
    """All have statuses, Routes, loops, spawned tasks, errors, tracebacks and results."""
    view = view_record(stored[source]) if source == "record" else view_result(stored[source])
    tasks = {task.name: task for task in view.tasks}
    assert (view.title, view.status) == ("survey-1", "partial")
    assert {name: task.status for name, task in tasks.items() if task.status != "complete"} == {
        "page[2]": "failed",
        "index": "skipped",
        "rare": "not selected",
        "summary": "partial",
        "reject": "not selected",
    }
    assert tasks["critic"].route == ("publish",)
    assert tasks["write"].visits == 2
    assert tasks["write"].returned_from == ("critic",)
    assert tasks["extra"].spawned_by == "plan"
    assert tasks["page[2]"].error == "ValueError: no such page"
    traceback = tasks["page[2]"].traceback
    assert traceback.endswith("ValueError: no such page\n")
    # The user's frame, without the engine's; a stored result has its exceptions without theirs.
    assert traceback.count('  File "') == (source != "stored result")
    assert tasks["summary"].result == '[\n  "page 1"\n]'
    assert tasks["page[1]"].result == "page 1"
    assert view_result(stored["result"], content=False).tasks[1].result is None


def test_redact_changes_what_a_parked_task_shows():
    """`redact=` changes the prompt and the data of a wait, and the arguments of a tool call."""

    def ask(task, context):
        return context.wait_for("editor", prompt="Is it secret?", data={"text": "secret"})

    store = RunStore(MemoryCache())
    graph = TaskGraph()
    graph.add(ask)

    @tool(requires_approval=True)
    def pay(to: str) -> str:
        """Pay."""

    client = ScriptedInferenceClient([calls(("pay", {"to": "secret"}))])
    graph.add(Agent(client, tools=[pay], name="cashier"), objective="Pay.")
    with TaskScheduler(max_workers=0, runs=store) as scheduler:
        result = scheduler.run(graph, run_id="parked")
    for view in (
        view_result(result, redact=lambda text: text.replace("secret", "…")),
        view_record(store.get("parked"), redact=lambda text: text.replace("secret", "…")),
    ):
        assert [task.status for task in view.tasks] == ["parked", "parked"]
        assert view.tasks[0].waits[0].prompt == "Is it …?"
        assert view.tasks[1].waits[0].call.name == "pay"
        assert "secret" not in repr(view)
        html = report_html(view)
        assert "Is it …?" in html and "secret" not in html


def test_redact_changes_every_text(stored):
    """`redact=` changes each text; a text whose redaction fails is withheld."""
    view = view_result(stored["result"], redact=lambda text: text.replace("page", "…"))
    shown = repr([(task.result, task.error, task.traceback) for task in view.tasks])
    assert "no such …" in shown
    assert "no such page" not in shown
    withheld = view_result(stored["result"], redact=lambda text: 1 / 0)
    assert {task.result for task in withheld.tasks} == {None, "(withheld: redact= failed)"}


def test_spans_and_times():
    """The view of a result has the times of its tasks, and their attempts, requests and calls."""
    client = ScriptedInferenceClient(["a"], model="m")
    graph = TaskGraph()
    graph.add(lambda task, context: client.generate("?").text, name="ask")
    graph.add(lambda task, context: None, name="plain", depends_on=["ask"])
    view = view_result(run(graph))
    ask, plain = view.tasks
    assert [(span.kind, span.name) for span in ask.spans] == [
        ("attempt", "attempt 1"),
        ("model", "m"),
    ]
    assert [span.kind for span in plain.spans] == ["attempt"]
    assert view.started == ask.started < ask.ended <= plain.started < plain.ended == view.ended


def test_names_that_are_no_keys():
    """A task whose name cannot be a key of the cache does not hide the conversations of others."""
    cache = MemoryCache()
    agent = Agent(ScriptedInferenceClient(["a"]), name="agent", keep_transcript=True)
    graph = TaskGraph()
    graph.add(agent, name="agent", objective="?")
    graph.add(lambda task, context: None, name="x" * 10_000 + "\x00")
    with TaskScheduler(cache=cache, max_workers=0) as scheduler:
        view = view_result(scheduler.run(graph), cache=cache)
    assert [len(task.messages) for task in view.tasks] == [2, 0]
