"""Run results: they survive copy and pickle, and show the same afterwards."""

import copy
import pickle

import pytest

from asimov_sync import Partial, Retry, Route, RunFailed, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.graph.events import RunFinished


def fail(task, context):
    raise ValueError("no such page")


@pytest.fixture(scope="module")
def result():
    """The result of a run with a task in each of the states that a task can end in."""
    handlers = {
        "good": lambda task, context: "precious",
        "half": lambda task, context: Partial(["page 1"], "page 2 is missing"),
        "bad": fail,
        "choose": lambda task, context: Route("chosen", result="left"),
        "spawn": spawn,
    }
    graph = TaskGraph()
    graph.add(Task(type="good"), name="good")
    graph.add(Task(type="half"), name="half", when=lambda inputs: True)
    graph.add(Task(type="bad"), name="bad", retry=Retry(attempts=2, wait=lambda state: 0.0))
    graph.add(Task(type="good"), name="skipped", depends_on="bad")
    graph.add(Task(type="choose"), name="choose")
    graph.add(Task(type="good"), name="chosen", depends_on="choose")
    graph.add(Task(type="good"), name="not chosen", depends_on="choose")
    graph.add(Task(type="spawn"), name="spawn", retry=Retry(attempts=2, wait=lambda state: 0.0))
    with TaskScheduler(handlers, max_workers=0) as scheduler:
        return scheduler.run(graph)


def spawn(task, context):
    context.spawn(Task(type="good"), name=f"from attempt {context.attempt}")
    if context.attempt == 1:
        raise OSError("again")


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_duplicate_of_a_result_shows_the_same(result, duplicate):
    """A copied or pickled result keeps every result, error, skip reason, duration and task, and its status."""
    twin = duplicate(result)
    assert twin.results == result.results
    assert set(twin.results) == {"good", "half", "choose", "chosen", "spawn", "from attempt 2"}
    assert twin.errors == result.errors == {"half": "page 2 is missing", "bad": "ValueError: no such page"}
    assert set(twin.skipped) == {"skipped", "not chosen"} and twin.skipped == result.skipped
    assert {name: repr(error) for name, error in twin.exceptions.items()} == {"bad": "ValueError('no such page')"}
    assert (twin.status, twin.run_id, twin.usage, twin.duration) == (
        TaskStatus.PARTIAL,
        result.run_id,
        result.usage,
        result.duration,
    )
    assert (twin.usages, twin.durations) == (result.usages, result.durations)
    assert {name: task.model_dump() for name, task in twin.tasks.items()} == {
        name: task.model_dump() for name, task in result.tasks.items()
    }
    assert twin.to_dict() == result.to_dict()
    assert repr(twin) == repr(result)


def test_a_duplicate_of_a_failed_result_names_its_failures(result):
    """raise_for_failure() of a pickled result names the tasks that failed, and has the first exception as its cause."""
    twin = pickle.loads(pickle.dumps(result))
    with pytest.raises(RunFailed, match="bad: ValueError: no such page") as caught:
        twin.raise_for_failure()
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_duplicate_of_the_last_event_has_the_result(result):
    """A pickled RunFinished event has the whole result."""
    event = pickle.loads(pickle.dumps(RunFinished(result, 1.0)))
    assert event.result.results == result.results
    assert event.to_dict() == RunFinished(result, 1.0).to_dict()
