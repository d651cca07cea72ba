"""RunResult: its JSON, and copies and pickles that show the same."""

import copy
import json
import math
import pickle

import pytest

from asimov_sync import Partial, Retry, Route, RunFailed, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.graph.events import RunFinished

from .test_scheduler import diamond, echo


def fail(task, context):
    raise ValueError("no such page")


@pytest.fixture(scope="module")
def result():
    """Return the result of a run with a task in each final state."""
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
def test_copies_and_pickles_show_the_same(result, duplicate):
    """They keep every result, error, reason, duration and task, and the status."""
    twin = duplicate(result)
    assert twin.results == result.results
    assert set(twin.results) == {"good", "half", "choose", "chosen", "spawn", "from attempt 2"}
    assert (
        twin.errors
        == result.errors
        == {"half": "page 2 is missing", "bad": "ValueError: no such page"}
    )
    assert set(twin.skipped) == {"skipped", "not chosen"} and twin.skipped == result.skipped
    assert {name: repr(error) for name, error in twin.exceptions.items()} == {
        "bad": "ValueError('no such page')"
    }
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


def test_pickle_of_a_failed_result_names_its_failures(result):
    """raise_for_failure() names the failed tasks, with the first exception as the cause."""
    twin = pickle.loads(pickle.dumps(result))
    with pytest.raises(RunFailed, match="bad: ValueError: no such page") as caught:
        twin.raise_for_failure()
    assert isinstance(caught.value.__cause__, ValueError)


def test_pickle_of_run_finished_has_the_result(result):
    """A pickled RunFinished event has the whole result."""
    event = pickle.loads(pickle.dumps(RunFinished(result, 1.0)))
    assert event.result.results == result.results
    assert event.to_dict() == RunFinished(result, 1.0).to_dict()


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def scheduler(request):
    """Return a scheduler with threads, and one without."""
    with TaskScheduler({"echo": echo}, max_workers=request.param) as made:
        yield made


def test_result_that_json_cannot_hold(scheduler):
    """It becomes its repr and does not affect the others; events are JSON-safe, too."""
    cycle = ["x"]
    cycle.append(cycle)
    scheduler.handlers["cycle"] = lambda task, context: cycle
    graph = diamond(b="cycle", d="nan")
    scheduler.handlers["nan"] = lambda task, context: math.nan
    event_types = [
        json.loads(json.dumps(event.to_dict(), allow_nan=False))
        for event in scheduler.stream(graph)
    ]
    results = event_types[-1]["result"]["results"]
    assert results == {"a": "a", "b": "['x', [...]]", "c": "ca", "d": None}
