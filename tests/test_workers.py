"""Workers: daemon threads, made when needed, gone when idle, replaced when stuck, new in a forked child."""

import concurrent.futures
import contextvars
import queue
import subprocess
import sys
import threading
import time

import pytest

from asimov_sync import WorkersClosed, workers
from asimov_sync.workers import Alarms, WorkerPool

from .tiers import suite
from .waiting import Background, in_child, wait_for

variable = contextvars.ContextVar("variable", default="default")


@pytest.fixture
def pool():
    with WorkerPool(2) as made:
        yield made


def test_it_is_an_executor(pool):
    """It is a ThreadPoolExecutor, whose futures, map and exceptions are what callers know."""
    assert isinstance(pool, concurrent.futures.ThreadPoolExecutor)
    assert list(pool.map(lambda number: number * 2, range(10))) == list(range(0, 20, 2))
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(5)
    assert pool.submit(dict, [("a", 1)], b=2).result(5) == {"a": 1, "b": 2}


def test_no_thread_before_the_first_call():
    """A pool that was made and not used has no thread."""
    before = threading.active_count()
    WorkerPool(4)
    assert threading.active_count() == before


def test_the_limit_holds(pool):
    """No more calls go on at once than there are workers, and all of them are made."""
    together, most = [], []
    lock = threading.Lock()

    def work():
        with lock:
            together.append(1)
            most.append(len(together))
        time.sleep(0.002)
        with lock:
            together.pop()

    concurrent.futures.wait([pool.submit(work) for _ in range(40)], timeout=20)
    assert len(most) == 40
    assert max(most) == 2


def test_without_a_limit_no_call_waits():
    """A pool without a limit has a thread for every call that goes on, and uses idle ones again."""
    with WorkerPool(None) as pool:
        meet = threading.Barrier(20)
        futures = [pool.submit(meet.wait, 10) for _ in range(20)]
        concurrent.futures.wait(futures, timeout=20)
        assert all(future.exception() is None for future in futures)
        wait_for(lambda: pool._idle == 20)
        pool.submit(int).result(5)
        assert pool._living == 20


def test_workers_leave_when_idle(monkeypatch):
    """Threads without work end, and come back when there is work again."""
    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.02)
    pool = WorkerPool(3)
    pool.submit(int).result(5)
    wait_for(lambda: pool._living == 0 and not pool._workers)
    assert pool.submit(int).result(5) == 0


@suite
def test_no_call_is_lost_when_workers_leave(monkeypatch):
    """A call that comes at the very moment when a worker leaves is made all the same."""
    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.001)
    pool = WorkerPool(2)
    for number in range(400):
        assert pool.submit(int, number).result(10) == number
        time.sleep(0.001 * (number % 3))


def test_the_context_is_copied(pool):
    """A call sees the context variables of its caller; what it sets, nobody else sees."""
    variable.set("caller")
    assert pool.submit(variable.get).result(5) == "caller"
    pool.submit(variable.set, "worker").result(5)
    assert variable.get() == "caller"
    assert pool.submit(variable.get).result(5) == "caller"


def test_the_job(pool):
    """A pool knows which call the calling thread is in, if it is one of its own threads."""
    assert pool.submit(lambda: pool.job is not None).result(5) is True
    assert pool.job is None
    with WorkerPool(1) as other:
        assert other.submit(lambda: pool.job).result(5) is None


def test_after_shutdown(pool):
    """A pool that was shut down takes no call; queued ones are cancelled where asked."""
    release = threading.Event()
    running = [pool.submit(release.wait, 10) for _ in range(2)]
    wait_for(lambda: all(future.running() for future in running))
    queued = pool.submit(int)
    pool.shutdown(wait=False, cancel_futures=True)
    assert queued.cancelled()
    with pytest.raises(WorkersClosed, match="closed"):
        pool.submit(int)
    release.set()
    assert [future.result(5) for future in running] == [True, True]


def test_a_stuck_worker_is_replaced():
    """The place of an abandoned worker goes to a fresh one, and its thread ends when its call does."""
    pool = WorkerPool(1)
    stuck, release = threading.Event(), threading.Event()
    jobs, idents = [], []

    def hang():
        jobs.append(pool.job)
        idents.append(threading.get_ident())
        stuck.set()
        release.wait(20)

    hanging = pool.submit(hang)
    assert stuck.wait(5)
    waiting = pool.submit(threading.get_ident)
    assert pool.busy(jobs[0])
    pool.abandon(jobs[0])
    assert pool.abandoned == 1
    assert waiting.result(5) != idents[0]
    release.set()
    hanging.result(5)
    wait_for(lambda: not pool.abandoned)
    assert pool._living == 1
    assert not pool.busy(jobs[0])
    pool.abandon(jobs[0])  # it came back
    assert pool._living == 1


def test_abandoned_workers_are_bounded(monkeypatch):
    """Beyond a number of stuck threads no more are given up, until one of them comes back."""
    monkeypatch.setattr(workers, "ABANDONED_LIMIT", 2)
    pool = WorkerPool(4)
    releases, jobs = [threading.Event() for _ in range(4)], {}

    def stuck(number):
        jobs[number] = pool.job
        releases[number].wait(20)

    futures = [pool.submit(stuck, number) for number in range(4)]
    wait_for(lambda: len(jobs) == 4)
    assert [pool.abandon(jobs[number]) for number in range(4)] == [True, True, False, False]
    assert pool.abandoned == 2
    assert pool.abandon(jobs[0]) and not pool.abandon(jobs[2])
    releases[0].set()
    wait_for(lambda: not pool.busy(jobs[0]))
    assert [pool.abandon(jobs[number]) for number in range(4)] == [False, True, True, False]
    for release in releases:
        release.set()
    concurrent.futures.wait(futures, timeout=10)


def test_a_hanging_call_does_not_hold_up_the_exit():
    """A process ends at once although a worker is in a call that never returns."""
    program = (
        "import threading, time\n"
        "from asimov_sync.workers import WorkerPool, alarms\n"
        "started = threading.Event()\n"
        "WorkerPool(1).submit(lambda: (started.set(), time.sleep(60)))\n"
        "alarms.call_at(time.monotonic() + 60, print)\n"
        "started.wait(10)\n"
    )
    start = time.monotonic()
    subprocess.check_call([sys.executable, "-c", program])
    assert time.monotonic() - start < 10


def test_a_forked_child_has_workers(pool):
    """A pool whose workers are busy or idle in the parent works in a forked child."""
    release = threading.Event()
    pool.submit(release.wait, 20)
    pool.submit(int).result(5)

    def use():
        assert sorted(pool.map(abs, range(5))) == list(range(5))

    in_child(use)
    release.set()


def test_alarms_go_off_in_order():
    """Alarms call at their moments, whatever order they were set in; one that was cancelled does not, and one that raises
    does not stop the others.
    """
    alarms, called, done = Alarms(), [], threading.Event()
    now = time.monotonic()
    alarms.call_at(now + 0.06, lambda: (called.append("last"), done.set()))
    alarms.call_at(now + 0.02, lambda: called.append("first"))
    alarms.call_at(now + 0.03, lambda: 1 / 0)
    alarms.call_at(now + 0.04, lambda: called.append("cancelled")).cancel()
    assert done.wait(10)
    assert called == ["first", "last"]
    assert time.monotonic() >= now + 0.06


def test_an_alarm_that_a_destructor_sets(monkeypatch):
    """The garbage collector may call a destructor while the thread is being started: its alarm goes off, too."""
    alarms, start, called = Alarms(), threading.Thread.start, queue.Queue()

    def starting(thread):
        if thread.name == "asimov-alarms":
            alarms.call_at(0.0, lambda: called.put("within"))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    Background(alarms.call_at, 0.0, lambda: called.put("the first")).result(10)
    assert {called.get(timeout=10), called.get(timeout=10)} == {"within", "the first"}


def test_alarms_are_set_again_after_a_failed_start(monkeypatch):
    """Where no thread could be started, the next alarm starts one, and those before it are not lost."""
    alarms, called = Alarms(), queue.Queue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
        with pytest.raises(RuntimeError):
            alarms.call_at(0.0, lambda: called.put("the first"))
    alarms.call_at(0.0, lambda: called.put("the second"))
    assert {called.get(timeout=10), called.get(timeout=10)} == {"the first", "the second"}


def test_alarms_work_in_a_forked_child():
    """A child that is forked while alarms are set can set its own."""
    alarms = Alarms()
    alarms.call_at(time.monotonic() + 60, print)

    def use():
        rung = threading.Event()
        alarms.call_at(time.monotonic() + 0.01, rung.set)
        assert rung.wait(5)

    in_child(use)


def test_nothing_silences_the_alarms():
    """An alarm that is infinitely far, or that raises SystemExit, leaves the others as they are."""
    alarms, rung = Alarms(), threading.Event()
    alarms.call_at(float("inf"), print)
    alarms.call_at(time.monotonic(), sys.exit)
    alarms.call_at(time.monotonic() + 0.01, rung.set)
    assert rung.wait(5)


def test_alarms_that_were_taken_back_are_let_go():
    """Thousands of alarms that are taken back before their time do not pile up."""
    import gc
    import weakref

    class Thing:
        def ring(self):
            """Never called."""

    alarms, things = Alarms(), []
    for _ in range(1000):
        thing = Thing()
        things.append(weakref.ref(thing))
        alarms.call_at(time.monotonic() + 1000, thing.ring).cancel()
    del thing
    gc.collect()
    assert not any(reference() for reference in things)


@suite
def test_an_interrupted_wake_up(monkeypatch):
    """What Ctrl-C leaves behind in the middle of waking a worker does not fail the jobs that come later."""
    monkeypatch.setattr(workers, "IDLE_SECONDS", 0.5)
    pool = WorkerPool(2)
    pool.submit(int).result(10)
    wait_for(lambda: pool._idle == 1 and len(pool._work._waiters) == 1)
    with pool._lock:
        pool._work._waiters[0].release()  # as a notify does first, before it takes the waiter out of its list
    wait_for(lambda: len(pool._work._waiters) == 2)  # the worker found no job, and waits again
    assert [pool.submit(int).result(10) for _ in range(3)] == [0, 0, 0]
    wait_for(lambda: pool._idle == 1 and len(pool._work._waiters) == 1)
    with pool._lock:
        pool._work._waiters[0].release()
    wait_for(lambda: len(pool._work._waiters) == 2)
    pool.shutdown()


def test_an_alarm_at_nan_is_refused():
    """NaN is no moment: call_at raises ValueError, and later alarms are called."""
    own, called = Alarms(), threading.Event()
    with pytest.raises(ValueError, match="not nan"):
        own.call_at(float("nan"), lambda: None)
    own.call_at(time.monotonic(), called.set)
    assert called.wait(20)
