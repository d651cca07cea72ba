"""Celery tasks run and continue durable runs: real workers (prefork) and a real Redis server."""

import importlib
import json
import os
import random
import signal
import sys
import time

import pytest
import redis
from celery import Celery
from celery.exceptions import Retry, TimeLimitExceeded

from asimov_sync import (
    CacheUnavailable,
    MemoryCache,
    RedisCache,
    RunInProgress,
    RunStatus,
    RunStore,
    TaskGraph,
    TaskScheduler,
)
from asimov_sync.integrations.celery import register_tasks

from ..redis_server import RedisServer, require_server
from ..tiers import by_tier
from ..waiting import wait_for
from .queue_workers import (
    WORKER_DEADLINE,
    finished_tasks,
    statuses,
    wait_held,
    wait_long,
    worker_starter,
)

PROCESSES = 3
ENDED = (RunStatus.COMPLETE, RunStatus.PARTIAL, RunStatus.FAILED, RunStatus.CANCELLED)
WORKER = ["-m", "celery", "-A", "tests.engines.celery_app", "worker", "-l", "INFO"]
WORKER += ["-c", str(PROCESSES), "--without-gossip", "--without-mingle", "--without-heartbeat"]


@pytest.fixture(scope="module")
def app(flows):
    """The module of the app."""
    yield importlib.import_module("tests.engines.celery_app")
    sys.modules.pop("tests.engines.celery_app")


@pytest.fixture(scope="module")
def start_worker(app, worker_log):
    """A function that starts a worker. The workers are killed at the end of the module."""
    with worker_starter(WORKER, worker_log) as start:
        yield start


def get(result):
    """Return the result of a Celery task."""
    return result.get(timeout=WORKER_DEADLINE, interval=0.02)


def restart(worker, start_worker):
    """Kill a worker with its processes, and start another one."""
    assert worker.kill()
    with redis.Redis.from_url(os.environ["ASIMOV_TEST_QUEUE_SERVER"]) as server:
        # Its processes share the connection that receives messages: the last one closes it.
        wait_for(
            lambda: "brpop" not in [one["cmd"] for one in server.client_list()],
            "the end of the worker's connection",
        )
    start_worker.current = start_worker()


def outcome(run_id, status="complete", reason=None, waiting=None):
    """Return what the task of a run returns."""
    return {"run_id": run_id, "status": status, "reason": reason, "waiting": waiting or {}}


def test_a_run_on_a_worker(app, flows, worker):
    """A scheduler made and used before the fork works in each process of the worker.

    The result is JSON; the results of the tasks are in the store.
    """
    runs = [app.tasks.run.delay(f"run-{n}", "parts", {"parts": 2}) for n in range(6)]
    assert [get(run) for run in runs] == [outcome(f"run-{n}") for n in range(6)]
    assert flows.store.result("run-5").results["part-1"] == "run-5 part-1"
    assert os.getpid() not in flows.traces("start")
    again = app.tasks.run.delay("run-5")
    assert get(again)["status"] == "complete"
    assert len(flows.traces("start", "run-5")) == 2  # the stored result was returned


def test_tags_and_failures(app, flows, worker):
    """Tags are stored with the run. A run that fails is a result, not an error of the task."""
    run = app.tasks.run.delay("fails", "single", {"type": "break"}, {"tenant": "7"})
    assert get(run) == outcome("fails", "failed")
    assert flows.store.get("fails").tags == {"tenant": "7"}


def test_a_run_that_cannot_be_run(app, worker):
    """An unknown run is an error of the task, and so is an unknown flow."""
    with pytest.raises(KeyError, match="there is no stored run 'absent'"):
        get(app.tasks.run.delay("absent"))
    with pytest.raises(Exception, match="no flow named 'absent'"):
        get(app.tasks.run.delay("run-x", "absent"))


def test_a_parked_run_ends_its_task(app, flows, worker):
    """A run that waits for people ends its task; when it was answered, continue_ready runs it."""
    parked = app.tasks.run.delay("parked", "single", {"type": "ask"})
    assert get(parked) == outcome("parked", "waiting", waiting={"only": ["agreed"]})
    assert get(app.tasks.continue_ready.delay()) == []
    assert flows.store.answer("parked", "agreed", True)
    assert get(app.tasks.continue_ready.delay()) == ["parked"]
    wait_for(lambda: flows.store.get("parked").status is RunStatus.COMPLETE, "the end of the run")
    assert flows.store.result("parked").results == {"only": True}


def test_ready_runs_of_another_scheduler(monkeypatch):
    """continue_ready finds its runs behind any number of ready runs of flows that it has not."""
    monkeypatch.setattr("asimov_sync.integrations.celery.READY_LIMIT", 2)
    store = RunStore(MemoryCache())
    other, own = TaskScheduler(runs=store), TaskScheduler(runs=store)
    other.flow("other")(TaskGraph)
    own.flow("own")(TaskGraph)
    for number in range(9):
        other.enqueue("other", run_id=f"other-{number}")
    for number in range(3):
        own.enqueue("own", run_id=f"own-{number}")
    tasks = register_tasks(Celery("own", broker="memory://"), own)
    assert len(tasks.continue_ready()) == 2


def test_soft_time_limit(app, flows, worker):
    """The soft time limit interrupts the run, and the retry continues it where it was."""
    run = app.tasks.run.apply_async(("soft", "held"), soft_time_limit=1)
    wait_held(flows, "soft", times=2)
    flows.release("soft")
    assert get(run)["status"] == "complete"
    assert len(flows.traces("start", "soft", "first")) == 1
    assert len(flows.traces("start", "soft", "second")) >= 2
    assert statuses(flows, "soft")[:1] == ["interrupted"]
    assert finished_tasks(flows, "soft") == ["first", "second"]


def test_hard_time_limit(app, flows, worker):
    """The hard time limit kills the process, and continue_ready runs the run."""
    run = app.tasks.run.apply_async(("hard", "held"), time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        get(run)
    wait_long(lambda: [one.run_id for one in flows.store.ready()] == ["hard"], "a ready run")
    assert get(app.tasks.continue_ready.delay()) == ["hard"]
    wait_held(flows, "hard", times=2)
    flows.release("hard")
    wait_for(lambda: flows.store.get("hard").status is RunStatus.COMPLETE, "the end of the run")


def test_a_lost_process(app, flows, worker):
    """The message of a process that was killed is delivered again, and the run continues."""
    run = app.tasks.run.delay("lost", "held")
    os.kill(wait_held(flows, "lost"), signal.SIGKILL)
    wait_held(flows, "lost", times=2)
    flows.release("lost")
    assert get(run)["status"] == "complete"
    first, second = flows.traces("start", "lost", "second")
    assert first != second
    assert len(flows.traces("start", "lost", "first")) == 1
    assert finished_tasks(flows, "lost") == ["first", "second"]


def test_a_run_that_another_process_drives(app, flows, worker):
    """The task is tried again until the driver has ended, and then has the stored result."""
    with flows.scheduler.stream("held", run_id="driven") as events:
        next(events)
        run = app.tasks.run.delay("driven", "held")
        wait_long(lambda: (run.retries or 0) > 4, "the fifth retry of the task")  # the default is 3
        assert isinstance(run.result, RunInProgress)
        flows.release("driven")
        list(events)
    assert get(run)["status"] == "complete"
    assert set(flows.traces("end", "driven")) == {os.getpid()}


def test_revoke(app, flows, worker):
    """A revoked task interrupts its run, which continue_ready continues. `cancel` ends it."""
    run = app.tasks.run.delay("revoked", "held")
    wait_held(flows, "revoked")
    run.revoke(terminate=True)
    wait_long(
        lambda: [record.run_id for record in flows.store.ready()] == ["revoked"], "a ready run"
    )
    wait_long(lambda: run.state == "REVOKED", "the end of the task")
    assert get(app.tasks.continue_ready.delay()) == ["revoked"]
    wait_held(flows, "revoked", times=2)
    assert flows.store.cancel("revoked")
    wait_long(lambda: statuses(flows, "revoked")[-1:] == ["cancelled"], "the end of the run")
    assert get(app.tasks.run.delay("revoked")) == outcome("revoked", "partial", "cancelled")
    assert get(app.tasks.continue_ready.delay()) == []


def test_a_lost_worker(app, flows, worker, start_worker):
    """When a worker and its processes are killed, continue_ready runs what they drove at once.

    The message of the lost worker is delivered again later, and has the stored result.
    """
    run = app.tasks.run.delay("stranded", "held")
    lost = wait_held(flows, "stranded")
    restart(worker, start_worker)
    assert get(app.tasks.continue_ready.delay()) == ["stranded"]
    assert wait_held(flows, "stranded", times=2) != lost
    assert run.state != "SUCCESS"
    flows.release("stranded")
    wait_for(lambda: flows.store.get("stranded").status is RunStatus.COMPLETE, "the end of the run")
    assert get(run)["status"] == "complete"
    assert finished_tasks(flows, "stranded") == ["first", "second"]


def test_processes_killed_at_random(app, flows, worker, start_worker):
    """Processes are killed while they run tasks: each run ends once, each outcome is stored once.

    Each fifth time, the whole worker is killed. A task is run again only if its process was killed.
    """
    count, kills = by_tier(10, soak=100), by_tier(5, soak=60)
    chance = random.Random(7)
    names = [f"many-{number}" for number in range(count)]
    for name in names:
        assert flows.scheduler.enqueue("parts", args={"seconds": 0.1}, run_id=name)
        app.tasks.run.delay(name)
    killed, dead = set(), set()
    while len(killed) < kills:
        assert not all(flows.store.get(name).status in ENDED for name in names)
        held = [call for call in sorted(flows.held("many-")) if call.pid not in dead]
        victim = chance.choice(held or [None])
        if victim is None:
            time.sleep(0.01)
            continue
        if len(killed) % 5 == 4:
            restart(start_worker.current, start_worker)
            dead.update(flows.traces("start"))
            app.tasks.continue_ready()
        else:
            os.kill(victim.pid, signal.SIGKILL)
            dead.add(victim.pid)
        if victim in flows.held("many-"):  # its last line was not written before the signal
            killed.add(victim)
        time.sleep(chance.random() * 0.3)
    start = time.monotonic()
    while not all(flows.store.get(name).status in ENDED for name in names):
        assert time.monotonic() < start + 4 * WORKER_DEADLINE, "the runs do not end"
        app.tasks.continue_ready()
        time.sleep(0.5)
    for name in names:
        parts = [f"part-{number}" for number in range(flows.PARTS)]
        assert flows.store.result(name).results == {part: f"{name} {part}" for part in parts}
        assert finished_tasks(flows, name) == parts
        assert statuses(flows, name) == ["complete"]
        for part in parts:
            assert set(flows.traces("start", name, part)[:-1]) <= dead


def test_a_warm_shutdown(app, flows, worker, start_worker):
    """A worker that is asked to end waits for its run."""
    run = app.tasks.run.delay("last", "held")
    wait_held(flows, "last")
    worker = start_worker.current
    worker.send_signal(signal.SIGTERM)
    flows.release("last")
    assert worker.wait() == 0
    assert get(run) == outcome("last")
    assert statuses(flows, "last") == ["complete"]
    start_worker.current = None


def test_messages(app, flows):
    """Messages are JSON, those of continue_ready expire, and a value that is not JSON is refused.

    Nothing consumes the queue of this test.
    """
    with pytest.raises(Exception, match="not JSON serializable"):
        app.tasks.run.delay("refused", "parts", {"parts": object()})
    flows.scheduler.run("single", args={"type": "ask"}, run_id="asked")
    flows.store.answer("asked", "agreed", True)
    app.app.conf.task_default_queue = "unread"
    try:
        assert app.tasks.continue_ready() == ["asked"]
    finally:
        app.app.conf.task_default_queue = "celery"
    with redis.Redis.from_url(os.environ[flows.SERVER]) as server:
        (message,) = [json.loads(one) for one in server.lrange("unread", 0, -1)]
    assert message["content-type"] == "application/json"
    assert message["headers"]["expires"] is not None


def test_a_store_that_does_not_answer(tmp_path):
    """The task is tried again, ten seconds later, however often it was tried before."""
    with RedisServer(require_server(), str(tmp_path)) as server:
        runs = RunStore(RedisCache(url=server.url))
    app = Celery("down", broker="memory://")
    task = register_tasks(app, TaskScheduler(runs=runs)).run
    task.push_request(id="1", args=("run-1",), called_directly=False, retries=100)
    with pytest.raises(Retry) as retry:
        task.run("run-1")
    assert isinstance(retry.value.exc, CacheUnavailable)
    assert retry.value.when == 10


def test_the_schedule(app):
    """Celery beat calls continue_ready; without a store there is nothing to register."""
    entry = app.app.conf.beat_schedule["asimov_sync.continue_ready"]
    assert (entry["task"], entry["schedule"]) == ("asimov_sync.continue_ready", app.EVERY)
    with pytest.raises(ValueError, match="needs a store"):
        register_tasks(app.app, TaskScheduler())
    other = TaskScheduler(runs=RunStore(MemoryCache()))
    tasks = register_tasks(app.app, other, prefix="other", soft_time_limit=300)
    assert (tasks.run.name, tasks.run.soft_time_limit) == ("other.run", 300)
