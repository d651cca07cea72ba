"""Backends: executors of all kinds (one thread, shared, shut down, synchronous), and threads."""

import concurrent.futures
import random
import sys
import threading
import time

import pytest

from asimov_sync import ClosedError, Retry, Task, TaskGraph, TaskScheduler, TaskStatus
from asimov_sync.testing import count_runs

from ..tiers import suite
from ..waiting import Background
from .graphs import chain, single, wide


def quick(task, context):
    return context.name


def diamond():
    graph = TaskGraph()
    for name, before in (("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["b", "c"])):
        graph.add(Task(type="quick"), name=name, depends_on=before)
    return graph


class AtOnce(concurrent.futures.Executor):
    """Makes the call inside submit(), as executors for tests and debuggers do."""

    def submit(self, fn, *args, **kwargs):
        future = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


class Refusing(concurrent.futures.ThreadPoolExecutor):
    """Accepts a number of calls, and no more."""

    def __init__(self, calls):
        super().__init__(2)
        self.left = calls

    def submit(self, fn, *args, **kwargs):
        if self.left <= 0:
            raise RuntimeError("no more calls")
        self.left -= 1
        return super().submit(fn, *args, **kwargs)


EXECUTORS = [
    lambda: concurrent.futures.ThreadPoolExecutor(1),
    lambda: concurrent.futures.ThreadPoolExecutor(8),
    AtOnce,
]


@pytest.fixture(params=EXECUTORS, ids=["one thread", "eight threads", "at once"])
def executor(request):
    with request.param() as new_executor:
        yield new_executor


def test_executors_run_whole_graphs(executor):
    """Every kind of executor runs every kind of graph to its end, repeatedly."""
    with TaskScheduler({"quick": quick}, executor=executor) as scheduler:
        for graph in (
            diamond(),
            wide("quick", 200),
            chain(*["quick"] * 8),
            TaskGraph(),
            single("quick"),
        ):
            for _ in range(3):
                result = Background(scheduler.run, graph).result()
                assert result.status is TaskStatus.COMPLETE
                assert len(result.results) == len(graph)
            assert [event.type for event in scheduler.stream(graph)].count("task_finished") == len(
                graph
            )


def test_long_chain_is_not_recursive(executor):
    """A chain of a thousand tasks does not nest a thousand calls."""
    graph = TaskGraph()
    for number in range(1000):
        graph.add(
            Task(type="quick"), name=str(number), depends_on=[str(number - 1)] if number else []
        )
    with TaskScheduler({"quick": quick}, executor=executor) as scheduler:
        assert len(scheduler.run(graph, timeout=20).results) == 1000


def test_executor_calls_the_handlers():
    """Handlers run on the executor's threads, within its size; it is not shut down."""
    names = set()
    with concurrent.futures.ThreadPoolExecutor(2, thread_name_prefix="theirs") as executor:
        with TaskScheduler(
            {"t": lambda task, context: names.add(threading.current_thread().name)},
            executor=executor,
        ) as scheduler:
            assert scheduler.run(wide("t", 50)).status is TaskStatus.COMPLETE
        assert executor.submit(int).result(10) == 0
    assert 1 <= len(names) <= 2 and all(name.startswith("theirs") for name in names)


def test_one_task_per_call():
    """Other users of the executor have their turn between two tasks."""
    order = []
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        with TaskScheduler(
            {"t": lambda task, context: order.append(context.name)}, executor=executor
        ) as scheduler:
            occupied = threading.Event()
            executor.submit(occupied.wait, 20)
            graph = TaskGraph()
            graph.add(Task(type="t"), name="a")
            graph.add(Task(type="t"), name="b", depends_on="a")
            run = scheduler.submit(graph)
            other = executor.submit(order.append, "other")
            occupied.set()
            assert run.result(20).status is TaskStatus.COMPLETE
            other.result(20)
    assert order == ["a", "other", "b"]


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_submit_that_raises(calls):
    """If the executor refuses calls, the run ends with an error, and the graph is unlocked."""
    graph = wide("quick", 3)
    graph.add(Task(type="quick"), name="last", depends_on="quick")
    with Refusing(calls) as executor:
        with TaskScheduler({"quick": quick}, executor=executor) as scheduler:
            if calls < 3:
                with pytest.raises(RuntimeError, match="no more calls"):
                    scheduler.submit(graph)
            else:
                result = scheduler.submit(graph).result(20)
                assert "no more calls" in result.skipped["last"]
            assert not count_runs(scheduler)
        with TaskScheduler({"quick": quick}) as other:
            assert other.run(graph).status is TaskStatus.COMPLETE


@pytest.mark.parametrize("cause", ["retry", "timeout", "spawn"])
def test_executor_that_refuses_later(cause):
    """A refused call for a retry, a time-out or a spawn ends the run; nothing hangs."""
    gate = threading.Event()

    def handler(task, context):
        if cause == "retry":
            raise ValueError("again")
        if cause == "timeout":
            gate.wait(20)
        if cause == "spawn":
            context.spawn(Task(type="t"), name="b")

    with Refusing(1) as executor:
        with TaskScheduler({"t": handler}, executor=executor) as scheduler:
            graph = TaskGraph()
            retry = Retry(attempts=2, wait=lambda state: 0.05) if cause == "retry" else None
            graph.add(
                Task(type="t"), name="a", retry=retry, timeout=0.05 if cause == "timeout" else None
            )
            if cause != "spawn":
                graph.add(Task(type="t"), name="b", depends_on="a", allow_failure=True)
            result = scheduler.submit(graph).result(10)
            gate.set()
            assert "no more calls" in result.skipped["b"]


@pytest.mark.parametrize("cancel_futures", [False, True] if sys.version_info >= (3, 9) else [False])
def test_executor_shut_down_during_a_run(cancel_futures):
    """The run ends: running tasks are FAILED or done, the others are skipped."""
    gate, started = threading.Event(), threading.Event()

    def wait(task, context):
        started.set()
        gate.wait(20)

    executor = concurrent.futures.ThreadPoolExecutor(1)
    with TaskScheduler({"wait": wait, "quick": quick}, executor=executor) as scheduler:
        graph = wide("wait", 3)
        graph.add(Task(type="quick"), name="after", depends_on="wait")
        run = scheduler.submit(graph)
        assert started.wait(20)
        executor.shutdown(wait=False, **({"cancel_futures": True} if cancel_futures else {}))
        gate.set()
        result = run.result(20)
        assert "after" in result.skipped
        assert not count_runs(scheduler)
        with pytest.raises(RuntimeError, match="shutdown"):
            scheduler.run(single("quick"))


def test_nested_runs_on_an_executor(executor):
    """Runs can be nested three deep, even on an executor of one thread."""
    with TaskScheduler({"quick": quick}, executor=executor) as scheduler:
        scheduler.handlers["inner"] = lambda task, context: scheduler.run(diamond()).results["d"]
        scheduler.handlers["outer"] = lambda task, context: list(
            scheduler.run(wide("inner", 3)).results.values()
        )
        result = Background(scheduler.run, wide("outer", 3)).result()
        assert list(result.results.values()) == [["d"] * 3] * 3


def test_schedulers_sharing_an_executor(executor):
    """Two schedulers share an executor, and the tasks of each run graphs on the other scheduler."""
    with TaskScheduler({"quick": quick}, executor=executor) as one, TaskScheduler(
        {"quick": quick}, executor=executor
    ) as two:
        two.handlers["back"] = lambda task, context: one.run(diamond()).results["d"]
        one.handlers["over"] = lambda task, context: two.run(wide("back", 2)).results["back[1]"]
        result = Background(one.run, wide("over", 3)).result()
        assert list(result.results.values()) == ["d"] * 3


def test_cancelled_futures_end_the_run(executor):
    """A call that the executor cancels ends the run, with the reason."""

    class Cancelling(concurrent.futures.Executor):
        def submit(self, fn, *args, **kwargs):
            future = concurrent.futures.Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    with TaskScheduler({"quick": quick}, executor=Cancelling(), remote=False) as scheduler:
        result = scheduler.submit(diamond()).result(10)
        assert "the executor did not make a call: it was cancelled" in result.skipped["a"]


def test_ctrl_c_in_a_synchronous_executor():
    """Ctrl-C in a handler on the main thread ends the run and is raised. The task does not fail."""

    def interrupted(task, context):
        raise KeyboardInterrupt

    with TaskScheduler(
        {"quick": quick, "interrupted": interrupted}, executor=AtOnce()
    ) as scheduler:
        with pytest.raises(KeyboardInterrupt):
            scheduler.run(chain("quick", "interrupted", "quick"))
        assert scheduler.last_result.results == {"a": "a"}
        assert not count_runs(scheduler)


@suite
def test_retries_timeouts_and_cancels_together(executor):
    """With random retries, time-outs and cancels each run ends, and accounts for every task."""
    chance = random.Random(3)

    def handler(task, context):
        if chance.random() < 0.3:
            raise ValueError
        if chance.random() < 0.1:
            context.cancellation.wait(0.02)
        return 1

    with TaskScheduler({"t": handler}, executor=executor) as scheduler:
        for round in range(30):
            graph = wide("t", 20, retry=Retry(attempts=2, wait=lambda state: 0.001), timeout=0.01)
            run = Background(scheduler.submit, graph).result()
            if round % 3 == 0:
                time.sleep(0.002)
                run.cancel()
            result = run.result(20)
            assert len(result.results) + len(result.errors) + len(result.skipped) == 20
        assert not count_runs(scheduler)


def test_threads_that_cannot_start(monkeypatch):
    """submit() raises, and the graph is unlocked."""
    graph = single()
    with TaskScheduler({"echo": quick}) as scheduler:

        def no_thread(self):
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr("asimov_sync.concurrency.timers.timers.start", lambda: None)
            patch.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(ClosedError, match="no worker thread"):
                scheduler.submit(graph)
        assert not count_runs(scheduler)
        assert scheduler.run(graph).status is TaskStatus.COMPLETE
