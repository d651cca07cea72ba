"""Streams of events that are dropped, closed early, or read by several threads."""

import gc
import subprocess
import sys
import threading

import pytest

from asimov_sync import (
    Cancellation,
    Cancelled,
    GraphError,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.concurrency import pool

from ..tiers import suite
from ..tracing import holding_lock
from ..waiting import Background, wait_for
from .graphs import single, wide
from .test_scheduler import diamond, echo


@pytest.fixture(params=[2, 0], ids=["threads", "calling thread"])
def scheduler(request):
    """Return a scheduler with threads, and one without."""
    with TaskScheduler({"echo": echo}, max_workers=request.param) as new_scheduler:
        yield new_scheduler


@suite
def test_stream_dropped_before_its_first_event(scheduler):
    """A dropped stream cancels its run, and the graph can run again."""
    graph = single()
    scheduler.stream(graph)
    gc.collect()
    assert scheduler.run(graph).status is TaskStatus.COMPLETE
    scheduler.stream(graph).close()
    assert scheduler.run(graph).status is TaskStatus.COMPLETE


@pytest.mark.parametrize("way", ["break", "close", "with", "drop", "reference cycle"])
def test_closing_the_events_of_a_submitted_run(scheduler, way):
    """The run continues, because only an iterator of stream() owns its run."""
    run = scheduler.submit(diamond())
    events = run.events()
    assert next(events).type == "run_started"
    if way == "break":
        for _ in events:
            break
    elif way == "close":
        events.close()
        assert list(events) == []
    elif way == "with":
        with events:
            next(events)
    elif way == "reference cycle":
        cycle = [events]
        cycle.append(cycle)
        del cycle
    del events
    gc.collect()
    assert run.result(20).results["d"] == "dbaca"
    assert [event.type for event in run.events()][-1] == "run_finished"


def test_cancelled_reader_of_a_submitted_run(scheduler):
    """A cancelled wait for an event raises Cancelled, and the run continues."""
    release = threading.Event()
    scheduler.handlers["wait"] = lambda task, context: release.wait(20)
    token = Cancellation()
    run = scheduler.submit(single("wait"))
    if scheduler.max_workers:
        events = run.events()
        next(events)
        reader = Background(read_under, token, events)
        token.cancel("enough")
        assert reader.result() == "enough"
    else:
        token.cancel("enough")
        assert read_under(token, run.events()) == "enough"
    assert not run.done()
    release.set()
    assert run.result(20).results == {"x": True}


def read_under(token, events):
    """Read under a token until it is cancelled. Return the reason."""
    with token, pytest.raises(Cancelled) as caught:
        list(events)
    return str(caught.value)


def test_events_closed_while_another_thread_reads(scheduler):
    """Closing the iterator of a submitted run ends the iteration on another thread."""
    if not scheduler.max_workers:
        return  # without workers, the reading thread would execute the handler
    release = threading.Event()
    scheduler.handlers["wait"] = lambda task, context: release.wait(20)
    graph = single("wait")
    run = scheduler.submit(graph)
    wait_for(lambda: graph["x"].status is TaskStatus.EXECUTING)
    events = run.events()
    assert [next(events).type for _ in range(2)] == ["run_started", "task_started"]
    reader = Background(list, events)
    events.close()
    assert reader.result() == []
    assert not run.done()
    release.set()
    assert run.result(20).results == {"x": True}


def test_breaking_out_of_a_stream_unlocks_its_graph(scheduler):
    """After a break in the middle of a stream, the graph can run again at once."""
    graph = diamond()
    for _ in scheduler.stream(graph):
        break
    assert scheduler.run(graph).results["d"] == "dbaca"


@suite
def test_stream_closed_by_the_garbage_collector():
    """Iterators in reference cycles, collected on any thread, cause no deadlock."""
    with TaskScheduler(
        {"echo": lambda task, context: [[] for _ in range(50)]}, max_workers=4
    ) as scheduler:

        def make_garbage():
            for _ in range(40):
                graph = TaskGraph()
                graph.map(Task(type="echo"), range(30))
                events = scheduler.stream(graph)
                next(events)
                cycle = [events]
                cycle.append(cycle)
                del events, cycle

        threshold = gc.get_threshold()
        gc.set_threshold(20, 2, 2)
        try:
            for call in [Background(make_garbage) for _ in range(3)]:
                call.result(30)
        finally:
            gc.set_threshold(*threshold)
        assert scheduler.run(single()).status is TaskStatus.COMPLETE


def event_types(events):
    """Iterate over the types of events.

    In web servers, a destructor may close such a generator.
    """
    with events:
        for event in events:
            yield event.type


@pytest.mark.parametrize(
    "around", [iter, event_types], ids=["the stream itself", "a generator around it"]
)
def test_stream_dropped_while_a_worker_starts(around):
    """A stream's destructor does not deadlock on a thread that is starting a worker."""
    with TaskScheduler(
        {"wait": lambda task, context: context.cancellation.wait(20), "echo": echo}
    ) as scheduler:
        graph = single("wait")
        dropped = [around(scheduler.stream(graph))]
        next(dropped[0])
        wait_for(lambda: graph["x"].status is TaskStatus.EXECUTING)

        def submit():
            scheduler.submit(single())

        with holding_lock(pool, submit, probe=submit):  # the lock of the workers
            Background(dropped.clear).result()
        scheduler.handlers["wait"] = echo
        assert scheduler.run(graph).status is TaskStatus.COMPLETE


@suite
@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
def test_half_read_stream_at_exit(workers):
    """A program with a half-read stream exits at once and prints no error."""
    program = f"""
from asimov_sync import Task, TaskGraph, TaskScheduler
scheduler = TaskScheduler({{"t": lambda task, context: context.name}}, max_workers={workers})
graph = TaskGraph()
graph.map(Task(type="t"), range(100))
events = scheduler.stream(graph)
print(next(events).type)
next(events)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20
    )
    assert (done.returncode, done.stdout.split()) == (0, [b"run_started"]), done.stderr
    assert (
        b"__del__" not in done.stderr
    )  # Python 3.7 may print a message about a thread that was starting


@suite
def test_closing_a_stream_of_a_busy_run():
    """Closing the stream unlocks the graph at once, even while workers are busy."""

    def busy(task, context):
        for _ in range(3):
            context.report(0.5)

    with TaskScheduler({"busy": busy}, max_workers=6) as scheduler:
        graph = wide("busy", 200)
        for _ in range(60):
            for number, _event in enumerate(scheduler.stream(graph)):
                if number == 20:
                    break
            del _event
            scheduler.submit(graph).cancel()


def test_several_readers_and_waiters():
    """Several threads can read: each receives all events. Several threads can call result()."""
    gate = threading.Event()

    def handler(task, context):
        assert gate.wait(20)
        context.report(0.5)

    with TaskScheduler({"t": handler}, max_workers=3) as scheduler:
        run = scheduler.submit(wide("t", 100))
        opened = [run.events() for _ in range(4)]
        readers = [Background(list, events) for events in opened]
        waiters = [Background(run.result) for _ in range(4)]
        gate.set()
        numbers = [[event.sequence for event in reader.result()] for reader in readers]
        assert numbers == 4 * [sorted(set(numbers[0]))]
        assert len({id(waiter.result()) for waiter in waiters}) == 1
        assert len(numbers[0]) == 302
        with pytest.raises(GraphError):
            scheduler.submit(single("nobody"))
