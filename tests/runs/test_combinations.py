"""Durable runs beside the library's other features: nested runs, subgraphs, maps, time-outs."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from asimov_sync import (
    Budget,
    GraphChanged,
    RunStatus,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.testing import ScriptedInferenceClient

from ..tiers import soak, suite
from ..waiting import DEADLINE

pytestmark = suite


@pytest.fixture(params=[pytest.param("threads", marks=soak), "calling thread", "executor"])
def scheduler(request, store):
    """A scheduler of durable runs."""
    if request.param == "executor":
        with ThreadPoolExecutor(3) as executor:
            with TaskScheduler(executor=executor, runs=store) as scheduler:
                yield scheduler
        return
    workers = 3 if request.param == "threads" else 0
    with TaskScheduler(max_workers=workers, runs=store) as scheduler:
        yield scheduler


def chain(*functions):
    """Return a graph of handlers that run one after the other, named after the functions."""
    graph, before = TaskGraph(), []
    for function in functions:
        before = [graph.add(function, name=function.__name__, depends_on=before)]
    return graph


def test_a_nested_run_is_not_repeated(scheduler, store):
    """A task that runs a graph of its own, with an id, finds its outcomes again."""
    calls = []

    def inner(task, context):
        calls.append("inner")
        return len(calls)

    def outer(task, context):
        calls.append("outer")
        result = scheduler.run(chain(inner), run_id=f"{context.run_id}:inner")
        if calls.count("outer") == 1:
            raise ValueError("after the nested run")
        return [result.restored, result["inner"]]

    assert scheduler.run(chain(outer), run_id="r").status is TaskStatus.FAILED
    result = scheduler.run(chain(outer), run_id="r", retry_failed=True)
    assert result.results == {"outer": [True, 2]}
    assert calls == ["outer", "inner", "outer"]
    assert store.stats() == {"complete": 2}


def test_a_nested_run_that_parks(scheduler, store):
    """A nested run parks by itself, and its task decides what that means."""

    def inner(task, context):
        return context.wait_for("ok")

    def outer(task, context):
        return scheduler.run(chain(inner), run_id=f"{context.run_id}:inner")["inner"]

    result = scheduler.run(chain(outer), run_id="r")
    assert result.errors["outer"].startswith("RunParked")
    assert [(wait.run_id, wait.task) for wait in store.waits()] == [("r:inner", "inner")]
    store.answer("r:inner", "ok", 5)
    assert scheduler.run(chain(outer), run_id="r", retry_failed=True).results == {"outer": 5}


def build(items):
    """Return a graph of a subgraph that parks, and of a map by key."""
    part = TaskGraph()
    first = part.add(lambda task, context: context.name, name="first")
    part.add(lambda task, context: context.wait_for("ok"), name="ask", depends_on=[first])
    graph = TaskGraph()
    graph.add_graph(part, name="part")
    graph.map(
        lambda task, context: task.params["item"]["id"],
        [{"id": item} for item in items],
        name="page",
        key=lambda item: item["id"],
        depends_on=["part.first"],
    )
    return graph


def test_a_subgraph_and_a_map_by_key_that_changes(scheduler, store):
    """Items may be moved and added while the run is parked in a subgraph, but not removed."""
    result = scheduler.run(build("ab"), run_id="r")
    assert result.waiting == {"part.ask": ["ok"]}
    for items in ("ba", "bca"):
        with scheduler.stream(build(items), run_id="r") as events:
            started = [event.name for event in events if event.type == "task_started"]
        assert started == ["page[c]"] * ("c" in items)
    with pytest.raises(GraphChanged) as raised:
        scheduler.run(build("bc"), run_id="r")
    assert raised.value.changes == {"page[a]": "it was removed"}
    store.answer("r", "ok", 1)
    result = scheduler.run(build("abc"), run_id="r")
    assert result.results == {
        "part.first": "part.first",
        "part.ask": 1,
        "page[a]": "a",
        "page[b]": "b",
        "page[c]": "c",
    }


def test_restart_while_parked(scheduler, store):
    """restart=True forgets answers as well: the question is asked anew."""
    calls = []

    def ask(task, context):
        calls.append(context.visit)
        return context.wait_for("ok")

    scheduler.run(chain(ask), run_id="r")
    store.answer("r", "ok", 1)
    assert scheduler.run(chain(ask), run_id="r", restart=True).waiting == {"ask": ["ok"]}
    assert store.answer("r", "ok", 2)
    assert scheduler.run(chain(ask), run_id="r").results == {"ask": 2}
    assert calls == [1, 1, 1]


def test_a_budget_that_ended_a_run(scheduler, store):
    """With a larger budget, retry_failed=True runs what the budget refused."""
    client = ScriptedInferenceClient(lambda body: "done")

    def first(task, context):
        return client.generate("first").text

    def second(task, context):
        return client.generate("second").text

    def third(task, context):
        return client.generate("third").text

    def run(requests):
        budget = Budget(requests=requests)
        return scheduler.run(
            chain(first, second, third), run_id="r", budget=budget, retry_failed=True
        )

    result = run(1)
    assert list(result.errors) == ["second"] and list(result.skipped) == ["third"]
    assert list(run(1).errors) == ["second"]  # what was spent before counts
    assert run(3).results == dict.fromkeys(("first", "second", "third"), "done")
    assert len(client.requests) == 3
    assert (store.get("r").usage.requests, store.get("r").error) == (3, None)


def test_time_outs(scheduler, store):
    """A task that timed out may be tried again; a run that timed out has ended for good."""
    quick = []

    def work(task, context):
        context.cancellation.wait(0.0 if quick else DEADLINE)
        context.cancellation.raise_if_cancelled()
        return context.attempt

    graph = TaskGraph()
    graph.add(work, name="work", timeout=0.02)
    assert "TaskTimeout" in scheduler.run(graph, run_id="task").errors["work"]
    result = scheduler.run(chain(work), run_id="run", timeout=0.02)
    assert "time-out" in result.reason
    quick.append(True)
    assert scheduler.run(graph.copy(), run_id="task", retry_failed=True).results == {"work": 1}
    assert scheduler.run(chain(work), run_id="run", retry_failed=True).restored
    assert store.retry("run") is False
    assert store.get("run").status is RunStatus.CANCELLED
    assert scheduler.run(chain(work), run_id="run", restart=True).results == {"work": 1}
