"""RunResult: its JSON, and copies and pickles that show the same."""

import copy
import json
import math
import pickle
import threading

import pytest

from asimov_sync import (
    Budget,
    BudgetExceeded,
    Partial,
    Retry,
    Route,
    RunFailed,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.graph.events import RunFinished

from ..waiting import DEADLINE
from .graphs import single
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
    """A duplicate keeps every result, error, reason, duration and task, and the status."""
    restored = duplicate(result)
    assert restored.results == result.results
    assert set(restored.results) == {"good", "half", "choose", "chosen", "spawn", "from attempt 2"}
    assert (
        restored.errors
        == result.errors
        == {"half": "page 2 is missing", "bad": "ValueError: no such page"}
    )
    assert set(restored.skipped) == {"skipped", "not chosen"} and restored.skipped == result.skipped
    assert {name: repr(error) for name, error in restored.exceptions.items()} == {
        "bad": "ValueError('no such page')"
    }
    assert (restored.status, restored.run_id, restored.usage, restored.duration) == (
        TaskStatus.PARTIAL,
        result.run_id,
        result.usage,
        result.duration,
    )
    assert (restored.usages, restored.durations) == (result.usages, result.durations)
    assert {name: task.model_dump() for name, task in restored.tasks.items()} == {
        name: task.model_dump() for name, task in result.tasks.items()
    }
    assert restored.to_dict() == result.to_dict()
    assert repr(restored) == repr(result)


def test_pickle_of_a_failed_result_names_its_failures(result):
    """raise_for_failure() names the failed tasks, with the first exception as the cause."""
    duplicate = pickle.loads(pickle.dumps(result))
    with pytest.raises(RunFailed, match="bad: ValueError: no such page") as caught:
        duplicate.raise_for_failure()
    assert isinstance(caught.value.__cause__, ValueError)


def test_item_of_a_task_with_a_result(result):
    """result[name] and result[task] are the result of a COMPLETE or PARTIAL task."""
    assert result["good"] == "precious"
    assert result["half"] == ["page 1"]
    assert result["from attempt 2"] == "precious"
    assert result[result.tasks["half"]] == ["page 1"]
    graph = diamond()
    again = TaskScheduler({"echo": echo}, max_workers=0).run(graph)
    assert again[graph["d"]] == again["d"] == again.results["d"]


@pytest.mark.parametrize(
    "name, message, cause",
    [
        ("bad", "'bad' has no result: it failed: ValueError: no such page", ValueError),
        (
            "skipped",
            "'skipped' has no result: it was skipped: its dependency 'bad' failed",
            ValueError,
        ),
        (
            "not chosen",
            "'not chosen' has no result: it was ruled out: 'choose' routed past it",
            type(None),
        ),
    ],
)
def test_item_of_a_task_without_a_result(result, name, message, cause):
    """The lookup raises RunFailed with the reason and the RunResult.

    The error's cause is the exception of the failed task.
    """
    for task in (name, result.tasks[name]):
        with pytest.raises(RunFailed) as caught:
            result[task]
        assert str(caught.value) == message
        assert caught.value.result is result
        assert type(caught.value.__cause__) is cause


def test_item_far_behind_a_failure_names_its_cause():
    """The cause of a skipped task is the exception of the task that failed upstream."""
    graph = diamond(b="bad")
    graph.add(Task(type="echo"), name="e", depends_on="d")
    result = TaskScheduler({"echo": echo, "bad": fail}, max_workers=0).run(graph)
    with pytest.raises(RunFailed, match="its dependency 'd' was skipped") as caught:
        result["e"]
    assert caught.value.__cause__ is result.exceptions["b"]


def test_item_of_an_unknown_task(result):
    """The lookup raises a KeyError that lists similar names; a revoked task is unknown."""
    with pytest.raises(KeyError, match=r"no task named 'godo' in the run; similar names: 'good'"):
        result["godo"]
    with pytest.raises(KeyError, match=r"no task named 'xyzzy' in the run\W*$"):
        result["xyzzy"]
    with pytest.raises(KeyError, match="'from attempt 1'.*similar names: 'from attempt 2'"):
        result["from attempt 1"]
    with pytest.raises(KeyError, match="the task 'other' is not in the run"):
        result[Task(type="good", objective="other")]


def test_get_returns_a_default(result):
    """get() returns the default for every task without a result, and for unknown ones."""
    assert result.get("good") == "precious"
    assert result.get(result.tasks["half"], "nothing") == ["page 1"]
    for name in ("bad", "skipped", "not chosen", "from attempt 1", "unknown"):
        assert result.get(name) is None
        assert result.get(name, "nothing") == "nothing"


def test_result_is_not_iterable(result):
    """Iteration and `in` are a TypeError; they do not try result[0]."""
    with pytest.raises(TypeError):
        iter(result)
    with pytest.raises(TypeError):
        "good" in result  # noqa: B015


def test_run_failed_has_the_result(result):
    """raise_for_failure() puts the result into its error, where it survives pickling."""
    with pytest.raises(RunFailed) as caught:
        result.raise_for_failure()
    assert caught.value.result is result
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert again.result.results == result.results
    assert again.result.errors == result.errors
    with pytest.raises(RunFailed, match="no such page"):
        again.result["bad"]


class Unloadable(Exception):
    """An exception that can be pickled, but not loaded again."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")


def raise_unloadable(task, context):
    raise Unloadable("one", "two")


@pytest.mark.parametrize(
    "handler",
    [
        lambda task, context: Partial(threading.Lock(), "incomplete"),
        raise_unloadable,
    ],
    ids=["cannot be pickled", "cannot be loaded"],
)
def test_run_failed_survives_without_its_result(handler):
    """An error whose result cannot be pickled arrives without the result."""
    result = TaskScheduler({"t": handler}, max_workers=0).run(single("t"))
    with pytest.raises(RunFailed) as caught:
        result.raise_for_failure()
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.result) == (RunFailed, str(caught.value), None)


def test_pickle_of_run_finished_has_the_result(result):
    """A pickled RunFinished event has the whole result."""
    event = pickle.loads(pickle.dumps(RunFinished("id", 5, 1.0, result)))
    assert event.result.results == result.results
    assert event.to_dict() == RunFinished("id", 5, 1.0, result).to_dict()


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def scheduler(request):
    """Return a scheduler with threads, and one without."""
    with TaskScheduler({"echo": echo}, max_workers=request.param) as new_scheduler:
        yield new_scheduler


def test_result_that_json_cannot_hold(scheduler):
    """to_dict() shows such a result as its repr, and the other results unchanged.

    The same holds for the events.
    """
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


def wait(task, context):
    context.cancellation.wait(DEADLINE)


def run_out_of_time(scheduler, graph):
    return scheduler.run(graph, timeout=0.01)


def cancel(scheduler, graph):
    run = scheduler.submit(graph)
    run.cancel("the user left")
    return run.result(DEADLINE)


def stop_on_failure(scheduler, graph):
    scheduler.handlers["wait"] = fail
    return scheduler.run(graph, on_failure="stop")


def exceed_budget(scheduler, graph):
    budget = Budget(tokens=5)

    def refuse(task, context):
        error = BudgetExceeded("5 tokens are spent")
        error.budget = budget
        raise error

    scheduler.handlers["wait"] = refuse
    return scheduler.run(graph, budget=budget)


@pytest.mark.parametrize(
    "end_early, reason",
    [
        (run_out_of_time, "the run's time-out of 0.01 s passed"),
        (cancel, "the user left"),
        (stop_on_failure, "the run stopped after 'first' failed"),
        (exceed_budget, "5 tokens are spent"),
    ],
)
def test_reason_of_a_run_that_ended_early(end_early, reason):
    """The reason is in the result, its repr, JSON and pickle, and first in RunFailed's message."""
    graph = TaskGraph()
    graph.add(Task(type="wait"), name="first")
    graph.add(Task(type="wait"), name="second", depends_on="first")
    with TaskScheduler({"wait": wait}, max_workers=1) as scheduler:
        result = end_early(scheduler, graph)
    for one in (result, pickle.loads(pickle.dumps(result))):
        assert one.reason == one.to_dict()["reason"] == reason
        assert repr(one).endswith(f"; ended early: {reason}>")
        with pytest.raises(RunFailed) as caught:
            one.raise_for_failure()
        assert str(caught.value).startswith(f"the run is FAILED: {reason}; ")


def test_run_that_ended_by_itself_has_no_reason(result):
    """The reason is None, even if a task failed, or a budget or time-out was not reached."""
    assert result.reason is None and result.to_dict()["reason"] is None
    scheduler = TaskScheduler({"echo": echo}, max_workers=0)
    complete = scheduler.run(diamond(), timeout=DEADLINE, budget=Budget(tokens=5))
    assert complete.reason is None
    assert repr(complete) == "<RunResult: COMPLETE, 4 of 4 tasks with a result>"


@pytest.mark.parametrize(
    "count, names",
    [(1, "'t[0]'"), (3, "'t[0]', 't[1]', 't[2]'"), (10, "'t[0]', 't[1]', 't[2]' and 7 more")],
)
def test_repr_names_failed_tasks(count, names):
    """The repr names at most three failed tasks, and counts the others."""
    graph = TaskGraph()
    graph.map(Task(type="bad"), range(count), name="t")
    result = TaskScheduler({"bad": fail}, max_workers=0).run(graph)
    assert repr(result) == (
        f"<RunResult: FAILED, 0 of {count} tasks with a result; failed: {names}>"
    )


def test_to_dict_describes_each_task(result):
    """to_dict() has the type, status, seconds, usage, last attempt and last visit of each task."""
    tasks = json.loads(json.dumps(result.to_dict(), allow_nan=False))["tasks"]
    assert {name: task["status"] for name, task in tasks.items()} == {
        name: task.status.value for name, task in result.tasks.items()
    }
    assert tasks["bad"]["type"] == "bad"
    assert {name: task["seconds"] for name, task in tasks.items() if task["attempt"]} == (
        result.durations
    )
    assert (tasks["bad"]["attempt"], tasks["bad"]["visit"]) == (2, 1)
    assert (tasks["skipped"]["attempt"], tasks["skipped"]["visit"]) == (0, 0)
    assert tasks["skipped"]["seconds"] == 0 and tasks["skipped"]["usage"]["requests"] == 0
    assert tasks["good"]["usage"] == result.usages["good"].model_dump(mode="json")


def test_message_of_deeply_nested_runs_is_short():
    """The message has the first and the last error, however deep the runs are nested."""

    def descend(task, context):
        if task.params["level"] == 0:
            raise ValueError("the cause")
        scheduler = TaskScheduler({"t": descend}, max_workers=0)
        graph = TaskGraph()
        for name in ("a", "b"):
            level = task.params["level"] - 1 if name == "b" else 0
            graph.add(Task(type="t", params={"level": level}), name=name)
        scheduler.run(graph).raise_for_failure()

    graph = TaskGraph()
    graph.add(Task(type="t", params={"level": 20}), name="outermost")
    result = TaskScheduler({"t": descend}, max_workers=0).run(graph)
    with pytest.raises(RunFailed) as caught:
        result.raise_for_failure()
    with pytest.raises(RunFailed) as of_item:
        result["outermost"]
    for error in (caught, of_item):
        assert len(str(error.value)) < 1000
        assert str(error.value).endswith("ValueError: the cause")
        assert "outermost" in str(error.value)
