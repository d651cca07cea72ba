"""Timers: calls at given times, in order, that survive failures, destructors and forks."""

import gc
import queue
import sys
import threading
import time
import weakref

import pytest

from asimov_sync.concurrency.timers import TimerThread

from ..waiting import Background, in_child, wait_for


def test_timers_fire_in_order():
    """Timers fire at their times in any order of creation. Cancelled ones do not fire, and one that
    raises stops no other."""
    timers, called, done = TimerThread(), [], threading.Event()
    now = time.monotonic()
    timers.call_at(now + 0.06, lambda: (called.append("last"), done.set()))
    timers.call_at(now + 0.02, lambda: called.append("first"))
    timers.call_at(now + 0.03, lambda: 1 / 0)
    timers.call_at(now + 0.04, lambda: called.append("cancelled")).cancel()
    assert done.wait(10)
    assert called == ["first", "last"]
    assert time.monotonic() >= now + 0.06


def test_the_timer_thread_knows_itself():
    """on_timer_thread is True in a timer's function and False elsewhere, also on another timer
    thread."""
    timers, other, seen = TimerThread(), TimerThread(), queue.Queue()
    timers.call_at(0.0, lambda: seen.put((timers.on_timer_thread, other.on_timer_thread)))
    assert seen.get(timeout=10) == (True, False)
    assert not timers.on_timer_thread


def test_a_destructor_may_set_a_timer(monkeypatch):
    """A timer that is set while the thread is being started, as by a destructor, fires."""
    timers, start, called = TimerThread(), threading.Thread.start, queue.Queue()

    def starting(thread):
        if thread.name == "asimov-timers":
            timers.call_at(0.0, lambda: called.put("inner"))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    Background(timers.call_at, 0.0, lambda: called.put("outer")).result(10)
    assert {called.get(timeout=10), called.get(timeout=10)} == {"inner", "outer"}


def test_a_failed_start_is_repeated(monkeypatch):
    """If no thread can be started, the next timer starts one, and earlier timers fire."""
    timers, called = TimerThread(), queue.Queue()

    def fail(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError):
            timers.call_at(0.0, lambda: called.put("first"))
    timers.call_at(0.0, lambda: called.put("second"))
    assert {called.get(timeout=10), called.get(timeout=10)} == {"first", "second"}


def test_timers_work_in_a_forked_child():
    """A child that is forked while timers are set can set its own."""
    timers = TimerThread()
    timers.call_at(time.monotonic() + 60, print)

    def use():
        fired = threading.Event()
        timers.call_at(time.monotonic() + 0.01, fired.set)
        assert fired.wait(5)

    in_child(use)


def test_other_timers_survive():
    """A timer at infinity and one that raises SystemExit do not affect others."""
    timers, fired = TimerThread(), threading.Event()
    timers.call_at(float("inf"), print)
    timers.call_at(time.monotonic(), sys.exit)
    timers.call_at(time.monotonic() + 0.01, fired.set)
    assert fired.wait(5)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_replaced():
    """If a trace function ends the thread, the next timer starts another, which fires them all."""
    timers, called = TimerThread(), queue.SimpleQueue()
    threading.settrace(lambda *arguments: 1 / 0)
    try:
        timers.call_at(time.monotonic(), lambda: called.put("first"))
    finally:
        threading.settrace(None)
    wait_for(lambda: not timers.is_running)
    timers.call_at(time.monotonic() + 0.01, lambda: called.put("second"))
    assert [called.get(timeout=10), called.get(timeout=10)] == ["first", "second"]


def test_cancelled_timers_are_freed():
    """A timer that is cancelled long before its time frees the function that it would call."""

    class Thing:
        def fire(self):
            """Never called."""

    timers, objects = TimerThread(), []
    for _ in range(1000):
        target = Thing()
        objects.append(weakref.ref(target))
        timers.call_at(time.monotonic() + 1000, target.fire).cancel()
    del target
    gc.collect()
    assert not any(reference() for reference in objects)


def test_nan_is_rejected():
    """call_at raises ValueError for NaN, and later timers fire."""
    timers, called = TimerThread(), threading.Event()
    with pytest.raises(ValueError, match="not nan"):
        timers.call_at(float("nan"), lambda: None)
    timers.call_at(time.monotonic(), called.set)
    assert called.wait(20)
