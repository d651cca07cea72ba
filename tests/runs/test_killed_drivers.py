"""Drivers that are killed, or run side by side: each outcome is committed once."""

import collections
import functools
import itertools
import json
import multiprocessing
import os
import random
import signal
import time
import uuid

import pytest

from asimov_sync import (
    Cancellation,
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
from ..waiting import DEADLINE, wait_for
from . import workload
from .drivers import CRASH, RUN_ID, Driver, crash_at, interpose, tokens

pytestmark = suite

WORK_SECONDS = 0.004
KILLS = by_tier(6, soak=200)

LEASE = 600.0
"""Longer than any test: the next driver must not wait for the end of the lease."""

ROUNDS = {"raise": by_tier(5, soak=500), "wait": by_tier(2, soak=200)}


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=soak)])
def open_cache(request, unique, tmp_path):
    """Opens a cache; each process calls it for itself. run: a name of the cache."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda run=0: RedisCache(url=url, default_prefix=f"{unique}-{run}")
    path = tmp_path / "runs.db"
    return lambda run=0: SQLiteCache(path, default_prefix=f"run-{run}", synchronous="normal")


@pytest.fixture
def open_store(open_cache):
    """Opens the run store; each process calls it for itself."""
    return lambda **options: RunStore(open_cache(), **options)


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


def count(path):
    """Return how often each task was called."""
    return collections.Counter(path.read_text().splitlines() if path.exists() else ())


@pytest.fixture
def server():
    """A server of the models of the workload."""
    with workload.serve() as server:
        yield server


class Site:
    """Runs of the workload on one store, each with its notes and its account.

    open_cache: opens the cache of a run; each process calls it for itself.
    """

    def __init__(self, open_cache, server, folder):
        self._open_cache = open_cache
        self._server = server
        self._folder = folder

    def begin(self, run):
        """Begin another run, whose name is its number or a text."""
        self.open_cache = functools.partial(self._open_cache, run)
        self.notes = self._folder / f"notes-{run}"
        cache = self.open_cache()
        self.store = RunStore(cache)
        self.account = workload.Account(run, self.store, cache.records(), self._server, self.notes)

    def start(self, *args, **options):
        """Start a drive, and return its driver. The arguments are those of `drive_once`."""
        name = self.account.next_drive
        call = functools.partial(workload.drive_once, lease=LEASE, **options)
        return Driver(call, self.open_cache, self._server.url, self.notes, name, *args)

    def finish(self, expected=None):
        """Drive the run to its end undisturbed, and check its account. Returns its outcome.

        expected: what the outcome and the finished attempts have to be.
        """
        outcome = None
        while outcome is None:
            outcome = self.start().result()
            self.account.end_drive()
            workload.decide(self.store)
        finished = self.account.check()
        if expected is not None:
            assert outcome == expected[0]
            assert dict(finished - expected[1]) == dict(expected[1] - finished) == {}
        assert tokens(self.store.get(RUN_ID).usage) == outcome["usage"]
        return outcome, finished


@pytest.fixture
def site(open_cache, server, tmp_path):
    """Runs of the workload."""
    return Site(open_cache, server, tmp_path)


def test_killed_drivers(site):
    """Drivers are killed at random, most of them while they hold work.

    Each outcome is committed once. Nothing that is committed is done again: no attempt, no step, no
    request to a model and no call of a tool. The run ends as if nothing had happened.
    """
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    site.begin("undisturbed")
    expected = site.finish()
    kills = kills_with_work = runs = 0
    while kills < KILLS:
        runs += 1
        site.begin(runs)
        ended = False
        while kills < KILLS and not ended:
            limit = site.account.progress + chance.randrange(5, 60)
            driver = site.start()
            wait_for(lambda: site.account.progress >= limit or driver.has_ended)
            time.sleep(chance.random() * 0.004)
            driver.kill()
            kills += driver.wait() == -signal.SIGKILL
            site.account.end_drive()
            ended = driver.status == 0 and json.loads(driver.reply.decode()) is not None
            if chance.random() < 0.7:
                workload.decide(site.store)
        kills_with_work += site.account.drives_with_work
        site.finish(expected)
    print(kills, "kills,", kills_with_work, "of them with work")
    assert kills_with_work >= kills / 2


@soak
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_each_write(site, after):
    """A driver crashes before or after its n-th write; others end the run."""
    site.begin("undisturbed")
    expected = site.finish()
    crashes = 0
    for number in itertools.count(1):
        site.begin(number)
        driver = site.start(lambda cache: interpose(cache, crash_at(number, after)))
        if driver.wait() == 0:
            break
        assert driver.status == CRASH
        crashes += 1
        site.account.end_drive()
        site.finish(expected)
    assert crashes > 100


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


def test_a_dead_driver_of_this_machine_is_noticed_at_once(open_store):
    """A run whose driver died here is ORPHANED and ready, although its lease has not ended.

    Its events end.
    """
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
    with Cancellation(timeout=DEADLINE):
        assert list(store.events("r")) == []  # nothing was committed
