"""The Redis backend: which commands and scripts the contract's calls are.

Values are strings under their stored keys. A mailbox is nine keys (see `scripts`), which begin with the mailbox's own and
share a hash tag: `prefix:box<NUL>mailbox{prefix:box}ready`.
"""

import functools
import re
import time
import uuid
from typing import TYPE_CHECKING, Any, Callable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from asimov_sync.cache import scripts
from asimov_sync.cache.contract import Store
from asimov_sync.cache.keys import MAILBOX
from asimov_sync.cache.limits import ANSWER_SECONDS, REPLY_SECONDS, Limits
from asimov_sync.cache.mailboxes import REMEMBERED_SECONDS, REMEMBERED_SHORTLY_SECONDS, Claim, Letter
from asimov_sync.cancellation import Cancellation
from asimov_sync.errors import CacheError, CacheUnavailable, CrossSlotError, OutcomeUnknown

if TYPE_CHECKING:
    from asimov_sync.cache.redis import RedisServer

__all__ = ["RedisStore"]

LOOK_SECONDS = 1.0
"""How long a reader waits for the bell at a stretch: what a lost token costs, and at most what a dead connection does."""

FIRST_SECONDS = 1.0
"""How long a read with a shorter time-out waits for a server that does not answer: connecting alone may take a while."""

OUTAGE_WAIT = 0.2
"""How long a blocked reader waits before it tries again to reach a server that has gone away."""

REMEMBERED = [int(seconds * 1000) for seconds in (REMEMBERED_SHORTLY_SECONDS, REMEMBERED_SECONDS)]


class RedisStore(Store):
    """Values and mailboxes on a Redis server.

    clock: the milliseconds that leases are measured by; None for the server's own.
    """

    def __init__(self, server: "RedisServer", max_deliveries: int, clock: Optional[Callable[[], int]] = None) -> None:
        self.server = server
        self.max_deliveries = max_deliveries
        self.clock = clock

    # Values

    def get(self, key: str) -> Optional[bytes]:
        """The bytes under a key, or None."""
        return self.server.again(key, "GET", key)  # type: ignore[no-any-return]

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """The bytes under each key, in the same order; None where there are none, or where the key is of another type."""
        return self.server.get_many(keys) if keys else []

    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all of it, in one step; on a cluster, one a slot."""
        for keys in self.server.by_slot(list(items)):
            self._set(keys, items, ttl)

    def _set(self, keys: List[str], items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        if len(keys) == 1:
            end = [] if ttl is None else ["PX", _milliseconds(ttl)]
            self.server.again(keys[0], "SET", keys[0], items[keys[0]], *end)
        elif ttl is None:
            self.server.again(keys[0], "MSET", *[part for key in keys for part in (key, items[key])])
        else:
            self._script(scripts.SET_ALL, keys, [_milliseconds(ttl)] + [items[key] for key in keys])

    def set_guarded(self, guard: str, held: Optional[bytes], items: Mapping[str, bytes], ttl: Optional[float]) -> bool:
        """Write all of it if the guard holds, in one step."""
        keys = [guard] + list(items)
        if len(self.server.by_slot(keys)) > 1:
            raise CrossSlotError(
                "a guarded write is one step, and these keys are of several slots of the cluster: "
                "put them under a prefix with a hash tag, with_prefix('{…}')"
            )
        end = "" if ttl is None else _milliseconds(ttl)
        return bool(self._script(scripts.SET_GUARDED, keys, _expected(held) + [end] + list(items.values()), self.server.once))

    def compare_and_set(self, key: str, expected: Optional[bytes], data: bytes) -> bool:
        """Write if the key holds what is expected."""
        return bool(self._script(scripts.COMPARE_AND_SET, [key], _expected(expected) + [data], self.server.once))

    def increment(self, key: str, by: int) -> int:
        """Add to the integer under a key."""
        return int(self.server.once(key, "INCRBY", key, by))

    def delete(self, keys: List[str]) -> int:
        """Remove the keys; how many of them there were."""
        groups = self.server.by_slot(keys) if keys else []
        return sum(int(self.server.once(group[0], "UNLINK", *group)) for group in groups)

    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Every stored key that begins with `head` and has `tail` somewhere behind it; some perhaps twice."""
        return self.server.scan(_literal(head) + "*" + (_literal(tail) + "*" if tail else ""))

    # Mailboxes

    def put(self, mailbox: str, id: str, payload: bytes) -> None:
        """Append a message, unless its id is there or was acknowledged lately."""
        self._mail(scripts.PUT, mailbox, [id, payload])

    def take(
        self, mailbox: str, lease: Optional[float], timeout: Optional[float], cancellation: Cancellation
    ) -> Optional[Claim]:
        """Take the first message; wait at the bell for one, and outlast a server that goes away and comes back.

        A server that does not answer is waited for until the time-out and ANSWER_SECONDS more, FIRST_SECONDS at least; then
        the outcome is an error, since nobody knows whether there is a message. A first answer is waited for REPLY_SECONDS.
        """
        start = time.monotonic()
        end = None if timeout is None else start + timeout
        latest = None if end is None else max(end + ANSWER_SECONDS, start + FIRST_SECONDS)
        token = uuid.uuid4().hex  # by which a claim is asked for again whose answer was lost
        asked = waited = False
        while True:
            outage: Optional[CacheError] = None
            pause: Optional[float] = None
            first = None if waited else start + REPLY_SECONDS
            limits = Limits(cancellation, min(REPLY_SECONDS, _least(latest, first) or REPLY_SECONDS))
            try:
                claim, pause = self._look(mailbox, lease, token, asked, limits)
                if claim is not None:
                    return claim
            except OutcomeUnknown as error:
                if lease is None:
                    raise  # a message that was taken for good, and is gone
                outage = CacheUnavailable(str(error))
                outage.__cause__ = error
                if not asked and limits.seconds() > 0:
                    asked = True
                    continue
                asked = True
                if not waited and limits.seconds() <= 0:
                    raise outage from error
            except CacheUnavailable as error:
                if not waited:
                    raise
                outage = error
            left = _least(end, cancellation.deadline)
            if left is not None and left <= 0:
                cancellation.raise_if_cancelled()
                if outage is not None:
                    raise outage
                return None
            waited = True
            seconds = min(given for given in (LOOK_SECONDS, left, pause) if given is not None)
            if outage is not None:
                cancellation.wait(min(OUTAGE_WAIT, seconds))
                cancellation.raise_if_cancelled()
                continue
            bound = _least(latest)
            try:
                limits = Limits(cancellation, REPLY_SECONDS if bound is None else min(REPLY_SECONDS, bound))
                self.server.wait(_parts(mailbox)[-1], seconds, limits)
            except CacheUnavailable:
                pass  # the next look will say whether it is still so

    def _look(
        self, mailbox: str, lease: Optional[float], token: str, asked: bool, limits: Limits
    ) -> Tuple[Optional[Claim], Optional[float]]:
        """A claim; or None, and the seconds until a lease runs out, where there is one."""
        milliseconds = "" if lease is None else _milliseconds(lease)
        arguments = REMEMBERED + [milliseconds, self.max_deliveries, token, "again" if asked else ""]
        told = self._mail(scripts.TAKE, mailbox, arguments, self.server.once, limits)
        if len(told) == 4:
            id, payload, deliveries, fence = told
            return Claim(id.decode("utf-8"), payload, int(deliveries), int(fence)), None
        return None, max(0.001, float(told[0]) / 1000) if told[0] else None

    def ack(self, mailbox: str, id: str, fence: int) -> bool:
        """Remove a leased message."""
        return bool(self._mail(scripts.ACK, mailbox, REMEMBERED + [id, fence]))

    def release(self, mailbox: str, id: str, fence: int) -> None:
        """Give a leased message back, if the fence holds the lease."""
        self._mail(scripts.RELEASE, mailbox, [id, fence])

    def extend(self, mailbox: str, id: str, fence: int, lease: float) -> bool:
        """Let a lease run out so many seconds from now."""
        return bool(self._mail(scripts.EXTEND, mailbox, [id, fence, _milliseconds(lease)]))

    def letters(self, mailbox: str, dead: bool, count: Optional[int]) -> List[Letter]:
        """The first messages that are ready, or dead."""
        if count is not None and count < 1:
            return []
        last = -1 if count is None else count - 1
        told = self._mail(scripts.LETTERS, mailbox, ["dead" if dead else "ready", last, self.max_deliveries])
        return [Letter(id.decode("utf-8"), payload, int(count)) for id, payload, count in zip(*[iter(told)] * 3)]

    def put_back(self, mailbox: str, id: Optional[str]) -> int:
        """Make one dead message, or all of them, ready again."""
        return int(self._mail(scripts.PUT_BACK, mailbox, [id or ""], self.server.once))

    def length(self, mailbox: str) -> int:
        """How many messages are ready or leased."""
        return int(self._mail(scripts.LENGTH, mailbox, []))

    def _mail(self, text: str, mailbox: str, arguments: List[Any], send: Any = None, limits: Optional[Limits] = None) -> Any:
        now = "" if self.clock is None else self.clock()
        return self._script(text, _parts(mailbox), [now] + arguments, send, limits)

    def _script(
        self,
        text: str,
        keys: Sequence[Union[str, bytes]],
        arguments: List[Any],
        send: Any = None,
        limits: Optional[Limits] = None,
    ) -> Any:
        return self.server.script(text, send or self.server.again, keys, arguments, limits)

    def close(self) -> None:
        """Give back the connections."""
        self.server.close()


@functools.lru_cache(maxsize=1024)
def _parts(mailbox: str) -> Tuple[bytes, ...]:
    """The nine keys of a mailbox."""
    place = mailbox[: -len(MAILBOX)]
    return tuple("{}{{{}}}{}".format(mailbox, place, part).encode("utf-8") for part in scripts.PARTS)


def _expected(data: Optional[bytes]) -> List[Any]:
    return ["", "absent"] if data is None else [data, ""]


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _least(*moments: Optional[float]) -> Optional[float]:
    """Seconds until the first of the monotonic moments."""
    given = [moment for moment in moments if moment is not None]
    return min(given) - time.monotonic() if given else None


def _literal(text: str) -> str:
    """The text as a glob pattern that matches it alone."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)
