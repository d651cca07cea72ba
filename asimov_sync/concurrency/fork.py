"""Fork safety: reset locks, pools and connections in a forked child.

A lock that another thread holds during a fork stays locked in the child forever. A pool waits for
threads that exist only in the parent. Both happen with `gunicorn --preload`. Resources that must
not exist in two processes at all are closed before the fork.
"""

import os
import threading
import weakref
from typing import Any

__all__ = ["ForkSafeLock", "reset_after_fork", "suspend_during_fork"]

_owners: "weakref.WeakSet[Any]" = weakref.WeakSet()
_suspended_owners: "weakref.WeakSet[Any]" = weakref.WeakSet()
_registered = False
_lock = threading.RLock()  # re-entrant, because a destructor may register an owner


def reset_after_fork(owner: Any) -> None:
    """Call `owner.reset()` in every child that is forked while the owner lives.

    owner: any object with a `reset()` method and weak references. It is referenced weakly.
    """
    global _registered
    with _lock:
        _owners.add(owner)
        if not _registered and hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_suspend_all, after_in_parent=_resume_all, after_in_child=_reset_all
            )
            _registered = True


def suspend_during_fork(owner: Any) -> None:
    """Call `owner.suspend()` before every fork, then `resume()` in the parent, `reset()` in the
    child.

    owner: any object with these methods and weak references. It is referenced weakly.
    """
    reset_after_fork(owner)
    with _lock:
        _suspended_owners.add(owner)


def _suspend_all() -> None:
    for owner in list(_suspended_owners):
        owner.suspend()


def _resume_all() -> None:
    for owner in list(_suspended_owners):
        owner.resume()


def _reset_all() -> None:
    global _lock
    _lock = threading.RLock()
    for owner in list(_owners):
        owner.reset()


class ForkSafeLock:
    """A lock that is free in a forked child. Use `with owner.lock:`.

    `lock` is the C lock itself. If `__enter__` were written in Python, Ctrl-C could strike after it
    acquired the lock and before the `with` block registered that. The lock is re-entrant, because a
    signal handler, or a destructor called by the garbage collector, runs on a thread that may hold
    it.
    """

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Replace the lock with a free one."""
        self.lock = threading.RLock()
