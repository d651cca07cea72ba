"""The engine under threads: many runs at once, lost wake-ups, closing, and leaks."""

import gc
import pathlib
import random
import subprocess
import sys
import threading
import time

import pytest

from asimov_sync import (
    Cancellation,
    ClosedError,
    Retry,
    Route,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)
from asimov_sync.graph.active_run import ActiveRun
from asimov_sync.graph.state import RunState
from asimov_sync.testing import count_runs

from ..tiers import by_tier, suite
from ..waiting import DEADLINE, Background, wait_for
from .graphs import chain, single, wide


@pytest.fixture(params=[None, 1e-6], ids=["as usual", "switching all the time"])
def switching(request):
    """Set the interval at which the interpreter switches threads."""
    before = sys.getswitchinterval()
    if request.param is not None:
        sys.setswitchinterval(request.param)
    yield
    sys.setswitchinterval(before)


def random_graph(chance, size):
    graph = TaskGraph()
    for number in range(size):
        before = [str(one) for one in range(number) if chance.random() < 0.3]
        graph.add(
            Task(type="t", params={"rest": chance.choice([0, 0, 0, 1e-5, 2e-4])}),
            name=str(number),
            depends_on=before,
        )
    return graph


def rest(task, context):
    if task.params["rest"]:
        time.sleep(task.params["rest"])
    return 1 + sum(context.inputs.values())


@suite
@pytest.mark.parametrize("workers", [2, 5])
def test_no_wake_up_is_lost(switching, workers):
    """In hundreds of random graphs of very short tasks, no task waits for a worker forever."""
    chance = random.Random(workers)
    with TaskScheduler({"t": rest}, max_workers=workers) as scheduler:
        end = time.monotonic() + by_tier(0.3, soak=1.0)
        runs = 0
        while time.monotonic() < end or runs < 20:
            graph = random_graph(chance, chance.randrange(1, 12))
            result = scheduler.submit(graph).result(DEADLINE)
            assert len(result.results) == len(graph), result.errors
            runs += 1


def act(task, context):
    """Do something at random: fail, wait, loop, spawn or return."""
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
    graph.add(
        Task(type="act"),
        name="c",
        depends_on=["a", "b"],
        allow_failure=True,
        when=lambda inputs: len(inputs) != 2,
    )
    graph.add(Task(type="act"), name="d", depends_on="c", retry=retry)
    return graph


@suite
@pytest.mark.parametrize("workers", [1, 4])
def test_many_eventful_runs_at_once(workers):
    """Fifty threads with routes, spawns, retries, time-outs and cancels: all runs end cleanly."""
    before = set(threading.enumerate())
    scheduler = TaskScheduler({"act": act, "leaf": lambda task, context: 1}, max_workers=workers)
    seen = []
    scheduler.on_event(
        lambda event: event.type == "run_finished" and seen.append(event.result.run_id)
    )

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
            assert (
                events[-1].type == "run_finished"
                and [event.type for event in events].count("run_finished") == 1
            )
            assert set(result.tasks) == set(result.results) | set(result.skipped) | set(
                result.exceptions
            )
            last = {event.name: event.type for event in events[1:-1]}
            assert "task_started" not in [
                last[name] for name in result.tasks
            ]  # without the revoked tasks
        return graph

    graphs = [call.result(60) for call in [Background(runs, seed) for seed in range(50)]]
    assert len(seen) == len(set(seen)) == 200
    assert not count_runs(scheduler)
    scheduler.handlers["act"] = lambda task, context: 1
    assert all(
        scheduler.run(graph).status is TaskStatus.COMPLETE for graph in graphs
    )  # all locks are released
    scheduler.close()
    own = ("asimov-task", "asimov-events")
    wait_for(
        lambda: (
            not [one for one in set(threading.enumerate()) - before if one.name.startswith(own)]
        ),
        "the threads' end",
    )


def count_active_runs():
    """Return the number of runs in memory."""
    gc.collect()
    return sum(type(one) is ActiveRun for one in gc.get_objects())


def left_over():
    """Return how many of a hundred runs stay in memory. Requires a separate process."""
    with TaskScheduler({"act": act, "leaf": lambda task, context: 1}, max_workers=4) as scheduler:
        for number in range(100):
            run = scheduler.submit(eventful(number), timeout=0.01 if number % 5 == 0 else None)
            if number % 7 == 0:
                run.cancel()
            run.result(DEADLINE)
        assert count_active_runs() > 0
        del run
        scheduler.run(single("leaf"))  # the last result is kept
        end = time.monotonic() + DEADLINE  # timers for stuck workers keep a run for a second
        while count_active_runs() and time.monotonic() < end:
            time.sleep(0.05)
    return count_active_runs()


@suite
def test_no_run_is_left_in_memory():
    """No timer, worker or token keeps a finished run alive."""
    command = [
        sys.executable,
        "-c",
        "from tests.graph.test_engine import left_over; print(left_over())",
    ]
    root = pathlib.Path(__file__).resolve().parents[2]
    assert (
        subprocess.check_output(command, cwd=str(root), timeout=60, universal_newlines=True)
        == "0\n"
    )


def test_closing_from_several_threads():
    """close() from several threads ends every accepted run; later submits are refused."""
    for _ in range(10):
        scheduler = TaskScheduler(
            {"t": lambda task, context: context.cancellation.wait(0.001)}, max_workers=3
        )

        def use(scheduler=scheduler):
            ended = 0
            while True:
                try:
                    run = scheduler.submit(wide("t", 10))
                except ClosedError:
                    return ended
                run.result(DEADLINE)
                ended += 1

        calls = [Background(use) for _ in range(4)]
        wait_for(lambda: scheduler.last_result is not None)
        for call in [Background(scheduler.close) for _ in range(3)]:
            call.result()
        assert sum(call.result() for call in calls) >= 1
        assert not count_runs(scheduler)


def test_handler_cancels_its_own_run():
    """A handler that cancels its own run continues to its end, and its result is discarded."""
    for workers in (2, 0):
        runs, ready = [], threading.Event()
        with TaskScheduler(max_workers=workers) as scheduler:
            scheduler.handlers["t"] = lambda task, context: (
                ready.wait(20) and runs[0].cancel("enough")
            )
            graph = single("t")
            runs.append(scheduler.submit(graph))
            ready.set()
            assert runs[0].result(DEADLINE).errors == {"x": "Cancelled: enough"}
            assert graph["x"].status is TaskStatus.FAILED


@pytest.mark.parametrize("workers", [2, 0], ids=["threads", "calling thread"])
@pytest.mark.parametrize("by", ["run", "token"])
def test_cancel_inside_of_a_step(workers, by, monkeypatch):
    """If a signal handler or destructor cancels in mid-step, the run ends after that step."""
    runs, ready, token = [], threading.Event(), Cancellation()
    plain = RunState.finish

    def settle(state, index, *args, **kwargs):
        if state.nodes[index].name == "a":
            assert token.cancel("in a step") if by == "token" else runs[0].cancel("in a step")
            assert not runs[0].done()
        return plain(state, index, *args, **kwargs)

    monkeypatch.setattr(RunState, "finish", settle)
    with TaskScheduler(
        {"t": lambda task, context: ready.wait(20)}, max_workers=workers
    ) as scheduler:
        with token:
            runs.append(scheduler.submit(chain("t", "t", "t")))
        ready.set()
        result = runs[0].result(DEADLINE)
        assert [event.type for event in runs[0].events()][-1] == "run_finished"
    assert result.results == {"a": True}
    assert "in a step" in result.skipped["c"]
    assert set(result.tasks) == set(result.results) | set(result.skipped) | set(result.exceptions)
