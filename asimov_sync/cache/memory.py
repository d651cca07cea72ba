"""The embedded backend: everything in this process's memory, gone with it, seen by no other process."""

import collections
import heapq
import threading
import time
from typing import Deque, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync.cache.contract import Cache, Store
from asimov_sync.cache.keys import Namespace
from asimov_sync.cancellation import Cancellation
from asimov_sync.forking import renew_in_child

__all__ = ["MemoryCache"]


class MemoryCache(Cache):
    """A cache in this process's memory: the whole contract without a server, for one process."""

    def __init__(self, default_prefix: str = "", default_suffix: str = "", separator: str = ":") -> None:
        namespace = Namespace(separator=separator).with_prefix(default_prefix).with_suffix(default_suffix)
        super().__init__(MemoryStore(), namespace)


class MemoryStore(Store):
    """Values and queues in dicts, under one lock; a forked child goes on with a copy of its own."""

    def __init__(self) -> None:
        self._values: Dict[str, Tuple[bytes, Optional[float]]] = {}  # key: (data, the monotonic moment of its end)
        self._ends: List[Tuple[float, str]] = []  # a heap; an entry may be outdated by a later write
        self._queues: Dict[str, Deque[bytes]] = {}
        self.renew()
        renew_in_child(self)

    def renew(self) -> None:
        """New locks, as a forked child needs them; its readers were threads of the parent."""
        self._lock = threading.Lock()
        self._arrival = threading.Condition(self._lock)

    def _expire(self) -> None:
        """Drop what has come to its end. Holds the lock."""
        now = time.monotonic()
        while self._ends and self._ends[0][0] <= now:
            _, key = heapq.heappop(self._ends)
            held = self._values.get(key)
            if held is not None and held[1] is not None and held[1] <= now:
                del self._values[key]

    def get(self, key: str) -> Optional[bytes]:
        """The bytes under a key, or None."""
        return self.get_many([key])[0]

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """The bytes under each key, in the same order; None where there are none."""
        with self._lock:
            self._expire()
            return [self._values[key][0] if key in self._values else None for key in keys]

    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all of it, in one step."""
        end = None if ttl is None else time.monotonic() + ttl
        with self._lock:
            self._expire()
            for key, data in items.items():
                self._values[key] = (data, end)
                if end is not None:
                    heapq.heappush(self._ends, (end, key))

    def delete(self, keys: List[str]) -> int:
        """Remove the keys; how many of them there were."""
        with self._lock:
            self._expire()
            return sum(1 for key in keys if self._values.pop(key, None) or self._queues.pop(key, None))

    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Every stored key that begins with `head` and has `tail` somewhere behind it."""
        with self._lock:
            self._expire()
            keys = list(self._values) + list(self._queues)
        return (key for key in keys if key.startswith(head) and tail in key)

    def push(self, queue: str, payload: bytes) -> None:
        """Append to the queue, and wake its readers."""
        with self._lock:
            self._queues.setdefault(queue, collections.deque()).append(payload)
            self._arrival.notify_all()

    def pop(self, queue: str, timeout: Optional[float], cancellation: Cancellation) -> Optional[bytes]:
        """Take the queue's first payload; None if the time-out passes first."""
        end = None if timeout is None else time.monotonic() + timeout
        cancelled: List[bool] = []  # filled under the lock, so that no cancellation slips in between a look and the wait

        def wake() -> None:
            with self._lock:
                cancelled.append(True)
                self._arrival.notify_all()

        with cancellation.on_cancel(wake):
            while True:
                cancellation.raise_if_cancelled()
                with self._lock:
                    waiting = self._queues.get(queue)
                    if waiting:
                        payload = waiting.popleft()
                        if not waiting:
                            del self._queues[queue]
                        return payload
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        return None
                    if not cancelled:
                        self._arrival.wait(_least(left, cancellation.remaining))

    def close(self) -> None:
        """Nothing is held that Python does not free itself; the values stay while the cache does."""


def _least(*seconds: Optional[float]) -> Optional[float]:
    return min((given for given in seconds if given is not None), default=None)
