"""Fork safety: objects are reset in a forked child."""

import gc
import threading
import weakref

from asimov_sync.concurrency.fork import ForkSafeLock, reset_after_fork

from ..waiting import Background, in_child


class Resettable:
    def __init__(self):
        self.resets = 0
        reset_after_fork(self)

    def reset(self):
        self.resets += 1


def test_owners_are_reset_in_the_child():
    """`reset` is called once in the child and never in the parent."""
    first, second = Resettable(), Resettable()

    def check():
        assert (first.resets, second.resets) == (1, 1)

    in_child(check)
    assert (first.resets, second.resets) == (0, 0)


def test_owners_are_not_kept_alive():
    """The registration does not keep an owner alive."""
    owner = Resettable()
    reference = weakref.ref(owner)
    del owner
    gc.collect()
    assert reference() is None


def test_a_lock_is_free_in_the_child():
    """A lock that another thread holds during the fork is free in the child.

    The parent's lock is still held.
    """
    lock = ForkSafeLock()
    held, release = threading.Event(), threading.Event()

    def hold():
        with lock.lock:
            held.set()
            release.wait(20)

    holder = Background(hold)
    assert held.wait(5)

    def use():
        assert lock.lock.acquire(timeout=5)

    try:
        in_child(use)
        assert not lock.lock.acquire(blocking=False)
    finally:
        release.set()
        holder.result()


def test_a_lock_is_re_entrant():
    """A signal handler or destructor on the thread that holds the lock can acquire it again."""
    lock = ForkSafeLock()
    with lock.lock, lock.lock:
        assert not Background(lock.lock.acquire, blocking=False).result()
