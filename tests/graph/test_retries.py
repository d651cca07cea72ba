"""Retries of tasks: how often, after how long, and for what; a task that waits for its next attempt holds no worker."""

import random
import threading
import time

import pytest
import tenacity

from asimov_sync import Cancelled, NonRetryableError, Retry, Task, TaskGraph, TaskScheduler, TaskStatus, TaskTimeout

from ..tiers import suite, within
from ..waiting import wait_for
from .graphs import single, wide


def at_once(state):
    return 0.0


def flaky(times):
    """A handler that fails so often, and then returns its attempt."""

    def handler(task, context):
        if context.attempt <= times:
            raise ValueError("attempt {}".format(context.attempt))
        return context.attempt

    return handler


@pytest.fixture(params=[8, 1, 0], ids=["threads", "one thread", "calling thread"])
def scheduler(request):
    with TaskScheduler({"flaky": flaky(2), "fails": flaky(99)}, max_workers=request.param) as made:
        yield made


@suite
def test_waiting_holds_no_worker():
    """Fifty tasks that wait 0.3 s each for their second attempt do so together, with one worker, or none."""
    for workers in (1, 0):
        with TaskScheduler({"flaky": flaky(1)}, max_workers=workers) as scheduler:
            graph = wide("flaky", 50, retry=Retry(attempts=2, wait=tenacity.wait_fixed(0.3)))
            start = time.monotonic()
            assert set(scheduler.run(graph).results.values()) == {2}
            assert 0.3 <= time.monotonic() - start < within(3)


def test_all_attempts(scheduler):
    """attempts counts the first one, too; the last one's error is the task's."""
    assert scheduler.run(single("flaky", retry=Retry(attempts=3, wait=at_once))).results == {"x": 3}
    result = scheduler.run(single("fails", retry=Retry(attempts=4, wait=at_once)))
    assert result.errors == {"x": "ValueError: attempt 4"}


def test_what_is_told(scheduler):
    """TaskRetried has the attempt that failed, its error and the wait; the task is WAITING then, and its time is summed."""
    run = scheduler.submit(single("flaky", retry=Retry(attempts=3, wait=tenacity.wait_fixed(0.01))))
    result = run.result(20)
    told = [(event.type, getattr(event, "attempt", None)) for event in run.events()]
    assert told == [
        ("task_started", 1),
        ("task_retried", 1),
        ("task_started", 2),
        ("task_retried", 2),
        ("task_started", 3),
        ("task_finished", None),
        ("run_finished", None),
    ]
    retried = [event for event in run.events() if event.type == "task_retried"]
    assert [event.error for event in retried] == ["ValueError: attempt 1", "ValueError: attempt 2"]
    assert [event.wait for event in retried] == [0.01, 0.01]
    assert [event.task.status for event in retried] == [TaskStatus.WAITING] * 2
    assert result.durations["x"] < 5


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
def test_waits(wait, expected):
    """A wait is called as tenacity calls it, so each of its kinds, their sums, and plain functions say how long."""
    with TaskScheduler({"flaky": flaky(2)}) as scheduler:
        run = scheduler.submit(single("flaky", retry=Retry(attempts=3, wait=wait)))
        assert run.result(20).results == {"x": 3}
        events = list(run.events())
    retried = [event for event in events if event.type == "task_retried"]
    assert [event.wait for event in retried] == pytest.approx(expected)
    for event in retried:  # at least so long lies between an attempt's end and the next one's start
        following = next(one for one in events[events.index(event) :] if one.type == "task_started")
        assert following.time - event.time >= event.wait - 0.005


@pytest.mark.parametrize("wait", [tenacity.wait_random(0, 0.02), tenacity.wait_random_exponential(multiplier=0.001, max=0.02)])
def test_random_waits(wait):
    """A wait by chance lies between its bounds."""
    with TaskScheduler({"flaky": flaky(2)}) as scheduler:
        events = list(scheduler.stream(single("flaky", retry=Retry(attempts=3, wait=wait))))
    assert all(0 <= event.wait <= 0.02 for event in events if event.type == "task_retried")


def test_the_wait_where_none_was_given():
    """A second and a bit after the first attempt, two and a bit after the second, a minute or so after many."""
    retry = Retry()
    assert 1 <= retry.wait_seconds(1, ValueError()) <= 2
    assert 2 <= retry.wait_seconds(2, ValueError()) <= 3
    assert 60 <= retry.wait_seconds(500, ValueError()) <= 61


@pytest.mark.parametrize("wrong", [lambda state: 1 / 0, lambda state: "soon", lambda: 1])
def test_a_wait_that_raises(scheduler, wrong):
    """A wait that raises, or says nonsense, fails the task with what it raised; the run goes on."""
    result = scheduler.run(single("fails", retry=Retry(attempts=3, wait=wrong)))
    assert type(result.exceptions["x"]) in (ZeroDivisionError, ValueError, TypeError)
    assert "attempt 1" not in result.errors["x"]
    assert str(result.exceptions["x"].__context__) == "attempt 1"


def test_what_is_retried(scheduler):
    """Only what `on` covers; never a NonRetryableError or a Cancelled, even where `on` covers everything."""
    attempts = []

    def raising(task, context):
        attempts.append(context.attempt)
        raise task.params["error"]

    scheduler.handlers["raising"] = raising

    def tries(error, on):
        del attempts[:]
        graph = TaskGraph()
        graph.add(Task(type="raising", params={"error": error}), name="x", retry=Retry(attempts=3, wait=at_once, on=on))
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
    if scheduler.max_workers:
        assert tries(SystemExit(3), (Exception,)) == 1
        assert tries(SystemExit(3), (SystemExit,)) == 3


@suite
def test_cancel_in_the_wait(scheduler):
    """A run that is cancelled while tasks wait for their next attempt ends at once; they are skipped, WAITING."""
    graph = single("fails", retry=Retry(attempts=3, wait=tenacity.wait_fixed(60)))
    run = scheduler.submit(graph)
    timer = threading.Timer(0.1, run.cancel)
    timer.start()
    result = run.result(20)
    timer.join()
    assert result.skipped == {"x": "the run ended early: cancelled"}
    assert graph["x"].status is TaskStatus.WAITING
    assert scheduler.run(graph, timeout=0.05).skipped.keys() == {"x"}


def test_close_in_the_wait():
    """A scheduler that is closed while a task waits for its next attempt ends the run."""
    scheduler = TaskScheduler({"fails": flaky(99)})
    graph = single("fails", retry=Retry(attempts=3, wait=tenacity.wait_fixed(60)))
    run = scheduler.submit(graph)
    wait_for(lambda: run._active_run.engine.state.delayed)
    scheduler.close()
    assert "closed" in run.result(10).skipped["x"]


def test_stop_on_failure_ends_retries(scheduler):
    """After a failure for good, on_failure="stop" makes no further attempts of others."""
    graph = TaskGraph()
    graph.add(Task(type="fails"), name="a", retry=Retry(attempts=3, wait=tenacity.wait_fixed(60)))
    graph.add(Task(type="fails"), name="b", retry=Retry(attempts=2, wait=tenacity.wait_fixed(0.1)))
    result = scheduler.run(graph, on_failure="stop")
    assert (set(result.errors), set(result.skipped)) == ({"b"}, {"a"})


def test_endless_waits_end_with_the_run(scheduler):
    """A wait without end is only that: the run's time-out ends it."""
    graph = single("fails", retry=Retry(attempts=3, wait=lambda state: float("inf")))
    assert "time-out" in scheduler.run(graph, timeout=0.1).skipped["x"]
    graph = single("flaky", retry=Retry(attempts=3, wait=lambda state: float("nan")))
    assert scheduler.run(graph, timeout=10).results == {"x": 3}


def test_an_attempt_that_times_out_in_its_turn():
    """The wait is asked with the TaskTimeout, and may tell it from others."""
    asked = []

    def wait(state):
        asked.append(type(state.outcome.exception()))
        return 0.0

    def slow(task, context):
        context.cancellation.wait(20)

    with TaskScheduler({"slow": slow}) as scheduler:
        scheduler.run(single("slow", timeout=0.02, retry=Retry(attempts=3, wait=wait)))
    # The handler that its deadline freed may have asked, too, in vain.
    assert set(asked) == {TaskTimeout} and len(asked) >= 2


def test_what_a_retried_attempt_spawned_may_be_spawned_again(scheduler):
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


def test_random_retries_all_come_out():
    """A thousand tasks that fail by chance, on few workers, all have their attempts."""
    chance = random.Random(5)
    times = [chance.randrange(4) for _ in range(1000)]
    lock = threading.Lock()
    attempts = [0] * 1000

    def handler(task, context):
        place = task.params["item"]
        with lock:
            attempts[place] += 1
        if context.attempt <= times[place]:
            raise ValueError
        return context.attempt

    with TaskScheduler({"t": handler}, max_workers=3) as scheduler:
        result = scheduler.run(wide("t", 1000, retry=Retry(attempts=4, wait=lambda state: 0.001)), timeout=20)
    assert list(result.results.values()) == [count + 1 for count in times] == attempts
