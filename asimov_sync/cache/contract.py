"""The contract of every cache: what a key, an absent key, a namespace, a bulk call and a mailbox mean.

`Cache` speaks in the caller's keys and in Python values. Beneath it a `Store` (one file a backend) knows only stored keys
and bytes, and nothing of namespaces or JSON.
"""

import abc
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from asimov_sync.cache.delivery import Delivery
from asimov_sync.cache.keys import MAILBOX, RAW, VALUE, Namespace, checked
from asimov_sync.cache.mailboxes import Claim, Letter, message_key, message_keys, message_name
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
    """A backend: bytes under stored keys, and mailboxes of bytes. Safe from every thread and in a forked child.

    Every method raises a CacheError where the backend fails. `expected` and `guard` are stored bytes, None for absent.
    """

    # Values

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
    def set_guarded(self, guard: str, held: Optional[bytes], items: Mapping[str, bytes], ttl: Optional[float]) -> bool:
        """The same, if the guard key holds these bytes, in one step; whether it does."""

    @abc.abstractmethod
    def compare_and_set(self, key: str, expected: Optional[bytes], data: bytes) -> bool:
        """Write, if the key holds what is expected; whether it does. Its end of life stays what it was."""

    @abc.abstractmethod
    def increment(self, key: str, by: int) -> int:
        """Add to the integer under a key, 0 if there is none; the sum. CacheValueError where it is no integer."""

    @abc.abstractmethod
    def delete(self, keys: List[str]) -> int:
        """Remove the keys; how many of them there were."""

    @abc.abstractmethod
    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Every stored key that begins with `head` and has `tail` somewhere behind it; some perhaps twice."""

    # Mailboxes; each is known by its stored key

    @abc.abstractmethod
    def put(self, mailbox: str, id: str, payload: bytes) -> None:
        """Append a message, unless its id is there or was acknowledged lately."""

    @abc.abstractmethod
    def take(
        self, mailbox: str, lease: Optional[float], timeout: Optional[float], cancellation: Cancellation
    ) -> Optional[Claim]:
        """Take the first message, leased for so many seconds or (None) for good, waiting for one until the time-out (None:
        no limit); None if it passes. Cancelled if the cancellation comes first.
        """

    @abc.abstractmethod
    def ack(self, mailbox: str, id: str, fence: int) -> bool:
        """Remove a leased message; whether the fence holds the lease, or has removed it before."""

    @abc.abstractmethod
    def release(self, mailbox: str, id: str, fence: int) -> None:
        """Give a leased message back, if the fence holds the lease."""

    @abc.abstractmethod
    def extend(self, mailbox: str, id: str, fence: int, lease: float) -> bool:
        """Let a lease run out so many seconds from now; whether the fence holds it."""

    @abc.abstractmethod
    def letters(self, mailbox: str, dead: bool, count: Optional[int]) -> List[Letter]:
        """The first messages that are ready, or dead."""

    @abc.abstractmethod
    def put_back(self, mailbox: str, id: Optional[str]) -> int:
        """Make one dead message, or all of them, ready again; how many there were."""

    @abc.abstractmethod
    def length(self, mailbox: str) -> int:
        """How many messages are ready or leased."""

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
        """Remove a key, its JSON value and its raw one; whether there was one.

        OutcomeUnknown if the connection broke before the answer came.
        """
        return self._store.delete([self._namespace.key(key), self._namespace.key(key, RAW)]) > 0

    def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        """Store a value if the key holds `expected` (MISSING: nothing), in one step; whether it did.

        What is compared is the JSON text, so the keys of a dict count in their order. A ttl that the key has goes on.
        OutcomeUnknown if the connection broke before the answer came.
        """
        return self._store.compare_and_set(self._namespace.key(key), _expected(expected), encoded(value))

    def increment(self, key: str, by: int = 1) -> int:
        """Add to the integer under a key, 0 if there is none, in one step; the sum, from -2⁶³ to 2⁶³-1.

        CacheValueError where the key holds something else, OutcomeUnknown if the connection broke before the answer came.
        """
        if not -(2**63) <= by < 2**63:
            raise ValueError("by is an integer of 64 bits, not {!r}".format(by))
        return self._store.increment(self._namespace.key(key), by)

    # In bulk

    def get_many(self, keys: Iterable[str]) -> Dict[str, Any]:
        """The values of those of the keys that there are."""
        return dict(self._read(list(keys)))

    def set_many(
        self, mapping: Mapping[str, Any], ttl: Optional[float] = None, guard: Optional[Tuple[str, Any]] = None
    ) -> bool:
        """Store all values in one step, or none of them if one is not JSON.

        guard: a key and a value (MISSING: absent); nothing is written, and False returned, unless the key holds that value
        at that moment. CrossSlotError where a cluster cannot do that in one step, OutcomeUnknown where a guarded
        write lost its answer. On a cluster, writes without a guard are one step for each slot.
        """
        items = {self._namespace.key(key): encoded(value) for key, value in mapping.items()}
        ttl = _lifetime(ttl)
        if guard is not None:
            key, held = guard
            return self._store.set_guarded(self._namespace.key(key), _expected(held), items, ttl)
        if items:
            self._store.set_many(items, ttl)
        return True

    def keys(self) -> Set[str]:
        """The keys of the namespace that hold a JSON value."""
        return {name for name, kind in self._names() if kind == VALUE}

    def get_all(self) -> Dict[str, Any]:
        """All JSON values of the namespace by their keys."""
        return dict(self._read(sorted(self.keys())))

    def clear(self, everything: bool = False) -> int:
        """Remove all values, raw values and mailboxes of the namespace; how many values there were, raw ones included.

        A cache without prefix and suffix has the whole database for a namespace, and it may not be alone there:
        UnboundedClear unless `everything` is True.
        """
        if self._namespace.unbounded and not everything:
            raise UnboundedClear(
                "this cache has no prefix or suffix, so clear() would empty the whole database: "
                "clear a view (cache.with_prefix(…)), or say clear(everything=True)"
            )
        values: Set[str] = set()
        mailboxes: Set[str] = set()
        # All of them before the first is removed: a scan promises little about keys that come and go meanwhile.
        for key in self._store.scan(self._namespace.head, self._namespace.tail):
            split = self._namespace.split(key)
            if split is not None:
                (values if split[1] in (VALUE, RAW) else mailboxes).add(key)
        for batch in _batches(sorted(mailboxes)):  # sorted, so that the keys of a mailbox are removed in one step
            self._store.delete(batch)
        return sum(self._store.delete(batch) for batch in _batches(values))

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

    def publish_to_mailbox(self, mailbox: str, message: Any, message_id: Optional[str] = None) -> None:
        """Put a message, any JSON value, at the end of a mailbox. Each message goes to one reader.

        message_id: publishing the same id again does nothing while the message is in the mailbox, and for an hour after
        it was acknowledged.
        """
        if message_id is not None:
            checked(message_id)
        self._store.put(self._namespace.key(mailbox, MAILBOX), message_key(message_id), encoded(message))

    def get_message(self, mailbox: str, timeout: Optional[float] = None, cancellation: Optional[Cancellation] = None) -> Any:
        """Take the oldest message, waiting up to `timeout` seconds (None: without limit, 0: not at all); None if none came.

        At most once: a message is lost if its reader dies with it, or (OutcomeUnknown) if the connection breaks while it is
        on its way. Cancelled if the cancellation, the current one where none is given, comes first.
        """
        claim = self._take(mailbox, None, timeout, cancellation)
        return None if claim is None else decoded(mailbox, claim.payload)

    def receive(
        self,
        mailbox: str,
        timeout: Optional[float] = None,
        lease: float = 30.0,
        cancellation: Optional[Cancellation] = None,
    ) -> Optional[Delivery]:
        """Lease the oldest message for so many seconds; wait as `get_message` does, and return None if none came.

        At least once: the message stays in the mailbox until `delivery.ack()`, and goes to the next reader when the lease
        runs out first (`delivery.extend()` while the work goes on). After `max_deliveries` it goes to the dead letters.
        """
        if not lease > 0:
            raise ValueError("lease is a positive number of seconds, not {!r}".format(lease))
        claim = self._take(mailbox, lease, timeout, cancellation)
        if claim is None:
            return None
        place = self._namespace.key(mailbox, MAILBOX)
        return Delivery(self._store, place, claim, decoded(mailbox, claim.payload), lease)

    def _take(
        self, mailbox: str, lease: Optional[float], timeout: Optional[float], cancellation: Optional[Cancellation]
    ) -> Optional[Claim]:
        if timeout is not None and not timeout >= 0:
            raise ValueError("timeout is a number of seconds from 0 on, or None to wait without limit")
        cancellation = cancellation or Cancellation.current()
        cancellation.raise_if_cancelled()
        return self._store.take(self._namespace.key(mailbox, MAILBOX), lease, timeout, cancellation)

    def mailbox_length(self, mailbox: str) -> int:
        """How many messages a mailbox holds, leased ones included, dead ones not."""
        return self._store.length(self._namespace.key(mailbox, MAILBOX))

    def peek(self, mailbox: str, count: int = 1) -> List[Any]:
        """The messages that would be read next, at most `count`, without taking them; leased ones are not among them."""
        letters = self._store.letters(self._namespace.key(mailbox, MAILBOX), False, count)
        return [decoded(mailbox, letter.message) for letter in letters]

    def dead_letters(self, mailbox: str) -> List[Letter]:
        """The messages that were delivered `max_deliveries` times and never acknowledged, the oldest first."""
        letters = self._store.letters(self._namespace.key(mailbox, MAILBOX), True, None)
        return [Letter(message_name(id), decoded(mailbox, payload), deliveries) for id, payload, deliveries in letters]

    def put_back(self, mailbox: str, message_id: Optional[str] = None) -> int:
        """Put a dead letter (None: all of them) back at the end of the mailbox, as if never delivered; how many there were."""
        keys = [None] if message_id is None else message_keys(message_id)
        return sum(self._store.put_back(self._namespace.key(mailbox, MAILBOX), key) for key in keys)

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


def _expected(value: Any) -> Optional[bytes]:
    return None if value is MISSING else encoded(value)


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
