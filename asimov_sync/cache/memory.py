"""The embedded backend: everything in this process's memory, gone with it, seen by no other process."""

import collections
import heapq
import itertools
import queue
import threading
import time
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync.cache.contract import Cache, Store
from asimov_sync.cache.keys import Namespace
from asimov_sync.cache.mailboxes import Claim, Letter, Mailbox
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.fork import reset_after_fork
from asimov_sync.errors import CacheValueError

__all__ = ["MemoryCache"]


LONGEST_WAIT = 1e6
"""Seconds that a wait is cut to, more than a week: a lock cannot be waited for infinitely long."""


def _now() -> int:
    return int(time.time() * 1000)


class MemoryCache(Cache):
    """A cache in this process's memory: the whole contract without a server, for one process.

    max_deliveries: how often a message that is not acknowledged is delivered before it goes to the dead letters.
    """

    def __init__(
        self, default_prefix: str = "", default_suffix: str = "", separator: str = ":", max_deliveries: int = 5
    ) -> None:
        namespace = Namespace(separator=separator).with_prefix(default_prefix).with_suffix(default_suffix)
        super().__init__(MemoryStore(max_deliveries), namespace)


class MemoryStore(Store):
    """Values and mailboxes in dicts, under one lock; a forked child goes on with a copy of its own.

    clock: the milliseconds that leases are measured by.
    """

    def __init__(self, max_deliveries: int, clock: Callable[[], int] = _now) -> None:
        self.max_deliveries = max_deliveries
        self.clock = clock
        self._values: Dict[str, Tuple[bytes, Optional[float]]] = {}  # key: (data, the monotonic moment of its end)
        self._ends: List[Tuple[float, str]] = []  # a heap; an entry may be outdated by a later write
        self._mailboxes: Dict[str, Mailbox] = {}
        self._fences = itertools.count(1)  # one for all mailboxes: it goes on when one of them is cleared
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """New locks, as a forked child needs them; its readers were threads of the parent."""
        # Re-entrant, because a destructor that the garbage collector calls may cancel a reader of this very store.
        self._lock = threading.RLock()
        # Of each mailbox, the readers that wait, the first of them first. Queues, and not Conditions, whose wait Ctrl-C may
        # break: it leaves their lock released, and is lost in the error about that.
        self._readers: Dict[str, "collections.deque[queue.SimpleQueue[None]]"] = {}

    # Values

    def _expire(self) -> None:
        """Drop what has come to its end. Holds the lock."""
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            held = self._values.get(key)
            if held is not None and held[1] is not None and held[1] <= now:
                del self._values[key]

    def _write(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        end = None if ttl is None else time.monotonic() + ttl
        for key, data in items.items():
            self._values[key] = (data, end)
            if end is not None:
                heapq.heappush(self._ends, (end, key))

    def _held(self, key: str) -> Optional[bytes]:
        held = self._values.get(key)
        return None if held is None else held[0]

    def _keep(self, key: str, data: bytes) -> None:
        """Write, and leave the end of life as it is."""
        self._values[key] = (data, self._values[key][1] if key in self._values else None)

    def get(self, key: str) -> Optional[bytes]:
        """The bytes under a key, or None."""
        return self.get_many([key])[0]

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """The bytes under each key, in the same order; None where there are none."""
        with self._lock:
            self._expire()
            return [self._held(key) for key in keys]

    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all of it, in one step."""
        with self._lock:
            self._expire()
            self._write(items, ttl)

    def set_guarded(self, guard: str, held: Optional[bytes], items: Mapping[str, bytes], ttl: Optional[float]) -> bool:
        """Write all of it if the guard holds, in one step."""
        with self._lock:
            self._expire()
            if self._held(guard) != held:
                return False
            self._write(items, ttl)
            return True

    def compare_and_set(self, key: str, expected: Optional[bytes], data: bytes) -> bool:
        """Write if the key holds what is expected."""
        with self._lock:
            self._expire()
            if self._held(key) != expected:
                return False
            self._keep(key, data)
            return True

    def increment(self, key: str, by: int) -> int:
        """Add to the integer under a key."""
        with self._lock:
            self._expire()
            held = self._held(key)
            try:
                # As Redis reads it: digits and a minus, no blank, no plus, no leading zero.
                before = 0 if held is None else int(held)
                if held is not None and str(before).encode() != held:
                    raise ValueError(held)
            except ValueError:
                raise CacheValueError("what is stored there is not an integer, so it cannot be incremented") from None
            if not -(2**63) <= before + by < 2**63:
                raise CacheValueError("the sum is beyond 64 bits, and was not stored")
            self._keep(key, str(before + by).encode())
            return before + by

    def delete(self, keys: List[str]) -> int:
        """Remove the keys; how many of them there were."""
        with self._lock:
            self._expire()
            values = sum(self._values.pop(key, None) is not None for key in keys)
            return values + sum(self._mailboxes.pop(key, None) is not None for key in keys)

    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Every stored key that begins with `head` and has `tail` somewhere behind it."""
        with self._lock:
            self._expire()
            keys = list(self._values) + list(self._mailboxes)
        return (key for key in keys if key.startswith(head) and tail in key)

    # Mailboxes

    def _mailbox(self, key: str) -> Mailbox:
        """A mailbox, made where there is none. Holds the lock."""
        if key not in self._mailboxes:
            self._mailboxes[key] = Mailbox(self._fences)
        return self._mailboxes[key]

    def _ring(self, key: str) -> None:
        """Wake the reader of a mailbox that waits longest. Holds the lock."""
        readers = self._readers.get(key)
        if readers:
            readers.popleft().put(None)

    def put(self, mailbox: str, id: str, payload: bytes) -> None:
        """Append a message, unless its id is there or was acknowledged lately."""
        with self._lock:
            if self._mailbox(mailbox).put(id, payload, self.clock()):
                self._ring(mailbox)

    def take(
        self, mailbox: str, lease: Optional[float], timeout: Optional[float], cancellation: Cancellation
    ) -> Optional[Claim]:
        """Take the first message, waiting for one until the time-out."""
        end = None if timeout is None else time.monotonic() + timeout
        milliseconds = None if lease is None else max(1, int(lease * 1000))
        with self._lock:
            claim = self._claim(mailbox, milliseconds)
            if claim is not None or timeout == 0:
                return claim
        woken: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        with cancellation.on_cancel(lambda: woken.put(None)):
            while True:
                with self._lock:
                    claim = self._claim(mailbox, milliseconds)
                    left = None if end is None else end - time.monotonic()
                    if claim is not None or (left is not None and left <= 0):
                        return claim
                    first = self._mailbox(mailbox).next_end()
                    lapse = None if first is None else max(0.001, (first - self.clock()) / 1000)
                    self._readers.setdefault(mailbox, collections.deque()).append(woken)
                goes_on = False
                try:
                    try:
                        woken.get(timeout=_least(left, cancellation.remaining, lapse, LONGEST_WAIT))
                    except queue.Empty:
                        pass
                    cancellation.raise_if_cancelled()
                    goes_on = True
                finally:
                    self._leave(mailbox, woken, goes_on)

    def _claim(self, mailbox: str, lease: Optional[int]) -> Optional[Claim]:
        return self._mailbox(mailbox).take(lease, self.max_deliveries, self.clock())

    def _leave(self, mailbox: str, woken: "queue.SimpleQueue[None]", goes_on: bool) -> None:
        """Take a reader from those that wait. If it gives up, the next one is woken, for what it may have been woken for."""
        with self._lock:
            readers = self._readers.get(mailbox)
            if readers is not None and woken in readers:
                readers.remove(woken)
            if not goes_on:
                self._ring(mailbox)
            if not self._readers.get(mailbox):
                self._readers.pop(mailbox, None)

    def ack(self, mailbox: str, id: str, fence: int) -> bool:
        """Remove a leased message."""
        with self._lock:
            return self._mailbox(mailbox).ack(id, fence, self.clock())

    def release(self, mailbox: str, id: str, fence: int) -> None:
        """Give a leased message back, if the fence holds the lease."""
        with self._lock:
            if self._mailbox(mailbox).release(id, fence):
                self._ring(mailbox)

    def extend(self, mailbox: str, id: str, fence: int, lease: float) -> bool:
        """Let a lease run out so many seconds from now."""
        with self._lock:
            return self._mailbox(mailbox).extend(id, fence, max(1, int(lease * 1000)), self.clock())

    def letters(self, mailbox: str, dead: bool, count: Optional[int]) -> List[Letter]:
        """The first messages that are ready, or dead."""
        with self._lock:
            return self._mailbox(mailbox).letters(dead, count, self.max_deliveries, self.clock())

    def put_back(self, mailbox: str, id: Optional[str]) -> int:
        """Make one dead message, or all of them, ready again."""
        with self._lock:
            moved = self._mailbox(mailbox).put_back(id)
            for _ in range(moved):
                self._ring(mailbox)
            return moved

    def length(self, mailbox: str) -> int:
        """How many messages are ready or leased."""
        with self._lock:
            return self._mailbox(mailbox).length()

    def close(self) -> None:
        """Nothing is held that Python does not free itself; the values stay while the cache does."""


def _least(*seconds: Optional[float]) -> float:
    return max(0.0, min(given for given in seconds if given is not None))
