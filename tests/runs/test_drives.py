"""Durable runs: each drive continues where the one before it ended."""

import pytest
import tenacity
from pydantic import BaseModel

from asimov_sync import (
    Budget,
    Partial,
    Retry,
    Route,
    RunParked,
    RunStatus,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.testing import ScriptedInferenceClient


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def scheduler(request, store):
    """A scheduler of durable runs."""
    with TaskScheduler(max_workers=request.param, runs=store) as scheduler:
        scheduler.calls = []
        yield scheduler


def record_calls(scheduler, type="work", result=None):
    """Register a handler that records its calls."""

    @scheduler.handler(type)
    def handle(task, context):
        scheduler.calls.append(context.name)
        return context.name if result is None else result

    return handle


def chain(*names, type="work"):
    """A graph whose tasks run one after the other."""
    graph = TaskGraph()
    for index, name in enumerate(names):
        graph.add(Task(type=type), name=name, depends_on=names[index - 1 : index] if index else ())
    return graph


def test_an_ended_run_returns_its_stored_result(scheduler):
    """The same run_id returns the stored result, on the graph's own tasks, and calls nothing."""
    record_calls(scheduler, result={"a": (1, 2)})
    first = scheduler.run(chain("a", "b"), run_id="r")
    graph = chain("a", "b")
    again = scheduler.run(graph, run_id="r")
    assert scheduler.calls == ["a", "b"]
    assert (first.restored, again.restored) == (False, True)
    assert again.status is TaskStatus.COMPLETE
    assert first.results == again.results == {"a": {"a": [1, 2]}, "b": {"a": [1, 2]}}
    assert graph["a"].status is TaskStatus.COMPLETE


def test_restart_begins_anew(scheduler, store):
    """restart=True deletes the record and runs everything again."""
    record_calls(scheduler)
    scheduler.run(chain("a"), run_id="r")
    assert not scheduler.run(chain("a"), run_id="r", restart=True).restored
    assert scheduler.calls == ["a", "a"]
    assert store.stats() == {"complete": 1}


def test_an_interrupted_run_goes_on(scheduler, store):
    """A closed stream interrupts: what was finished is kept, the rest runs in the next drive."""

    @scheduler.handler("work")
    def handle(task, context):
        scheduler.calls.append(context.name)
        if context.name == "b" and not closed:
            context.cancellation.wait(30)
            context.cancellation.raise_if_cancelled()
        return context.name

    closed = []
    events = scheduler.stream(chain("a", "b", "c"), run_id="r")
    for event in events:
        if event.type == "task_finished":
            events.close()
            closed.append(True)
    assert store.get("r").status is RunStatus.INTERRUPTED
    assert [record.run_id for record in store.ready()] == ["r"]
    result = scheduler.run(chain("a", "b", "c"), run_id="r")
    assert result.results == {"a": "a", "b": "b", "c": "c"}
    assert scheduler.calls.count("a") == 1


def test_a_parked_task_waits_for_its_answer(scheduler, store):
    """wait_for parks the run; the answer continues it, and the first answer counts."""

    @scheduler.handler("work")
    def handle(task, context):
        paid = context.step("pay", scheduler.calls.append, "paid")
        return [paid, context.wait_for("ok", prompt="Shall we?", data={"sum": 3}, type=bool)]

    result = scheduler.run(chain("a", "b"), run_id="r")
    assert result.status is TaskStatus.WAITING
    assert result.waiting == {"a": ["ok"]}
    with pytest.raises(RunParked, match="ok"):
        result["b"]
    (wait,) = store.waits("r")
    assert (wait.task, wait.name, wait.prompt, wait.data) == ("a", "ok", "Shall we?", {"sum": 3})
    with pytest.raises(ValueError, match="type"):
        store.answer("r", "ok", "maybe")
    assert store.ready() == []
    assert store.answer("r", "ok", True, by="ann") is True
    assert store.answer("r", "ok", False) is False
    assert [record.run_id for record in store.ready()] == ["r"]
    result = scheduler.run(chain("a", "b"), run_id="r")
    assert result.waiting == {"b": ["ok"]}
    assert result["a"] == [None, True]
    assert scheduler.calls == ["paid", "paid"]  # of a and of b, each once


def test_an_early_answer_is_kept(scheduler, store):
    """An answer before the wait opens is kept, and answers one wait only."""

    @scheduler.handler("work")
    def handle(task, context):
        if context.name == "a":
            store.answer("r", "ok", "early")
        return context.wait_for("ok")

    result = scheduler.run(chain("a", "b"), run_id="r")
    assert result["a"] == "early"
    assert result.waiting == {"b": ["ok"]}


def test_a_loop_is_restored(scheduler):
    """A Route back clears what it undoes: the next drive continues in the visit that it began."""
    record_calls(scheduler)

    @scheduler.handler("review")
    def review(task, context):
        scheduler.calls.append(f"review {context.visit}")
        if context.visit == 1:
            return Route("draft", result="again")
        return context.wait_for("ok")

    def build():
        graph = chain("plan", "draft")
        graph.add(Task(type="review"), name="review", depends_on="draft")
        return graph

    assert scheduler.run(build(), run_id="r").waiting == {"review": ["ok"]}
    assert scheduler.run(build(), run_id="r").waiting == {"review": ["ok"]}
    assert scheduler.calls == ["plan", "draft", "review 1", "draft", "review 2"]


def test_failed_tasks_run_again_on_demand(scheduler, store):
    """retry_failed=True runs FAILED tasks again, and keeps what was finished."""

    @scheduler.handler("work")
    def handle(task, context):
        scheduler.calls.append(context.name)
        if scheduler.calls.count("b") == 1 and context.name == "b":
            raise ValueError("the first time")
        return context.name

    result = scheduler.run(chain("a", "b", "c"), run_id="r")
    assert result.errors == {"b": "ValueError: the first time"}
    restored = scheduler.run(chain("a", "b", "c"), run_id="r")
    assert isinstance(restored.exceptions["b"], ValueError)
    result = scheduler.run(chain("a", "b", "c"), run_id="r", retry_failed=True)
    assert result.status is TaskStatus.COMPLETE
    assert scheduler.calls == ["a", "b", "b", "c"]
    assert store.get("r").error is None


def test_a_failed_task_that_runs_again_continues_its_visit(scheduler, store):
    """Steps are not repeated, the key is the same, and attempts are counted anew."""

    @scheduler.handler("work")
    def handle(task, context):
        scheduler.calls.append((context.idempotency_key, context.attempt))
        context.step("pay", scheduler.calls.append, "paid")
        if len(scheduler.calls) < 4:
            raise ValueError("not yet")

    def build():
        graph = TaskGraph()
        graph.add(Task(type="work"), name="a", retry=Retry(attempts=2, wait=tenacity.wait_none()))
        return graph

    assert scheduler.run(build(), run_id="r").status is TaskStatus.FAILED
    assert store.retry("r")
    assert scheduler.run(build(), run_id="r").status is TaskStatus.COMPLETE
    assert scheduler.calls == [("r/a/1", 1), "paid", ("r/a/1", 2), ("r/a/1", 1)]


def test_retries_partials_and_spawned_tasks_are_stored(scheduler, store):
    """A PARTIAL result, a retried task and a spawned task are found again."""

    @scheduler.handler("work")
    def handle(task, context):
        if context.name == "flaky" and context.attempt == 1:
            raise ValueError("once")
        if context.name == "spawner":
            context.spawn(Task(type="work"), before_dependents=True)
        return Partial(context.name, "half") if context.name == "partial" else context.name

    graph = TaskGraph()
    graph.add(Task(type="work"), name="flaky", retry=Retry(attempts=2, wait=tenacity.wait_none()))
    graph.add(Task(type="work"), name="partial")
    graph.add(Task(type="work"), name="spawner")
    graph.add(Task(type="work"), name="after", depends_on="spawner")
    first = scheduler.run(graph, run_id="r")
    second = scheduler.run(graph, run_id="r")
    third = store.result("r")
    for result in (first, second, third):
        assert result.errors == {"partial": "half"}
        assert sorted(result.results) == ["after", "flaky", "partial", "spawner", "spawner/1"]
    assert first.to_dict()["tasks"].keys() == third.to_dict()["tasks"].keys()
    assert store.get("r").tasks["flaky"].attempt == 2


def test_a_budget_counts_earlier_drives(scheduler):
    """A budget is charged with what the run has spent in earlier drives, once for each object."""

    @scheduler.handler("work")
    def handle(task, context):
        if context.name == "a":
            return ScriptedInferenceClient(["hello"]).generate("question").text
        return context.wait_for("ok")

    first = Budget(requests=10)
    scheduler.run(chain("a", "b"), run_id="r", budget=first)
    scheduler.run(chain("a", "b"), run_id="r", budget=first)
    second = Budget(requests=10)
    result = scheduler.run(chain("a", "b"), run_id="r", budget=second)
    assert first.spent == second.spent
    assert second.spent.requests == result.usage.requests == 1


def test_input_validates_a_result(scheduler):
    """context.input returns a result of a dependency as an instance of a type."""

    class Page(BaseModel):
        title: str

    @scheduler.handler("work")
    def handle(task, context):
        return context.input("a", type=Page).title if context.inputs else Page(title="one")

    assert scheduler.run(chain("a", "b"), run_id="r").results == {"a": {"title": "one"}, "b": "one"}


def test_tasks_are_counted_by_phase(scheduler, store):
    """The head of a run has the number of its tasks by phase, over drives and spawned tasks."""
    record_calls(scheduler)

    @scheduler.handler("ask")
    def ask(task, context):
        context.step("announce", lambda: None)
        answer = context.wait_for("word")
        context.spawn(Task(type="work"), name="spawned")
        return answer

    @scheduler.handler("fail")
    def fail(task, context):
        raise ValueError("for good")

    def build():
        graph = chain("a", "b")
        graph.add(Task(type="ask"), name="asking")
        graph.add(Task(type="fail"), name="failing")
        graph.add(Task(type="work"), name="after", depends_on=["failing"])
        return graph

    assert scheduler.run(build(), run_id="r").waiting
    assert store.get("r").counts == {"COMPLETE": 2, "PARKED": 1, "FAILED": 1, "SKIPPED": 1}
    store.answer("r", "word", 1)
    scheduler.run(build(), run_id="r")
    assert store.get("r").counts == {"COMPLETE": 4, "FAILED": 1, "SKIPPED": 1}
    assert store.retry("r")
    scheduler.run(build(), run_id="r")
    assert store.get("r").counts == {"COMPLETE": 4, "FAILED": 1, "SKIPPED": 1}


def test_the_log_leaves_results_out(scheduler, store):
    """Results are in the record of the run, and not once more in the events of its log."""
    record_calls(scheduler, result="a long result")
    scheduler.run(chain("a"), run_id="r")
    events = list(store.events("r"))
    assert [event["type"] for event in events] == [
        "run_started",
        "task_started",
        "task_finished",
        "run_finished",
    ]
    assert "a long result" not in repr(events)
    assert events[2]["task"]["status"] == "complete"
    assert [event["sequence"] for event in store.events("r", after=2)] == [3, 4]


def test_an_error_whose_redaction_fails_is_withheld(make_store):
    """If redact= raises on the text of an error, the task is FAILED and the text is not stored."""

    def redact(value):
        if isinstance(value, str) and "secret" in value:
            raise RuntimeError("cannot redact")
        return value

    store = make_store(redact=redact)
    with TaskScheduler(max_workers=0, runs=store) as scheduler:

        @scheduler.handler("work")
        def handle(task, context):
            raise KeyError("a secret")

        result = scheduler.run(chain("a"), run_id="r")
    assert result.errors == {"a": "KeyError: (withheld, because redact= failed with RuntimeError)"}
    assert "secret" not in repr(store.get("r").tasks)
