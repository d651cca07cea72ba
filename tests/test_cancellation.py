"""Cancellation: a token is cancelled once, its children notice it, and no references remain."""

import contextvars
import gc
import itertools
import threading
import weakref

import pytest

from asimov_sync import Cancellation, Cancelled, cancellation
from asimov_sync.concurrency import scope
from asimov_sync.concurrency.clock import clock
from asimov_sync.testing import count_callbacks

from .tracing import at_each_line, holding_lock
from .waiting import Background, in_child, wait_for


def test_a_token_is_cancelled_once():
    """The first reason is kept. A second cancel returns False."""
    token = Cancellation()
    assert (token.cancelled, token.reason) == (False, None)
    token.raise_if_cancelled()
    assert token.cancel("enough") is True
    assert token.cancel("again") is False
    assert (token.cancelled, token.reason) == (True, "enough")
    with pytest.raises(Cancelled, match="enough"):
        token.raise_if_cancelled()


def test_callbacks_are_called_once():
    """A callback is called once. A late one is called at once, and a removed one never."""
    token, called = Cancellation(), []
    token.on_cancel(lambda: called.append("first"))
    with token.on_cancel(lambda: called.append("removed")):
        pass
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: called.append("late"))
    assert called == ["first", "late"]


def test_a_failing_callback_does_not_stop_the_others(caplog):
    """Every callback runs. An exception is logged and does not reach the caller of cancel."""
    token, called = Cancellation(), []
    token.on_cancel(lambda: 1 / 0)
    token.on_cancel(lambda: called.append(1))
    assert token.cancel() is True
    assert called == [1]
    assert "ZeroDivisionError" in caplog.text


def test_a_parent_cancels_its_children():
    """A parent cancels its children with its own reason. A child does not cancel its parent."""
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


def test_a_long_chain_of_tokens():
    """Tokens can be nested deeper than the recursion limit.

    They can still be read, cancelled and waited for, and callbacks can be registered.
    """
    tokens = [Cancellation(parent=None)]
    for _ in range(3000):
        tokens.append(Cancellation(parent=tokens[-1]))
    last, called = tokens[-1], []
    assert last.reason is None and not last.cancelled
    with last.on_cancel(lambda: called.append("removed")):
        pass
    assert count_callbacks(tokens[0]) == 0
    last.on_cancel(lambda: called.append("kept"))
    waiting = Background(last.wait)
    tokens[0].cancel("all")
    assert waiting.result() is True
    assert called == ["kept"] and {token.reason for token in tokens} == {"all"}
    late = Cancellation(parent=last)
    assert late.reason == "all" and late.cancelled


def test_a_deadline_in_a_long_chain():
    """The deadline of an outer token cancels the inner ones, with its reason."""
    tokens = [Cancellation(parent=None)]
    tokens.append(Cancellation(timeout=0.01, parent=tokens[-1]))
    for _ in range(3000):
        tokens.append(Cancellation(parent=tokens[-1]))
    assert tokens[-1].wait(20) is True
    assert tokens[-1].reason == "the deadline passed"
    assert not tokens[0].cancelled and all(token.cancelled for token in tokens[1:])


def test_callbacks_see_the_whole_chain_cancelled():
    """The tokens below are cancelled before the first callback is called; outer callbacks first."""
    outer = Cancellation(parent=None)
    inner = Cancellation(parent=outer)
    seen = []
    inner.on_cancel(lambda: seen.append(("inner", inner.cancel("again"))))
    outer.on_cancel(lambda: seen.append(("outer", inner.cancel("again"))))
    outer.cancel("first")
    assert seen == [("outer", False), ("inner", False)] and inner.reason == "first"


def test_a_child_without_callbacks_is_not_registered():
    """A child is registered with its parent once, and only while it has callbacks."""
    parent = Cancellation()
    child = Cancellation(parent=parent)
    assert not count_callbacks(parent)
    first, second = child.on_cancel(print), child.on_cancel(print)
    assert count_callbacks(parent) == 1
    first.remove()
    assert count_callbacks(parent) == 1
    second.remove()
    assert not count_callbacks(parent)
    second.remove()


def test_the_current_token_is_the_parent():
    """Inside `with token:` the token is current, and new tokens are its children."""
    outside = Cancellation.current()
    with Cancellation() as token:
        assert Cancellation.current() is token
        assert Cancellation.entered() is token
        with Cancellation() as inner:
            token.cancel("above")
            assert inner.reason == "above"
        assert Cancellation.current() is token
    assert Cancellation.current() is not token
    assert Cancellation.entered() is None
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


def test_scope_entry():
    """The scope of a context may begin with a token; `with` blocks inside it end as usual."""
    outer, token, inner = Cancellation(), Cancellation(), Cancellation()

    def use():
        scope.extend(cancellation=token.scope_entry)
        with inner:
            assert Cancellation.current() is inner
        assert Cancellation.current() is token

    with outer:
        contextvars.copy_context().run(use)
        assert Cancellation.current() is outer


def test_a_passed_deadline_counts_as_cancelled():
    """After its deadline, or its parent's, a token is cancelled. Reading it calls its callbacks."""
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


def test_cancel_wakes_a_wait():
    """The cancellation of the token or its parent wakes a waiting thread."""
    parent = Cancellation()
    child = Cancellation(parent=parent)
    assert child.wait(0.01) is False
    waiting = Background(child.wait)
    wait_for(lambda: count_callbacks(child), "the wait")
    parent.cancel()
    assert waiting.result() is True


def test_a_concurrent_cancel_calls_a_new_callback_once():
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
    """A parent does not keep a token alive that was waited on."""

    class Watched(Cancellation):
        __slots__ = ("__weakref__",)

    parent = Cancellation()
    child = Watched(parent=parent)
    child.wait(0)
    watch = weakref.ref(child)
    del child
    gc.collect()
    assert watch() is None


def test_locks_are_free_in_a_forked_child():
    """A child forked while another thread holds the tokens' lock can cancel and wait."""
    token = Cancellation()

    def use():
        token.on_cancel(print)
        token.cancel("in the child")
        token.wait(1)

    def lock():
        Cancellation().on_cancel(print).remove()

    with holding_lock(cancellation, lock, probe=lock):
        in_child(use)
    assert not token.cancelled


def test_the_clock_is_not_read_without_a_deadline(monkeypatch):
    """A token without a deadline never reads the clock."""
    token = Cancellation(parent=None)
    monkeypatch.setattr(clock, "monotonic", lambda: 1 / 0)
    assert not token.cancelled


def test_a_cancelled_child_is_unregistered():
    """A parent keeps no reference to cancelled children that had callbacks."""
    parent = Cancellation()
    for _ in range(20):
        child = Cancellation(parent=parent)
        called = []
        registration = child.on_cancel(lambda: called.append(1))
        assert count_callbacks(parent)
        child.cancel("closed")
        registration.remove()
        assert called == [1]
    assert not count_callbacks(parent) and not parent.cancelled


def test_a_signal_handler_cancels_during_on_cancel():
    """A signal handler that cancels at any line of on_cancel causes one call of the callback."""
    for signal_at in itertools.count():
        token, called, lines = Cancellation(), [], []

        def handle_signal(number, token=token, signal_at=signal_at, lines=lines):
            lines.append(number)
            if number == signal_at:
                token.cancel("signal")

        with at_each_line(cancellation, handle_signal):
            registration = token.on_cancel(lambda: called.append(token.reason))
        if signal_at not in lines:
            break
        registration.remove()
        assert called == ["signal"], f"signal at line {signal_at}"
    assert signal_at > 5


def test_nan_is_rejected():
    """NaN as a timeout or as a time to wait raises ValueError with the name of the argument."""
    with pytest.raises(ValueError, match="timeout= is a number of seconds"):
        Cancellation(timeout=float("nan"))
    with pytest.raises(ValueError, match="seconds is a number of seconds"):
        Cancellation().wait(float("nan"))
