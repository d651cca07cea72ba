"""The end of a scheduler: `with`, shutdown() and close()."""

import concurrent.futures
import inspect
import subprocess
import sys
import threading

import pytest

from asimov_sync import (
    Cancellation,
    Cancelled,
    ClosedError,
    GraphError,
    Retry,
    TaskContext,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.graph.run import Run

from ..tiers import suite
from ..waiting import Background, in_child, refuses_runs, wait_for
from .graphs import chain, single, wide


def quick(task, context):
    return context.name


def wait(task, context):
    context.cancellation.wait(20)
    context.cancellation.raise_if_cancelled()


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def workers(request):
    """Return the number of workers: threads, or 0 for the calling thread."""
    return request.param


def make(workers, **handlers):
    return TaskScheduler(dict({"quick": quick, "wait": wait}, **handlers), max_workers=workers)


def test_with_waits_for_submitted_runs(workers):
    """Leaving the block waits until all runs have ended; max_workers=0 runs them."""
    with make(workers) as scheduler:
        runs = [scheduler.submit(chain("quick", "quick")) for _ in range(5)]
    assert all(run.done() for run in runs)
    assert [run.result().results for run in runs] == [{"a": "a", "b": "b"}] * 5
    with pytest.raises(ClosedError, match="this scheduler was closed"):
        scheduler.submit(single("quick"))
    with pytest.raises(ClosedError):
        scheduler.run(single("quick"))
    with pytest.raises(ClosedError):
        scheduler.stream(single("quick"))


@pytest.mark.parametrize("blocking", [True, False])
def test_with_waits_for_callbacks(workers, blocking):
    """When the block has ended, callbacks have received all events of the runs."""
    seen = []
    with make(workers) as scheduler:

        @scheduler.on_event(blocking=blocking)
        def slow(event):
            threading.Event().wait(0.02)
            seen.append(event.type)

        run = scheduler.submit(chain("quick", "quick"))
        if workers:
            wait_for(run.done)  # the callbacks have not received all events yet
    assert len(seen) == 6 and seen[-1] == "run_finished"


def test_with_waits_for_nested_runs(workers):
    """During the wait at the end of the block, tasks may start nested runs; other calls may not."""
    closing = threading.Event()
    refused = []

    def outer(task, context):
        assert closing.wait(20)
        if workers:
            refused.append(Background(scheduler.submit, single("quick")))
        return scheduler.run(chain("quick", "quick")).results

    with make(workers, outer=outer) as scheduler:
        run = scheduler.submit(single("outer"))
        if workers:
            Background(lambda: wait_for(lambda: refuses_runs(scheduler)) or closing.set())
        else:
            closing.set()
    assert run.result().results == {"x": {"a": "a", "b": "b"}}
    for call in refused:
        with pytest.raises(ClosedError):
            call.result()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_exception_in_the_block_cancels(workers, error):
    """An exception in the block cancels the runs and is raised at once."""
    with pytest.raises(error, match="out of the block"):
        with make(workers) as scheduler:
            run = scheduler.submit(chain("wait", "quick"))
            raise error("out of the block")
    assert run.done()
    assert "the scheduler was closed" in run.result().skipped["b"]
    with pytest.raises(ClosedError):
        scheduler.run(single("quick"))


@suite
@pytest.mark.parametrize("workers", [2, 0])
def test_ctrl_c_while_the_block_waits(workers):
    """Ctrl-C in the wait at the end of the block cancels all runs and is raised at once."""
    program = f"""
import os, signal, threading, time
from asimov_sync import Task, TaskGraph, TaskScheduler

def wait(task, context):
    context.cancellation.wait(60)

def graph():
    made = TaskGraph()
    made.add(Task(type="wait"), name="x")
    return made

try:
    with TaskScheduler({{"wait": wait}}, max_workers={workers}) as scheduler:
        runs = [scheduler.submit(graph()) for _ in range(3)]
        start = time.monotonic()
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
except KeyboardInterrupt:
    print([run.done() for run in runs], time.monotonic() - start < 10, flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=50
    )
    assert done.stdout.split(b"\n")[0] == b"[True, True, True] True", done.stderr


def test_shutdown_is_the_same_as_a_call(workers):
    """shutdown() waits as the block does, and may be called again."""
    scheduler = make(workers)
    run = scheduler.submit(wide("quick", 20))
    assert scheduler.shutdown() is True
    assert run.done() and len(run.result().results) == 20
    assert scheduler.shutdown() is True
    scheduler.close()
    with scheduler:
        pass
    with pytest.raises(ClosedError):
        scheduler.submit(single("quick"))


def test_shutdown_without_waiting():
    """wait=False returns at once, accepts no more runs, and lets the runs end."""
    release = threading.Event()
    scheduler = make(2, wait=lambda task, context: release.wait(20))
    run = scheduler.submit(chain("wait", "quick"))
    assert scheduler.shutdown(wait=False) is False
    with pytest.raises(ClosedError):
        scheduler.submit(single("quick"))
    assert not run.done()
    release.set()
    assert run.result(20).results == {"a": True, "b": "b"}
    assert scheduler.shutdown(wait=False) is True


def test_shutdown_with_a_timeout():
    """The wait ends after the time-out; the runs continue, and a second call waits again."""
    release = threading.Event()
    scheduler = make(2, wait=lambda task, context: release.wait(20))
    run = scheduler.submit(chain("wait", "quick"))
    assert scheduler.shutdown(timeout=0.05) is False
    assert not run.done()
    release.set()
    assert scheduler.shutdown(timeout=20) is True
    assert run.result().results == {"a": True, "b": "b"}
    with pytest.raises(ValueError, match="timeout="):
        scheduler.shutdown(timeout=float("nan"))


def test_shutdown_that_cancels(workers):
    """cancel=True cancels the runs, and then waits for their ends."""
    scheduler = make(workers)
    run = scheduler.submit(chain("wait", "quick"))
    assert scheduler.shutdown(cancel=True) is True
    assert run.done()
    assert run.result().skipped["b"] == "the run ended early: the scheduler was closed"


def test_close_cancels_and_never_waits(workers):
    """close() is shutdown(wait=False, cancel=True): a stubborn handler does not delay it."""
    release = threading.Event()
    scheduler = make(workers, stubborn=lambda task, context: release.wait(20))
    graph = single("stubborn")
    run = scheduler.submit(graph)
    if workers:
        wait_for(lambda: graph["x"].status is TaskStatus.EXECUTING)
    scheduler.close()
    assert run.done() and not release.is_set()
    assert run.result().status is TaskStatus.FAILED
    release.set()


def test_cancelled_shutdown():
    """A cancelled wait raises Cancelled and cancels the runs."""
    scheduler = make(2)
    run = scheduler.submit(single("wait"))
    token = Cancellation()

    def shut_down():
        with token, pytest.raises(Cancelled, match="enough"):
            scheduler.shutdown()

    waiting = Background(shut_down)
    token.cancel("enough")
    waiting.result()
    assert run.done() and "the scheduler was closed" in run.result().errors["x"]


def test_shutdown_in_a_callback():
    """In a blocking callback, shutdown() is a GraphError: it could not end. The run continues."""
    errors = []
    with make(1) as scheduler:

        @scheduler.on_event(blocking=True)
        def stop(event):
            if event.type == "task_started":
                with pytest.raises(GraphError, match="cannot wait for its end"):
                    scheduler.shutdown()
                errors.append(event.name)

        run = scheduler.submit(chain("quick", "quick"))
        assert run.result(20).results == {"a": "a", "b": "b"}
    assert errors == ["a", "b"]


def test_unread_events_after_the_block(workers):
    """The end of the block ends the run of an open stream, whose events can still be read."""
    with make(workers) as scheduler:
        events = scheduler.stream(chain("quick", "quick"))
        assert [next(events).type for _ in range(2)] == ["run_started", "task_started"]
    types = [event.type for event in events]
    assert types == ["task_finished", "task_started", "task_finished", "run_finished"]


def test_given_executor_is_not_shut_down():
    """The end of the block, shutdown() and close() do not shut down an `executor=`."""
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        with TaskScheduler({"quick": quick}, executor=executor) as scheduler:
            run = scheduler.submit(chain("quick", "quick"))
        assert run.result().results == {"a": "a", "b": "b"}
        scheduler.shutdown()
        scheduler.close()
        assert executor.submit(int).result(20) == 0


def test_shutdown_in_a_forked_child():
    """A child does not wait for its parent's runs."""
    release = threading.Event()
    with make(2, wait=lambda task, context: release.wait(20)) as scheduler:
        run = scheduler.submit(single("wait"))

        def use():
            assert scheduler.shutdown() is True
            with pytest.raises(ClosedError):
                scheduler.submit(single("quick"))

        in_child(use)
        release.set()
    assert run.result().results == {"x": True}


@pytest.mark.parametrize(
    "function, positional",
    [
        (TaskScheduler, ["handlers"]),
        (TaskScheduler.run, ["self", "graph"]),
        (TaskScheduler.submit, ["self", "graph"]),
        (TaskScheduler.stream, ["self", "graph"]),
        (TaskScheduler.on_event, ["self", "callback"]),
        (TaskScheduler.shutdown, ["self", "wait"]),
        (Run.result, ["self", "timeout"]),
        (TaskGraph.add, ["self", "task"]),
        (TaskGraph.map, ["self", "task", "items"]),
        (TaskGraph.add_graph, ["self", "other"]),
        (TaskContext.spawn, ["self", "task"]),
        (Retry, ["attempts"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_options_are_keyword_only(function, positional):
    """Optional arguments of the graph's API cannot be passed by position, with few exceptions."""
    parameters = inspect.signature(function).parameters.values()
    names = [
        parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    assert names == positional


def test_options_have_one_order():
    """run, submit and stream have their options in one order, and so do add, map and spawn.

    Only run draws its progress; `Run.progress` draws that of a submitted run.
    """

    def options(function):
        parameters = inspect.signature(function).parameters.values()
        return [
            parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
        ]

    runs = options(TaskScheduler.submit)
    assert runs == options(TaskScheduler.stream)
    assert options(TaskScheduler.run) == runs + ["progress"]
    assert runs == [
        "run_id",
        "timeout",
        "on_failure",
        "budget",
        "cancellation",
        "max_tasks",
        "params",
        "args",
        "tags",
        "restart",
        "retry_failed",
        "if_running",
        "if_changed",
    ]
    of_map = [name for name in options(TaskGraph.map) if name != "key"]
    assert options(TaskGraph.add) == of_map
    assert options(TaskContext.spawn) == of_map + ["before_dependents"]
