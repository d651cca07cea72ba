"""Threads against a run: many runs at once, cancels in the middle of a step, lost wake-ups, leaks."""

import gc
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from asimov_sync import (
    Cancellation,
    GraphError,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
    WorkersClosed,
)
from asimov_sync.graph.state import RunState

from ..tiers import suite
from ..waiting import DEADLINE, Background, wait_for
from .graphs import chain, single, wide


@pytest.fixture(params=[None, 1e-6], ids=["as usual", "switching all the time"])
def switching(request):
    """How often the interpreter switches threads."""
    before = sys.getswitchinterval()
    if request.param is not None:
        sys.setswitchinterval(request.param)
    yield
    sys.setswitchinterval(before)


def random_graph(chance, size):
    graph = TaskGraph()
    for number in range(size):
        before = [str(one) for one in range(number) if chance.random() < 0.3]
        graph.add(Task(type="t", params={"rest": chance.choice([0, 0, 0, 1e-5, 2e-4])}), name=str(number), depends_on=before)
    return graph


def rest(task, context):
    if task.params["rest"]:
        time.sleep(task.params["rest"])
    return 1 + sum(context.inputs.values())


@suite
@pytest.mark.parametrize("workers", [2, 5])
def test_no_wake_up_is_lost(switching, workers):
    """Hundreds of small graphs at random, of tasks that take next to no time: none is left waiting for a worker."""
    chance = random.Random(workers)
    with TaskScheduler({"t": rest}, max_workers=workers) as scheduler:
        end = time.monotonic() + 1.0
        runs = 0
        while time.monotonic() < end or runs < 20:
            graph = random_graph(chance, chance.randrange(1, 12))
            result = scheduler.submit(graph).result(DEADLINE)
            assert len(result.results) == len(graph), result.errors
            runs += 1


def act(task, context):
    """What a task's params say, at the chance that they say."""
    chance = random.random()
    if chance < 0.15:
        raise ValueError("by chance")
    if chance < 0.2:
        context.cancellation.wait(0.03)
    if chance < 0.25 and context.visit < 3 and "a" in context.inputs:
        return Route("a")
    if chance < 0.35:
        context.spawn(Task(type="leaf"))
    return 1


def eventful(number):
    graph = TaskGraph()
    retry = Retry(attempts=2, wait=lambda state: random.random() * 0.002)
    graph.add(Task(type="act"), name="a", retry=retry)
    graph.map(Task(type="act"), range(4), name="b", depends_on="a", retry=retry, timeout=0.02)
    graph.add(Task(type="act"), name="c", depends_on=["a", "b"], allow_failure=True, when=lambda inputs: len(inputs) != 2)
    graph.add(Task(type="act"), name="d", depends_on="c", retry=retry)
    return graph


@suite
@pytest.mark.parametrize("workers", [1, 4])
def test_many_eventful_runs_at_once(workers):
    """Fifty threads, routes, spawns, retries, time-outs, cancels: all end, nothing is left, every graph may run again."""
    before = set(threading.enumerate())
    scheduler = TaskScheduler({"act": act, "leaf": lambda task, context: 1}, max_workers=workers)
    seen = []
    scheduler.on_event(lambda event: event.type == "run_finished" and seen.append(event.result.run_id))

    def runs(seed):
        chance = random.Random(seed)
        graph = eventful(seed)
        for _ in range(4):
            run = scheduler.submit(graph, timeout=None if chance.random() < 0.8 else 0.01)
            if chance.random() < 0.3:
                time.sleep(chance.random() * 0.01)
                run.cancel()
            result = run.result(DEADLINE)
            events = list(run.events())
            assert events[-1].type == "run_finished" and [event.type for event in events].count("run_finished") == 1
            assert set(result.tasks) == set(result.results) | set(result.skipped) | set(result.exceptions)
            last = {event.name: event.type for event in events[:-1]}
            assert "task_started" not in [last[name] for name in result.tasks]  # which those taken back are not among
        return graph

    graphs = [call.result(60) for call in [Background(runs, seed) for seed in range(50)]]
    assert len(seen) == len(set(seen)) == 200
    assert not scheduler._runs
    scheduler.handlers["act"] = lambda task, context: 1
    assert all(scheduler.run(graph).status is TaskStatus.COMPLETE for graph in graphs)  # no claim is left
    scheduler.close()
    own = ("asimov-task", "asimov-events")
    wait_for(lambda: not [one for one in set(threading.enumerate()) - before if one.name.startswith(own)], "the threads' end")


def left_over():
    """How many of a hundred eventful runs stay in memory. For a process of its own, since our tests keep all errors."""
    drivers = []
    with TaskScheduler({"act": act, "leaf": lambda task, context: 1}, max_workers=4) as scheduler:
        for number in range(100):
            run = scheduler.submit(eventful(number), timeout=0.01 if number % 5 == 0 else None)
            drivers.append(weakref.ref(run._active_run))
            if number % 7 == 0:
                run.cancel()
            run.result(DEADLINE)
        del run
        scheduler.run(single("leaf"))  # the last result is kept
        end = time.monotonic() + DEADLINE  # alarms that watch for stuck workers hold a run for a second
        while gc.collect() >= 0 and any(driver() is not None for driver in drivers) and time.monotonic() < end:
            time.sleep(0.05)
    return sum(driver() is not None for driver in drivers)


@suite
def test_no_run_is_left_in_memory():
    """Nothing holds a run that is over: no alarm, no worker, no token."""
    command = [sys.executable, "-c", "from tests.graph.test_races import left_over; print(left_over())"]
    root = pathlib.Path(__file__).resolve().parents[2]
    assert subprocess.check_output(command, cwd=str(root), timeout=60, universal_newlines=True) == "0\n"


def test_closing_from_several_threads():
    """A scheduler that several threads close while others submit ends every run that it took, and refuses the others."""
    for _ in range(10):
        scheduler = TaskScheduler({"t": lambda task, context: context.cancellation.wait(0.001)}, max_workers=3)

        def use(scheduler=scheduler):
            ended = 0
            while True:
                try:
                    run = scheduler.submit(wide("t", 10))
                except WorkersClosed:
                    return ended
                run.result(DEADLINE)
                ended += 1

        calls = [Background(use) for _ in range(4)]
        wait_for(lambda: scheduler.last_result is not None)
        for call in [Background(scheduler.close) for _ in range(3)]:
            call.result()
        assert sum(call.result() for call in calls) >= 1
        assert not scheduler._runs


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
@pytest.mark.parametrize("by", ["run", "token"])
def test_a_cancel_in_the_middle_of_a_step(workers, by, monkeypatch):
    """Where a signal handler or a destructor cancels while its thread settles a task, the run ends right after that step."""
    runs, ready, token = [], threading.Event(), Cancellation()
    plain = RunState.finish

    def settle(state, place, *args, **kwargs):
        if state.nodes[place].name == "a":
            assert token.cancel("in a step") if by == "token" else runs[0].cancel("in a step")
            assert not runs[0].done()
        return plain(state, place, *args, **kwargs)

    monkeypatch.setattr(RunState, "finish", settle)
    with TaskScheduler({"t": lambda task, context: ready.wait(20)}, max_workers=workers) as scheduler:
        with token:
            runs.append(scheduler.submit(chain("t", "t", "t")))
        ready.set()
        result = runs[0].result(DEADLINE)
        assert [event.type for event in runs[0].events()][-1] == "run_finished"
    assert result.results == {"a": True}
    assert "in a step" in result.skipped["c"]
    assert set(result.tasks) == set(result.results) | set(result.skipped) | set(result.exceptions)


@suite
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
@pytest.mark.parametrize("workers", [3, 0], ids=["threads", "calling thread"])
def test_a_signal_handler_that_cancels_the_run(workers):
    """A signal handler that cancels the run in whatever step its thread is: every task has its fate."""
    runs, graph = [], wide("t", 300)

    def cancel(number, frame):
        if runs:
            runs[0].cancel("by a signal")

    before = signal.signal(signal.SIGALRM, cancel)
    chance = random.Random(4)
    cancelled = 0
    try:
        with TaskScheduler({"t": lambda task, context: None}, max_workers=workers) as scheduler:
            end = time.monotonic() + 0.7
            while time.monotonic() < end:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0005, 0.01))
                runs.append(scheduler.submit(graph))
                result = runs[0].result(DEADLINE)
                del runs[:]
                assert len(result.results) + len(result.skipped) + len(result.errors) == 300
                cancelled += bool(result.skipped)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert scheduler.run(graph).status is TaskStatus.COMPLETE
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert cancelled


@suite
def test_a_stream_that_is_left_while_its_run_is_busy():
    """A stream that is left in the middle frees its graph at once, whatever its workers are doing."""

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


def test_cancelling_from_inside_a_handler():
    """A handler that cancels its own run goes on to its end, and nothing comes of what it returns."""
    for workers in (2, 0):
        runs, ready = [], threading.Event()
        with TaskScheduler(max_workers=workers) as scheduler:
            scheduler.handlers["t"] = lambda task, context: ready.wait(20) and runs[0].cancel("enough")
            graph = single("t")
            runs.append(scheduler.submit(graph))
            ready.set()
            assert runs[0].result(DEADLINE).errors == {"x": "Cancelled: enough"}
            assert graph["x"].status is TaskStatus.FAILED


def test_several_readers_and_waiters():
    """Iterators of one run's events, on several threads, have them all; result() may be asked for by many."""
    with TaskScheduler({"t": lambda task, context: context.report(0.5)}, max_workers=3) as scheduler:
        run = scheduler.submit(wide("t", 100))
        readers = [Background(lambda: [id(event) for event in run.events()]) for _ in range(4)]
        waiters = [Background(run.result) for _ in range(4)]
        assert len({tuple(reader.result()) for reader in readers}) == 1
        assert len({id(waiter.result()) for waiter in waiters}) == 1
        assert len(readers[0].result()) == 301
        with pytest.raises(GraphError):
            scheduler.submit(single("nobody"))
