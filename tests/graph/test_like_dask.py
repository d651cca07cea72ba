"""A `get(graph, keys)` in the manner of dask, built on TaskScheduler, does what dask's tests check.

A graph is a dict: key → a value, another key, or a tuple of a function and its arguments.
"""

import threading
import traceback

import pytest

from asimov_sync import RunFailed, Task, TaskFinished, TaskGraph, TaskScheduler

from ..tiers import by_tier
from ..waiting import Background, wait_for


def compute(task, context):
    """Run the function of a task; an argument that is a key stands for its result."""
    function, arguments = task.params["call"]
    return function(*[context.inputs.get(one, one) for one in arguments])


def to_call(value):
    """Return the function and the arguments of a value of the graph."""
    if isinstance(value, tuple):
        return value[0], list(value[1:])
    return (lambda argument: argument), [value]


def get(scheduler, graph, keys):
    """Compute the graph; return the result of a key, or lists of results for lists of keys."""
    tasks = TaskGraph()
    for key, value in graph.items():
        function, arguments = to_call(value)
        before = [one for one in arguments if isinstance(one, str) and one in graph]
        task = Task(type="compute", params={"call": (function, arguments)})
        tasks.add(task, name=key, depends_on=before)
    result = scheduler.run(tasks)
    result.raise_for_failure()
    return pick(result.results, keys)


def pick(results, keys):
    return [pick(results, key) for key in keys] if isinstance(keys, list) else results[keys]


def add(left, right):
    return left + right


@pytest.fixture(params=[4, 0], ids=["threads", "calling thread"])
def scheduler(request):
    with TaskScheduler({"compute": compute}, max_workers=request.param) as new_scheduler:
        yield new_scheduler


GRAPH = {"x": 1, "y": 2, "z": (add, "x", "y"), "w": (add, "z", "y"), "alias": "w"}


def test_results_have_the_shape_of_the_keys(scheduler):
    """One key gives one result; a list of keys, even a nested one, gives a list of that shape."""
    assert get(scheduler, GRAPH, "w") == 5
    assert get(scheduler, GRAPH, "alias") == 5
    assert get(scheduler, GRAPH, ["w", "z"]) == [5, 3]
    assert get(scheduler, GRAPH, [["x", "y"], ["z", ["w"]]]) == [[1, 2], [3, [5]]]
    assert get(scheduler, GRAPH, []) == []


def test_shared_work_is_computed_once(scheduler):
    """A task on which several tasks depend runs once."""
    calls = []

    def work(value):
        calls.append(value)
        return value

    graph = {"base": (work, 1)}
    graph.update({f"use{number}": (add, "base", number) for number in range(10)})
    assert get(scheduler, graph, [f"use{number}" for number in range(10)]) == list(range(1, 11))
    assert calls == [1]


def test_an_exception_keeps_its_traceback(scheduler):
    """The cause of RunFailed is the exception of the function, with the function's frame."""

    def divide(value):
        return value / 0

    with pytest.raises(RunFailed) as failed:
        get(scheduler, {"x": 1, "y": (divide, "x")}, "y")
    cause = failed.value.__cause__
    assert isinstance(cause, ZeroDivisionError)
    assert "divide" in [frame.name for frame in traceback.extract_tb(cause.__traceback__)]


def test_a_callback_learns_of_each_task(scheduler):
    """A callback receives TaskFinished once for each task."""
    finished = []

    @scheduler.on_event(blocking=True)
    def record(event):
        if isinstance(event, TaskFinished):
            finished.append(event)

    get(scheduler, GRAPH, "w")
    assert len(finished) == len(GRAPH)


def test_ctrl_c_of_a_task_ends_the_run_on_the_calling_thread():
    """KeyboardInterrupt passes through `run`; the scheduler can be used again."""

    def interrupt():
        raise KeyboardInterrupt

    with TaskScheduler({"compute": compute}, max_workers=0) as scheduler:
        with pytest.raises(KeyboardInterrupt):
            get(scheduler, {"x": (interrupt,)}, "x")
        assert get(scheduler, GRAPH, "w") == 5


def test_many_threads_share_a_scheduler(scheduler):
    """Runs of many threads at once have their own results."""
    count = by_tier(8, soak=200)
    barrier = threading.Barrier(count)

    def work(number):
        barrier.wait(20)
        return get(scheduler, {"x": number, "y": (add, "x", "x")}, "y")

    calls = [Background(work, number) for number in range(count)]
    assert [call.result() for call in calls] == [2 * number for number in range(count)]


def test_threads_are_reused_and_end_with_the_scheduler():
    """Many runs use at most max_workers threads, none of which is left after the scheduler."""
    used = set()

    def work():
        used.add(threading.current_thread())

    with TaskScheduler({"compute": compute}, max_workers=2) as scheduler:
        for _ in range(20):
            get(scheduler, {"x": (work,), "y": (work,)}, ["x", "y"])
    assert 1 <= len(used) <= 2
    wait_for(lambda: not any(thread.is_alive() for thread in used), "the end of the threads")
