"""WorkerPool does what CPython's tests require of ThreadPoolExecutor."""

import concurrent.futures
import subprocess
import sys
import threading
import traceback

import pytest

from asimov_sync import ClosedError
from asimov_sync.concurrency.pool import WorkerPool

from ..tiers import by_tier, suite
from ..waiting import wait_for


@pytest.fixture
def pool():
    with WorkerPool(2) as new_pool:
        yield new_pool


@pytest.fixture
def blocked():
    """Return a pool with one worker that is busy, its call, and the event that ends the call."""
    release, started = threading.Event(), threading.Event()

    def work():
        started.set()
        return release.wait(20)

    pool = WorkerPool(1)
    call = pool.submit(work)
    assert started.wait(20)
    yield pool, call, release
    release.set()
    pool.shutdown()


def test_hundreds_of_calls_all_finish(pool):
    """Each of many calls has its own result, in any order of execution."""
    count = by_tier(300, soak=20000)
    calls = [pool.submit(pow, number, 2) for number in range(count)]
    assert [call.result(20) for call in calls] == [number**2 for number in range(count)]
    assert pool.thread_count <= 2


def test_an_exception_keeps_its_traceback(pool):
    """The future raises the object that the call raised, with the frames of the call."""
    error = LookupError("missing")

    def look_up():
        raise error

    raised = pool.submit(look_up).exception(20)
    assert raised is error
    assert "look_up" in [frame.name for frame in traceback.extract_tb(raised.__traceback__)]


def test_a_worker_survives_any_exception():
    """SystemExit and KeyboardInterrupt of a call end up in its future; the worker continues."""
    with WorkerPool(1) as pool:
        for kind in (SystemExit, KeyboardInterrupt, GeneratorExit):

            def work(kind=kind):
                raise kind

            assert isinstance(pool.submit(work).exception(20), kind)
        assert pool.submit(int).result(20) == 0
        assert pool.thread_count == 1


def test_map_raises_at_the_failed_item(pool):
    """`map` yields the results in order and raises where a call failed."""
    quotients = pool.map(divmod, [5, 5, 5], [2, 3, 0])
    assert [next(quotients), next(quotients)] == [(2, 1), (1, 2)]
    with pytest.raises(ZeroDivisionError):
        next(quotients)


def test_map_has_a_time_limit(blocked):
    """`map` raises TimeoutError if a result is late."""
    pool, _, _ = blocked
    with pytest.raises(concurrent.futures.TimeoutError):
        list(pool.map(str, [1], timeout=0.01))


def test_a_queued_call_can_be_cancelled_and_a_running_one_cannot(blocked):
    """`Future.cancel` stops a call that waits for a worker, not one that has begun."""
    pool, running, release = blocked
    executed = []
    queued = pool.submit(executed.append, "queued")
    assert queued.cancel()
    assert not running.cancel()
    release.set()
    assert running.result(20) is True
    assert pool.submit(int).result(20) == 0
    assert queued.cancelled()
    assert executed == []


def test_shutdown_waits_for_queued_calls(blocked):
    """`shutdown()` returns when the running call and the queued calls have finished."""
    pool, running, release = blocked
    queued = [pool.submit(int, number) for number in range(10)]
    release.set()
    pool.shutdown()
    assert running.done()
    assert [call.result(0) for call in queued] == list(range(10))
    assert pool.thread_count == 0


def test_shutdown_without_waiting(blocked):
    """`shutdown(wait=False)` returns at once; the queued calls still run."""
    pool, running, release = blocked
    queued = pool.submit(int, 7)
    pool.shutdown(wait=False)
    assert not running.done()
    release.set()
    assert queued.result(20) == 7


def test_shutdown_can_cancel_queued_calls(blocked):
    """`shutdown(cancel_futures=True)` cancels what has not begun; the running call finishes."""
    pool, running, release = blocked
    queued = [pool.submit(int) for _ in range(10)]
    pool.shutdown(wait=False, cancel_futures=True)
    assert all(call.cancelled() for call in queued)
    release.set()
    assert running.result(20) is True


def test_no_call_is_accepted_after_shutdown(pool):
    """`submit` raises ClosedError after `shutdown`, which can be called twice."""
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(ClosedError):
        pool.submit(int)


def test_an_idle_worker_is_reused():
    """A pool that has an idle worker starts no other."""
    with WorkerPool(8) as pool:
        first = pool.submit(threading.get_ident).result(20)
        for _ in range(5):
            wait_for(lambda: pool.idle_count == 1)
            assert pool.submit(threading.get_ident).result(20) == first
        assert pool.thread_count == 1


def test_an_unused_pool_has_no_thread():
    """Threads start with the first call."""
    with WorkerPool(4) as pool:
        assert pool.thread_count == 0
        pool.submit(int).result(20)
        assert pool.thread_count == 1


@suite
def test_the_interpreter_does_not_wait_for_a_call():
    """A process ends while a call hangs: unlike ThreadPoolExecutor, the pool does not delay it."""
    code = (
        "import threading\n"
        "from asimov_sync.concurrency.pool import WorkerPool\n"
        "started = threading.Event()\n"
        "WorkerPool(1).submit(lambda: (started.set(), threading.Event().wait()))\n"
        "assert started.wait(20)\n"
        "print('end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=20
    )
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [b"end"], b"")
