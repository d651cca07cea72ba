"""The Redis backend: the commands and scripts behind each method of `Store`.

Values are strings under their stored keys. A mailbox is nine keys (see `lua.py`), which begin with
the mailbox's stored key and share a hash tag: `prefix:box<NUL>mailbox{prefix:box}ready`.
"""

import functools
import re
import uuid
from typing import Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import asimov_sync.cache.lua as lua
from asimov_sync.cache.keys import MAILBOX
from asimov_sync.cache.limits import CALL_SECONDS, GRACE_SECONDS, Limits
from asimov_sync.cache.records import RecordStore
from asimov_sync.cache.redis_connection import RedisConnection
from asimov_sync.cache.store import (
    ACKNOWLEDGED_SECONDS,
    ACKNOWLEDGED_SECONDS_GENERATED,
    LeasedMessage,
    QueuedMessage,
    Store,
)
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.errors import CacheError, CacheUnavailable, CrossSlotError, OutcomeUnknown

__all__ = ["RedisStore"]

SIGNAL_WAIT_SECONDS = 1.0
"""Longest single wait for the ready signal, and the cost of a lost signal or a dead connection."""

MIN_TAKE_SECONDS = 1.0
"""Least seconds to wait for a silent server. It lets a read with a shorter time-out connect."""

OUTAGE_PAUSE = 0.2
"""Seconds before a blocked reader tries again to reach an unavailable server."""

ACKNOWLEDGED_MS = [
    int(seconds * 1000) for seconds in (ACKNOWLEDGED_SECONDS_GENERATED, ACKNOWLEDGED_SECONDS)
]


class RedisStore(Store):
    """Values and mailboxes on a Redis server.

    connection: the server or cluster.
    max_deliveries: deliveries before a message is dead.
    clock: returns the milliseconds that leases are measured by; None (the default) uses the
        server's clock.
    """

    def __init__(
        self,
        connection: RedisConnection,
        max_deliveries: int,
        clock: Optional[Callable[[], int]] = None,
    ) -> None:
        self.connection = connection
        self.max_deliveries = max_deliveries
        self.clock = clock

    # Values

    def get(self, key: str) -> Optional[bytes]:
        """Return the bytes under a key, or None."""
        return self.connection.send_idempotent(key, "GET", key)  # type: ignore[no-any-return]

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """Return the bytes under each key, in the order of the keys.

        None stands for an absent key, or one of another data type.
        """
        return self.connection.get_many(keys) if keys else []

    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all items in one step; on a cluster, in one step for each slot."""
        for keys in self.connection.group_by_slot(list(items)):
            self._set_group(keys, items, ttl)

    def _set_group(self, keys: List[str], items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        if len(keys) == 1:
            expiry = [] if ttl is None else ["PX", _milliseconds(ttl)]
            self.connection.send_idempotent(keys[0], "SET", keys[0], items[keys[0]], *expiry)
        elif ttl is None:
            pairs = [word for key in keys for word in (key, items[key])]
            self.connection.send_idempotent(keys[0], "MSET", *pairs)
        else:
            self._run_script(lua.SET_ALL, keys, [_milliseconds(ttl)] + [items[key] for key in keys])

    def set_guarded(
        self, guard: str, held: Optional[bytes], items: Mapping[str, bytes], ttl: Optional[float]
    ) -> bool:
        """Write all items if the guard key holds `held`, in one step."""
        keys = [guard] + list(items)
        if len(self.connection.group_by_slot(keys)) > 1:
            raise CrossSlotError(
                "a guarded write is one step, and these keys are in several slots of the cluster: "
                "put them under a prefix with a hash tag, with_prefix('{…}')"
            )
        expiry = "" if ttl is None else _milliseconds(ttl)
        arguments = _expected_arguments(held) + [expiry] + list(items.values())
        return bool(self._run_script(lua.SET_GUARDED, keys, arguments, self.connection.send_once))

    def compare_and_set(self, key: str, expected: Optional[bytes], data: bytes) -> bool:
        """Write if the key holds `expected`, and keep its expiry."""
        arguments = _expected_arguments(expected) + [data]
        return bool(
            self._run_script(lua.COMPARE_AND_SET, [key], arguments, self.connection.send_once)
        )

    def increment(self, key: str, by: int) -> int:
        """Add to the integer under a key."""
        return int(self.connection.send_once(key, "INCRBY", key, by))

    def delete(self, keys: List[str]) -> int:
        """Remove the keys. Return how many existed."""
        groups = self.connection.group_by_slot(keys) if keys else []
        return sum(int(self.connection.send_once(group[0], "UNLINK", *group)) for group in groups)

    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Yield every stored key that starts with `head` and contains `tail` after that.

        A key may be repeated.
        """
        return self.connection.scan(
            _escape_glob(head) + "*" + (_escape_glob(tail) + "*" if tail else "")
        )

    # Mailboxes

    def put(self, mailbox: str, id: str, payload: bytes) -> None:
        """Append a message, unless its id is in the mailbox or was acknowledged recently."""
        self._mailbox_script(lua.PUT, mailbox, [id, payload])

    def take(
        self,
        mailbox: str,
        lease: Optional[float],
        timeout: Optional[float],
        cancellation: Cancellation,
    ) -> Optional[LeasedMessage]:
        """Take the first message. Without one, wait for the ready signal, even through an outage.

        The time-out is also the limit for a silent server, plus GRACE_SECONDS and at least
        MIN_TAKE_SECONDS. When it passes without a reply, the result is an error, because it is
        unknown whether there is a message. The first reply must arrive within CALL_SECONDS.
        """
        start = clock.real()
        end = None if timeout is None else start + timeout
        latest = None if end is None else max(end + GRACE_SECONDS, start + MIN_TAKE_SECONDS)
        token = uuid.uuid4().hex  # identifies this request, to find a lease whose reply was lost
        reply_lost = waited = False
        while True:
            outage: Optional[CacheError] = None
            until_lease_end: Optional[float] = None
            first_reply = None if waited else start + CALL_SECONDS
            bound = _seconds_until(latest, first_reply)
            limits = Limits(cancellation, min(CALL_SECONDS, bound or CALL_SECONDS))
            try:
                leased, until_lease_end = self._try_take(mailbox, lease, token, reply_lost, limits)
                if leased is not None:
                    return leased
            except OutcomeUnknown as error:
                if lease is None:
                    raise  # the message, if there was one, was removed and is lost
                outage = CacheUnavailable(str(error))
                outage.__cause__ = error
                if not reply_lost and limits.remaining() > 0:
                    reply_lost = True
                    continue
                reply_lost = True
                if not waited and limits.remaining() <= 0:
                    raise outage from error
            except CacheUnavailable as error:
                if not waited:
                    raise
                outage = error
            remaining = _shortest(_seconds_until(end), cancellation.remaining)
            if remaining is not None and remaining <= 0:
                cancellation.raise_if_cancelled()
                if outage is not None:
                    raise outage
                return None
            waited = True
            seconds = min(
                value
                for value in (SIGNAL_WAIT_SECONDS, remaining, until_lease_end)
                if value is not None
            )
            if outage is not None:
                cancellation.wait(min(OUTAGE_PAUSE, seconds))
                cancellation.raise_if_cancelled()
                continue
            bound = _seconds_until(latest)
            try:
                limits = Limits(
                    cancellation, CALL_SECONDS if bound is None else min(CALL_SECONDS, bound)
                )
                ready_signal = _mailbox_keys(mailbox)[-1]
                self.connection.wait_for_element(ready_signal, seconds, limits)
            except CacheUnavailable:
                pass  # the next attempt to take a message finds out whether that persists

    def _try_take(
        self, mailbox: str, lease: Optional[float], token: str, retry: bool, limits: Limits
    ) -> Tuple[Optional[LeasedMessage], Optional[float]]:
        """Return a message; or None, and the seconds until a lease ends if there is one."""
        milliseconds = "" if lease is None else _milliseconds(lease)
        arguments = ACKNOWLEDGED_MS + [
            milliseconds,
            self.max_deliveries,
            token,
            "retry" if retry else "",
        ]
        reply = self._mailbox_script(
            lua.TAKE, mailbox, arguments, self.connection.send_once, limits
        )
        if len(reply) == 4:
            id, payload, deliveries, fence = reply
            return LeasedMessage(id.decode("utf-8"), payload, int(deliveries), int(fence)), None
        return None, max(0.001, float(reply[0]) / 1000) if reply[0] else None

    def ack(self, mailbox: str, id: str, fence: int) -> bool:
        """Remove a leased message."""
        return bool(self._mailbox_script(lua.ACK, mailbox, ACKNOWLEDGED_MS + [id, fence]))

    def release(self, mailbox: str, id: str, fence: int) -> None:
        """Return a leased message to the front of the mailbox, if the fence holds the lease."""
        self._mailbox_script(lua.RELEASE, mailbox, [id, fence])

    def extend(self, mailbox: str, id: str, fence: int, lease: float) -> bool:
        """Set a lease to end `lease` seconds from now."""
        return bool(self._mailbox_script(lua.EXTEND, mailbox, [id, fence, _milliseconds(lease)]))

    def list_messages(self, mailbox: str, dead: bool, count: Optional[int]) -> List[QueuedMessage]:
        """Return the first messages that are ready, or the dead ones."""
        if count is not None and count < 1:
            return []
        last = -1 if count is None else count - 1
        arguments = ["dead" if dead else "ready", last, self.max_deliveries]
        reply = self._mailbox_script(lua.LIST_MESSAGES, mailbox, arguments)
        return [
            QueuedMessage(id.decode("utf-8"), payload, int(deliveries))
            for id, payload, deliveries in zip(*[iter(reply)] * 3)
        ]

    def redrive(self, mailbox: str, id: Optional[str]) -> int:
        """Make one dead message, or all of them, ready again."""
        return int(
            self._mailbox_script(lua.REDRIVE, mailbox, [id or ""], self.connection.send_once)
        )

    def length(self, mailbox: str) -> int:
        """Return how many messages are ready or leased."""
        return int(self._mailbox_script(lua.LENGTH, mailbox, []))

    def _mailbox_script(
        self,
        text: str,
        mailbox: str,
        arguments: List[Any],
        send: Any = None,
        limits: Optional[Limits] = None,
    ) -> Any:
        now = "" if self.clock is None else self.clock()
        return self._run_script(text, _mailbox_keys(mailbox), [now] + arguments, send, limits)

    def _run_script(
        self,
        text: str,
        keys: Sequence[Union[str, bytes]],
        arguments: List[Any],
        send: Any = None,
        limits: Optional[Limits] = None,
    ) -> Any:
        send = send or self.connection.send_idempotent
        return self.connection.run_script(text, send, keys, arguments, limits)

    # Records

    def records(self, head: str, tail: str) -> RecordStore:
        """Return the records of a namespace."""
        from asimov_sync.cache.redis_records import RedisRecords

        return RedisRecords(self.connection, head, tail, self.clock)

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()


@functools.lru_cache(maxsize=1024)
def _mailbox_keys(mailbox: str) -> Tuple[bytes, ...]:
    """Return the nine keys of a mailbox."""
    path = mailbox[: -len(MAILBOX)]
    return tuple(f"{mailbox}{{{path}}}{name}".encode("utf-8") for name in lua.KEY_NAMES)


def _expected_arguments(data: Optional[bytes]) -> List[Any]:
    return ["", "absent"] if data is None else [data, ""]


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _seconds_until(*moments: Optional[float]) -> Optional[float]:
    """Return the seconds until the first of these moments of `clock.real()`; None without one."""
    moment = _shortest(*moments)
    return None if moment is None else moment - clock.real()


def _shortest(*values: Optional[float]) -> Optional[float]:
    return min((value for value in values if value is not None), default=None)


def _escape_glob(text: str) -> str:
    """Return a glob pattern that matches this text only."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)
