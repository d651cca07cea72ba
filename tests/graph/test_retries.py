"""Retries: the number of attempts, the waits and the errors. A delayed task occupies no worker."""

import random
import threading
import time

import pytest
import tenacity

from asimov_sync import (
    Cancelled,
    GraphError,
    InferenceError,
    NonRetryableError,
    Retry,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    TaskTimeout,
)

from ..tiers import suite, within
from .graphs import single, wide


def at_once(state):
    return 0.0


def flaky(times):
    """Return a handler that fails a number of times, and then returns its attempt number."""

    def handler(task, context):
        if context.attempt <= times:
            raise ValueError(f"attempt {context.attempt}")
        return context.attempt

    return handler


@pytest.fixture(params=[8, 1, 0], ids=["threads", "one thread", "calling thread"])
def scheduler(request):
    with TaskScheduler(
        {"flaky": flaky(2), "fails": flaky(99)}, max_workers=request.param
    ) as new_scheduler:
        yield new_scheduler


@suite
def test_delayed_tasks_occupy_no_worker():
    """Fifty tasks wait 0.3 s for their second attempt at the same time, on one worker or none."""
    for workers in (1, 0):
        with TaskScheduler({"flaky": flaky(1)}, max_workers=workers) as scheduler:
            graph = wide("flaky", 50, retry=Retry(attempts=2, wait=tenacity.wait_fixed(0.3)))
            start = time.monotonic()
            assert set(scheduler.run(graph).results.values()) == {2}
            assert 0.3 <= time.monotonic() - start < within(3)


def test_attempts_include_the_first(scheduler):
    """attempts= counts the first attempt; the error of the last one is the task's."""
    assert scheduler.run(single("flaky", retry=Retry(attempts=3, wait=at_once))).results == {"x": 3}
    result = scheduler.run(single("fails", retry=Retry(attempts=4, wait=at_once)))
    assert result.errors == {"x": "ValueError: attempt 4"}


def test_retried_event(scheduler):
    """TaskRetried has the failed attempt, its error and the wait; the task is WAITING then."""
    graph = single("flaky", retry=Retry(attempts=3, wait=tenacity.wait_fixed(0.01)))
    events = list(scheduler.stream(graph))
    seen = [(event.type, getattr(event, "attempt", None)) for event in events]
    assert seen == [
        ("run_started", None),
        ("task_started", 1),
        ("task_retried", 1),
        ("task_started", 2),
        ("task_retried", 2),
        ("task_started", 3),
        ("task_finished", 3),
        ("run_finished", None),
    ]
    retried = [event for event in events if event.type == "task_retried"]
    assert [event.error for event in retried] == ["ValueError: attempt 1", "ValueError: attempt 2"]
    assert [event.wait for event in retried] == [0.01, 0.01]
    assert [event.task.status for event in retried] == [TaskStatus.WAITING] * 2
    assert events[-1].result.durations["x"] < 5


WAITS = [
    (tenacity.wait_fixed(0.02), [0.02, 0.02]),
    (tenacity.wait_exponential(multiplier=0.01, max=1), [0.01, 0.02]),
    (tenacity.wait_incrementing(start=0.01, increment=0.01), [0.01, 0.02]),
    (tenacity.wait_chain(tenacity.wait_fixed(0.01), tenacity.wait_fixed(0.03)), [0.01, 0.03]),
    (tenacity.wait_fixed(0.01) + tenacity.wait_fixed(0.02), [0.03, 0.03]),
    (sum([tenacity.wait_fixed(0.01), tenacity.wait_none()]), [0.01, 0.01]),
    (tenacity.wait_none(), [0.0, 0.0]),
    (lambda state: state.attempt_number / 100, [0.01, 0.02]),
    (lambda state: -1, [0.0, 0.0]),
    (lambda state: len(str(state.outcome.exception())) / 1000, [0.009, 0.009]),
]


@pytest.mark.parametrize("wait, expected", WAITS)
def test_tenacity_waits(wait, expected):
    """Every kind of tenacity wait, sums of them, and plain functions work."""
    with TaskScheduler({"flaky": flaky(2)}) as scheduler:
        events = list(scheduler.stream(single("flaky", retry=Retry(attempts=3, wait=wait))))
    assert events[-1].result.results == {"x": 3}
    retried = [event for event in events if event.type == "task_retried"]
    assert [event.wait for event in retried] == pytest.approx(expected)
    for event in retried:  # the minimum time from the end of an attempt to the next start
        following = next(
            candidate
            for candidate in events[events.index(event) :]
            if candidate.type == "task_started"
        )
        assert following.time - event.time >= event.wait - 0.005


@pytest.mark.parametrize(
    "wait",
    [tenacity.wait_random(0, 0.02), tenacity.wait_random_exponential(multiplier=0.001, max=0.02)],
)
def test_random_waits(wait):
    """A random wait lies between its bounds."""
    with TaskScheduler({"flaky": flaky(2)}) as scheduler:
        events = list(scheduler.stream(single("flaky", retry=Retry(attempts=3, wait=wait))))
    assert all(0 <= event.wait <= 0.02 for event in events if event.type == "task_retried")


def test_default_wait():
    """One second plus jitter after the first attempt, two after the second, then up to a minute."""
    retry = Retry()
    assert 1 <= retry.wait_seconds(1, ValueError()) <= 2
    assert 2 <= retry.wait_seconds(2, ValueError()) <= 3
    assert 60 <= retry.wait_seconds(500, ValueError()) <= 61


@pytest.mark.parametrize("wait", [lambda state: 1 / 0, lambda state: "soon", lambda: 1])
def test_wait_that_raises(scheduler, wait):
    """If the wait function raises or returns an invalid value, the task fails. The run
    continues.
    """
    result = scheduler.run(single("fails", retry=Retry(attempts=3, wait=wait)))
    assert type(result.exceptions["x"]) in (ZeroDivisionError, ValueError, TypeError)
    assert "attempt 1" not in result.errors["x"]
    assert str(result.exceptions["x"].__context__) == "attempt 1"


def test_which_errors_are_retried(scheduler):
    """Only errors in `on` are retried; NonRetryableError and Cancelled never are."""
    attempts = []

    def raising(task, context):
        attempts.append(context.attempt)
        raise task.params["error"]

    scheduler.handlers["raising"] = raising

    def tries(error, on):
        del attempts[:]
        graph = TaskGraph()
        graph.add(
            Task(type="raising", params={"error": error}),
            name="x",
            retry=Retry(attempts=3, wait=at_once, on=on),
        )
        result = scheduler.run(graph)
        assert type(result.exceptions["x"]) is type(error)
        return len(attempts)

    class Stop(NonRetryableError):
        pass

    assert tries(ValueError("v"), (Exception,)) == 3
    assert tries(ValueError("v"), ValueError) == 3
    assert tries(ValueError("v"), (KeyError, OSError)) == 1
    assert tries(UnicodeError("u"), (ValueError,)) == 3
    assert tries(NonRetryableError("n"), (Exception,)) == 1
    assert tries(Stop("n"), (BaseException,)) == 1
    assert tries(Cancelled("c"), (BaseException,)) == 1
    assert tries(ValueError("again"), lambda error: "again" in str(error)) == 3
    assert tries(ValueError("not"), lambda error: "again" in str(error)) == 1
    assert tries(TypeError("t"), lambda error: True) == 3
    assert tries(NonRetryableError("n"), lambda error: True) == 1
    if scheduler.max_workers:
        assert tries(SystemExit(3), (Exception,)) == 1
        assert tries(SystemExit(3), (SystemExit,)) == 3
        assert tries(SystemExit(3), lambda error: True) == 1


def test_programming_errors_are_not_retried_by_default():
    """Without `on`, mistakes in the program are not retried; `on=Exception` retries them, too."""
    mistakes = [AttributeError, GraphError, ImportError, NameError, SyntaxError, TypeError]
    for kind in mistakes + [ModuleNotFoundError, UnboundLocalError]:
        assert not Retry().should_retry(kind("wrong"))
        assert Retry(on=Exception).should_retry(kind("wrong"))
    for kind in [ValueError, KeyError, OSError, AssertionError, InferenceError]:
        assert Retry().should_retry(kind("perhaps not next time"))


def test_predicate_that_raises(scheduler):
    """If `on` raises, the task fails with that error, whose cause is the attempt's error."""
    result = scheduler.run(
        single("fails", retry=Retry(attempts=3, wait=at_once, on=lambda error: 1 / 0))
    )
    assert result.errors["x"] == "ZeroDivisionError: division by zero"
    assert str(result.exceptions["x"].__cause__) == "attempt 1"


@pytest.mark.parametrize("on", ["ValueError", 5, (ValueError, "KeyError"), [ValueError], int])
def test_invalid_on(on):
    """`on` that is neither exception classes nor a function is a TypeError at once."""
    with pytest.raises(TypeError, match="on= "):
        Retry(on=on)


@suite
def test_cancel_during_the_wait(scheduler):
    """Cancelling a run with delayed tasks ends it at once; they are skipped and stay WAITING."""
    graph = single("fails", retry=Retry(attempts=3, wait=tenacity.wait_fixed(60)))
    run = scheduler.submit(graph)
    timer = threading.Timer(0.1, run.cancel)
    timer.start()
    result = run.result(20)
    timer.join()
    assert result.skipped == {"x": "the run ended early: cancelled"}
    assert graph["x"].status is TaskStatus.WAITING
    assert scheduler.run(graph, timeout=0.05).skipped.keys() == {"x"}


def test_close_during_the_wait():
    """Closing the scheduler ends a run with a delayed task."""
    scheduler, retried = TaskScheduler({"fails": flaky(99)}), threading.Event()
    scheduler.on_event(lambda event: event.type == "task_retried" and retried.set())
    graph = single("fails", retry=Retry(attempts=3, wait=tenacity.wait_fixed(60)))
    run = scheduler.submit(graph)
    assert retried.wait(20)
    scheduler.close()
    assert "closed" in run.result(10).skipped["x"]


def test_stop_on_failure_ends_retries(scheduler):
    """After a final failure, on_failure="stop" makes no further attempts of other tasks."""
    graph = TaskGraph()
    graph.add(Task(type="fails"), name="a", retry=Retry(attempts=3, wait=tenacity.wait_fixed(60)))
    graph.add(Task(type="fails"), name="b", retry=Retry(attempts=2, wait=tenacity.wait_fixed(0.1)))
    result = scheduler.run(graph, on_failure="stop")
    assert (set(result.errors), set(result.skipped)) == ({"b"}, {"a"})


def test_endless_waits_end_with_the_run(scheduler):
    """The run's time-out ends a run with an infinite retry wait."""
    graph = single("fails", retry=Retry(attempts=3, wait=lambda state: float("inf")))
    assert "time-out" in scheduler.run(graph, timeout=0.1).skipped["x"]
    graph = single("flaky", retry=Retry(attempts=3, wait=lambda state: float("nan")))
    assert scheduler.run(graph, timeout=10).results == {"x": 3}


def test_wait_sees_the_timeout():
    """The wait function is called with the TaskTimeout."""
    asked = []

    def wait(state):
        asked.append(type(state.outcome.exception()))
        return 0.0

    def slow(task, context):
        context.cancellation.wait(20)

    with TaskScheduler({"slow": slow}) as scheduler:
        scheduler.run(single("slow", timeout=0.02, retry=Retry(attempts=3, wait=wait)))
    # The handler that the deadline ended may also have computed a wait, which is unused.
    assert set(asked) == {TaskTimeout} and len(asked) >= 2


def test_retried_attempt_spawns_again(scheduler):
    """An attempt that is retried spawns the same Task object under the same name again."""
    child = Task(type="child")

    def parent(task, context):
        context.spawn(child, name="child")
        if context.attempt < 3:
            raise ValueError("again")
        return "done"

    scheduler.handlers.update(parent=parent, child=lambda task, context: "child's")
    graph = single("parent", retry=Retry(attempts=3, wait=at_once))
    for _ in range(2):
        result = scheduler.run(graph)
        assert result.results == {"x": "done", "child": "child's"}, result.errors
        assert child.status is TaskStatus.COMPLETE


@suite
def test_a_thousand_random_retries():
    """A thousand tasks that fail at random, on few workers, have all their attempts."""
    chance = random.Random(5)
    times = [chance.randrange(4) for _ in range(1000)]
    lock = threading.Lock()
    attempts = [0] * 1000

    def handler(task, context):
        index = task.params["item"]
        with lock:
            attempts[index] += 1
        if context.attempt <= times[index]:
            raise ValueError
        return context.attempt

    with TaskScheduler({"t": handler}, max_workers=3) as scheduler:
        result = scheduler.run(
            wide("t", 1000, retry=Retry(attempts=4, wait=lambda state: 0.001)), timeout=20
        )
    assert list(result.results.values()) == [count + 1 for count in times] == attempts
