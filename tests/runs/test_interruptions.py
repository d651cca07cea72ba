"""Interruptions of a run, after which the next call continues it, and its end for good."""

import signal
import threading
import time

import pytest

from asimov_sync import (
    Budget,
    CacheUnavailable,
    Cancellation,
    MemoryCache,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.testing import ScriptedInferenceClient

from ..tiers import suite, within
from ..waiting import DEADLINE, Background, wait_for
from .drivers import Driver, interpose


def pair():
    """A graph of two tasks, and a task that always runs."""
    graph = TaskGraph()
    graph.add(Task(type="work"), name="a")
    graph.add(Task(type="work"), name="b", depends_on="a")
    graph.add(Task(type="work"), name="c", depends_on="b")
    graph.add(Task(type="work"), name="last", depends_on="c", always=True, timeout=DEADLINE)
    return graph


class Blocking:
    """A handler that blocks in task b, until it is cancelled, at the first call."""

    def __init__(self, calls=()):
        self.calls = list(calls)
        self.started = threading.Event()

    def __call__(self, task, context):
        self.calls.append(context.name)
        if self.calls.count("b") == 1 and context.name == "b":
            self.started.set()
            context.cancellation.wait(DEADLINE)
            context.cancellation.raise_if_cancelled()
        return context.name


def by_close(scheduler, handler):
    """Close the scheduler."""
    run = scheduler.submit(pair(), run_id="r")
    assert handler.started.wait(DEADLINE)
    scheduler.close()
    return run.result(DEADLINE)


def by_shutdown(scheduler, handler):
    """Shut the scheduler down, and cancel its runs."""
    run = scheduler.submit(pair(), run_id="r")
    assert handler.started.wait(DEADLINE)
    scheduler.shutdown(cancel=True, timeout=DEADLINE)
    return run.result(DEADLINE)


def by_token(scheduler, handler):
    """Cancel the token around the run."""
    token = Cancellation()
    run = scheduler.submit(pair(), run_id="r", cancellation=token)
    assert handler.started.wait(DEADLINE)
    token.cancel("enough")
    return run.result(DEADLINE)


def by_deadline(scheduler, handler):
    """The deadline of the token around the run passes."""
    return scheduler.run(pair(), run_id="r", cancellation=Cancellation(0.1))


def by_stream(scheduler, handler):
    """Close the stream."""
    events = scheduler.stream(pair(), run_id="r")
    for event in events:
        if event.type == "task_started" and event.name == "b":
            assert handler.started.wait(DEADLINE)
            events.close()


def by_exception(scheduler, handler):
    """An exception leaves the block of the scheduler."""
    with pytest.raises(LookupError):
        with scheduler:
            run = scheduler.submit(pair(), run_id="r")
            assert handler.started.wait(DEADLINE)
            raise LookupError("out")
    return run.result(DEADLINE)


@pytest.mark.parametrize(
    "interrupt", [by_close, by_shutdown, by_token, by_deadline, by_stream, by_exception]
)
def test_an_interrupted_run_continues(store, interrupt, caplog):
    """The running task is not kept, the lease is given up at once, and the next run continues.
    The log does not call the run FAILED."""
    handler = Blocking()
    with caplog.at_level("INFO", logger="asimov_sync.graph"):
        result = interrupt(TaskScheduler({"work": handler}, max_workers=2, runs=store), handler)
        wait_for(lambda: "run r was interrupted after" in caplog.text)
    assert "run r is" not in caplog.text
    record = store.get("r")
    assert record.status is RunStatus.INTERRUPTED and record.lease_until is None
    assert list(record.tasks) == ["a"]
    finished = [event["name"] for event in store.events("r") if event["type"] == "task_finished"]
    assert finished == ["a"]
    if result is not None:
        assert result.status is TaskStatus.PARTIAL
    with TaskScheduler({"work": handler}, max_workers=2, runs=store) as scheduler:
        result = scheduler.run(pair(), run_id="r")
    assert result.status is TaskStatus.COMPLETE
    assert handler.calls == ["a", "b", "b", "c", "last"]
    assert [event["sequence"] for event in store.events("r")] == sorted(
        {event["sequence"] for event in store.events("r")}
    )


def test_a_run_ends_after_the_release():
    """An interrupted run has released its lease when its result is there, also in a slow store."""
    cache, slow = MemoryCache(), threading.Event()

    def on_call(method, call):
        if method == "commit" and slow.is_set():
            time.sleep(0.1)
        return call()

    store = RunStore(interpose(cache, on_call))
    handler, token = Blocking(), Cancellation()
    with TaskScheduler({"work": handler}, max_workers=2, runs=store) as scheduler:
        run = scheduler.submit(pair(), run_id="r", cancellation=token)
        assert handler.started.wait(DEADLINE)
        slow.set()
        cancelling = Background(token.cancel, "enough")
        run.result(DEADLINE)
        assert store.get("r").status is RunStatus.INTERRUPTED
        cancelling.result()


def test_the_end_is_for_good(store):
    """`run.cancel()` ends a run for good: tasks with always run, and the result is kept."""
    handler = Blocking()
    with TaskScheduler({"work": handler}, max_workers=2, runs=store) as scheduler:
        run = scheduler.submit(pair(), run_id="r")
        assert handler.started.wait(DEADLINE)
        run.cancel("not needed")
        result = run.result(DEADLINE)
        assert handler.calls == ["a", "b", "last"]
        assert store.get("r").status is RunStatus.CANCELLED
        again = scheduler.run(pair(), run_id="r")
    assert again.restored
    for one in (result, again, store.result("r")):
        assert one.status is TaskStatus.PARTIAL and one.reason == "not needed"
        assert one.results == {"a": "a", "last": "last"}
        assert one.errors == {"b": "Cancelled: not needed"}
        assert list(one.skipped) == ["c"]
    assert handler.calls == ["a", "b", "last"]


def test_the_time_out_is_the_end(store):
    """The time-out of the run ends it for good."""
    handler = Blocking()
    with TaskScheduler({"work": handler}, max_workers=2, runs=store) as scheduler:
        result = scheduler.run(pair(), run_id="r", timeout=0.1)
        again = scheduler.run(pair(), run_id="r")
    assert store.get("r").status is RunStatus.CANCELLED
    assert again.restored and again.errors == result.errors
    assert "time-out" in again.reason == result.reason


def test_a_used_up_budget_is_the_end(store):
    """A run that used up its budget has ended for good."""
    client = ScriptedInferenceClient(lambda body: "x")

    def ask(task, context):
        return client.generate("hello").text

    with TaskScheduler({"work": ask}, max_workers=0, runs=store) as scheduler:
        result = scheduler.run(pair(), run_id="r", budget=Budget(requests=2))
        again = scheduler.run(pair(), run_id="r", budget=Budget(requests=2))
    assert again.restored and again.results == result.results == {"a": "x", "b": "x"}
    assert "BudgetExceeded" in again.errors["c"]
    assert store.get("r").status is RunStatus.PARTIAL


# Processes


@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupt_just_after_the_lease_was_taken(exists):
    """Ctrl-C just after the lease was taken gives it up, so that the next call runs at once."""
    strikes = []

    def on_call(method, call):
        reply = call()
        if method == "claim" and strikes:
            raise strikes.pop()
        return reply

    store = RunStore(interpose(MemoryCache(), on_call))
    graph = TaskGraph()
    graph.add(Task(type="work"), name="a")
    with TaskScheduler({"work": lambda task, context: 1}, runs=store) as scheduler:
        scheduler.flows["one"] = lambda: graph
        if exists:
            assert scheduler.enqueue("one", run_id="r")
        strikes.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            scheduler.run("one", run_id="r")
        assert not strikes and store.get("r").status is RunStatus.INTERRUPTED
        assert scheduler.run("one", run_id="r").results == {"a": 1}


def open_store(path, on_call=None):
    """Return a run store whose lease is longer than any test."""
    cache = SQLiteCache(path, synchronous="normal")
    return RunStore(cache if on_call is None else interpose(cache, on_call), lease=600.0)


def drive(path, marker, on_call=None):
    """Run the graph, until Ctrl-C; return the seconds from the interrupt to its end."""
    handler = Blocking()
    scheduler = TaskScheduler({"work": handler}, max_workers=2, runs=open_store(path, on_call))
    watcher = threading.Thread(
        target=lambda: handler.started.wait(DEADLINE) and marker.write_text("started"), daemon=True
    )
    watcher.start()
    try:
        with scheduler:
            scheduler.run(pair(), run_id="r")
    except KeyboardInterrupt:
        return "interrupted"


def continued(path):
    """Continue the run in this process; return the names of the handlers that were called."""
    handler = Blocking(["b"])  # b was called before
    with TaskScheduler({"work": handler}, max_workers=2, runs=open_store(path)) as scheduler:
        assert scheduler.run(pair(), run_id="r").status is TaskStatus.COMPLETE
    return handler.calls[1:]


@suite
def test_a_killed_script_is_restarted_at_once(tmp_path):
    """The lease of a killed process of this machine is free: its run continues at once."""
    path, marker = tmp_path / "runs.db", tmp_path / "marker"
    driver = Driver(drive, path, marker)
    wait_for(marker.exists)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    store = open_store(path)
    assert store.get("r").status is RunStatus.ORPHANED
    assert continued(path) == ["b", "c", "last"]


def is_busy(method, call):
    raise CacheUnavailable("the store is busy")


def is_silent(method, call):
    time.sleep(DEADLINE)


@suite
@pytest.mark.parametrize("trouble", [None, is_busy, is_silent], ids=["well", "busy", "silent"])
def test_ctrl_c_is_prompt(tmp_path, trouble):
    """Ctrl-C ends a program within a second, whatever the store does; then the run continues."""
    path, marker = tmp_path / "runs.db", tmp_path / "marker"

    def on_call(method, call):
        return trouble(method, call) if marker.exists() else call()

    driver = Driver(drive, path, marker, on_call if trouble is not None else None)
    wait_for(marker.exists)
    time.sleep(0.05)
    started = time.monotonic()
    driver.kill(signal.SIGINT)
    assert driver.result() == "interrupted"
    assert time.monotonic() - started < within(1.0)
    assert continued(path) == ["b", "c", "last"]
