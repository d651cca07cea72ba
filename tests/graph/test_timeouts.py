"""Time-outs of tasks: an attempt ends at its deadline, whatever its handler does."""

import concurrent.futures
import logging
import threading
import time

import pytest

from asimov_sync import (
    AnthropicInferenceClient,
    Cancellation,
    GraphError,
    MemoryCache,
    Retry,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    TaskTimeout,
)
from asimov_sync.concurrency.pool import ABANDONED_LIMIT
from asimov_sync.graph.backends import WARN_AFTER
from asimov_sync.testing import ModelServer

from ..tiers import suite
from ..waiting import Background, wait_for
from .graphs import chain, single, wide


def quick(task, context):
    return "quick"


@pytest.fixture
def gate():
    """Return an event that stubborn handlers wait for; it is set at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


def test_handler_that_ignores_its_timeout(gate):
    """The task is FAILED at its deadline, its worker is replaced, the late result is discarded."""
    returned = threading.Event()

    def stubborn(task, context):
        gate.wait(20)
        returned.set()
        return "late"

    graph = TaskGraph()
    graph.add(Task(type="stubborn"), name="stubborn", timeout=0.05)
    graph.add(Task(type="quick"), name="after", depends_on="stubborn", allow_failure=True)
    graph.add(Task(type="quick"), name="beside")
    with TaskScheduler({"stubborn": stubborn, "quick": quick}, max_workers=1) as scheduler:
        start = time.monotonic()
        result = scheduler.run(graph)
        assert time.monotonic() - start < 5
        assert isinstance(result.exceptions["stubborn"], TaskTimeout)
        assert result.errors == {"stubborn": "TaskTimeout: 'stubborn' took longer than 0.05 s"}
        assert result.results == {"after": "quick", "beside": "quick"}
        assert scheduler.stuck_threads == 1
        gate.set()
        wait_for(lambda: not scheduler.stuck_threads)
        assert returned.wait(20)
        assert graph["stubborn"].snapshot() == (TaskStatus.FAILED, None, result.errors["stubborn"])
        assert scheduler.run(chain("quick", "quick")).status is TaskStatus.COMPLETE


@suite
def test_stuck_threads_are_replaced_up_to_a_limit(gate, caplog, clock):
    """stuck_threads stops at the limit; each stuck thread, and reaching the limit, is logged."""
    stuck = ABANDONED_LIMIT + 3
    before = threading.active_count()
    with TaskScheduler(
        {"stubborn": lambda task, context: gate.wait(30), "quick": quick}, max_workers=1
    ) as scheduler:
        with caplog.at_level(logging.WARNING):
            run = scheduler.submit(wide("stubborn", stuck, timeout=1))
            wait_for(lambda: clock.advance(1) or "its thread is not" in caplog.text)
            assert scheduler.stuck_threads == ABANDONED_LIMIT
            assert threading.active_count() <= before + ABANDONED_LIMIT + 3
            wait_for(lambda: f"(run {run.id}) ignores its cancellation" in caplog.text)
        assert not run.done()
        gate.set()  # the worker that was not replaced returns, and runs the other tasks
        result = run.result(20)
        assert len(result.errors) + len(result.results) == stuck
        assert len(result.errors) > ABANDONED_LIMIT
        wait_for(lambda: not scheduler.stuck_threads)
        assert scheduler.run(single("quick")).status is TaskStatus.COMPLETE


def wait_for_token(task, context):
    context.cancellation.wait()
    return "returned all the same"


def wait_for_current_token(task, context):
    Cancellation.current().wait(30)
    Cancellation.current().raise_if_cancelled()


def read_mailbox(task, context):
    return MemoryCache().get_message("nothing")


@suite
@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
@pytest.mark.parametrize(
    "handler", [wait_for_token, wait_for_current_token, read_mailbox], ids=lambda one: one.__name__
)
def test_handler_freed_by_its_deadline(workers, handler):
    """A handler that returns because its token expired fails with TaskTimeout."""
    with TaskScheduler({"freed": handler}, max_workers=workers) as scheduler:
        for _ in range(10):
            result = scheduler.run(single("freed", timeout=0.01))
            assert isinstance(result.exceptions.get("x"), TaskTimeout), (
                result.results,
                result.errors,
            )


@suite
@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_blocked_model_stream_is_freed(workers):
    """A handler that waits for a silent model stream is freed at its deadline."""
    never = threading.Event()
    finished = []

    def stream(task, context):
        try:
            for _ in client.stream("hello").text_stream:
                pass
        finally:
            finished.append(context.attempt)

    with ModelServer(
        lambda body: "one two", before_event=lambda request, number: never if number > 3 else None
    ) as server:
        client = AnthropicInferenceClient(model="m", api_key="k", api_url=server.url)
        with TaskScheduler({"stream": stream}, max_workers=workers) as scheduler:
            retry = Retry(attempts=2, wait=lambda state: 0.0)
            result = scheduler.run(single("stream", timeout=0.1, retry=retry))
            assert isinstance(result.exceptions["x"], TaskTimeout)
            wait_for(lambda: finished == [1, 2])
        never.set()


@suite
@pytest.mark.parametrize("workers", [1, 0], ids=["one thread", "calling thread"])
def test_timed_out_attempt_is_retried(workers, clock):
    """Retry covers TaskTimeout; each attempt has the whole time, and a token of its own."""
    seen = []

    def slow_once(task, context):
        seen.append((context.attempt, context.cancellation.cancelled))
        if context.attempt == 1:
            clock.advance(60)
            context.cancellation.wait()
        return context.attempt

    with TaskScheduler({"slow once": slow_once}, max_workers=workers) as scheduler:
        graph = single(
            "slow once",
            timeout=60,
            retry=Retry(attempts=2, wait=lambda state: 0.0, on=(TaskTimeout,)),
        )
        assert scheduler.run(graph).results == {"x": 2}
    assert seen == [(1, False), (2, False)]


@suite
def test_late_attempt_does_not_affect_the_next(gate, clock):
    """The first attempt returns during the second: its result and its context have no effect."""
    second, reported = threading.Event(), []

    def handler(task, context):
        if context.attempt == 1:
            clock.advance(60)
            second.wait(20)
            context.report(0.5, "late")
            try:
                context.spawn(Task(type="handler"))
            except Exception as error:
                reported.append(str(error))
            return "first"
        second.set()
        wait_for(lambda: reported)
        return "second"

    with TaskScheduler({"handler": handler}, max_workers=1) as scheduler:
        retry = Retry(attempts=2, wait=lambda state: 0.0)
        events = list(scheduler.stream(single("handler", timeout=60, retry=retry)))
        assert events[-1].result.results == {"x": "second"}
        assert "has ended" in reported[0]
        assert "task_progress" not in [event.type for event in events]


@suite
def test_run_deadline_is_not_a_task_timeout(clock):
    """The run's deadline fails tasks with Cancelled, not TaskTimeout; nothing is retried."""
    attempts = []

    def wait(task, context):
        attempts.append(context.attempt)
        clock.advance(60)
        context.cancellation.wait()
        context.cancellation.raise_if_cancelled()

    with TaskScheduler({"wait": wait}) as scheduler:
        for _ in range(3):
            with Cancellation(timeout=60):
                result = scheduler.run(
                    single("wait", timeout=3600, retry=Retry(attempts=3, wait=lambda state: 0.0))
                )
            assert result.errors == {"x": "Cancelled: the deadline passed"}
    assert attempts == [1] * 3


@suite
def test_time_starts_with_the_handler(clock):
    """The time that a task's `when` takes does not count for its time-out."""
    with TaskScheduler(
        {"remaining": lambda task, context: context.cancellation.remaining}
    ) as scheduler:
        result = scheduler.run(
            single("remaining", timeout=50, when=lambda inputs: clock.advance(60) or True)
        )
        assert 0 < result.results["x"] <= 50


@suite
def test_timeouts_of_a_run_that_is_cancelled(gate, clock):
    """If time-outs expire during a cancel, each task still ends once, and the workers remain."""
    for round in range(20):
        with TaskScheduler(
            {"stubborn": lambda task, context: gate.wait(20), "quick": quick}, max_workers=3
        ) as scheduler:
            graph = wide("stubborn", 3, timeout=60)
            run = scheduler.submit(graph)
            events = Background(list, run.events())
            wait_for(
                lambda graph=graph: all(
                    task.status is TaskStatus.EXECUTING for task in graph.tasks.values()
                )
            )
            passing = Background(clock.advance, 60)
            time.sleep(round * 0.00005)
            run.cancel()
            passing.result()
            result = run.result(10)
            assert sorted(list(result.errors) + list(result.skipped)) == sorted(
                graph.tasks
            )  # none of them twice
            names = [event.name for event in events.result() if event.type == "task_finished"]
            assert sorted(names) == sorted(result.errors)
            assert events.result()[-1].type == "run_finished"
            assert scheduler.run(wide("quick", 5), timeout=10).status is TaskStatus.COMPLETE


@pytest.mark.parametrize("backend", ["calling thread", "executor"])
def test_cooperative_timeouts(backend):
    """A task fails at its deadline even if its worker is not replaced and stays occupied."""
    executor = concurrent.futures.ThreadPoolExecutor(1) if backend == "executor" else None

    def slow(task, context):
        time.sleep(0.15)
        return "late"

    with TaskScheduler(
        {"slow": slow, "quick": quick}, max_workers=0, executor=executor
    ) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="slow"), name="slow", timeout=0.05)
        graph.add(Task(type="quick"), name="after", depends_on="slow", allow_failure=True)
        events = list(scheduler.stream(graph))
        result = events[-1].result
        assert isinstance(result.exceptions["slow"], TaskTimeout)
        assert result.results == {"after": "quick"}
        assert [event.type for event in events].count("task_finished") == 2
    if executor is not None:
        executor.shutdown()


def test_many_timeouts_at_once(gate):
    """After many simultaneous time-outs, new workers execute every retry, and the run ends."""
    with TaskScheduler(
        {"stubborn": lambda task, context: gate.wait(20), "quick": quick}, max_workers=8
    ) as scheduler:
        graph = TaskGraph()
        graph.map(
            Task(type="stubborn"),
            range(8),
            name="s",
            timeout=0.05,
            retry=Retry(attempts=2, wait=lambda state: 0.0),
        )
        graph.add(Task(type="quick"), name="after", depends_on="s", allow_failure=True)
        events = list(scheduler.stream(graph))
        assert events[-1].result.results == {"after": "quick"}
        started = [(event.name, event.attempt) for event in events if event.type == "task_started"]
        assert sorted(started) == sorted(
            [(f"s[{i}]", n) for i in range(8) for n in (1, 2)] + [("after", 1)]
        )
        wait_for(lambda: scheduler.stuck_threads == 16)


@pytest.mark.parametrize("timeout", [float("inf"), float("nan"), 0, -1, "5"])
def test_invalid_timeout_of_a_task(timeout):
    """The time-out of a task is a finite number above 0; anything else is a GraphError."""
    with pytest.raises(GraphError, match="timeout= of 'x' is a number of seconds above 0, or None"):
        single("quick", timeout=timeout)


def test_slow_cancel_callback_delays_no_other_timeout(gate):
    """A slow callback of one cancellation does not delay time-outs of other tasks and runs."""

    def slow(task, context):
        with context.cancellation.on_cancel(lambda: gate.wait(20)):
            gate.wait(20)

    with TaskScheduler(
        {"slow": slow, "wait": lambda task, context: context.cancellation.wait(20)}
    ) as scheduler:
        graph = TaskGraph()
        graph.add(Task(type="slow"), name="slow", timeout=0.05)
        first = scheduler.submit(graph)
        wait_for(lambda: graph["slow"].status is TaskStatus.FAILED)
        other = TaskGraph()
        other.add(Task(type="wait"), name="wait", timeout=0.05)
        assert isinstance(
            Background(scheduler.run, other).result(10).exceptions["wait"], TaskTimeout
        )
        gate.set()
        first.result(20)


def test_cooperative_handlers_are_not_logged_as_stuck(caplog, clock):
    """Nothing is logged for two hundred handlers that return when cancelled."""
    started, ended, barrier = [], [], threading.Barrier(200)

    def wait(task, context):
        started.append(task)
        context.cancellation.wait(20)
        ended.append(task)

    with TaskScheduler(
        {"wait": wait, "meet": lambda task, context: barrier.wait(20)}, max_workers=200
    ) as scheduler:
        run = scheduler.submit(wide("wait", 200))
        wait_for(lambda: len(started) == 200, "the start of the handlers")
        run.cancel()
        run.result(20)
        wait_for(lambda: len(ended) == 200, "the end of the handlers")
        assert scheduler.run(wide("meet", 200)).status is TaskStatus.COMPLETE  # no worker is busy
        clock.advance(WARN_AFTER)
    assert [record for record in caplog.records if record.name.startswith("asimov_sync")] == []


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_nan_timeout_of_a_run_is_refused(workers):
    """A NaN time-out raises ValueError before anything runs; later time-outs and retries work."""
    attempts = []

    def flaky(task, context):
        attempts.append(context.attempt)
        if len(attempts) == 1:
            raise OSError("again")
        return "done"

    handlers = {"wait": lambda task, context: context.cancellation.wait(30), "flaky": flaky}
    with TaskScheduler(handlers, max_workers=workers) as scheduler:
        graph = single("wait")
        for start in (scheduler.run, scheduler.submit, scheduler.stream):
            with pytest.raises(
                ValueError, match="timeout= is a number of seconds, or None for no limit; not nan"
            ):
                start(graph, timeout=float("nan"))
        assert graph["x"].status is TaskStatus.WAITING
        assert "time-out of 0.05 s passed" in scheduler.run(graph, timeout=0.05).errors["x"]
        flaky_graph = single("flaky", retry=Retry(attempts=2, wait=lambda state: 0.01))
        assert scheduler.submit(flaky_graph).result(20).results == {"x": "done"}
        nan_wait = single("flaky", retry=Retry(attempts=2, wait=lambda state: float("nan")))
        del attempts[:]
        assert scheduler.submit(nan_wait).result(20).results == {"x": "done"}


def test_nan_timeout_of_result_is_refused():
    """Run.result(timeout=) raises ValueError for NaN, and the run continues."""
    with TaskScheduler({"quick": quick}) as scheduler:
        run = scheduler.submit(single("quick"))
        with pytest.raises(ValueError, match="not nan"):
            run.result(timeout=float("nan"))
        assert run.result(20).results == {"x": "quick"}
