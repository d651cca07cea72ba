"""The state of one mailbox in memory. Pure: no threads, no clock, no IO.

A mailbox is a queue: each message goes to one reader. The reader chooses between two guarantees:

- *at most once* (`get_message`): reading a message removes it. It is lost if its reader dies.
- *at least once* (`receive`): the message is leased. It stays in the mailbox until the reader
  acknowledges it, and goes to the next reader when the lease ends.

Every delivery has a *fence*, a number that only grows within a mailbox. An acknowledgement counts
only with the fence that holds the lease. So a late acknowledgement cannot remove a message that
another reader is working on, even if the same id was acknowledged and published again in between.

`Mailbox` is the memory backend, and the model for the Lua scripts in `lua.py`:

============  =======================================================================
ready         ids in the order of delivery; redelivered ones first
leases        id: (fence, end of the lease), for every leased message
messages      id: payload, for every message that is ready, leased or dead
counts        id: number of deliveries
dead          ids that were delivered too often
acknowledged  id: (fence, end of the memory), for every recently acknowledged message
============  =======================================================================
"""

import collections
import heapq
from typing import Deque, Dict, Iterator, List, Optional, Tuple

from asimov_sync.cache.keys import is_generated
from asimov_sync.cache.store import (
    ACKNOWLEDGED_SECONDS,
    ACKNOWLEDGED_SECONDS_GENERATED,
    LeasedMessage,
    QueuedMessage,
)

__all__ = ["Mailbox"]


class Mailbox:
    """The state of one mailbox.

    Moments and leases are in milliseconds; each call passes the current moment.

    fences: yields growing numbers. Shared by all mailboxes, because fences must keep growing when a
        mailbox is cleared.
    """

    def __init__(self, fences: Iterator[int]) -> None:
        self.ready: Deque[str] = collections.deque()
        self.leases: Dict[str, Tuple[int, int]] = {}
        self.messages: Dict[str, bytes] = {}
        self.counts: Dict[str, int] = {}
        self.dead: List[str] = []
        self.acknowledged: Dict[str, Tuple[int, int]] = {}
        self._expiries: List[Tuple[int, str]] = []  # a heap of the moments in acknowledged
        self._fences = fences

    def put(self, id: str, payload: bytes, now: int) -> bool:
        """Append a message.

        Returns False, and changes nothing, if its id is in the mailbox or was acknowledged
        recently.
        """
        if id in self.messages or self.acknowledged.get(id, (0, 0))[1] > now:
            return False
        self.messages[id] = payload
        self.ready.append(id)
        return True

    def take(self, lease: Optional[int], max_deliveries: int, now: int) -> Optional[LeasedMessage]:
        """Return the first message, leased for `lease` milliseconds; None removes it at once.

        A message that was delivered `max_deliveries` times becomes a dead one instead.
        """
        self._expire_leases(now)
        while self.ready:
            id = self.ready.popleft()
            count = self.counts[id] = self.counts.get(id, 0) + 1
            if count > max_deliveries:
                self.dead.append(id)
                continue
            fence = next(self._fences)
            leased = LeasedMessage(id, self.messages[id], count, fence)
            if lease is None:
                self._acknowledge(id, fence, now)
            else:
                self.leases[id] = (fence, now + lease)
            return leased
        return None

    def next_lease_end(self) -> Optional[int]:
        """Return the moment when the first lease ends."""
        return min((end for _, end in self.leases.values()), default=None)

    def ack(self, id: str, fence: int, now: int) -> bool:
        """Remove a message whose lease has this fence.

        Returns True again if the call is repeated, False if another reader took the message.
        """
        if not self._holds_lease(id, fence):
            return self.acknowledged.get(id, (None,))[0] == fence
        self._acknowledge(id, fence, now)
        return True

    def release(self, id: str, fence: int) -> bool:
        """Return a message to the front of the mailbox. False if the fence holds no lease."""
        if not self._holds_lease(id, fence):
            return False
        del self.leases[id]
        self.ready.appendleft(id)
        return True

    def extend(self, id: str, fence: int, lease: int, now: int) -> bool:
        """Set a lease to end `lease` milliseconds from now. False if the fence holds no lease."""
        if not self._holds_lease(id, fence):
            return False
        self.leases[id] = (fence, now + lease)
        return True

    def list_messages(
        self, dead: bool, count: Optional[int], max_deliveries: int, now: int
    ) -> List[QueuedMessage]:
        """Return the first messages that are ready, or that are dead."""
        self._expire_leases(now)
        ids = list(self.dead if dead else self.ready)[:count]
        return [
            QueuedMessage(id, self.messages[id], min(self.counts.get(id, 0), max_deliveries))
            for id in ids
        ]

    def redrive(self, id: Optional[str]) -> int:
        """Make one dead message, or all of them (None), ready again, with a delivery count of 0.

        Returns how many.
        """
        redriven = [dead for dead in self.dead if id is None or dead == id]
        for dead in redriven:
            self.dead.remove(dead)
            self.counts.pop(dead, None)
            self.ready.append(dead)
        return len(redriven)

    def length(self) -> int:
        """Return how many messages are ready or leased."""
        return len(self.messages) - len(self.dead)

    def _holds_lease(self, id: str, fence: int) -> bool:
        return id in self.leases and self.leases[id][0] == fence

    def _acknowledge(self, id: str, fence: int, now: int) -> None:
        self.leases.pop(id, None)
        del self.messages[id]
        self.counts.pop(id, None)
        self._forget_acknowledged(now)
        seconds = ACKNOWLEDGED_SECONDS_GENERATED if is_generated(id) else ACKNOWLEDGED_SECONDS
        end = now + int(seconds * 1000)
        self.acknowledged[id] = (fence, end)
        heapq.heappush(self._expiries, (end, id))

    def _expire_leases(self, now: int) -> None:
        """Put messages whose lease has ended before all others, in the order of their delivery."""
        ended = sorted((fence, id) for id, (fence, end) in self.leases.items() if end <= now)
        for _, id in reversed(ended):
            del self.leases[id]
            self.ready.appendleft(id)

    def _forget_acknowledged(self, now: int) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            end, id = heapq.heappop(self._expiries)
            if self.acknowledged.get(id, (0, 0))[1] == end:
                del self.acknowledged[id]
