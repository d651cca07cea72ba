"""Fork under a durable run: the child neither renews its lease nor writes it."""

import os
import threading

import pytest

from asimov_sync import (
    GraphError,
    MemoryCache,
    RunInProgress,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, in_child, wait_for
from .drivers import interpose

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def graph(*names):
    """A graph of independent tasks."""
    graph = TaskGraph()
    for name in names:
        graph.add(Task(type="work"), name=name)
    return graph


def test_a_child_of_a_handler_writes_nothing(tmp_path):
    """In a child, calls of the handler's context that write raise; its own runs work."""
    with SQLiteCache(tmp_path / "runs.db", synchronous="normal") as cache:
        store = RunStore(cache)

        def work(task, context):
            if context.run_id != "r":
                return "in the child"
            context.step("before", str, 1)

            def use():
                with pytest.raises(GraphError, match="forked"):
                    context.step("in the child", str, 2)
                with pytest.raises(GraphError, match="forked"):
                    context.wait_for("in the child")
                assert store.get("r").status is RunStatus.RUNNING
                with TaskScheduler({"work": work}, runs=store) as own:
                    assert own.run(graph("a"), run_id="own").results == {"a": "in the child"}
                    with pytest.raises(RunInProgress):
                        own.run(graph("a"), run_id="r")

            in_child(use)
            return context.step("after", str, 3)

        with TaskScheduler({"work": work}, max_workers=2, runs=store) as scheduler:
            assert scheduler.run(graph("a"), run_id="r").results == {"a": "3"}
        assert store.result("own").results == {"a": "in the child"}
        assert store.waits("r") == []
        kinds = [event["type"] for event in store.events("r")]
        assert kinds == ["run_started", "task_started", "task_finished", "run_finished"]


def test_a_fork_while_the_run_is_written():
    """A child of a fork in the middle of a write does not wait for the thread that wrote."""
    writing, resume, contexts = threading.Event(), threading.Event(), []

    def hold(method, call):
        if method == "commit" and contexts and not writing.is_set():
            writing.set()
            assert resume.wait(DEADLINE)
        return call()

    def work(task, context):
        contexts.append(context)
        return context.step("step", str, 1)

    store = RunStore(interpose(MemoryCache(), hold))
    with TaskScheduler({"work": work}, max_workers=2, runs=store) as scheduler:
        run = scheduler.submit(graph("a"), run_id="r")
        assert writing.wait(DEADLINE)

        def use():
            with pytest.raises(GraphError, match="forked"):
                contexts[0].step("other", str, 1)
            with pytest.raises(GraphError, match="forked"):
                run.result(1)
            assert run.cancel() is False
            scheduler.close()

        in_child(use)
        assert not run.done()
        resume.set()
        assert run.result(DEADLINE).results == {"a": "1"}


@suite
def test_a_child_does_not_renew_the_lease(tmp_path):
    """The lease of a driver that forked and died ends, while the child lives."""
    lease = by_tier(0.3, soak=2.0)
    path = tmp_path / "runs.db"
    reader, writer = os.pipe()  # the child ends when the test closes it

    def work(task, context):
        pid = os.fork()
        if not pid:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os._exit(0)

    def drive():
        with SQLiteCache(path, synchronous="normal") as cache:
            store = RunStore(cache, lease=lease)
            TaskScheduler({"work": work}, max_workers=0, runs=store).run(graph("a"), run_id="r")

    in_child(drive)
    try:
        with SQLiteCache(path, synchronous="normal") as cache:
            store = RunStore(cache, lease=lease)
            wait_for(lambda: store.get("r").status is RunStatus.ORPHANED, "the end of the lease")
            with TaskScheduler({"work": lambda task, context: 1}, runs=store) as scheduler:
                assert scheduler.run(graph("a"), run_id="r").status is TaskStatus.COMPLETE
    finally:
        os.close(writer)
        os.close(reader)
