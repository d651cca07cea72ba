"""Servers that restart, cut connections or fall silent, and disks that are full, under runs."""

import collections
import itertools
import signal
import time

import pytest
import redis

from asimov_sync import (
    CacheError,
    LeaseLost,
    RedisCache,
    RunInProgress,
    RunStatus,
    RunStore,
    SQLiteCache,
    Task,
    TaskGraph,
    TaskScheduler,
)

from ..tiers import by_tier, soak, suite
from ..waiting import DEADLINE, Background, wait_for

pytestmark = suite

RUN_ID = "r"

COLUMNS, LAYERS = 3, by_tier(15, soak=200)

ROUNDS = by_tier(1, soak=15)


@pytest.fixture
def server(durable_server):
    """The server of the test, under a short name."""
    return durable_server


def layers():
    """Return a graph of layers, in which each task depends on all tasks of the layer before."""
    graph = TaskGraph()
    before = []
    for layer in range(LAYERS):
        names = [f"{layer}-{column}" for column in range(COLUMNS)]
        for name in names:
            graph.add(Task(type="work"), name=name, depends_on=before)
        before = names
    return graph


class Work:
    """The handler of the graph: a step, and a result that no other call returns.

    calls: the names of the tasks whose handler was called, in order.
    steps: the keys of the steps that were called, in order.
    limit: the number of calls after which calls wait; the run cannot end before the test is ready.
    """

    def __init__(self):
        self.calls, self.steps, self.limit = [], [], float("inf")
        self._numbers = itertools.count(1)

    def __call__(self, task, context):
        self.calls.append(context.name)
        number = len(self.calls)
        while number > self.limit:
            context.cancellation.wait(0.005)
            context.cancellation.raise_if_cancelled()
        step = context.step("note", self._note, context)
        return [step, next(self._numbers), sorted(context.inputs)]

    def _note(self, context):
        self.steps.append(context.idempotency_key)
        return next(self._numbers)


class Drives:
    """Drives a run again and again until it has ended, on a thread of its own.

    cache: the cache of the run; it is closed at the end.
    lease: the lease of the store.
    interruptions: the exceptions that drives have ended with.
    work: the handler.
    """

    def __init__(self, cache, lease):
        self.interruptions = []
        self.work = Work()
        self.cache = cache
        self.store = RunStore(self.cache, lease=lease)
        self.driving = Background(self._drive)

    def _drive(self):
        with TaskScheduler({"work": self.work}, max_workers=4, runs=self.store) as scheduler:
            while True:
                try:
                    return scheduler.run(layers(), run_id=RUN_ID, if_running="wait")
                except (CacheError, LeaseLost) as error:
                    self.interruptions.append(error)
                    time.sleep(0.01)

    @property
    def alive(self):
        """True while the run is driven."""
        return self.driving.thread.is_alive()

    def wait_for_calls(self, number):
        """Wait until there were this many more calls, and let a few more be made after that."""
        goal = len(self.work.calls) + number
        self.work.limit = goal - 1
        wait_for(lambda: len(self.work.calls) >= goal, "progress of the run")
        assert self.alive
        self.work.limit = goal + COLUMNS

    def check(self):
        """Wait for the end, and check that each outcome was committed once."""
        self.work.limit = float("inf")
        result = self.driving.result(3 * DEADLINE)
        assert result.status.name == "COMPLETE" and len(result.results) == COLUMNS * LAYERS
        record = self.store.get(RUN_ID)
        assert record.status is RunStatus.COMPLETE
        stored = {name: task.result for name, task in record.tasks.items()}
        assert stored == result.results
        numbers = [number for step, own, _ in stored.values() for number in (step, own)]
        assert len(set(numbers)) == 2 * COLUMNS * LAYERS, "a value was committed twice"
        for layer in range(1, LAYERS):
            before = [f"{layer - 1}-{column}" for column in range(COLUMNS)]
            assert all(stored[f"{layer}-{column}"][2] == before for column in range(COLUMNS))
        events = list(self.store.events(RUN_ID))
        finished = collections.Counter(
            event["name"] for event in events if event["type"] == "task_finished"
        )
        assert finished == dict.fromkeys(stored, 1)
        # A handler is called again only after an interruption, and so is a step.
        extra = len(self.work.calls) - len(stored)
        assert extra <= COLUMNS * len(self.interruptions)
        assert len(self.work.steps) - len(set(self.work.steps)) <= extra
        self.cache.close()
        return result


@pytest.mark.parametrize("lease", [30.0, 0.3], ids=["shorter than the lease", "longer"])
def test_restarted_server(server, lease):
    """The server is killed and restarted under a run, which then proceeds, or is continued."""
    drives = Drives(RedisCache(url=server.url), lease)
    for _ in range(ROUNDS):
        drives.wait_for_calls(8)
        server.kill()
        if lease < 1:
            failures = len(drives.interruptions)
            wait_for(lambda: len(drives.interruptions) > failures, "the end of the drive")
        server.start()
    drives.check()
    if lease > 1:
        assert drives.interruptions == []
    else:
        assert len(drives.interruptions) >= ROUNDS


def test_cut_connections(server):
    """All connections are cut again and again, and the run proceeds."""
    cut = 0
    drives = Drives(RedisCache(url=server.url), 30.0)
    drives.work.limit = COLUMNS
    with redis.Redis.from_url(server.url) as plain:
        while drives.alive:
            drives.work.limit += COLUMNS
            cut += plain.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            time.sleep(by_tier(0.02, soak=0.05))
    drives.check()
    assert cut >= 3
    assert drives.interruptions == []


def test_silent_server(server):
    """The server does not answer for a while: the run proceeds after that."""
    drives = Drives(RedisCache(url=server.url), 30.0)
    for _ in range(by_tier(1, soak=3)):
        drives.wait_for_calls(8)
        server.signal(signal.SIGSTOP)
        time.sleep(by_tier(0.3, soak=6.0))
        server.signal(signal.SIGCONT)
    drives.check()
    assert drives.interruptions == []


@soak
def test_silent_for_longer_than_the_lease(server):
    """A server is silent for longer than the lease: the run proceeds, or is continued."""
    drives = Drives(RedisCache(url=server.url), 0.3)
    for _ in range(5):
        drives.wait_for_calls(8)
        server.signal(signal.SIGSTOP)
        time.sleep(0.5)
        server.signal(signal.SIGCONT)
    drives.check()


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("redis", marks=soak)])
def test_the_lease_of_a_long_task_is_renewed(request, tmp_path, unique, backend):
    """A task that takes longer than the lease keeps it, and nobody else gets the run meanwhile."""
    if backend == "redis":
        url = request.getfixturevalue("redis_url")
        caches = [RedisCache(url=url, default_prefix=unique) for _ in range(2)]
    else:
        path = tmp_path / "runs.db"
        caches = [SQLiteCache(path, synchronous="normal") for _ in range(2)]
    lease = by_tier(0.4, soak=1.0)
    attempts = []

    def work(task, context):
        other = RunStore(caches[1], lease=lease)
        end = time.monotonic() + by_tier(2.2, soak=3.0) * lease
        while time.monotonic() < end:
            assert other.ready() == []
            assert other.get(RUN_ID).status is RunStatus.RUNNING
            with TaskScheduler({"work": work}, max_workers=0, runs=other) as scheduler:
                with pytest.raises(RunInProgress):
                    scheduler.run(single(), run_id=RUN_ID)
            attempts.append(context.attempt)
            time.sleep(lease / 10)
        return "done"

    def single():
        graph = TaskGraph()
        graph.add(Task(type="work"), name="a")
        return graph

    store = RunStore(caches[0], lease=lease)
    with TaskScheduler({"work": work}, max_workers=1, runs=store) as scheduler:
        result = scheduler.run(single(), run_id=RUN_ID)
    assert result.results == {"a": "done"}, result.errors
    assert len(attempts) > 5 and set(attempts) == {1}
    for cache in caches:
        cache.close()
