"""The interface of a cache backend: bytes under stored keys, mailboxes of bytes, and records.

A `Store` knows nothing of namespaces, JSON or public message ids. `Cache` translates them.
"""

import abc
from typing import Iterator, List, Mapping, NamedTuple, Optional

from asimov_sync.cache.address import CacheAddress
from asimov_sync.cache.records import RecordStore
from asimov_sync.cancellation import Cancellation

__all__ = ["LeasedMessage", "QueuedMessage", "Store"]

BATCH_SIZE = 1000
"""Keys in one bulk command: enough to save round trips, too few to block a shared server."""

ACKNOWLEDGED_SECONDS = 3600.0
"""Seconds that the id of an acknowledged message is kept. Publishing it again does nothing."""

ACKNOWLEDGED_SECONDS_GENERATED = 120.0
"""The same for an id that the library generated: long enough for the library's own retries."""


class LeasedMessage(NamedTuple):
    """A message that was taken from a mailbox.

    id: its stored id.
    payload: the published bytes.
    deliveries: how often it was delivered, this time included.
    fence: the fencing token of this delivery.
    """

    id: str
    payload: bytes
    deliveries: int
    fence: int


class QueuedMessage(NamedTuple):
    """A message that was listed without being taken.

    id: its stored id.
    payload: the published bytes.
    deliveries: how often it was delivered.
    """

    id: str
    payload: bytes
    deliveries: int


class Store(abc.ABC):
    """A backend of a cache. Safe to use from every thread and in a forked child.

    Every method raises a CacheError if the backend fails. In `expected` and `held`, None stands for
    an absent key.

    address: the place of the backend; None if other processes cannot open it.
    """

    address: Optional[CacheAddress] = None

    # Values

    @abc.abstractmethod
    def get(self, key: str) -> Optional[bytes]:
        """Return the bytes under a key, or None."""

    @abc.abstractmethod
    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """Return the bytes under each key, in the order of the keys; None for an absent key."""

    @abc.abstractmethod
    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all items in one step, to expire after `ttl` seconds if given."""

    @abc.abstractmethod
    def set_guarded(
        self, guard: str, held: Optional[bytes], items: Mapping[str, bytes], ttl: Optional[float]
    ) -> bool:
        """Write all items if the guard key holds `held`, in one step. Return whether it does."""

    @abc.abstractmethod
    def compare_and_set(self, key: str, expected: Optional[bytes], data: bytes) -> bool:
        """Write if the key holds `expected`, and keep its expiry. Return whether it does."""

    @abc.abstractmethod
    def increment(self, key: str, by: int) -> int:
        """Add to the integer under a key, 0 if absent. Return the sum.

        Raises CacheValueError if the key holds something else.
        """

    @abc.abstractmethod
    def delete(self, keys: List[str]) -> int:
        """Remove the keys. Return how many existed."""

    @abc.abstractmethod
    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Yield every stored key that starts with `head` and contains `tail` after that.

        A key may be repeated.
        """

    # Mailboxes; each is addressed by its stored key

    @abc.abstractmethod
    def put(self, mailbox: str, id: str, payload: bytes) -> None:
        """Append a message, unless its id is in the mailbox or was acknowledged recently."""

    @abc.abstractmethod
    def take(
        self,
        mailbox: str,
        lease: Optional[float],
        timeout: Optional[float],
        cancellation: Cancellation,
    ) -> Optional[LeasedMessage]:
        """Take the first message, and wait for one if there is none.

        lease: seconds until the message is delivered again; None removes it at once.
        timeout: seconds to wait; None waits without limit.
        cancellation: ends the wait early.

        Returns None on timeout. Raises Cancelled if the wait is cancelled.
        """

    @abc.abstractmethod
    def ack(self, mailbox: str, id: str, fence: int) -> bool:
        """Remove a leased message. Return whether the fence holds the lease, or has removed it."""

    @abc.abstractmethod
    def release(self, mailbox: str, id: str, fence: int) -> None:
        """Return a leased message to the front of the mailbox, if the fence holds the lease."""

    @abc.abstractmethod
    def extend(self, mailbox: str, id: str, fence: int, lease: float) -> bool:
        """Set a lease to end `lease` seconds from now. Return whether the fence holds it."""

    @abc.abstractmethod
    def list_messages(self, mailbox: str, dead: bool, count: Optional[int]) -> List[QueuedMessage]:
        """Return the first `count` messages (None: all) that are ready, or the dead ones."""

    @abc.abstractmethod
    def redrive(self, mailbox: str, id: Optional[str]) -> int:
        """Make one dead message, or all of them (None), ready again. Return how many."""

    @abc.abstractmethod
    def length(self, mailbox: str) -> int:
        """Return how many messages are ready or leased."""

    # Records

    @abc.abstractmethod
    def records(self, head: str, tail: str) -> RecordStore:
        """Return the records of the namespace with this text before and after its keys."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release connections and other resources."""
