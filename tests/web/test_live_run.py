"""Following a stored run: which tasks run now, and which rows of a page have changed."""

import pytest

from asimov_sync import MemoryCache, RunStore, Task, TaskGraph, TaskScheduler
from asimov_sync.web.live_run import Follower, fold_activities


def event(kind, name="a", **fields):
    """An event of the log."""
    task = {"type": "work", "objective": "do it"}
    return dict({"type": kind, "name": name, "task": task, "attempt": 1, "time": 5.0}, **fields)


def fold(*events):
    """The running tasks after some events."""
    activities = {}
    fold_activities(activities, events)
    return activities


START = event("task_started")


def test_a_task_that_runs():
    """A task runs from its start to its end, its park, its retry or the end of the drive."""
    (activity,) = fold(START).values()
    assert (activity.name, activity.type, activity.started) == ("a", "work", 5.0)
    for kind in ("finished", "parked", "retried", "undone", "skipped"):
        assert fold(START, event(f"task_{kind}")) == {}
    assert fold(START, {"type": "run_finished"}) == fold(START, {"type": "run_started"}) == {}
    assert list(fold(START, event("task_started", "b"), event("task_finished"))) == ["b"]


def test_progress_and_text():
    """The last report is shown, and the end of the text of the last reply."""
    report = event("task_progress", fraction=0.5, text="half")
    texts = [event("task_text", reply=1, text="one "), event("task_text", reply=1, text="two")]
    (activity,) = fold(START, report, *texts).values()
    assert (activity.fraction, activity.progress, activity.text) == (0.5, "half", "one two")
    (activity,) = fold(START, *texts, event("task_text", reply=2, text="x" * 9999)).values()
    assert activity.text == "x" * 600
    assert fold(report, *texts) == {}


@pytest.mark.parametrize("value", [None, "x", [], {}, True, 1e300, float("nan"), -1])
def test_fields_of_another_type(value):
    """An event whose fields have other types, as redact= may leave them, is shown without them."""
    names = ("task", "attempt", "visit", "time", "fraction", "text", "reply")
    odd = dict.fromkeys(names, value)
    kinds = ("task_started", "task_progress", "task_text")
    assert list(fold(*(event(kind, **odd) for kind in kinds))) == ["a"]
    assert fold(event("task_started", name=value)) == {} or isinstance(value, str)
    assert fold({}, {"type": value}) == {}


def test_changes_between_two_looks():
    """Every task that has changed is reported, also if the run ended between a wait and a look."""
    store = RunStore(MemoryCache())

    def build():
        graph = TaskGraph()
        graph.add(lambda task, context: context.wait_for("word"), name="first")
        graph.add(Task(type="work"), name="second", depends_on=["first"])
        return graph

    handlers = {"work": lambda task, context: None}
    with TaskScheduler(handlers, max_workers=0, runs=store) as scheduler:
        scheduler.run(build(), run_id="r")
        follower = Follower(store, "r")
        assert not follower.read().has_ended
        assert follower.take_changed() == {"first"}
        store.answer("r", "word", "x")
        scheduler.run(build(), run_id="r")
    run = follower.read()
    assert run.has_ended and follower.take_changed() == {"first", "second"}
    assert follower.take_changed() == set()
    assert [task.status for task in run.view.tasks] == ["complete", "complete"]
