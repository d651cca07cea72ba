"""Cancellation: cancelled once, seen everywhere, and nothing is left behind."""

import gc
import threading
import time

import pytest

from asimov_sync import Cancellation, Cancelled

from .waiting import Background, in_child, wait_for


def test_it_is_cancelled_once():
    """The first reason stays; cancelling again says that it did nothing."""
    token = Cancellation()
    assert (token.cancelled, token.reason) == (False, None)
    token.raise_if_cancelled()
    assert token.cancel("enough") is True
    assert token.cancel("again") is False
    assert (token.cancelled, token.reason) == (True, "enough")
    with pytest.raises(Cancelled, match="enough"):
        token.raise_if_cancelled()


def test_callbacks_are_called_once():
    """A callback is called on cancelling, and once; one that comes late is called at once; one that was removed is not."""
    token, called = Cancellation(), []
    token.on_cancel(lambda: called.append("first"))
    with token.on_cancel(lambda: called.append("removed")):
        pass
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: called.append("late"))
    assert called == ["first", "late"]


def test_a_callback_that_raises_does_not_stop_the_others(caplog):
    """Every callback runs; what one of them raises is logged, and does not reach whoever cancels."""
    token, called = Cancellation(), []
    token.on_cancel(lambda: 1 / 0)
    token.on_cancel(lambda: called.append(1))
    assert token.cancel() is True
    assert called == [1]
    assert "ZeroDivisionError" in caplog.text


def test_a_parent_cancels_its_children():
    """What is cancelled above is cancelled below, with the reason; not the other way round."""
    parent = Cancellation()
    child = Cancellation(parent=parent)
    called = []
    child.on_cancel(lambda: called.append(child.reason))
    Cancellation(parent=parent).cancel("sibling")
    assert not parent.cancelled and not child.cancelled
    parent.cancel("all")
    assert called == ["all"]
    assert child.reason == "all"
    assert Cancellation(parent=parent).cancelled


def test_a_child_without_callbacks_holds_no_place_at_its_parent():
    """A parent knows only of children that wait for it, and only as long as they do."""
    parent = Cancellation()
    child = Cancellation(parent=parent)
    assert not parent._callbacks
    first, second = child.on_cancel(print), child.on_cancel(print)
    assert len(parent._callbacks) == 1
    first.remove()
    assert len(parent._callbacks) == 1
    second.remove()
    assert not parent._callbacks
    second.remove()


def test_the_current_token_is_the_parent():
    """Inside of `with token:` the token is the current one, and new tokens are its children; outside it is not."""
    outside = Cancellation.current()
    with Cancellation() as token:
        assert Cancellation.current() is token
        with Cancellation() as inner:
            token.cancel("above")
            assert inner.reason == "above"
        assert Cancellation.current() is token
    assert Cancellation.current() is not token
    assert not outside.cancelled


def test_one_token_in_many_threads():
    """A token may be current in several threads at once, and twice in one."""
    token = Cancellation()
    inside, leave = threading.Barrier(2), threading.Event()

    def use():
        with token, token:
            inside.wait(5)
            leave.wait(5)
            assert Cancellation.current() is token
        return Cancellation.current() is token

    calls = [Background(use), Background(use)]
    leave.set()
    assert [call.result() for call in calls] == [False, False]


def test_a_deadline_counts_as_cancelled():
    """After its time-out, or its parent's, a token is cancelled, and its callbacks are called by whoever looks."""
    parent = Cancellation(timeout=0.05)
    child = Cancellation(timeout=60, parent=parent)
    called = []
    child.on_cancel(lambda: called.append(1))
    assert child.deadline == parent.deadline
    assert 0 < child.remaining <= 0.05
    assert child.wait(10) is True
    assert child.reason == "the deadline passed"
    assert called == [1]
    assert child.remaining == 0


def test_wait_is_woken():
    """A thread that waits is woken by the cancellation of the token or its parent, and by nothing else."""
    parent = Cancellation()
    child = Cancellation(parent=parent)
    assert child.wait(0.01) is False
    waiting = Background(child.wait)
    wait_for(lambda: child._callbacks, "the wait")
    parent.cancel()
    assert waiting.result() is True


def test_cancel_and_register_race():
    """A callback that is registered while another thread cancels is called exactly once."""
    for _ in range(300):
        parent = Cancellation()
        child = Cancellation(parent=parent)
        called, start = [], threading.Barrier(2)

        def register(child=child, called=called, start=start):
            start.wait()
            child.on_cancel(lambda: called.append(1))

        call = Background(register)
        start.wait()
        parent.cancel()
        call.result()
        assert called == [1]


def test_a_finished_token_is_freed():
    """A token that was waited on does not live on in its parent."""
    import weakref

    class Watched(Cancellation):
        __slots__ = ("__weakref__",)

    parent = Cancellation()
    child = Watched(parent=parent)
    child.wait(0)
    watch = weakref.ref(child)
    del child
    gc.collect()
    assert watch() is None


def test_a_forked_child_has_free_locks():
    """A child that is forked while another thread holds the tokens' lock can cancel and wait."""
    from asimov_sync import cancellation

    token = Cancellation()
    held, release = threading.Event(), threading.Event()

    def hold():
        with cancellation._tokens.lock:
            held.set()
            release.wait(20)

    holder = Background(hold)
    assert held.wait(5)
    try:
        in_child(lambda: (token.on_cancel(print), token.cancel("in the child"), token.wait(1)))
    finally:
        release.set()
        holder.result()
    assert not token.cancelled


def test_time_is_not_asked_without_a_deadline(monkeypatch):
    """A token without a deadline never looks at the clock."""
    token = Cancellation(parent=None)
    monkeypatch.setattr(time, "monotonic", lambda: 1 / 0)
    assert not token.cancelled


def test_a_child_that_was_cancelled_leaves_nothing_at_its_parent():
    """A parent that outlives many children, each cancelled while somebody waited on it, holds none of them."""
    parent = Cancellation()
    for _ in range(20):
        child = Cancellation(parent=parent)
        called = []
        registration = child.on_cancel(lambda: called.append(1))
        assert parent._callbacks
        child.cancel("closed")
        registration.remove()
        assert called == [1]
    assert not parent._callbacks and not parent.cancelled


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_a_signal_that_cancels_while_a_callback_is_registered(before):
    """A signal handler that cancels in the middle of on_cancel: the callback is called, and once."""
    token = Cancellation()
    called = []

    class Interrupted(dict):
        """Cancels where a signal handler could: just before, or just after, the callback is put in its place."""

        def __setitem__(self, number, callback):
            if before:
                token.cancel("signal")
            super().__setitem__(number, callback)
            if not before:
                token.cancel("signal")

    token._callbacks = Interrupted()
    token.on_cancel(lambda: called.append(token.reason)).remove()
    assert called == ["signal"]


def test_nan_is_refused():
    """NaN is neither a time-out nor a time to wait: ValueError, which names the argument."""
    with pytest.raises(ValueError, match="timeout= is a number of seconds"):
        Cancellation(timeout=float("nan"))
    with pytest.raises(ValueError, match="seconds is a number of seconds"):
        Cancellation().wait(float("nan"))
