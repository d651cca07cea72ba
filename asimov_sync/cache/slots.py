"""Which node of a Redis Cluster owns which slot.

redis-py keeps such a table, too, and refreshes it only in its own calls, by ways that differ between its releases, one node
after the other and each with the full time-out. This table is marked as stale by a refusal or a broken connection, and
refreshed before the next command is sent: by one thread, while the others wait for it; with a bound for each node, and the
node that failed asked last.
"""

import bisect
import queue
import random
import time
from typing import Any, Callable, Iterable, List, Optional, Set, Tuple

from asimov_sync.cache.limits import Limits
from asimov_sync.concurrency.fork import ForkSafeLock, reset_after_fork

__all__ = ["Address", "SlotTable"]

Address = Tuple[str, int]

ASK_SECONDS = 1.0
"""How long one node is asked for the table before the next one is."""

REFRESH_INTERVAL = 0.05
"""How many seconds lie between two refreshes at least."""


class SlotTable:
    """Slot ranges and the masters that own them; empty until the first refresh.

    ask: returns a node's answer to CLUSTER SLOTS within the limits, or raises. nodes: returns the addresses known elsewhere.
    remap: returns the address to connect to for one that a node names.
    """

    def __init__(
        self,
        ask: Callable[[Address, Limits], Any],
        nodes: Callable[[], Iterable[Address]],
        remap: Callable[[Address], Address],
        failures: Tuple[Any, ...],
    ) -> None:
        self._ask = ask
        self._nodes = nodes
        self._remap = remap
        self._failures = failures
        self._table: Tuple[List[int], List[int], List[Address], Set[Address]] = ([], [], [], set())
        self._lock = ForkSafeLock()  # guards everything below; never held while a node is asked
        self._stale = False
        self._failed: Optional[Address] = None
        self._informed: Optional[Address] = None
        self._refreshed = float("-inf")
        self._waiting: "Optional[List[queue.SimpleQueue[None]]]" = None  # who waits for a running refresh
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget a refresh that runs in the parent of a forked child."""
        if self._waiting is not None:
            self._waiting = None
            self._stale = True

    def owner(self, slot: int) -> Optional[Address]:
        """Return the master that owns a slot; None if that is not known."""
        starts, ends, owners, _ = self._table
        place = bisect.bisect_right(starts, slot) - 1
        return owners[place] if place >= 0 and slot <= ends[place] else None

    def masters(self) -> List[Address]:
        """Return all masters that own slots; empty before the first refresh."""
        return sorted(set(self._table[2]))

    def mark_stale(self, failed: Optional[Address] = None, informed: Optional[Address] = None) -> None:
        """Have the table refreshed before its next use.

        failed: a node that did not answer, and is asked last. informed: one that is said to own a slot, and is asked first.
        """
        with self._lock.lock:
            self._stale = True
            self._failed = failed or self._failed
            self._informed = informed or self._informed

    def refresh(self, limits: Limits) -> None:
        """Refresh the table if it is stale, or wait for the thread that does. It stays as it is if no node answers."""
        if not self._stale and self._waiting is None:
            return
        mine: "queue.SimpleQueue[None]" = queue.SimpleQueue()
        with self._lock.lock:
            leading = self._waiting is None
            if not leading:
                assert self._waiting is not None
                self._waiting.append(mine)
            elif not self._stale or time.monotonic() - self._refreshed < REFRESH_INTERVAL:
                return
            else:
                self._waiting = []
                self._stale = False
                failed, informed = self._failed, self._informed
                self._failed = self._informed = None
        if leading:
            self._lead(limits, failed, informed)
            return
        with limits.on_cancel(lambda: mine.put(None)):
            try:
                mine.get(timeout=max(0.0, limits.seconds()))
            except queue.Empty:
                pass

    def _lead(self, limits: Limits, failed: Optional[Address], informed: Optional[Address]) -> None:
        refreshed = False
        try:
            refreshed = self._ask_nodes(limits, failed, informed)
        finally:
            with self._lock.lock:
                waiting, self._waiting = self._waiting, None
                self._refreshed = time.monotonic()
                if not refreshed:
                    self._stale = True
                    self._failed = self._failed or failed
            for other in waiting or ():
                other.put(None)

    def _ask_nodes(self, limits: Limits, failed: Optional[Address], informed: Optional[Address]) -> bool:
        nodes = list(self._table[3].union(self._nodes()))
        random.shuffle(nodes)
        order = [node for node in nodes if node not in (failed, informed)]
        if informed is not None:
            order.insert(0, informed)
        if failed is not None and failed != informed:
            order.append(failed)
        for node in order:
            if limits.seconds() <= 0 or limits.cancelled:
                return False
            try:
                answer = self._ask(node, limits.shorter(ASK_SECONDS))
            except self._failures:
                continue
            if answer:
                self._table = self._parsed(node, answer)
                return True
        return False

    def _parsed(self, asked: Address, answer: Any) -> Tuple[List[int], List[int], List[Address], Set[Address]]:
        starts, ends, owners, nodes = [], [], [], set()
        for first, last, *members in sorted(answer, key=lambda group: int(group[0])):
            addresses = [self._address(asked, member) for member in members]
            starts.append(int(first))
            ends.append(int(last))
            owners.append(addresses[0])
            nodes.update(addresses)
        return starts, ends, owners, nodes

    def _address(self, asked: Address, member: Any) -> Address:
        host, port = member[0], int(member[1])
        host = host.decode("utf-8") if isinstance(host, bytes) else host
        # An empty host, or none, is the one that was asked; "?" is one that the node does not know.
        return self._remap((host if host and host != "?" else asked[0], port))
