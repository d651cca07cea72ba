"""Caches for coroutines: every method that may wait for a server is a coroutine."""

from typing import Any, Dict, Iterable, List, Mapping, Optional, Set, Tuple

from asimov_sync.aio.thread_bridge import ThreadBridge
from asimov_sync.cache.base import MISSING, Cache
from asimov_sync.cache.delivery import Delivery, Letter
from asimov_sync.cancellation import Cancellation

__all__ = ["AsyncCache", "AsyncDelivery"]


class AsyncCache:
    """`Cache` for coroutines, with the same methods and arguments.

    sync: the blocking cache; it can be used at the same time.
    bridge: the threads of the facade.
    owner: whether `close` closes the cache (default: True); False for views.
    """

    def __init__(self, sync: Cache, bridge: ThreadBridge, owner: bool = True) -> None:
        self.sync = sync
        self._bridge = bridge
        self._owner = owner

    # Values

    async def set(
        self, key: str, value: Any, ttl: Optional[float] = None, raw: bool = False
    ) -> None:
        """Store a value. See `Cache.set`."""
        await self._bridge.run_short(self.sync.set, key, value, ttl, raw)

    async def get(
        self, key: str, default: Any = MISSING, raw: bool = False, type: Any = None
    ) -> Any:
        """Return the value of a key. Without a `default`, a missing key is a KeyError. See
        `Cache.get`.
        """
        return await self._bridge.run_short(self.sync.get, key, default, raw, type)

    async def delete(self, key: str) -> bool:
        """Remove a key; return whether it existed. See `Cache.delete`."""
        return await self._bridge.run_short(self.sync.delete, key)

    async def compare_and_set(self, key: str, expected: Any, value: Any) -> bool:
        """Store a value if the key holds `expected`; return whether it did. See
        `Cache.compare_and_set`.
        """
        return await self._bridge.run_short(self.sync.compare_and_set, key, expected, value)

    async def increment(self, key: str, by: int = 1) -> int:
        """Add to the integer of a key; return the sum. See `Cache.increment`."""
        return await self._bridge.run_short(self.sync.increment, key, by)

    # Several keys

    async def get_many(self, keys: Iterable[str]) -> Dict[str, Any]:
        """Return the values of those keys that exist. See `Cache.get_many`."""
        return await self._bridge.run_short(self.sync.get_many, keys)

    async def set_many(
        self,
        mapping: Mapping[str, Any],
        ttl: Optional[float] = None,
        guard: Optional[Tuple[str, Any]] = None,
    ) -> bool:
        """Store all values in one step, or none; return whether they were stored. See
        `Cache.set_many`.
        """
        return await self._bridge.run_short(self.sync.set_many, mapping, ttl, guard)

    async def keys(self) -> Set[str]:
        """Return the keys of the namespace that hold a JSON value. See `Cache.keys`."""
        return await self._bridge.run_short(self.sync.keys)

    async def get_all(self) -> Dict[str, Any]:
        """Return all JSON values of the namespace by their keys. See `Cache.get_all`."""
        return await self._bridge.run_short(self.sync.get_all)

    async def clear(self, everything: bool = False) -> int:
        """Remove the values of the namespace; return their number. See `Cache.clear`."""
        return await self._bridge.run_short(self.sync.clear, everything)

    # Namespaces

    def with_prefix(self, prefix: str) -> "AsyncCache":
        """Return a view of the namespace `prefix` inside this one. See `Cache.with_prefix`.

        Not a coroutine, since it sends nothing.
        """
        return AsyncCache(self.sync.with_prefix(prefix), self._bridge, owner=False)

    def with_suffix(self, suffix: str) -> "AsyncCache":
        """Return a view of the namespace `suffix` inside this one. See `Cache.with_suffix`.

        Not a coroutine, since it sends nothing.
        """
        return AsyncCache(self.sync.with_suffix(suffix), self._bridge, owner=False)

    # Mailboxes

    async def publish_to_mailbox(
        self, mailbox: str, message: Any, message_id: Optional[str] = None
    ) -> None:
        """Put a message at the end of a mailbox. See `Cache.publish_to_mailbox`."""
        await self._bridge.run_short(self.sync.publish_to_mailbox, mailbox, message, message_id)

    async def get_message(
        self,
        mailbox: str,
        timeout: Optional[float] = None,
        cancellation: Optional[Cancellation] = None,
    ) -> Any:
        """Take the oldest message, or wait for one; None on timeout. See `Cache.get_message`.

        A message that arrives at the moment of a cancellation is put back at the end of the
        mailbox.
        """

        def put_back(message: Any) -> None:
            if message is not None:
                self.sync.publish_to_mailbox(mailbox, message)

        return await self._bridge.run_blocking(
            self.sync.get_message, mailbox, timeout, cancellation=cancellation, on_orphan=put_back
        )

    async def receive(
        self,
        mailbox: str,
        timeout: Optional[float] = None,
        lease: float = 30.0,
        cancellation: Optional[Cancellation] = None,
    ) -> "Optional[AsyncDelivery]":
        """Lease the oldest message, or wait for one; None on timeout. See `Cache.receive`.

        A message that arrives at the moment of a cancellation is released, and is read next.
        """

        def release(delivery: Optional[Delivery]) -> None:
            if delivery is not None:
                delivery.release()

        delivery = await self._bridge.run_blocking(
            self.sync.receive, mailbox, timeout, lease, cancellation=cancellation, on_orphan=release
        )
        return None if delivery is None else AsyncDelivery(delivery, self._bridge)

    async def mailbox_length(self, mailbox: str) -> int:
        """Return the number of messages in a mailbox. See `Cache.mailbox_length`."""
        return await self._bridge.run_short(self.sync.mailbox_length, mailbox)

    async def peek(self, mailbox: str, count: int = 1) -> List[Any]:
        """Return the messages that are read next, without taking them. See `Cache.peek`."""
        return await self._bridge.run_short(self.sync.peek, mailbox, count)

    async def dead_letters(self, mailbox: str) -> List[Letter]:
        """Return the dead letters of a mailbox, the oldest first. See `Cache.dead_letters`."""
        return await self._bridge.run_short(self.sync.dead_letters, mailbox)

    async def put_back(self, mailbox: str, message_id: Optional[str] = None) -> int:
        """Put dead letters back at the end of the mailbox; return their number. See
        `Cache.put_back`.
        """
        return await self._bridge.run_short(self.sync.put_back, mailbox, message_id)

    # Closing

    async def close(self) -> None:
        """Close the cache and end all waiting calls of this facade. Does nothing for a view."""
        if self._owner:
            await self._bridge.close(self.sync.close)

    async def __aenter__(self) -> "AsyncCache":
        return self

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<AsyncCache of {self.sync!r}>"


class AsyncDelivery:
    """`Delivery` for coroutines.

    sync: the blocking delivery.
    """

    def __init__(self, sync: Delivery, bridge: ThreadBridge) -> None:
        self.sync = sync
        self.message = sync.message
        self.id = sync.id
        self.deliveries = sync.deliveries
        self._bridge = bridge

    async def ack(self) -> bool:
        """Remove the message from its mailbox; False if the lease was lost. See `Delivery.ack`."""
        return await self._bridge.run_short(self.sync.ack)

    async def release(self) -> None:
        """Release the message, which is then read next. See `Delivery.release`."""
        await self._bridge.run_short(self.sync.release)

    async def extend(self, lease: Optional[float] = None) -> bool:
        """Extend the lease to `lease` seconds from now; False if it was lost. See
        `Delivery.extend`.
        """
        return await self._bridge.run_short(self.sync.extend, lease)

    def __repr__(self) -> str:
        return f"<AsyncDelivery of {self.sync!r}>"
