"""Mailboxes: what a message, a lease and a fence are, and the state of one mailbox. Pure: no thread, no clock, no IO.

A mailbox is a queue: each message goes to one reader. Two promises are made of it, and a reader chooses:

- *at most once* (`get_message`): the message leaves the mailbox as it is read; if its reader dies, it is gone.
- *at least once* (`receive`): the message is leased. Until the reader acknowledges it, it is still in the mailbox, and
  when the lease runs out it goes to the next reader.

Every delivery has a *fence*, a number that only ever grows in a mailbox. An acknowledgement is accepted for the fence that
holds the lease, so one that comes too late cannot remove a message that somebody else is working on, not even when
the same id was acknowledged and published again in between.

`Mailbox` is the memory backend, and the model of the Lua scripts beside it:

==========  =============================================================================
ready       ids in the order in which they are to be read; redelivered ones first
leases      id: (fence, the moment of its end), of what is being worked on
messages    id: payload, of what is ready or leased or dead
counts      id: how often it was delivered
dead        ids that were delivered too often
settled     id: (fence, the moment until which it is remembered), of what was acknowledged
==========  =============================================================================
"""

import collections
import heapq
import uuid
from typing import Any, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

__all__ = ["Claim", "Letter", "Mailbox", "message_key", "message_keys", "message_name"]

REMEMBERED_SECONDS = 3600.0
"""How long the id of an acknowledged message is remembered: publishing it again within this time does nothing."""

REMEMBERED_SHORTLY_SECONDS = 120.0
"""The same for an id that the library made up, which nobody else can publish again: long enough for its own retries."""


class Claim(NamedTuple):
    """A message that was taken: its id, payload, how often it was delivered, and the fence of this delivery."""

    id: str
    payload: bytes
    deliveries: int
    fence: int


class Letter(NamedTuple):
    """A message that is looked at and not taken: its id, what was published, how often it was delivered."""

    id: str
    message: Any
    deliveries: int


def message_key(message_id: Optional[str]) -> str:
    """What an id is stored as: the caller's own marked as such, or a new one that is made up."""
    return "~" + uuid.uuid4().hex if message_id is None else "=" + message_id


def message_keys(message_id: str) -> List[str]:
    """What a known id may be stored as: the caller's own, or one that was made up."""
    return ["=" + message_id, "~" + message_id]


def message_name(key: str) -> str:
    """The id of a stored message, as its publisher knows it."""
    return key[1:]


class Mailbox:
    """The state of one mailbox. Moments are milliseconds of a clock that is given with each call, as is the number of
    deliveries after which a message is dead. The fences come from outside, since they outlive a mailbox that is cleared.
    """

    def __init__(self, fences: Iterator[int]) -> None:
        self.ready: Deque[str] = collections.deque()
        self.leases: Dict[str, Tuple[int, int]] = {}
        self.messages: Dict[str, bytes] = {}
        self.counts: Dict[str, int] = {}
        self.dead: List[str] = []
        self.settled: Dict[str, Tuple[int, int]] = {}
        self._ends: List[Tuple[int, str]] = []  # a heap of the moments in settled
        self._fences = fences

    def put(self, id: str, payload: bytes, now: int) -> bool:
        """Append a message; False, and nothing is done, if its id is in the mailbox or was acknowledged lately."""
        if id in self.messages or self.settled.get(id, (0, 0))[1] > now:
            return False
        self.messages[id] = payload
        self.ready.append(id)
        return True

    def take(self, lease: Optional[int], max_deliveries: int, now: int) -> Optional[Claim]:
        """The first message, leased for so many milliseconds; without a lease it is settled at once."""
        self._expire(now)
        while self.ready:
            id = self.ready.popleft()
            count = self.counts[id] = self.counts.get(id, 0) + 1
            if count > max_deliveries:
                self.dead.append(id)
                continue
            fence = next(self._fences)
            claim = Claim(id, self.messages[id], count, fence)
            if lease is None:
                self._settle(id, fence, now)
            else:
                self.leases[id] = (fence, now + lease)
            return claim
        return None

    def next_end(self) -> Optional[int]:
        """The moment at which the first lease runs out."""
        return min((end for _, end in self.leases.values()), default=None)

    def ack(self, id: str, fence: int, now: int) -> bool:
        """Remove a message whose lease has this fence; True again for a repeated call, False if somebody else took over."""
        if not self._holds(id, fence):
            return self.settled.get(id, (None,))[0] == fence
        self._settle(id, fence, now)
        return True

    def release(self, id: str, fence: int) -> bool:
        """Give a message back, to be the next that is read."""
        if not self._holds(id, fence):
            return False
        del self.leases[id]
        self.ready.appendleft(id)
        return True

    def extend(self, id: str, fence: int, lease: int, now: int) -> bool:
        """Let a lease run out so many milliseconds from now; False if somebody else took over."""
        if not self._holds(id, fence):
            return False
        self.leases[id] = (fence, now + lease)
        return True

    def letters(self, dead: bool, count: Optional[int], max_deliveries: int, now: int) -> List[Letter]:
        """The first messages that are ready, or those that were delivered too often."""
        self._expire(now)
        ids = list(self.dead if dead else self.ready)[:count]
        return [Letter(id, self.messages[id], min(self.counts.get(id, 0), max_deliveries)) for id in ids]

    def put_back(self, id: Optional[str]) -> int:
        """Make dead messages ready again, the one or all of them, their deliveries forgotten; how many there were."""
        back = [dead for dead in self.dead if id is None or dead == id]
        for dead in back:
            self.dead.remove(dead)
            self.counts.pop(dead, None)
            self.ready.append(dead)
        return len(back)

    def length(self) -> int:
        """How many messages are ready or leased."""
        return len(self.messages) - len(self.dead)

    def _holds(self, id: str, fence: int) -> bool:
        return id in self.leases and self.leases[id][0] == fence

    def _settle(self, id: str, fence: int, now: int) -> None:
        self.leases.pop(id, None)
        del self.messages[id]
        self.counts.pop(id, None)
        self._forget(now)
        seconds = REMEMBERED_SHORTLY_SECONDS if id.startswith("~") else REMEMBERED_SECONDS
        end = now + int(seconds * 1000)
        self.settled[id] = (fence, end)
        heapq.heappush(self._ends, (end, id))

    def _expire(self, now: int) -> None:
        """What is leased and not acknowledged in time is ready again, before all the rest, first what was delivered first."""
        ended = sorted((fence, id) for id, (fence, end) in self.leases.items() if end <= now)
        for _, id in reversed(ended):
            del self.leases[id]
            self.ready.appendleft(id)

    def _forget(self, now: int) -> None:
        while self._ends and self._ends[0][0] <= now:
            end, id = heapq.heappop(self._ends)
            if self.settled.get(id, (0, 0))[1] == end:
                del self.settled[id]
