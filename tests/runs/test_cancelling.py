"""Cancelled runs have ended for good, also where the cancelled driver could not finish."""

import pytest

from asimov_sync import RunFailed, RunStatus, Task, TaskGraph, TaskScheduler, TaskStatus

from ..waiting import DEADLINE


@pytest.fixture
def scheduler(store):
    """A scheduler whose handlers record their calls, and call `scheduler.act` for each task."""
    with TaskScheduler(max_workers=0, runs=store) as scheduler:
        scheduler.calls = []

        @scheduler.handler("work")
        def work(task, context):
            scheduler.calls.append(context.name)
            return scheduler.act(context)

        yield scheduler


def build():
    """A graph of two tasks, and a third that runs in any case."""
    graph = TaskGraph()
    graph.add(Task(type="work"), name="a")
    graph.add(Task(type="work"), name="b", depends_on="a")
    graph.add(Task(type="work"), name="clean", depends_on="b", always=True, timeout=DEADLINE)
    return graph


def interrupt_at(name, before=lambda: None):
    """Return a function that interrupts the run in a task."""

    def act(context):
        if context.name == name:
            before()
            raise KeyboardInterrupt
        return 1

    return act


def test_a_run_that_is_cancelled_without_a_driver_is_not_complete(scheduler, store):
    """Tasks that had not started are skipped in the result, although nothing is stored of them."""
    scheduler.act = interrupt_at("b")
    with pytest.raises(KeyboardInterrupt):
        scheduler.run(build(), run_id="r")
    assert store.result("r").status is TaskStatus.EXECUTING
    assert store.cancel("r", "not needed") is True
    result = scheduler.run(build(), run_id="r")
    assert (result.status, result.reason) == (TaskStatus.PARTIAL, "not needed")
    assert sorted(result.skipped) == ["b", "clean"]
    with pytest.raises(RunFailed, match="not needed"):
        result.raise_for_failure()
    stored = store.result("r")
    assert (stored.status, stored.reason) == (TaskStatus.PARTIAL, "not needed")


def test_a_cancel_that_the_driver_did_not_notice_ends_the_next_drive(scheduler, store):
    """A cancel that arrives just before the driver is interrupted cancels the next drive."""
    scheduler.act = interrupt_at("a", lambda: store.cancel("r", "not needed"))
    with pytest.raises(KeyboardInterrupt):
        scheduler.run(build(), run_id="r")
    scheduler.act = lambda context: 1
    result = scheduler.run(build(), run_id="r")
    assert result.reason == "not needed"
    assert scheduler.calls == ["a", "clean"]
    assert store.get("r").status is RunStatus.CANCELLED


def test_a_cancelled_run_that_is_interrupted_stays_cancelled(scheduler, store):
    """An interruption of the tasks with always=True does not start the cancelled tasks again."""
    scheduler.act = interrupt_at("clean")
    run = scheduler.submit(build(), run_id="r")
    run.cancel("not needed")
    with pytest.raises(KeyboardInterrupt):
        run.result()
    scheduler.act = lambda context: 1
    result = scheduler.run(build(), run_id="r")
    assert sorted(result.skipped) == ["a", "b"]
    assert result["clean"] == 1
    assert scheduler.calls == ["clean", "clean"]
    assert store.get("r").status is RunStatus.CANCELLED
