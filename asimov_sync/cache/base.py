"""The cache as its users see it: keys, namespaces, JSON values, bulk calls and mailboxes.

`Cache` takes the caller's keys and Python values. A `Store` (one for each backend) keeps them as
bytes under stored keys.
"""

from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from asimov_sync.cache.delivery import Delivery, Letter
from asimov_sync.cache.keys import (
    MAILBOX,
    RAW,
    VALUE,
    Namespace,
    candidate_ids,
    check_key,
    public_id,
    stored_id,
)
from asimov_sync.cache.records import RecordStore
from asimov_sync.cache.store import BATCH_SIZE, LeasedMessage, Store
from asimov_sync.cache.values import decode, encode
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import CacheValueError, UnboundedClear

__all__ = ["MISSING", "Cache"]


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


class Cache:
    """Values under keys, and mailboxes, in a namespace.

    Create a MemoryCache, a SQLiteCache or a RedisCache, or a view of one with `with_prefix` or
    `with_suffix`.

    Values are JSON. A pydantic model, UUID, datetime or Enum is read back as a dict or str, or
    validated as its type with `get(key, type=…)`. `raw=True` stores and returns bytes unchanged,
    separately from the JSON values.
    """

    def __init__(self, store: Store, namespace: Namespace) -> None:
        self._store = store
        self._namespace = namespace

    # Values

    def set(self, key: str, value: Any, ttl: Optional[float] = None, raw: bool = False) -> None:
        """Store a value.

        ttl: seconds until it expires; None (the default) keeps it.
        raw: store bytes instead of JSON.

        Raises CacheValueError if the value is not JSON, or with `raw` not bytes.
        """
        data = _to_bytes(value) if raw else encode(value)
        self._store.set_many(
            {self._namespace.key(key, RAW if raw else VALUE): data}, _check_ttl(ttl)
        )

    def get(self, key: str, default: Any = MISSING, raw: bool = False, type: Any = None) -> Any:
        """Return the value under a key.

        default: returned if the key is absent.
        raw: return the bytes that were stored with `raw=True`.
        type: validate the JSON value as this type, with pydantic.

        Raises KeyError if the key is absent and there is no default, CacheValueError if the stored
        value is not valid.
        """
        data = self._store.get(self._namespace.key(key, RAW if raw else VALUE))
        if data is not None:
            return data if raw else decode(key, data, type)
        if default is MISSING:
            raise KeyError(key)
        return default

    def delete(self, key: str) -> bool:
        """Remove a key, both its JSON value and its raw one. Return whether one existed.

        Raises OutcomeUnknown if the connection broke before the reply arrived.
        """
        return self._store.delete([self._namespace.key(key), self._namespace.key(key, RAW)]) > 0

    def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        """Store a value in one step, if the key holds the expected one. Return whether it did.

        expected: the value to compare with; MISSING for an absent key. The comparison is of JSON
            text, so the order of a dict's keys matters.
        value: the new value. A ttl of the key stays as it is.

        Raises OutcomeUnknown if the connection broke before the reply arrived.
        """
        return self._store.compare_and_set(
            self._namespace.key(key), _encode_expected(expected), encode(value)
        )

    def increment(self, key: str, by: int = 1) -> int:
        """Add to the integer under a key in one step. An absent key counts as 0.

        by: the integer to add, 1 by default.

        Returns the sum, from -2⁶³ to 2⁶³-1. Raises CacheValueError if the key holds something else,
        OutcomeUnknown if the connection broke before the reply arrived.
        """
        if not -(2**63) <= by < 2**63:
            raise ValueError(f"by is an integer of 64 bits, not {by!r}")
        return self._store.increment(self._namespace.key(key), by)

    # In bulk

    def get_many(self, keys: Iterable[str]) -> Dict[str, Any]:
        """Return the values of those keys that exist, by key."""
        return dict(self._read(list(keys)))

    def set_many(
        self,
        mapping: Mapping[str, Any],
        ttl: Optional[float] = None,
        guard: Optional[Tuple[str, Any]] = None,
    ) -> bool:
        """Store all values in one step; none of them if one is not JSON.

        ttl: seconds until they expire; None (the default) keeps them.
        guard: a key and a value (MISSING: absent). Nothing is written unless the key holds that
            value at that moment.

        On a cluster, a write without a guard is one step for each slot.

        Returns False if the guard did not hold, otherwise True. Raises CrossSlotError if a cluster
        cannot execute the guarded write in one step, OutcomeUnknown if its reply was lost.
        """
        items = {self._namespace.key(key): encode(value) for key, value in mapping.items()}
        ttl = _check_ttl(ttl)
        if guard is not None:
            key, held = guard
            return self._store.set_guarded(
                self._namespace.key(key), _encode_expected(held), items, ttl
            )
        if items:
            self._store.set_many(items, ttl)
        return True

    def keys(self) -> Set[str]:
        """Return the keys of the namespace that hold a JSON value."""
        return {name for name, kind in self._scan_names() if kind == VALUE}

    def get_all(self) -> Dict[str, Any]:
        """Return all JSON values of the namespace, by key."""
        return dict(self._read(sorted(self.keys())))

    def clear(self, everything: bool = False) -> int:
        """Remove all values, raw values and mailboxes of the namespace. Records of runs stay.

        everything: required for a cache without prefix and suffix. Its namespace is the whole
            database, which other programs may share.

        Returns how many values were removed, raw ones included. Raises UnboundedClear if
        `everything` is required and missing.
        """
        if self._namespace.unbounded and not everything:
            raise UnboundedClear(
                "this cache has no prefix or suffix, so clear() would empty the whole database: "
                "clear a view (cache.with_prefix(…)), or call clear(everything=True)"
            )
        values: Set[str] = set()
        mailboxes: Set[str] = set()
        # Finish the scan before the first removal: a scan promises little about keys that are
        # added or removed meanwhile.
        for key in self._store.scan(self._namespace.head, self._namespace.tail):
            split = self._namespace.split(key)
            if split is not None and split[1] in (VALUE, RAW):
                values.add(key)
            elif split is not None and split[1].startswith(MAILBOX):
                mailboxes.add(key)
        # Sorted, so that the keys of a mailbox are removed in one step.
        for batch in _batches(sorted(mailboxes)):
            self._store.delete(batch)
        # Likewise in order, because neighbours are on the same page of a file.
        return sum(self._store.delete(batch) for batch in _batches(sorted(values)))

    def _read(self, names: List[str]) -> Iterator[Tuple[str, Any]]:
        for batch in _batches(names):
            stored = self._store.get_many([self._namespace.key(name) for name in batch])
            for name, data in zip(batch, stored):
                if data is not None:
                    yield name, decode(name, data)

    def _scan_names(self) -> Iterator[Tuple[str, str]]:
        for key in self._store.scan(self._namespace.head, self._namespace.tail):
            split = self._namespace.split(key)
            if split is not None:
                yield split

    # Namespaces

    def with_prefix(self, prefix: str) -> "Cache":
        """Return a view of the namespace `prefix` inside this one. This cache stays unchanged."""
        return CacheView(self._store, self._namespace.with_prefix(prefix))

    def with_suffix(self, suffix: str) -> "Cache":
        """Return a view of the namespace `suffix` inside this one. This cache stays unchanged."""
        return CacheView(self._store, self._namespace.with_suffix(suffix))

    # Mailboxes

    def publish_to_mailbox(
        self, mailbox: str, message: Any, message_id: Optional[str] = None
    ) -> None:
        """Append a message to a mailbox. Each message goes to one reader.

        message: any JSON value.
        message_id: makes publishing repeatable. Publishing the same id again does nothing while the
            message is in the mailbox, and for an hour after it was acknowledged.
        """
        if message_id is not None:
            check_key(message_id)
        self._store.put(
            self._namespace.key(mailbox, MAILBOX), stored_id(message_id), encode(message)
        )

    def get_message(
        self,
        mailbox: str,
        timeout: Optional[float] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> Any:
        """Take the oldest message, and wait for one if there is none.

        timeout: seconds to wait; 0 does not wait, None (the default) waits without limit.
        cancellation: ends the wait; the current Cancellation by default.

        Delivers at most once: a message is lost if its reader dies with it, or if the connection
        breaks while the message is sent (OutcomeUnknown).

        Returns the message, or None on timeout. Raises Cancelled if the wait is cancelled.
        """
        leased = self._take(mailbox, None, timeout, cancellation)
        return None if leased is None else decode(mailbox, leased.payload)

    def receive(
        self,
        mailbox: str,
        timeout: Optional[float] = None,
        lease: float = 30.0,
        cancellation: Optional[Cancellation] = None,
    ) -> Optional[Delivery]:
        """Lease the oldest message, and wait for one if there is none.

        timeout: seconds to wait; 0 does not wait, None (the default) waits without limit.
        lease: seconds until the message goes to the next reader, unless it is acknowledged; 30 by
            default. `delivery.extend()` prolongs it.
        cancellation: ends the wait; the current Cancellation by default.

        Delivers at least once: the message stays in the mailbox until `delivery.ack()`. After
        `max_deliveries` deliveries it becomes a dead letter.

        Returns a Delivery, or None on timeout. Raises Cancelled if the wait is cancelled.
        """
        if not lease > 0:
            raise ValueError(f"lease is a positive number of seconds, not {lease!r}")
        leased = self._take(mailbox, lease, timeout, cancellation)
        if leased is None:
            return None
        stored_key = self._namespace.key(mailbox, MAILBOX)
        message = decode(mailbox, leased.payload)
        return Delivery(self._store, stored_key, leased, message, lease)

    def _take(
        self,
        mailbox: str,
        lease: Optional[float],
        timeout: Optional[float],
        cancellation: Optional[Cancellation],
    ) -> Optional[LeasedMessage]:
        if timeout is not None and not timeout >= 0:
            raise ValueError(
                "timeout is a number of seconds from 0 on, or None to wait without limit"
            )
        cancellation = cancellation or Cancellation.current()
        cancellation.raise_if_cancelled()
        return self._store.take(self._namespace.key(mailbox, MAILBOX), lease, timeout, cancellation)

    def mailbox_length(self, mailbox: str) -> int:
        """Return how many messages a mailbox holds, leased ones included, dead ones excluded."""
        return self._store.length(self._namespace.key(mailbox, MAILBOX))

    def peek(self, mailbox: str, count: int = 1) -> List[Any]:
        """Return the messages that would be read next, without taking them.

        count: how many at most, 1 by default.

        Leased messages are not included.
        """
        queued = self._store.list_messages(self._namespace.key(mailbox, MAILBOX), False, count)
        return [decode(mailbox, message.payload) for message in queued]

    def dead_letters(self, mailbox: str) -> List[Letter]:
        """Return the dead letters, the oldest first.

        These are the messages that were delivered `max_deliveries` times and not acknowledged.
        """
        queued = self._store.list_messages(self._namespace.key(mailbox, MAILBOX), True, None)
        return [
            Letter(public_id(id), decode(mailbox, payload), deliveries)
            for id, payload, deliveries in queued
        ]

    def put_back(self, mailbox: str, message_id: Optional[str] = None) -> int:
        """Append dead letters to the mailbox again, as if they had never been delivered.

        message_id: the dead letter to put back; None (the default) puts back all of them.

        Returns how many were put back.
        """
        ids = [None] if message_id is None else candidate_ids(message_id)
        return sum(self._store.redrive(self._namespace.key(mailbox, MAILBOX), id) for id in ids)

    # Records

    def records(self) -> RecordStore:
        """Return the records of this namespace, which `RunStore` keeps durable runs in.

        Those of another view are separate, also if its namespace encloses this one.
        """
        return self._store.records(self._namespace.head, self._namespace.tail)

    # Closing

    def close(self) -> None:
        """Close the connections. Closing a view does nothing: its store belongs to its cache."""
        self._store.close()

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._namespace.key('…')!r}>"


class CacheView(Cache):
    """A namespace of a cache. It shares the cache's store."""

    def close(self) -> None:
        """Do nothing: the store belongs to the cache that the view was created from."""


def _to_bytes(value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise CacheValueError(f"raw=True stores bytes, not {type(value).__name__}")
    return bytes(value)


def _encode_expected(value: Any) -> Optional[bytes]:
    return None if value is MISSING else encode(value)


def _check_ttl(ttl: Optional[float]) -> Optional[float]:
    if ttl is not None and not ttl > 0:
        raise ValueError(f"ttl is a positive number of seconds, or None for no end; not {ttl!r}")
    return ttl


def _batches(names: Iterable[str]) -> Iterator[List[str]]:
    batch: List[str] = []
    for name in names:
        batch.append(name)
        if len(batch) == BATCH_SIZE:
            yield batch
            batch = []
    if batch:
        yield batch
