"""Drivers that crash at each write in turn: the next driver ends the run as if nothing happened."""

import collections
import json
import os
import random

import pytest

from asimov_sync import RedisCache, RunStore, SQLiteCache, TaskGraph, TaskScheduler

from ..tiers import by_tier, soak, suite
from .drivers import CRASH, RUN_ID, Driver, crash_at, drive, tokens

pytestmark = suite

LEASE = 600.0
"""Longer than any test: the next driver must not wait for the end of the lease."""

WORKERS = 4


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=soak)])
def open_cache(request, unique, tmp_path):
    """Opens the cache; each process calls it for itself."""
    if request.param == "redis":
        url = request.getfixturevalue("redis_url")
        return lambda run=0: RedisCache(url=url, default_prefix=f"{unique}-{run}")
    return lambda run=0: SQLiteCache(
        tmp_path / "runs.db", default_prefix=f"run-{run}", synchronous="normal"
    )


def effects_of(path):
    """Return how often each effect happened, by its key and attempt."""
    return collections.Counter(path.read_text().splitlines())


def check_effects(effects, expected, crashes):
    """Check that effects were repeated only for the tasks that the crashes hit."""
    assert effects.keys() == expected.keys()
    repeated = effects - expected
    visits = {tuple(key.split(" ")[0].split("/")[1:3]) for key in repeated}
    assert len(visits) <= crashes
    assert all(count <= crashes for count in repeated.values())


@pytest.fixture
def undisturbed(open_cache, tmp_path):
    """The outcome of a run that nothing disturbs, and its effects."""
    path = tmp_path / "undisturbed"
    outcome = Driver(drive, lambda: open_cache("undisturbed"), path).result()
    return outcome, effects_of(path)


@pytest.mark.parametrize(
    "after", [pytest.param(False, id="before"), pytest.param(True, id="after", marks=soak)]
)
def test_a_crash_at_each_write(open_cache, undisturbed, tmp_path, after):
    """A driver crashes before or after its n-th write; another process ends the run."""
    expected, expected_effects = undisturbed
    number, crashes = 1, 0
    while True:
        path = tmp_path / f"effects-{number}"
        options = {"lease": LEASE}

        def reopen():
            return open_cache(number)

        crashing = Driver(drive, reopen, path, crash_at(number, after), 0, "Ann", options)
        status = crashing.wait()
        if status == 0:
            break
        assert status == CRASH
        crashes += 1
        assert Driver(drive, reopen, path, None, 0, "Ann", options).result() == expected
        check_effects(effects_of(path), expected_effects, crashes=1)
        number += by_tier(13, soak=1)
    assert crashes >= by_tier(3, soak=35)


def test_a_crash_after_each_few_outcomes(open_cache, undisturbed, tmp_path):
    """Each driver crashes after it has written an outcome or a few; together they end the run."""
    expected, expected_effects = undisturbed
    path, crashes = tmp_path / "effects", 0
    while True:
        # It claims the run, from a driver that is found to be dead, and notes that it started.
        driver = Driver(
            drive, open_cache, path, crash_at(by_tier(9, soak=4), True), 0, "Ann", {"lease": LEASE}
        )
        status = driver.wait()
        if status == 0:
            break
        assert status == CRASH
        crashes += 1
    assert crashes >= by_tier(4, soak=20)
    assert Driver(drive, open_cache, path).result() == expected
    check_effects(effects_of(path), expected_effects, crashes)
    with open_cache() as cache:
        assert tokens(RunStore(cache).get(RUN_ID).usage) == expected["usage"]


def drive_steps(open_cache, crashes):
    """Run a task of some steps, which crashes before it ends, or not."""

    def work(task, context):
        for number in range(10):
            context.report(number / 10, "on the way")
            context.step(f"step {number}", str, number)
        if crashes:
            os._exit(CRASH)

    graph = TaskGraph()
    graph.add(work, name="a")
    with TaskScheduler(max_workers=0, runs=RunStore(open_cache())) as scheduler:
        scheduler.run(graph, run_id=RUN_ID)


def test_the_log_after_a_crash_without_an_outcome(open_cache):
    """Events of a drive that ended no task use up their numbers; those of the next one follow."""
    assert Driver(drive_steps, open_cache, True).wait() == CRASH
    with open_cache() as cache:
        store = RunStore(cache)
        events = list(store.events(RUN_ID))
        assert len(events) > 5
        Driver(drive_steps, open_cache, False).result()
        more = list(store.events(RUN_ID, after=events[-1]["sequence"]))
    kinds = [event["type"] for event in more]
    assert kinds[:2] == ["run_started", "task_started"]
    assert kinds[-2:] == ["task_finished", "run_finished"]


def test_random_crashes_on_threads(open_cache, undisturbed, tmp_path):
    """Drivers with four threads crash at random writes; each run ends as if nothing happened."""
    expected, expected_effects = undisturbed
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    options = {"lease": LEASE, "max_recoveries": 1000}
    total = 0
    for number in range(by_tier(2, soak=100)):
        path, crashes = tmp_path / f"effects-{number}", 0

        def reopen():
            return open_cache(f"random-{number}")

        while True:
            on_call = crash_at(chance.randrange(4, 25), chance.random() < 0.5)
            driver = Driver(drive, reopen, path, on_call, WORKERS, "Ann", options)
            if driver.wait() == 0:
                break
            assert driver.status == CRASH
            crashes += 1
        assert json.loads(driver.reply.decode()) == expected
        check_effects(effects_of(path), expected_effects, WORKERS * crashes)
        total += crashes
    assert total >= by_tier(1, soak=100)
