"""The memory backend: values and mailboxes of one process, lost when it ends."""

import collections
import heapq
import itertools
import threading
import time
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync.cache.base import Cache
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.mailbox import Mailbox
from asimov_sync.cache.records import RecordStore
from asimov_sync.cache.store import LeasedMessage, QueuedMessage, Store
from asimov_sync.cache.values import add_integers
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import reset_after_fork

__all__ = ["MemoryCache"]


_EPOCH = time.time() - clock.real()
"""The time since the epoch at which the clock's count begins."""


def _clock_ms() -> int:
    return int((_EPOCH + clock.monotonic()) * 1000)


class MemoryCache(Cache):
    """A cache in the memory of this process: all features of `Cache`, without a server.

    default_prefix: the namespace of the cache; "" (the default) adds no prefix.
    default_suffix: the suffix of the cache's keys; "" (the default) adds no suffix.
    separator: the text between prefix, key and suffix; ":" by default.
    max_deliveries: the number of deliveries without an acknowledgement after which a message
        becomes a dead letter; 5 by default.
    """

    def __init__(
        self,
        default_prefix: str = "",
        default_suffix: str = "",
        separator: str = ":",
        max_deliveries: int = 5,
    ) -> None:
        namespace = Namespace(separator=separator)
        namespace = namespace.with_prefix(default_prefix).with_suffix(default_suffix)
        super().__init__(MemoryStore(max_deliveries), namespace)


class MemoryStore(Store):
    """Values and mailboxes in dicts, under one lock. A forked child gets its own copy.

    max_deliveries: deliveries before a message is dead.
    read_clock: returns the milliseconds since the epoch that leases are measured by.
    """

    def __init__(self, max_deliveries: int, read_clock: Callable[[], int] = _clock_ms) -> None:
        self.max_deliveries = max_deliveries
        self.clock = read_clock
        # key: (data, expiry on the monotonic clock)
        self._values: Dict[str, Tuple[bytes, Optional[float]]] = {}
        # A heap. An entry may be outdated by a later write.
        self._expiries: List[Tuple[float, str]] = []
        self._mailboxes: Dict[str, Mailbox] = {}
        # By the head and tail of their namespace.
        self._records: Dict[Tuple[str, str], RecordStore] = {}
        # Shared by all mailboxes, so that fences keep growing when a mailbox is cleared.
        self._fences = itertools.count(1)
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Create new locks, as a forked child needs them, and forget the parent's readers."""
        # Re-entrant, because the garbage collector may call a destructor that cancels a reader of
        # this store.
        self._lock = threading.RLock()
        # The blocked readers of each mailbox, in order.
        self._readers: Dict[str, "collections.deque[InterruptibleEvent]"] = {}

    # Values

    def _expire(self) -> None:
        """Remove expired values. The caller holds the lock."""
        now = clock.monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            entry = self._values.get(key)
            if entry is not None and entry[1] is not None and entry[1] <= now:
                del self._values[key]

    def _write(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        expiry = None if ttl is None else clock.monotonic() + ttl
        for key, data in items.items():
            self._values[key] = (data, expiry)
            if expiry is not None:
                heapq.heappush(self._expiries, (expiry, key))

    def _find(self, key: str) -> Optional[bytes]:
        entry = self._values.get(key)
        return None if entry is None else entry[0]

    def _replace(self, key: str, data: bytes) -> None:
        """Write a value and keep its expiry."""
        self._values[key] = (data, self._values[key][1] if key in self._values else None)

    def get(self, key: str) -> Optional[bytes]:
        """Return the bytes under a key, or None."""
        return self.get_many([key])[0]

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """Return the bytes under each key, in the order of the keys; None for an absent key."""
        with self._lock:
            self._expire()
            return [self._find(key) for key in keys]

    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all items in one step."""
        with self._lock:
            self._expire()
            self._write(items, ttl)

    def set_guarded(
        self, guard: str, held: Optional[bytes], items: Mapping[str, bytes], ttl: Optional[float]
    ) -> bool:
        """Write all items if the guard key holds `held`, in one step."""
        with self._lock:
            self._expire()
            if self._find(guard) != held:
                return False
            self._write(items, ttl)
            return True

    def compare_and_set(self, key: str, expected: Optional[bytes], data: bytes) -> bool:
        """Write if the key holds `expected`, and keep its expiry."""
        with self._lock:
            self._expire()
            if self._find(key) != expected:
                return False
            self._replace(key, data)
            return True

    def increment(self, key: str, by: int) -> int:
        """Add to the integer under a key."""
        with self._lock:
            self._expire()
            total = add_integers(self._find(key), by)
            self._replace(key, str(total).encode())
            return total

    def delete(self, keys: List[str]) -> int:
        """Remove the keys. Return how many existed."""
        with self._lock:
            self._expire()
            values = sum(self._values.pop(key, None) is not None for key in keys)
            return values + sum(self._mailboxes.pop(key, None) is not None for key in keys)

    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Yield every stored key that starts with `head` and contains `tail`."""
        with self._lock:
            self._expire()
            keys = list(self._values) + list(self._mailboxes)
        return (key for key in keys if key.startswith(head) and tail in key)

    # Mailboxes

    def _mailbox(self, key: str) -> Mailbox:
        """Return a mailbox, created if absent. The caller holds the lock."""
        if key not in self._mailboxes:
            self._mailboxes[key] = Mailbox(self._fences)
        return self._mailboxes[key]

    def _wake_reader(self, key: str) -> None:
        """Wake the reader of a mailbox that has waited longest. The caller holds the lock."""
        readers = self._readers.get(key)
        if readers:
            readers.popleft().set()

    def put(self, mailbox: str, id: str, payload: bytes) -> None:
        """Append a message, unless its id is in the mailbox or was acknowledged recently."""
        with self._lock:
            if self._mailbox(mailbox).put(id, payload, self.clock()):
                self._wake_reader(mailbox)

    def take(
        self,
        mailbox: str,
        lease: Optional[float],
        timeout: Optional[float],
        cancellation: Cancellation,
    ) -> Optional[LeasedMessage]:
        """Take the first message, and wait for one until the time-out."""
        end = None if timeout is None else clock.monotonic() + timeout
        milliseconds = None if lease is None else max(1, int(lease * 1000))
        while True:
            with self._lock:
                leased = self._try_take(mailbox, milliseconds)
                remaining = None if end is None else end - clock.monotonic()
                if leased is not None or (remaining is not None and remaining <= 0):
                    return leased
                lease_end = self._mailbox(mailbox).next_lease_end()
                until_lease_end = (
                    None if lease_end is None else max(0.001, (lease_end - self.clock()) / 1000)
                )
                woken = InterruptibleEvent()
                self._readers.setdefault(mailbox, collections.deque()).append(woken)
            retrying = False
            try:
                limits = (remaining, cancellation.remaining, until_lease_end)
                shortest = min((limit for limit in limits if limit is not None), default=None)
                with cancellation.on_cancel(woken.set):
                    woken.wait(shortest, follow_clock=True)
                cancellation.raise_if_cancelled()
                retrying = True
            finally:
                self._remove_reader(mailbox, woken, retrying)

    def _try_take(self, mailbox: str, lease: Optional[int]) -> Optional[LeasedMessage]:
        return self._mailbox(mailbox).take(lease, self.max_deliveries, self.clock())

    def _remove_reader(self, mailbox: str, woken: InterruptibleEvent, retrying: bool) -> None:
        """Remove a blocked reader.

        retrying: the reader will look for a message again. Otherwise the next reader is woken,
            because this one may have been woken for a message that it does not take.
        """
        with self._lock:
            readers = self._readers.get(mailbox)
            if readers is not None and woken in readers:
                readers.remove(woken)
            if not retrying:
                self._wake_reader(mailbox)
            if not self._readers.get(mailbox):
                self._readers.pop(mailbox, None)

    def ack(self, mailbox: str, id: str, fence: int) -> bool:
        """Remove a leased message."""
        with self._lock:
            return self._mailbox(mailbox).ack(id, fence, self.clock())

    def release(self, mailbox: str, id: str, fence: int) -> None:
        """Return a leased message to the front of the mailbox, if the fence holds the lease."""
        with self._lock:
            if self._mailbox(mailbox).release(id, fence):
                self._wake_reader(mailbox)

    def extend(self, mailbox: str, id: str, fence: int, lease: float) -> bool:
        """Set a lease to end `lease` seconds from now."""
        with self._lock:
            milliseconds = max(1, int(lease * 1000))
            return self._mailbox(mailbox).extend(id, fence, milliseconds, self.clock())

    def list_messages(self, mailbox: str, dead: bool, count: Optional[int]) -> List[QueuedMessage]:
        """Return the first messages that are ready, or the dead ones."""
        with self._lock:
            return self._mailbox(mailbox).list_messages(
                dead, count, self.max_deliveries, self.clock()
            )

    def redrive(self, mailbox: str, id: Optional[str]) -> int:
        """Make one dead message, or all of them, ready again."""
        with self._lock:
            moved = self._mailbox(mailbox).redrive(id)
            for _ in range(moved):
                self._wake_reader(mailbox)
            return moved

    def length(self, mailbox: str) -> int:
        """Return how many messages are ready or leased."""
        with self._lock:
            return self._mailbox(mailbox).length()

    # Records

    def records(self, head: str, tail: str) -> RecordStore:
        """Return the records of a namespace."""
        from asimov_sync.cache.memory_records import MemoryRecords

        with self._lock:
            if (head, tail) not in self._records:
                self._records[head, tail] = MemoryRecords(self.clock)
            return self._records[head, tail]

    def close(self) -> None:
        """Do nothing. The values stay as long as the cache object."""
