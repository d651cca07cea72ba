"""InterruptibleEvent: an Event that Ctrl-C interrupts without harm."""

import os
import queue
import signal
import threading
import time

import pytest

from asimov_sync.concurrency.event import InterruptibleEvent

from ..tracing import around_builtin
from ..waiting import Background, wait_for


def test_it_is_set_once_and_stays_set():
    """`wait` returns False on timeout and True once the event is set, any number of times."""
    event = InterruptibleEvent()
    assert not event.is_set()
    assert event.wait(0) is False
    assert event.wait(0.01) is False
    event.set()
    event.set()
    assert event.is_set()
    assert [event.wait(), event.wait(0), event.wait(5)] == [True, True, True]


def test_set_wakes_every_waiter():
    """All waiting threads return True, those with a timeout as well as those without."""
    event, started = InterruptibleEvent(), queue.SimpleQueue()

    def wait(timeout):
        started.put(None)
        return event.wait(timeout)

    calls = [Background(wait, timeout) for timeout in (None, 20.0, None, float("inf"), 1e12)]
    for _ in calls:
        started.get(timeout=10)
    time.sleep(0.02)  # by now most of them wait
    event.set()
    assert [call.result() for call in calls] == [True] * 5


@pytest.mark.parametrize("timeout", [-1, -float("inf"), 0])
def test_a_timeout_in_the_past_polls(timeout):
    """A negative timeout counts as 0."""
    event = InterruptibleEvent()
    assert event.wait(timeout) is False
    event.set()
    assert event.wait(timeout) is True


def test_set_races_with_timeouts():
    """A waiter whose timeout ends during `set` returns, and the event stays set."""
    for _ in range(200):
        event, start = InterruptibleEvent(), threading.Barrier(3)

        def wait(event=event, start=start):
            start.wait(10)
            event.wait(0.0005)
            return event.wait(10)

        calls = [Background(wait), Background(wait)]
        start.wait(10)
        event.set()
        assert [call.result() for call in calls] == [True, True]


def test_a_signal_handler_may_set_it():
    """`set` inside a signal handler wakes the thread that the handler interrupted."""
    event = InterruptibleEvent()
    before = signal.signal(signal.SIGUSR1, lambda *_: event.set())
    try:
        killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
        killer.start()
        assert event.wait(20) is True
        killer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_ctrl_c_interrupts_the_wait():
    """KeyboardInterrupt leaves `wait`, and the event remains usable by this and other threads."""
    event = InterruptibleEvent()
    waiting = Background(event.wait)
    killer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    killer.start()
    with pytest.raises(KeyboardInterrupt):
        event.wait(20)
    killer.join()
    assert not event.is_set() and event.wait(0) is False
    event.set()
    assert waiting.result() is True
    assert event.wait(0) is True


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
def test_ctrl_c_that_another_thread_receives():
    """The main thread polls, so a signal that did not interrupt its wait is handled, too."""
    other = Background(time.sleep, 0.3)
    event = InterruptibleEvent()
    killer = threading.Timer(0.05, signal.pthread_kill, (other.thread.ident, signal.SIGINT))
    killer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        event.wait(20)
    assert time.monotonic() - start < 10
    killer.join()
    other.result()


def test_wake_up_is_passed_on_after_ctrl_c():
    """If Ctrl-C interrupts a waiter just after it took the wake-up, the next waiter is woken."""
    event = InterruptibleEvent()

    def interrupt():
        raise KeyboardInterrupt

    waiting = Background(event.wait)
    wait_for(waiting.thread.is_alive)
    with pytest.raises(KeyboardInterrupt):
        with around_builtin(InterruptibleEvent.wait, "get", before=event.set, after=interrupt):
            event.wait(10)
    assert waiting.result() is True
