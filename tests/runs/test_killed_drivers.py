"""Drivers that are killed, stopped, or run side by side: each outcome is committed once."""

import collections
import multiprocessing
import os
import random
import signal
import uuid

import pytest

from asimov_sync import (
    LeaseLost,
    RedisCache,
    RunInProgress,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
    TaskStatus,
)

from ..tiers import by_tier, soak, suite
from ..waiting import DEADLINE, wait_for
from .drivers import Driver

pytestmark = suite

LAYERS, WIDTH = 10, 10
WORK_SECONDS = 0.004
KILLS = by_tier(5, soak=200)
ROUNDS = {"raise": by_tier(20, soak=500), "wait": by_tier(1, soak=60)}
"""A driver that waits looks every 0.5 seconds."""


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=soak)])
def open_store(request, unique, tmp_path):
    """Opens the run store; each process calls it for itself."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda **options: RunStore(RedisCache(url=url, default_prefix=unique), **options)
    path = tmp_path / "runs.db"
    return lambda **options: RunStore(SQLiteCache(path, synchronous="normal"), **options)


def layers():
    """A graph of layers, in which each task depends on two tasks of the layer before."""
    graph = TaskGraph()
    for layer in range(LAYERS):
        for number in range(WIDTH):
            before = (number, (number + 1) % WIDTH) if layer else ()
            graph.add(
                Task(type="work"),
                name=f"{layer}-{number}",
                depends_on=[f"{layer - 1}-{one}" for one in before],
            )
    return graph


class Worker:
    """A handler that notes each call in a file, and returns a value that no other call returns.

    calls: the file of the calls.
    """

    def __init__(self, calls):
        self._file = os.open(str(calls), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, task, context):
        os.write(self._file, f"{context.name}\n".encode())
        context.cancellation.wait(WORK_SECONDS)
        return [uuid.uuid4().hex, {name: value[0] for name, value in context.inputs.items()}]


def drive(open_store, calls, run_id):
    """Run the layers on four threads, and return the results."""
    store = open_store(max_recoveries=1000, lease=600.0)
    with TaskScheduler({"work": Worker(calls)}, max_workers=4, runs=store) as scheduler:
        return scheduler.run(layers(), run_id=run_id).results


def count(path):
    """Return how often each task was called."""
    return collections.Counter(path.read_text().splitlines() if path.exists() else ())


def test_killed_drivers(open_store, tmp_path):
    """Drivers are killed at random, most of them while they hold work.

    Exactly the calls that a kill has interrupted are repeated. Each task has one outcome, which all
    of its dependents have received.
    """
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    store = open_store()
    kills = kills_with_work = runs = 0
    while kills < KILLS:
        runs += 1
        run_id, path = f"run-{runs}", tmp_path / f"calls-{runs}"
        expected = collections.Counter(layers())
        while kills < KILLS:
            before = count(path)
            driver = Driver(drive, open_store, path, run_id)
            limit = sum(before.values()) + chance.randrange(5, 30)
            wait_for(lambda: sum(count(path).values()) >= limit or driver.has_ended)
            driver.kill()
            if driver.wait() == 0:
                break
            assert driver.status == -signal.SIGKILL
            kills += 1
            committed = set()
            for name, record in store.get(run_id).tasks.items():
                if record.phase == "COMPLETE":
                    committed.add(name)
            held = (count(path) - before).keys() - committed
            kills_with_work += bool(held)
            expected.update(held)
        results = Driver(drive, open_store, path, run_id).result()
        assert count(path) == expected
        assert store.get(run_id).status is RunStatus.COMPLETE
        for _, inputs in results.values():
            for name, value in inputs.items():
                assert results[name][0] == value
        assert {
            name: list(value) for name, value in store.result(run_id).results.items()
        } == results
    assert kills_with_work >= kills / 2


def compete(open_store, calls, barrier, rounds, if_running):
    """Run the same runs as another process, at the same time. Returns how each round ended."""
    store, ends = open_store(lease=600.0), []
    with TaskScheduler({"work": Worker(calls)}, max_workers=2, runs=store) as scheduler:
        for number in range(rounds):
            graph = TaskGraph()
            for name in "ab":
                graph.add(Task(type="work"), name=f"{number}-{name}")
            barrier.wait(DEADLINE)
            try:
                result = scheduler.run(graph, run_id=f"run-{number}", if_running=if_running)
            except RunInProgress as error:
                assert f"process {os.getpid()}" not in error.owner
                ends.append(None)
            else:
                ends.append([result.restored, result.results])
    return ends


@pytest.mark.parametrize("if_running", ["raise", "wait"])
def test_two_drivers_at_once(open_store, tmp_path, if_running):
    """Two processes run the same run at once: one drives it, the other raises, or waits."""
    path = tmp_path / "calls"
    barrier = multiprocessing.get_context("fork").Barrier(2)
    rounds = ROUNDS[if_running]
    drivers = [Driver(compete, open_store, path, barrier, rounds, if_running) for _ in range(2)]
    first, second = [driver.result() for driver in drivers]
    names = [f"{number}-{name}" for number in range(rounds) for name in "ab"]
    assert count(path) == collections.Counter(names)
    met = 0
    for one, other in zip(first, second):
        ends = [end for end in (one, other) if end is not None]
        assert sorted(restored for restored, _ in ends) == [False, True][: len(ends)]
        assert all(results == ends[0][1] for _, results in ends)
        met += len(ends) == (1 if if_running == "raise" else 2)
    assert met >= rounds / 2  # the two met in most of the rounds


def drive_slowly(open_store, started, resume, calls):
    """Run a task that takes until the file `resume` exists. Returns the name of the error."""
    worker = Worker(calls)

    def work(task, context):
        started.write_text("")
        wait_for(resume.exists)
        return worker(task, context)

    graph = TaskGraph()
    graph.add(Task(type="work"), name="a")
    graph.add(Task(type="work"), name="b", depends_on="a")
    with TaskScheduler({"work": work}, max_workers=2, runs=open_store(lease=0.3)) as scheduler:
        try:
            return scheduler.submit(graph, run_id="r").result(DEADLINE).status.name
        except LeaseLost as error:
            return str(error)


def test_a_stopped_driver_loses_its_lease(open_store, tmp_path):
    """A driver is stopped for longer than its lease, and another one takes over.

    When it continues, the stopped driver commits nothing, and raises LeaseLost.
    """
    started, resume = tmp_path / "started", tmp_path / "resume"
    driver = Driver(drive_slowly, open_store, started, resume, tmp_path / "calls")
    wait_for(started.exists)
    driver.kill(signal.SIGSTOP)
    store = open_store()
    wait_for(lambda: store.get("r").status is RunStatus.ORPHANED)
    assert [record.run_id for record in store.ready()] == ["r"]
    graph = TaskGraph()
    graph.add(Task(type="work"), name="a")
    graph.add(Task(type="work"), name="b", depends_on="a")
    with TaskScheduler({"work": lambda task, context: "mine"}, runs=store) as scheduler:
        assert scheduler.run(graph, run_id="r").status is TaskStatus.COMPLETE
    events = list(store.events("r"))
    resume.write_text("")
    driver.kill(signal.SIGCONT)
    assert "another driver" in driver.result()
    assert store.result("r").results == {"a": "mine", "b": "mine"}
    assert list(store.events("r")) == events
    assert store.get("r").status is RunStatus.COMPLETE


def test_a_dead_driver_of_this_machine_is_noticed_at_once(open_store):
    """A run whose driver died here is ORPHANED and ready, although its lease has not ended."""
    graph = TaskGraph()
    graph.add(lambda task, context: os._exit(9), name="dies")
    driver = multiprocessing.get_context("fork").Process(
        target=lambda: TaskScheduler(max_workers=0, runs=open_store()).run(graph, run_id="r")
    )
    driver.start()
    driver.join(DEADLINE)
    assert driver.exitcode == 9
    store = open_store()
    record = store.get("r")
    assert (record.status, record.lease_until) == (RunStatus.ORPHANED, None)
    assert [one.run_id for one in store.ready()] == ["r"]
    assert [one.run_id for one in store.list(status=RunStatus.ORPHANED)] == ["r"]
    assert store.list(status=RunStatus.RUNNING) == []
