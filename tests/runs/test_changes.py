"""Runs whose graph has changed since, runs that are tried again, and records of other formats."""

import pytest

from asimov_sync import (
    GraphChanged,
    RunInProgress,
    RunStatus,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)

from ..waiting import DEADLINE, wait_for


class Worker:
    """A handler that notes its calls, and fails or parks in the given tasks.

    fails, parks: names of tasks.
    spawns: for a task, the tasks that it spawns: name and options.
    """

    def __init__(self):
        self.calls = []
        self.fails, self.parks, self.spawns = set(), set(), {}

    def __call__(self, task, context):
        name = context.name
        self.calls.append(name)
        for child, options in self.spawns.get(name, {}).items():
            context.spawn(Task(type="work"), name=child, **options)
        if name in self.fails:
            raise ValueError(name)
        if name in self.parks:
            context.wait_for("go")
        return f"{name} {task.params.get('n', 0)} {sorted(context.inputs.values())}"

    def take(self):
        """Return the names of the calls since the last take, sorted."""
        calls, self.calls = self.calls, []
        return sorted(calls)


@pytest.fixture
def worker():
    """The handler."""
    return Worker()


@pytest.fixture
def scheduler(store, worker):
    """A scheduler of durable runs, on the calling thread."""
    with TaskScheduler({"work": worker, "other": worker}, max_workers=0, runs=store) as scheduler:
        yield scheduler


def build(*tasks, **changed):
    """A graph of tasks such as "b<a", which depends on a. changed: options of tasks, by name."""
    graph = TaskGraph()
    for text in tasks:
        name, _, before = text.partition("<")
        options = dict(changed.get(name, {}))
        type, objective = options.pop("type", "work"), options.pop("objective", "")
        task = Task(type=type, objective=objective, params=options.pop("params", {}))
        graph.add(task, name=name, depends_on=list(before), **options)
    return graph


CHANGES = {
    "type": (build("a", "b<a", "c<b", a={"type": "other"}), "its type was 'work'"),
    "objective": (build("a", "b<a", "c<b", a={"objective": "new"}), "its objective"),
    "params": (build("a", "b<a", "c<b", a={"params": {"n": 1}}), "its params"),
    "dependencies": (build("z", "a<z", "b<a", "c<b"), "it depended on []"),
    "removed": (build("b", "c<b"), "it was removed"),
    "renamed": (build("x", "b<x", "c<b"), "it was removed"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_task_that_has_finished(scheduler, worker, store, kind):
    """A finished task that was changed or removed is refused, and the run stays as it is."""
    graph, change = CHANGES[kind]
    worker.parks = {"c"}
    scheduler.run(build("a", "b<a", "c<b"), run_id="r")
    before = store.get("r")
    with pytest.raises(GraphChanged, match="if_changed=") as raised:
        scheduler.run(graph.copy(), run_id="r")
    assert change in raised.value.changes["a"]
    after = store.get("r")
    assert after.tasks == before.tasks
    assert (after.status, after.lease_until) == (RunStatus.PARKED, None)
    assert (after.usage, after.seconds) == (before.usage, before.seconds)
    assert [wait.name for wait in store.waits("r")] == ["go"]
    assert store.ready() == []
    worker.take()
    store.answer("r", "go", 1)
    assert scheduler.run(build("a", "b<a", "c<b"), run_id="r").status is TaskStatus.COMPLETE
    assert worker.take() == ["c"]


def test_keep_and_rerun(scheduler, worker):
    """if_changed= keeps the result of a changed task, or runs it and what follows again."""
    worker.parks = {"d"}
    old = ("a", "b<a", "c", "d<bc")
    scheduler.run(build(*old), run_id="r")
    worker.take()
    new = {"a": {"params": {"n": 1}}, "c": {"params": {"n": 2}}}
    result = scheduler.run(build(*old, **new), run_id="r", if_changed="keep")
    assert worker.take() == []
    assert result.results["a"] == "a 0 []"
    # Now the changed graph is that of the run.
    assert scheduler.run(build(*old, **new), run_id="r").waiting == {"d": ["go"]}
    policy = {"a": "rerun", "c": "keep"}
    result = scheduler.run(build(*old), run_id="r", if_changed=policy)
    assert worker.take() == ["a", "b", "d"]
    assert result.results["b"] == "b 0 ['a 0 []']"
    with pytest.raises(GraphChanged) as raised:
        scheduler.run(build(*old, **new), run_id="r", if_changed={"a": "rerun"})
    assert list(raised.value.changes) == ["c"]
    result = scheduler.run(build(*old, **new), run_id="r", if_changed="rerun")
    assert worker.take() == ["a", "b", "c", "d"]
    assert result.results["c"] == "c 2 []"


def test_changes_of_unfinished_tasks(scheduler, worker):
    """New tasks, and changed and removed ones that have not finished, are accepted."""
    worker.parks = {"b"}
    scheduler.run(build("a", "b<a", "c<b", "d<b"), run_id="r")
    worker.take()
    worker.parks = set()
    changed = build("a", "e<a", "c<e", c={"params": {"n": 3}})
    result = scheduler.run(changed, run_id="r")
    assert worker.take() == ["c", "e"]
    assert sorted(result.results) == ["a", "c", "e"]
    assert result.results["c"].startswith("c 3")


@pytest.mark.parametrize("answered", [False, True], ids=["open", "answered"])
@pytest.mark.parametrize("parks", [(), ("y",)], ids=["finishes", "parks"])
def test_a_parked_task_with_a_new_dependency(scheduler, worker, store, answered, parks):
    """A parked task that depends on a new task continues after it, with its result."""
    worker.parks = {"b"}
    scheduler.run(build("a", "b<a", "c<b"), run_id="r")
    if answered:
        store.answer("r", "go", 1, task="b")
    worker.take()
    worker.parks |= set(parks)
    graph = ("a", "b<ay", "c<b", "y")
    result = scheduler.run(build(*graph), run_id="r")
    if parks:
        assert result.waiting == {"y": ["go"]} and worker.take() == ["y"]
        assert [wait.task for wait in store.waits("r")] == ["y"]
        store.answer("r", "go", 1, task="y")
        result = scheduler.run(build(*graph), run_id="r")
    if not answered:
        assert result.waiting == {"b": ["go"]}
        store.answer("r", "go", 1, task="b")
        result = scheduler.run(build(*graph), run_id="r")
    assert result["b"] == "b 0 ['a 0 []', 'y 0 []']"
    assert result.status is TaskStatus.COMPLETE
    assert store.get("r").tasks["b"].visit == 1


@pytest.mark.parametrize("kind", ["type", "objective", "params", "renamed"])
def test_a_changed_task_that_is_parked(scheduler, worker, store, kind):
    """A parked task that was changed keeps its answer; a renamed one asks anew."""
    worker.parks = {"a", "x"}
    scheduler.run(build("a", "b<a", "c<b"), run_id="r")
    assert store.answer("r", "go", 1)
    graph, _ = CHANGES[kind]
    result = scheduler.run(graph.copy(), run_id="r")
    if kind == "renamed":
        assert result.waiting == {"x": ["go"]}
        assert list(store.get("r").tasks) == ["x"]
        assert store.answer("r", "go", 1)
        result = scheduler.run(graph.copy(), run_id="r")
    assert result.status is TaskStatus.COMPLETE
    assert store.get("r").tasks.keys() == set(graph)


def test_options_that_are_no_change(scheduler, worker):
    """timeout, retry, max_visits and the order of tasks are not compared."""
    worker.parks = {"b"}
    scheduler.run(build("a", "b<a"), run_id="r")
    worker.take()
    options = {"timeout": 50.0, "max_visits": 9}
    graph = build("c", "a", "b<a", a=options, b=options)
    assert scheduler.run(graph, run_id="r").waiting == {"b": ["go"]}
    assert worker.take() == ["c"]


def test_a_rerun_undoes_what_spawned_tasks_made_of_it(scheduler, worker):
    """A task that runs again undoes the tasks downstream of it, spawned ones included."""
    worker.parks = {"end"}
    worker.spawns = {"b": {"child": {"depends_on": ["a"], "before_dependents": True}}}
    tasks = ("a", "b", "c<b", "e", "end")
    first = scheduler.run(build(*tasks), run_id="r")
    assert first.results["c"] == "c 0 ['b 0 []', \"child 0 ['a 0 []']\"]"
    worker.take()
    result = scheduler.run(
        build(*tasks, a={"params": {"n": 1}}), run_id="r", if_changed={"a": "rerun"}
    )
    assert worker.take() == ["a", "c", "child"]
    assert result.results["c"] == "c 0 ['b 0 []', \"child 0 ['a 1 []']\"]"


@pytest.mark.parametrize("way", ["retry_failed", "store.retry"])
def test_a_failed_spawned_task_is_tried_again(scheduler, worker, store, way):
    """A spawned task that failed runs again, and so do the tasks that continued without it."""
    worker.fails = {"child"}
    worker.spawns = {"b": {"child": {"before_dependents": True}, "good": {}}}
    tasks, options = ("a", "b<a", "c<b"), {"c": {"allow_failure": True}}
    first = scheduler.run(build(*tasks, **options), run_id="r")
    assert first.errors == {"child": "ValueError: child"}
    assert worker.take() == ["a", "b", "c", "child", "good"]
    worker.fails = set()
    if way == "store.retry":
        assert store.retry("r")
        assert store.get("r").status is RunStatus.INTERRUPTED
        assert [record.run_id for record in store.ready()] == ["r"]
    retry = way == "retry_failed"
    result = scheduler.run(build(*tasks, **options), run_id="r", retry_failed=retry)
    assert result.status is TaskStatus.COMPLETE
    assert worker.take() == ["c", "child"]
    assert "child 0" in result.results["c"] and "child 0" not in first.results["c"]


def test_a_task_may_be_tried_again_any_number_of_times(scheduler, worker):
    """retry_failed does not use up max_visits, and the idempotency key stays the same."""
    keys = []

    @scheduler.handler("work")
    def work(task, context):
        keys.append(context.idempotency_key)
        if len(keys) < 8:
            raise ValueError("not yet")
        return "done"

    for _ in range(8):
        result = scheduler.run(build("a"), run_id="r", retry_failed=True)
    assert result.results == {"a": "done"}
    assert keys == ["r/a/1"] * 8


def test_retry_of_a_run_without_failures(scheduler, worker, store):
    """store.retry returns False for a run that has not failed, and leaves it as it is."""
    scheduler.run(build("a"), run_id="r")
    assert store.retry("r") is False
    assert store.get("r").status is RunStatus.COMPLETE
    worker.parks = {"a"}
    scheduler.run(build("a"), run_id="parked")
    assert store.retry("parked") is False
    with pytest.raises(KeyError, match="nothing"):
        store.retry("nothing")


def test_restart_while_another_driver_runs(store, worker):
    """restart=True does not take a run from its driver."""
    worker.parks = {"a"}
    with TaskScheduler({"work": worker}, max_workers=2, runs=store) as scheduler:
        graph = build("a", "b")
        hold = scheduler.handlers["hold"] = lambda task, context: context.cancellation.wait(
            DEADLINE
        )
        graph.add(Task(type="hold"), name="hold")
        run = scheduler.submit(graph, run_id="r")
        wait_for(lambda: "b" in worker.calls)
        assert hold is not None
        with pytest.raises(RunInProgress):
            scheduler.run(build("a", "b"), run_id="r", restart=True)
        run.cancel()
        run.result(DEADLINE)
        worker.parks = set()
        assert scheduler.run(build("a"), run_id="r", restart=True).results == {"a": "a 0 []"}
