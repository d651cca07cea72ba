"""The contract of every cache: what a key, an absent key, a namespace, a bulk call and a mailbox mean.

`Cache` speaks in the caller's keys and in Python values. Beneath it a `Store` (one file a backend) knows only stored keys
and bytes, and nothing of namespaces or JSON.
"""

import abc
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from asimov_sync.cache.keys import MAILBOX, RAW, VALUE, Namespace
from asimov_sync.cache.values import decoded, encoded
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import CacheValueError, UnboundedClear

__all__ = ["MISSING", "Cache", "Store"]

BATCH = 1000
"""How many keys one bulk command holds: large enough to be bulk, small enough not to block a server that others share."""


class _Missing:
    """The type of MISSING."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False

    def __reduce__(self) -> str:
        return "MISSING"


MISSING: Any = _Missing()
"""Stands for "no value" where None is a value."""


class Store(abc.ABC):
    """A backend: bytes under stored keys, and queues of bytes. Safe from every thread and in a forked child.

    Every method raises a CacheError where the backend fails.
    """

    @abc.abstractmethod
    def get(self, key: str) -> Optional[bytes]:
        """The bytes under a key, or None."""

    @abc.abstractmethod
    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """The bytes under each key, in the same order; None where there are none."""

    @abc.abstractmethod
    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all of it, in one step; gone after `ttl` seconds, where given."""

    @abc.abstractmethod
    def delete(self, keys: List[str]) -> int:
        """Remove the keys; how many of them there were."""

    @abc.abstractmethod
    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Every stored key that begins with `head` and has `tail` somewhere behind it; some perhaps twice."""

    @abc.abstractmethod
    def push(self, queue: str, payload: bytes) -> None:
        """Append to the queue."""

    @abc.abstractmethod
    def pop(self, queue: str, timeout: Optional[float], cancellation: Cancellation) -> Optional[bytes]:
        """Take the queue's first payload, at most once; None if `timeout` seconds pass first (None: no limit).

        Cancelled if the cancellation comes first.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give back what it holds."""


class Cache:
    """Values under keys, and mailboxes, in a namespace; made as a MemoryCache or RedisCache, or as a view of one.

    Values are JSON: what goes in as a pydantic model, UUID, datetime or Enum comes out as a dict or str, or validated again
    with `get(key, type=…)`. `raw=True` stores and returns bytes untouched, apart from the JSON values.
    """

    def __init__(self, store: Store, namespace: Namespace) -> None:
        self._store = store
        self._namespace = namespace

    # Values

    def set(self, key: str, value: Any, ttl: Optional[float] = None, raw: bool = False) -> None:
        """Store a value; it is gone after `ttl` seconds, where given. CacheValueError if it is not JSON."""
        self._store.set_many({self._namespace.key(key, RAW if raw else VALUE): _data(value, raw)}, _lifetime(ttl))

    def get(self, key: str, default: Any = MISSING, raw: bool = False, type: Any = None) -> Any:
        """The value under a key, validated as `type` where given; `default` if absent, or KeyError without one."""
        data = self._store.get(self._namespace.key(key, RAW if raw else VALUE))
        if data is not None:
            return data if raw else decoded(key, data, type)
        if default is MISSING:
            raise KeyError(key)
        return default

    def delete(self, key: str) -> bool:
        """Remove a key, its JSON value and its raw one; whether there was one."""
        return self._store.delete([self._namespace.key(key), self._namespace.key(key, RAW)]) > 0

    # In bulk

    def get_many(self, keys: Iterable[str]) -> Dict[str, Any]:
        """The values of those of the keys that there are."""
        return dict(self._read(list(keys)))

    def set_many(self, mapping: Mapping[str, Any], ttl: Optional[float] = None) -> bool:
        """Store all values in one step, or none of them if one is not JSON; always True."""
        items = {self._namespace.key(key): encoded(value) for key, value in mapping.items()}
        if items:
            self._store.set_many(items, _lifetime(ttl))
        return True

    def keys(self) -> Set[str]:
        """The keys of the namespace that hold a JSON value."""
        return {name for name, kind in self._names() if kind == VALUE}

    def get_all(self) -> Dict[str, Any]:
        """All JSON values of the namespace by their keys."""
        return dict(self._read(sorted(self.keys())))

    def clear(self, everything: bool = False) -> int:
        """Remove all values, raw values and mailboxes of the namespace; how many there were.

        A cache without prefix and suffix has the whole database for a namespace, and it may not be alone there:
        UnboundedClear unless `everything` is True.
        """
        if self._namespace.unbounded and not everything:
            raise UnboundedClear(
                "this cache has no prefix or suffix, so clear() would empty the whole database: "
                "clear a view (cache.with_prefix(…)), or say clear(everything=True)"
            )
        # All of them before the first is removed: a scan promises little about keys that come and go meanwhile.
        found = list(self._store.scan(self._namespace.head, self._namespace.tail))
        mine = [key for key in found if self._namespace.split(key) is not None]
        return sum(self._store.delete(batch) for batch in _batches(mine))

    def _read(self, names: List[str]) -> Iterator[Tuple[str, Any]]:
        for batch in _batches(names):
            for name, data in zip(batch, self._store.get_many([self._namespace.key(name) for name in batch])):
                if data is not None:
                    yield name, decoded(name, data)

    def _names(self) -> Iterator[Tuple[str, str]]:
        for key in self._store.scan(self._namespace.head, self._namespace.tail):
            split = self._namespace.split(key)
            if split is not None:
                yield split

    # Namespaces

    def with_prefix(self, prefix: str) -> "Cache":
        """A view of the namespace `prefix` inside this one. It is a value of its own: this cache stays as it is."""
        return CacheView(self._store, self._namespace.with_prefix(prefix))

    def with_suffix(self, suffix: str) -> "Cache":
        """A view of the namespace `suffix` inside this one. It is a value of its own: this cache stays as it is."""
        return CacheView(self._store, self._namespace.with_suffix(suffix))

    # Mailboxes

    def publish_to_mailbox(self, mailbox: str, message: Any) -> None:
        """Put a message, any JSON value, at the end of a mailbox. Each message goes to one reader."""
        self._store.push(self._namespace.key(mailbox, MAILBOX), encoded(message))

    def get_message(self, mailbox: str, timeout: Optional[float] = None, cancellation: Optional[Cancellation] = None) -> Any:
        """Take the oldest message, waiting up to `timeout` seconds (None: without limit, 0: not at all); None if none came.

        At most once: a message is lost if its reader dies with it. Cancelled if the cancellation, the current one
        where none is given, comes first.
        """
        if timeout is not None and timeout < 0:
            raise ValueError("timeout is a number of seconds from 0 on, or None to wait without limit")
        cancellation = cancellation or Cancellation.current()
        data = self._store.pop(self._namespace.key(mailbox, MAILBOX), timeout, cancellation)
        return None if data is None else decoded(mailbox, data)

    # Life

    def close(self) -> None:
        """Close the connections. A view closes nothing: what it looks at belongs to the cache that it was made from."""
        self._store.close()

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<{} of {!r}>".format(type(self).__name__, self._namespace.key("…"))


class CacheView(Cache):
    """A namespace of a cache, which shares its store."""

    def close(self) -> None:
        """Nothing: the store belongs to the cache that the view was made from."""


def _data(value: Any, raw: bool) -> bytes:
    if not raw:
        return encoded(value)
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise CacheValueError("raw=True stores bytes, not {}".format(type(value).__name__))
    return bytes(value)


def _lifetime(ttl: Optional[float]) -> Optional[float]:
    if ttl is not None and not ttl > 0:
        raise ValueError("ttl is a positive number of seconds, or None for no end; not {!r}".format(ttl))
    return ttl


def _batches(names: Iterable[str]) -> Iterator[List[str]]:
    batch: List[str] = []
    for name in names:
        batch.append(name)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
