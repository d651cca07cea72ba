"""Spawned tasks of durable runs, whose spawner starts again from its top."""

import threading

import pytest

from asimov_sync import Cancellation, RunStatus, Task, TaskGraph, TaskScheduler, TaskStatus

from ..waiting import DEADLINE, wait_for


def build():
    """A graph of a spawner and its dependent."""
    graph = TaskGraph()
    graph.add(Task(type="spawner"), name="spawner")
    graph.add(Task(type="work"), name="after", depends_on="spawner")
    return graph


class Family:
    """Handlers: the spawner has a child, which has a child of its own.

    store: the run store.
    end: called by the spawner when both have finished.
    """

    def __init__(self, store, end):
        self.calls = []
        self.store = store
        self.end = end

    def handlers(self):
        """Return the handlers by type."""
        return {"spawner": self.spawner, "child": self.child, "work": self.work}

    def spawner(self, task, context):
        """Spawn a child, and wait for its child."""
        self.calls.append(context.name)
        context.spawn(Task(type="child"), name="child", before_dependents=True)
        wait_for(self.have_finished)
        return self.end(context)

    def have_finished(self):
        """Return whether the outcomes of both are stored."""
        tasks = self.store.get("r").tasks
        names = ("child", "grandchild")
        return all(name in tasks and tasks[name].phase == "COMPLETE" for name in names)

    def child(self, task, context):
        """Spawn a child."""
        self.calls.append(context.name)
        context.spawn(Task(type="work"), name="grandchild", before_dependents=True)
        return context.name

    def work(self, task, context):
        """Return the inputs."""
        self.calls.append(context.name)
        return sorted(context.inputs)


@pytest.mark.parametrize("stays", [False, True], ids=["parked", "driven"])
def test_children_of_a_parked_spawner(store, stays):
    """A spawner that waits for an answer finds the outcomes of its descendants again."""
    family = Family(store, lambda context: context.wait_for("ok"))
    graph, hold = build(), threading.Event()
    if stays:
        graph.add(Task(type="hold"), name="hold")
    handlers = dict(family.handlers(), hold=lambda task, context: hold.wait(DEADLINE))
    with TaskScheduler(handlers, max_workers=4, runs=store) as scheduler:
        run = scheduler.submit(graph, run_id="r")
        if not stays:
            assert run.result(DEADLINE).waiting == {"spawner": ["ok"]}
        for event in run.events():
            if event.type == "task_parked":
                break
        store.answer("r", "ok", "yes")
        if stays:
            for event in run.events():
                if event.type == "task_finished" and event.name == "after":
                    break
            hold.set()
            result = run.result(DEADLINE)
        else:
            result = scheduler.run(build(), run_id="r")
    assert result.status is TaskStatus.COMPLETE
    assert family.calls == ["spawner", "child", "grandchild", "spawner", "after"]
    assert result.results["after"] == ["child", "spawner"] or "grandchild" in result["after"]


def test_children_of_an_interrupted_spawner(store):
    """A spawner that was interrupted finds the outcomes of its descendants again."""
    token = Cancellation()

    def end(context):
        if family.calls.count("spawner") == 1:
            token.cancel()
            context.cancellation.wait(DEADLINE)
        return "done"

    family = Family(store, end)
    with TaskScheduler(family.handlers(), max_workers=4, runs=store) as scheduler:
        scheduler.submit(build(), run_id="r", cancellation=token).result(DEADLINE)
        result = scheduler.run(build(), run_id="r")
    assert result.status is TaskStatus.COMPLETE
    assert family.calls == ["spawner", "child", "grandchild", "spawner", "after"]


def test_an_adopted_failure_stops_the_run(store):
    """With on_failure="stop", a spawned task that failed in an earlier drive stops the next one."""
    calls, drives = [], []

    def spawner(task, context):
        calls.append(context.name)
        context.spawn(Task(type="child"), name="child")
        if len(drives) == 1:
            context.cancellation.wait(DEADLINE)
            context.cancellation.raise_if_cancelled()
        return context.name

    def child(task, context):
        raise ValueError(context.name)

    def work(task, context):
        calls.append(context.name)

    handlers = {"spawner": spawner, "child": child, "work": work}
    token = Cancellation()
    drives.append(token)
    with TaskScheduler(handlers, max_workers=2, runs=store) as scheduler:
        run = scheduler.submit(build(), run_id="r", on_failure="stop", cancellation=token)
        wait_for(lambda: "child" in store.get("r").tasks)
        wait_for(lambda: store.get("r").tasks["child"].phase == "FAILED")
        token.cancel("interrupted")
        run.result(DEADLINE)
        assert store.get("r").status is RunStatus.INTERRUPTED
        drives.append(None)
        result = scheduler.run(build(), run_id="r", on_failure="stop")
    assert calls == ["spawner", "spawner"]
    assert result.results == {"spawner": "spawner"}
    assert list(result.errors) == ["child"]
    stopped = "the run stopped after 'child' failed"
    assert (result.reason, result.skipped) == (stopped, {"after": stopped})
