"""What is made anew in a forked child: locks, pools and connections that must not be shared with the parent.

A lock that another thread holds at the moment of a fork stays locked in the child for ever, and a pool that counts the
parent's threads waits for threads that the child does not have (gunicorn --preload is the usual way to meet both).
"""

import os
import threading
import weakref
from typing import Any

__all__ = ["ForkSafeLock", "renew_in_child"]

_owners: "weakref.WeakSet[Any]" = weakref.WeakSet()
_registered = False
_registration = threading.RLock()  # a destructor may make an owner, too


def renew_in_child(owner: Any) -> None:
    """Call `owner.renew()` in every child that is forked while the owner lives; the owner is held weakly."""
    global _registered
    with _registration:
        _owners.add(owner)
        if not _registered and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_renew_all)
            _registered = True


def _renew_all() -> None:
    global _registration
    _registration = threading.RLock()
    for owner in list(_owners):
        owner.renew()


class ForkSafeLock:
    """Holds a lock, for `with owner.lock:`, and a new and free one in a forked child.

    The lock is the C one and is entered directly: in a `__enter__` written in Python, Ctrl-C could strike after the lock was
    taken and before the `with` knows of it. It is re-entrant, because a signal handler, or a destructor that the garbage
    collector calls, runs on a thread that may hold it.
    """

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Put a free lock in the old one's place."""
        self.lock = threading.RLock()
