"""Parking: what waits for an answer, and what happens to it."""

import threading

import pytest

from asimov_sync import (
    RunStatus,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    WaitTimeout,
)

from ..waiting import DEADLINE, wait_for


@pytest.fixture(params=[3, 0], ids=["threads", "calling thread"])
def scheduler(request, store):
    """A scheduler of durable runs."""
    with TaskScheduler(max_workers=request.param, runs=store) as scheduler:
        yield scheduler


def test_a_committed_step_of_a_spawned_task_is_not_repeated(store):
    """A spawner that ends while its child runs does not take the child's committed steps away."""
    calls, stepped, ended = [], threading.Event(), threading.Event()
    with TaskScheduler(runs=store) as scheduler:

        @scheduler.on_event
        def note_end(event):
            if event.type == "task_finished" and event.name == "spawner":
                ended.set()

        @scheduler.handler("spawner")
        def spawn(task, context):
            context.spawn(Task(type="child"), name="child")
            assert stepped.wait(DEADLINE)

        @scheduler.handler("child")
        def child(task, context):
            context.step("pay", calls.append, "paid")
            stepped.set()
            assert ended.wait(DEADLINE)
            return context.wait_for("ok")

        graph = TaskGraph()
        graph.add(Task(type="spawner"), name="spawner")
        assert scheduler.run(graph, run_id="r").waiting == {"child": ["ok"]}
        store.answer("r", "ok", "yes")
        assert scheduler.run(graph, run_id="r")["child"] == "yes"
        assert calls == ["paid"]


def test_a_wait_after_the_run_stopped_fails_its_task(scheduler, store):
    """With on_failure="stop", a task cannot park once another one has failed."""
    both = threading.Barrier(2 if scheduler.max_workers else 1)
    failed = threading.Event()
    scheduler.on_event(
        lambda event: failed.set() if event.type == "task_finished" else None, blocking=True
    )

    @scheduler.handler("fail")
    def fail(task, context):
        both.wait(DEADLINE)
        raise ValueError("no")

    @scheduler.handler("ask")
    def ask(task, context):
        both.wait(DEADLINE)
        assert failed.wait(DEADLINE)
        return context.wait_for("ok")

    graph = TaskGraph()
    graph.add(Task(type="fail"), name="fail")
    graph.add(Task(type="ask"), name="ask")
    result = scheduler.run(graph, run_id="r", on_failure="stop")
    assert result.status is TaskStatus.FAILED
    assert result.waiting == {}
    assert result.errors["fail"] == "ValueError: no"
    assert store.get("r").status is RunStatus.FAILED


def test_the_end_of_a_run_closes_its_waits(scheduler, store):
    """A task that waits when its run is cancelled is skipped, and its answer does not start it."""
    calls, runs = [], []

    @scheduler.handler("ask")
    def ask(task, context):
        calls.append("ask")
        return context.wait_for("ok")

    @scheduler.handler("clean")
    def clean(task, context):
        store.answer("r", "ok", True)
        calls.append("clean")

    @scheduler.handler("work")
    def work(task, context):
        wait_for(lambda: runs and (store.waits("r") or not scheduler.max_workers))
        runs[0].cancel("enough")
        context.cancellation.wait(DEADLINE)

    graph = TaskGraph()
    graph.add(Task(type="ask"), name="ask")
    graph.add(Task(type="work"), name="work")
    graph.add(Task(type="clean"), name="clean", depends_on="work", always=True, timeout=DEADLINE)
    runs.append(scheduler.submit(graph, run_id="r"))
    result = runs[0].result(DEADLINE)
    assert calls == ["ask", "clean"]
    assert result.waiting == {}
    assert result.skipped == {"ask": "the run ended early: enough"}
    assert store.get("r").status is RunStatus.CANCELLED


def test_a_deadline_is_that_of_the_first_call(scheduler, store):
    """A wait whose deadline passed stays passed when a later wait starts the handler again."""

    @scheduler.handler("ask")
    def ask(task, context):
        try:
            context.wait_for("first", timeout=0.05)
        except WaitTimeout:
            return context.wait_for("second")

    graph = TaskGraph()
    graph.add(Task(type="ask"), name="ask")
    result = scheduler.run(graph, run_id="r")
    while result.waiting == {"ask": ["first"]}:
        result = scheduler.run(graph, run_id="r")
    assert result.waiting == {"ask": ["second"]}
    store.answer("r", "second", "yes")
    assert scheduler.run(graph, run_id="r")["ask"] == "yes"
