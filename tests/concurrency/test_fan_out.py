"""fan_out: several calls at once, their events, cancellation and interruption."""

import contextlib
import functools
import queue
import threading
import time

import pytest

from asimov_sync import Cancellation, Cancelled, ClosedError
from asimov_sync.concurrency.fan_out import CallFinished, CallStarted, fan_out
from asimov_sync.concurrency.pool import WorkerPool
from asimov_sync.testing import count_callbacks

from ..waiting import Background, wait_for


@pytest.fixture
def pool():
    with WorkerPool(None) as new_pool:
        yield new_pool


def run(calls, pool, token=None, **options):
    return list(fan_out(calls, pool, token or Cancellation(parent=None), **options))


def test_each_call_starts_and_finishes(pool):
    """Each call has one CallStarted and then one CallFinished with its value."""
    events = run([functools.partial(int, number) for number in range(20)], pool)
    assert len(events) == 40
    for index in range(20):
        own = [event for event in events if event.index == index]
        assert own == [CallStarted(index), CallFinished(index, index)]
        assert own[1].result() == index


def test_no_calls():
    """Without calls there is no event and no thread."""
    pool = WorkerPool(None)
    assert run([], pool) == []
    assert pool.thread_count == 0


def test_calls_run_at_once(pool):
    """By default all calls run at once."""
    barrier = threading.Barrier(12)
    events = run([functools.partial(barrier.wait, 10)] * 12, pool)
    values = sorted(event.value for event in events if isinstance(event, CallFinished))
    assert values == list(range(12))


@pytest.mark.parametrize("max_workers", [1, 3, 50])
def test_max_workers(pool, max_workers):
    """At most max_workers calls run at once, and they start in order."""
    running, counts, lock = [], [], threading.Lock()

    def call():
        with lock:
            running.append(None)
            counts.append(len(running))
        time.sleep(0.002)
        with lock:
            running.pop()

    events = run([call] * 10, pool, max_workers=max_workers)
    assert max(counts) <= max_workers and len(counts) == 10
    if max_workers == 1:
        assert [event.index for event in events] == [number // 2 for number in range(20)]


def test_an_error_does_not_stop_the_others(pool):
    """An exception is the error of its own CallFinished; the other calls finish."""
    events = run([lambda: 1 / 0, lambda: "fine"], pool, max_workers=1)
    failed, fine = [event for event in events if isinstance(event, CallFinished)]
    assert isinstance(failed.error, ZeroDivisionError) and failed.value is None
    assert (fine.value, fine.error) == ("fine", None)
    with pytest.raises(ZeroDivisionError):
        failed.result()


def test_system_exit(pool):
    """SystemExit from a call is its error, and no further calls start on its worker."""
    token = Cancellation(parent=None)
    called = []

    def leave():
        raise SystemExit(3)

    events = fan_out([leave, lambda: called.append(1)], pool, token, max_workers=1)
    assert next(events) == CallStarted(0)
    finished = next(events)
    assert isinstance(finished.error, SystemExit)
    events.close()
    assert token.cancelled and not called


def hanging(count, token, started):
    """Return calls that wait for the token."""

    def call():
        started.put(None)
        return token.wait(20)

    return [call] * count


def test_a_cancellation_ends_the_wait(pool):
    """Cancelling the token's parent ends the wait at once; calls that have not started never
    run.
    """
    parent = Cancellation(parent=None)
    token, started = Cancellation(parent=parent), queue.SimpleQueue()
    calls = hanging(5, token, started)
    waiting = Background(run, calls, pool, token, max_workers=2)
    for _ in range(2):
        started.get(timeout=10)
    parent.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        waiting.result()
    wait_for(lambda: not pool.running_count)
    assert started.empty()


def test_a_call_that_ignores_its_cancellation_is_not_waited_for(pool):
    """The caller returns although a call still runs."""
    token, release, started = Cancellation(parent=None), threading.Event(), queue.SimpleQueue()

    def ignore():
        started.put(None)
        release.wait(20)

    waiting = Background(run, [ignore], pool, token)
    started.get(timeout=10)
    token.cancel("enough")
    with pytest.raises(Cancelled, match="enough"):
        waiting.result()
    assert pool.running_count == 1
    release.set()


def test_a_deadline_ends_the_wait(pool):
    """The deadline of the token ends the wait, although a deadline calls no callback."""
    token, started = Cancellation(timeout=0.05, parent=None), queue.SimpleQueue()
    start = time.monotonic()
    with pytest.raises(Cancelled, match="deadline"):
        run(hanging(2, token, started), pool, token)
    assert time.monotonic() - start < 10


def test_a_call_may_cancel(pool):
    """A call that cancels the token ends the wait for the others."""
    token = Cancellation(parent=None)

    def stop():
        token.cancel("stopped by a call")
        time.sleep(20)

    with pytest.raises(Cancelled, match="stopped by a call"):
        Background(run, [stop, int, int], WorkerPool(None), token, max_workers=2).result()


def test_a_reader_that_closes_cancels(pool):
    """Closing the generator cancels the token, so that the running calls end."""
    token, started = Cancellation(parent=None), queue.SimpleQueue()
    with contextlib.closing(fan_out(hanging(3, token, started), pool, token)) as events:
        assert next(events) == CallStarted(0)
    assert token.reason == "interrupted by GeneratorExit"
    wait_for(lambda: not pool.running_count)


def test_ctrl_c_cancels(pool, monkeypatch):
    """An exception inside the wait, such as KeyboardInterrupt, cancels the token and is raised."""
    token, started = Cancellation(parent=None), queue.SimpleQueue()
    events = fan_out(hanging(1, token, started), pool, token)
    assert next(events) == CallStarted(0)
    with pytest.raises(KeyboardInterrupt):
        events.throw(KeyboardInterrupt())
    assert token.reason == "interrupted by KeyboardInterrupt"
    wait_for(lambda: not pool.running_count)


def test_a_closed_pool(pool):
    """A pool that accepts no calls raises ClosedError, and the token is cancelled."""
    token = Cancellation(parent=None)
    closed = WorkerPool(None)
    closed.shutdown()
    with pytest.raises(ClosedError):
        run([int], closed, token)
    assert token.reason == "interrupted by ClosedError"


def test_no_callback_remains(pool):
    """After the last event no callback is registered."""
    token = Cancellation(parent=None)
    run([int] * 3, pool, token)
    assert not count_callbacks(token) and not token.cancelled


def test_calls_run_in_the_callers_context(pool):
    """A call sees the current token of the caller."""
    with Cancellation(parent=None) as current:
        finished = run([Cancellation.current], pool)[-1]
    assert finished.value is current
