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
_registration = threading.Lock()


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
    _registration = threading.Lock()
    for owner in list(_owners):
        owner.renew()


class ForkSafeLock:
    """A lock for `with`, which is a new and free one in a forked child."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """Put a free lock in the old one's place."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *exc_info: Any) -> None:
        self._lock.release()
