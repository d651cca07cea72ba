"""Finds the address of a cache, and opens the cache there in another process."""

from typing import Dict, Optional

from asimov_sync.cache.address import CacheAddress
from asimov_sync.cache.base import Cache, CacheView
from asimov_sync.cache.keys import Namespace
from asimov_sync.concurrency.fork import ForkSafeLock

__all__ = ["find_address", "open_address"]

_opened: Dict[CacheAddress, Cache] = {}  # without their namespaces
_guard = ForkSafeLock()


def find_address(cache: Cache) -> Optional[CacheAddress]:
    """Return the address by which another process opens a cache; None if it cannot.

    It cannot open one in memory, and one whose client the application has made.
    """
    place = cache._store.address
    return None if place is None else place._replace(namespace=cache._namespace)


def open_address(address: CacheAddress) -> Cache:
    """Return the cache at an address. Its connections are shared by all calls in this process."""
    place = address._replace(namespace=Namespace())
    with _guard.lock:
        cache = _opened.get(place)
        if cache is None:
            cache = _opened[place] = _open(place)
    return CacheView(cache._store, address.namespace)


def _open(place: CacheAddress) -> Cache:
    options = dict(place.options)
    if place.kind == "sqlite":
        from asimov_sync.cache.sqlite import SQLiteCache

        return SQLiteCache(**options)
    from asimov_sync.cache.redis import RedisCache

    return RedisCache(**options)
