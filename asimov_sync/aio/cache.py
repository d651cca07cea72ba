"""A cache for coroutines: every method that may wait for a server is a coroutine."""

from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from asimov_sync.aio.threads import Threads
from asimov_sync.cache.base import MISSING, Cache
from asimov_sync.cache.delivery import Delivery, Letter
from asimov_sync.cancellation import Cancellation

__all__ = ["AsyncCache", "AsyncDelivery"]


class AsyncCache:
    """`Cache` for coroutines, with the same methods and arguments. sync: the cache beneath, which may be used meanwhile."""

    def __init__(self, sync: Cache, threads: Threads, owner: bool = True) -> None:
        self.sync = sync
        self._threads = threads
        self._owner = owner

    # Values

    async def set(self, key: str, value: Any, ttl: Optional[float] = None, raw: bool = False) -> None:
        """Store a value. See `Cache.set`."""
        await self._threads.short(self.sync.set, key, value, ttl, raw)

    async def get(self, key: str, default: Any = MISSING, raw: bool = False, type: Any = None) -> Any:
        """The value under a key; `default` if absent, or KeyError without one. See `Cache.get`."""
        return await self._threads.short(self.sync.get, key, default, raw, type)

    async def delete(self, key: str) -> bool:
        """Remove a key; whether there was one. See `Cache.delete`."""
        return await self._threads.short(self.sync.delete, key)

    async def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        """Store a value if the key holds `expected`; whether it did. See `Cache.compare_and_set`."""
        return await self._threads.short(self.sync.compare_and_set, key, expected, value)

    async def increment(self, key: str, by: int = 1) -> int:
        """Add to the integer under a key; the sum. See `Cache.increment`."""
        return await self._threads.short(self.sync.increment, key, by)

    # In bulk

    async def get_many(self, keys: Iterable[str]) -> Dict[str, Any]:
        """The values of those of the keys that there are. See `Cache.get_many`."""
        return await self._threads.short(self.sync.get_many, keys)

    async def set_many(
        self, mapping: Mapping[str, Any], ttl: Optional[float] = None, guard: Optional[Tuple[str, Any]] = None
    ) -> bool:
        """Store all values in one step, or none; whether it did. See `Cache.set_many`."""
        return await self._threads.short(self.sync.set_many, mapping, ttl, guard)

    async def keys(self) -> Set[str]:
        """The keys of the namespace that hold a JSON value. See `Cache.keys`."""
        return await self._threads.short(self.sync.keys)

    async def get_all(self) -> Dict[str, Any]:
        """All JSON values of the namespace by their keys. See `Cache.get_all`."""
        return await self._threads.short(self.sync.get_all)

    async def clear(self, everything: bool = False) -> int:
        """Remove all that is in the namespace; how many values there were. See `Cache.clear`."""
        return await self._threads.short(self.sync.clear, everything)

    # Namespaces

    def with_prefix(self, prefix: str) -> "AsyncCache":
        """A view of the namespace `prefix` inside this one; no coroutine, since it asks no server. See `Cache.with_prefix`."""
        return AsyncCache(self.sync.with_prefix(prefix), self._threads, owner=False)

    def with_suffix(self, suffix: str) -> "AsyncCache":
        """A view of the namespace `suffix` inside this one; no coroutine, since it asks no server. See `Cache.with_suffix`."""
        return AsyncCache(self.sync.with_suffix(suffix), self._threads, owner=False)

    # Mailboxes

    async def publish_to_mailbox(self, mailbox: str, message: Any, message_id: Optional[str] = None) -> None:
        """Put a message at the end of a mailbox. See `Cache.publish_to_mailbox`."""
        await self._threads.short(self.sync.publish_to_mailbox, mailbox, message, message_id)

    async def get_message(
        self, mailbox: str, timeout: Optional[float] = None, cancellation: Optional[Cancellation] = None
    ) -> Any:
        """Take the oldest message, waiting for one; None if none came. See `Cache.get_message`.

        A message that came in the very moment in which the coroutine was cancelled is put back, at the end of its mailbox.
        """

        def put_back(message: Any) -> None:
            if message is not None:
                self.sync.publish_to_mailbox(mailbox, message)

        return await self._threads.wait(self.sync.get_message, mailbox, timeout, cancellation=cancellation, undo=put_back)

    async def receive(
        self,
        mailbox: str,
        timeout: Optional[float] = None,
        lease: float = 30.0,
        cancellation: Optional[Cancellation] = None,
    ) -> "Optional[AsyncDelivery]":
        """Lease the oldest message, waiting for one; None if none came. See `Cache.receive`.

        A message that came in the very moment in which the coroutine was cancelled is released, to be the next that is read.
        """

        def release(delivery: Optional[Delivery]) -> None:
            if delivery is not None:
                delivery.release()

        delivery = await self._threads.wait(
            self.sync.receive, mailbox, timeout, lease, cancellation=cancellation, undo=release
        )
        return None if delivery is None else AsyncDelivery(delivery, self._threads)

    async def mailbox_length(self, mailbox: str) -> int:
        """How many messages a mailbox holds. See `Cache.mailbox_length`."""
        return await self._threads.short(self.sync.mailbox_length, mailbox)

    async def peek(self, mailbox: str, count: int = 1) -> List[Any]:
        """The messages that would be read next, without taking them. See `Cache.peek`."""
        return await self._threads.short(self.sync.peek, mailbox, count)

    async def dead_letters(self, mailbox: str) -> List[Letter]:
        """The messages that were given up, the oldest first. See `Cache.dead_letters`."""
        return await self._threads.short(self.sync.dead_letters, mailbox)

    async def put_back(self, mailbox: str, message_id: Optional[str] = None) -> int:
        """Put a dead letter back at the end of the mailbox; how many there were. See `Cache.put_back`."""
        return await self._threads.short(self.sync.put_back, mailbox, message_id)

    # Life

    async def close(self) -> None:
        """Close the cache beneath, and end what still waits through this facade. A view closes nothing."""
        if self._owner:
            await self._threads.close(self.sync.close)

    async def __aenter__(self) -> "AsyncCache":
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def __repr__(self) -> str:
        return "<AsyncCache of {!r}>".format(self.sync)


class AsyncDelivery:
    """`Delivery` for coroutines. sync: the delivery beneath."""

    def __init__(self, sync: Delivery, threads: Threads) -> None:
        self.sync = sync
        self.message = sync.message
        self.id = sync.id
        self.deliveries = sync.deliveries
        self._threads = threads

    async def ack(self) -> bool:
        """Remove the message from its mailbox; False if the lease was lost. See `Delivery.ack`."""
        return await self._threads.short(self.sync.ack)

    async def release(self) -> None:
        """Give the message back, to be the next that is read. See `Delivery.release`."""
        await self._threads.short(self.sync.release)

    async def extend(self, lease: Optional[float] = None) -> bool:
        """Let the lease run out so many seconds from now; False if it was lost. See `Delivery.extend`."""
        return await self._threads.short(self.sync.extend, lease)

    def __repr__(self) -> str:
        return "<AsyncDelivery of {!r}>".format(self.sync)
