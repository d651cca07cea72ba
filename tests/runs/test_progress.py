"""A durable run makes progress, whatever arrives or strikes while it is written."""

import os
import signal
import threading
import time

import pytest

from asimov_sync import MemoryCache, RunStatus, RunStore, Task, TaskGraph, TaskScheduler
from asimov_sync.testing import ScriptedInferenceClient

from ..waiting import DEADLINE
from .drivers import interpose


def graph_of(*names):
    """A graph of independent tasks, each of a type of its own name."""
    graph = TaskGraph()
    for name in names:
        graph.add(Task(type=name), name=name)
    return graph


@pytest.fixture
def before_write():
    """A list of functions, each of which is called once, before a change of a run is written."""
    return []


@pytest.fixture
def store(before_write):
    """A run store that calls the functions of `before_write`."""

    def on_call(method, call):
        if method == "commit" and before_write:
            before_write.pop()()
        return call()

    return RunStore(interpose(MemoryCache(), on_call))


@pytest.fixture
def scheduler(store):
    """A scheduler that executes its runs on the thread that waits."""
    with TaskScheduler(max_workers=0, runs=store) as scheduler:
        yield scheduler


def test_an_answer_while_the_run_parks(scheduler, store, before_write):
    """An answer that arrives just before the run is parked continues it; the log has each event."""
    called = []

    @scheduler.handler("ask")
    def handle(task, context):
        if not called:
            before_write.append(lambda: store.answer("r", "ok", "yes"))
        called.append(context.name)
        return context.wait_for("ok")

    assert scheduler.run(graph_of("ask"), run_id="r")["ask"] == "yes"
    types = [event["type"] for event in store.events("r")]
    assert types == [
        "run_started",
        "task_started",
        "task_parked",
        "task_started",
        "task_finished",
        "run_finished",
    ]


def test_a_cancel_while_the_run_parks(scheduler, store, before_write):
    """A cancel that arrives just before the run is parked ends it."""

    @scheduler.handler("ask")
    def handle(task, context):
        before_write.append(lambda: store.cancel("r", "not needed"))
        return context.wait_for("ok")

    result = scheduler.run(graph_of("ask"), run_id="r")
    assert result.reason == "not needed"
    assert store.get("r").status is RunStatus.CANCELLED


@pytest.mark.parametrize("in_step", [True, False], ids=["of a step", "of an outcome"])
def test_a_signal_handler_cancels_in_the_middle_of_a_write(scheduler, store, before_write, in_step):
    """run.cancel() in a signal handler that interrupts a write takes effect after the write."""
    before = signal.signal(signal.SIGUSR1, lambda *_: run.cancel("a signal"))
    try:

        @scheduler.handler("work")
        def work(task, context):
            before_write.append(lambda: os.kill(os.getpid(), signal.SIGUSR1))
            if in_step:
                context.step("one", str)
                assert context.cancellation.wait(DEADLINE)

        graph = graph_of("work")
        graph.add(Task(type="work"), name="next", depends_on="work")
        run = scheduler.submit(graph, run_id="r")
        assert run.result(DEADLINE).reason == "a signal"
        assert store.get("r").status is RunStatus.CANCELLED
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_usage_of_unfinished_attempts_is_counted_once(store):
    """The usage that an unfinished attempt has committed counts once, also after more drives."""
    client = ScriptedInferenceClient(lambda body: "an answer")
    waiting = threading.Semaphore(0)
    ends = []

    def handle(task, context):
        context.step("ask", lambda: client.generate("question").text)
        if context.name not in ends:
            waiting.release()
            context.cancellation.wait(DEADLINE)
            context.cancellation.raise_if_cancelled()

    for name in ("a", "b"):
        with TaskScheduler({"a": handle, "b": handle}, runs=store) as scheduler:
            run = scheduler.submit(graph_of("a", "b"), run_id="r")
            for _ in range(2 - len(ends)):
                assert waiting.acquire(timeout=DEADLINE)
            scheduler.close()
            run.result(DEADLINE)
        ends.append(name)
    with TaskScheduler({"a": handle, "b": handle}, runs=store) as scheduler:
        result = scheduler.run(graph_of("a", "b"), run_id="r")
    assert result.usage.requests == store.get("r").usage.requests == 2
    assert [usage.requests for usage in result.usages.values()] == [1, 1]


def test_a_task_that_reports_all_the_time(store):
    """Progress that handlers report without a pause does not keep others from being stored."""
    done = threading.Event()

    def talk(task, context):
        end = time.monotonic() + DEADLINE
        while not done.is_set():
            context.report(text="still here")
            assert time.monotonic() < end, "the other tasks do not end"

    handlers = {"talk": talk, "work": lambda task, context: 1}
    graph = graph_of("talk")
    graph.add(Task(type="talk"), name="another")
    for number in range(5):
        before = [f"work-{number - 1}"] if number else []
        graph.add(Task(type="work"), name=f"work-{number}", depends_on=before)
    graph.add(lambda task, context: done.set(), name="last", depends_on="work-4")
    with TaskScheduler(handlers, max_workers=3, runs=store) as scheduler:
        scheduler.run(graph, run_id="r").raise_for_failure()
