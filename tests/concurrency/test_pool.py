"""WorkerPool: daemon threads on demand, replaced when stuck, usable after a fork."""

import concurrent.futures
import contextvars
import subprocess
import sys
import threading
import time

import pytest

from asimov_sync import ClosedError
from asimov_sync.concurrency import pool as pool_module
from asimov_sync.concurrency.pool import WorkerPool

from ..tiers import suite
from ..tracing import around_builtin
from ..waiting import in_child, wait_for

variable = contextvars.ContextVar("variable", default="default")


@pytest.fixture
def pool():
    with WorkerPool(2) as new_pool:
        yield new_pool


def test_a_pool_is_an_executor(pool):
    """A pool is a concurrent.futures.Executor with its futures, `map` and exceptions."""
    assert isinstance(pool, concurrent.futures.Executor)
    assert isinstance(pool.submit(int), concurrent.futures.Future)
    assert list(pool.map(lambda number: number * 2, range(10))) == list(range(0, 20, 2))
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(5)
    assert pool.submit(dict, [("a", 1)], b=2).result(5) == {"a": 1, "b": 2}


def test_no_thread_before_the_first_call():
    """An unused pool has no thread."""
    before = set(threading.enumerate())  # some of other tests, which may end meanwhile
    WorkerPool(4)
    assert set(threading.enumerate()) <= before


def test_the_limit_holds(pool):
    """At most max_workers calls run at once, and all of them run."""
    running, counts = [], []
    lock = threading.Lock()

    def work():
        with lock:
            running.append(1)
            counts.append(len(running))
        time.sleep(0.002)
        with lock:
            running.pop()

    concurrent.futures.wait([pool.submit(work) for _ in range(40)], timeout=20)
    assert len(counts) == 40
    assert max(counts) == 2


def test_no_call_waits_without_a_limit():
    """A pool without a limit runs all calls at once and reuses idle threads."""
    with WorkerPool(None) as pool:
        barrier = threading.Barrier(20)
        futures = [pool.submit(barrier.wait, 10) for _ in range(20)]
        concurrent.futures.wait(futures, timeout=20)
        assert all(future.exception() is None for future in futures)
        wait_for(lambda: pool.idle_count == 20)
        pool.submit(int).result(5)
        assert pool.thread_count == 20


def test_idle_workers_end(monkeypatch):
    """Threads without work end, and new ones start with new work."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.02)
    pool = WorkerPool(3)
    thread = pool.submit(threading.current_thread).result(5)
    wait_for(lambda: pool.thread_count == 0 and not thread.is_alive())
    assert pool.submit(int).result(5) == 0


@suite
def test_no_call_is_lost_when_workers_end(monkeypatch):
    """A call that is submitted while the last worker ends is executed."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.001)
    pool = WorkerPool(2)
    for number in range(400):
        assert pool.submit(int, number).result(10) == number
        time.sleep(0.001 * (number % 3))


def test_a_call_runs_in_a_copy_of_its_callers_context(pool):
    """A call sees the context variables of its caller. What it sets is not visible elsewhere."""
    variable.set("caller")
    assert pool.submit(variable.get).result(5) == "caller"
    pool.submit(variable.set, "worker").result(5)
    assert variable.get() == "caller"
    assert pool.submit(variable.get).result(5) == "caller"


def test_current_job(pool):
    """current_job is set on the pool's own threads only."""
    assert pool.submit(lambda: pool.current_job is not None).result(5) is True
    assert pool.current_job is None
    with WorkerPool(1) as other:
        assert other.submit(lambda: pool.current_job).result(5) is None


def test_shutdown():
    """After shutdown, submit raises ClosedError. cancel_futures cancels the queued calls."""
    pool = WorkerPool(2)
    release = threading.Event()
    running = [pool.submit(release.wait, 10) for _ in range(2)]
    wait_for(lambda: all(future.running() for future in running))
    queued = pool.submit(int)
    assert pool.has_backlog
    pool.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    with pytest.raises(ClosedError, match="closed"):
        pool.submit(int)
    release.set()
    assert [future.result(5) for future in running] == [True, True]


def test_shutdown_waits_for_queued_calls():
    """By default shutdown runs the queued calls and waits for the workers."""
    pool = WorkerPool(1)
    futures = [pool.submit(time.sleep, 0.01) for _ in range(3)]
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert not pool.running_count and not pool.thread_count


def test_a_stuck_worker_is_replaced():
    """A new worker takes the slot of an abandoned one, whose thread ends with its call."""
    pool = WorkerPool(1)
    stuck, release = threading.Event(), threading.Event()
    jobs, idents = [], []

    def hang():
        jobs.append(pool.current_job)
        idents.append(threading.get_ident())
        stuck.set()
        release.wait(20)

    hanging = pool.submit(hang)
    assert stuck.wait(5)
    waiting = pool.submit(threading.get_ident)
    assert pool.is_running(jobs[0])
    pool.abandon(jobs[0])
    assert pool.abandoned == 1
    assert waiting.result(5) != idents[0]
    release.set()
    hanging.result(5)
    wait_for(lambda: not pool.abandoned)
    assert pool.thread_count == 1
    assert not pool.is_running(jobs[0])
    pool.abandon(jobs[0])  # it has finished
    assert pool.thread_count == 1


def test_abandoned_workers_are_limited(monkeypatch):
    """Beyond the limit no worker is abandoned until another one finishes."""
    monkeypatch.setattr(pool_module, "ABANDONED_LIMIT", 2)
    pool = WorkerPool(4)
    releases, jobs = [threading.Event() for _ in range(4)], {}

    def stuck(number):
        jobs[number] = pool.current_job
        releases[number].wait(20)

    futures = [pool.submit(stuck, number) for number in range(4)]
    wait_for(lambda: len(jobs) == 4)
    assert [pool.abandon(jobs[number]) for number in range(4)] == [True, True, False, False]
    assert pool.abandoned == 2
    assert pool.abandon(jobs[0]) and not pool.abandon(jobs[2])
    releases[0].set()
    wait_for(lambda: not pool.is_running(jobs[0]))
    assert [pool.abandon(jobs[number]) for number in range(4)] == [False, True, True, False]
    for release in releases:
        release.set()
    concurrent.futures.wait(futures, timeout=10)


def test_yield_slot_prevents_a_deadlock():
    """The only worker of a pool can wait for another job of it. Afterwards there is one worker
    again."""
    with WorkerPool(1) as pool:

        def outer():
            with pool.yield_slot(pool.current_job):
                return pool.submit(threading.get_ident).result(10)

        inner_ident = pool.submit(outer).result(10)
        assert inner_ident != threading.get_ident()
        wait_for(lambda: not pool.running_count and pool.thread_count == 1)


def test_a_hanging_call_does_not_delay_the_exit():
    """A process ends at once although a worker is in a call that never returns."""
    program = (
        "import threading, time\n"
        "from asimov_sync.concurrency.pool import WorkerPool\n"
        "from asimov_sync.concurrency.timers import timers\n"
        "started = threading.Event()\n"
        "WorkerPool(1).submit(lambda: (started.set(), time.sleep(60)))\n"
        "timers.call_at(time.monotonic() + 60, print)\n"
        "started.wait(10)\n"
    )
    start = time.monotonic()
    subprocess.check_call([sys.executable, "-c", program])
    assert time.monotonic() - start < 10


def test_a_pool_works_in_a_forked_child(pool):
    """A pool whose workers are busy or idle in the parent works in a forked child."""
    release = threading.Event()
    pool.submit(release.wait, 20)
    pool.submit(int).result(5)

    def use():
        assert sorted(pool.map(abs, range(5))) == list(range(5))

    in_child(use)
    release.set()


@suite
def test_an_interrupted_notify_fails_no_later_job(monkeypatch):
    """Ctrl-C in the middle of `notify` fails neither later jobs nor the shutdown."""
    monkeypatch.setattr(pool_module, "IDLE_SECONDS", 0.5)
    pool, executed = WorkerPool(2), []

    def interrupt():
        raise KeyboardInterrupt

    def submit_interrupted():
        pool.submit(int).result(10)
        wait_for(lambda: pool.idle_count == pool.thread_count == 1)
        with pytest.raises(KeyboardInterrupt):
            with around_builtin(threading.Condition.notify, "release", after=interrupt):
                pool.submit(executed.append, 1)
        wait_for(lambda: executed and pool.idle_count == pool.thread_count == 1)
        executed.clear()

    submit_interrupted()
    assert [pool.submit(int).result(10) for _ in range(3)] == [0, 0, 0]
    submit_interrupted()
    pool.shutdown()


FORKING_HANDLER = """
import os
from asimov_sync import Task, TaskGraph, TaskScheduler

children = []

def fork(task, context):
    children.append(os.fork())

graph = TaskGraph()
graph.add(Task(type="fork"), name="fork")
print(TaskScheduler({"fork": fork}).run(graph).status.name, flush=True)
print(os.waitpid(children[0], 0)[1])
"""


def test_a_handler_that_forks():
    """If a handler forks and its child returns from it, too, the child ends quietly: status 0, no
    traceback."""
    completed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING_HANDLER],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert (completed.stdout, completed.stderr) == ("COMPLETE\n0\n", "")


AT_EXIT = """
import atexit
from asimov_sync import ClosedError, Task, TaskGraph, TaskScheduler

def run(**options):
    graph = TaskGraph()
    graph.add(Task(type="t"), name="t")
    try:
        print(scheduler.run(graph, **options).status.name)
    except ClosedError as error:
        print("ClosedError" if "before the main thread ends" in str(error) else error)

scheduler = TaskScheduler({"t": lambda task, context: None})
atexit.register(run)
atexit.register(run, timeout=5)
"""


def test_after_the_main_thread():
    """A run raises ClosedError if no thread starts any more. Before Python 3.12, it works."""
    output = subprocess.check_output(
        [sys.executable, "-c", AT_EXIT], universal_newlines=True, timeout=60
    )
    assert output in ("COMPLETE\n" * 2, "ClosedError\n" * 2)
    if sys.version_info[:2] == (3, 12):
        assert output == "ClosedError\n" * 2
