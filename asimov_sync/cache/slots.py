"""Which node of a Redis Cluster owns which slot.

redis-py keeps such a table, too, but refreshes it only in its own calls. How it does that differs
between its releases: one node after the other, each with the full time-out. This table is marked
stale by a refusal or a broken connection and refreshed before the next command: by one thread,
while the others wait; with a time-out for each node, and with the failed node asked last.
"""

import bisect
import random
from typing import Any, Callable, Iterable, List, Optional, Set, Tuple

from asimov_sync.cache.limits import Limits
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import ForkSafeLock, reset_after_fork

__all__ = ["Address", "SlotTable"]

Address = Tuple[str, int]

NODE_SECONDS = 1.0
"""Seconds to wait for the table from one node before the next node is asked."""

REFRESH_INTERVAL = 0.05
"""Minimum seconds between two refreshes."""


class SlotTable:
    """Slot ranges and the masters that own them; empty until the first refresh.

    fetch: returns a node's reply to CLUSTER SLOTS within the limits, or raises.
    list_nodes: returns the addresses of further nodes to ask.
    remap: returns the address to connect to, for an address that a node names.
    failures: the exceptions that `fetch` raises if a node does not reply.
    """

    def __init__(
        self,
        fetch: Callable[[Address, Limits], Any],
        list_nodes: Callable[[], Iterable[Address]],
        remap: Callable[[Address], Address],
        failures: Tuple[Any, ...],
    ) -> None:
        self._fetch = fetch
        self._list_nodes = list_nodes
        self._remap = remap
        self._failures = failures
        self._table: Tuple[List[int], List[int], List[Address], Set[Address]] = ([], [], [], set())
        # Guards everything below. Never held while a node is asked.
        self._lock = ForkSafeLock()
        self._stale = False
        self._failed: Optional[Address] = None
        self._preferred: Optional[Address] = None
        self._refreshed = float("-inf")
        # The threads that wait for a running refresh; None if none is running.
        self._waiters: "Optional[List[InterruptibleEvent]]" = None
        reset_after_fork(self)

    def reset(self) -> None:
        """Forget a refresh that is running in the parent of a forked child."""
        if self._waiters is not None:
            self._waiters = None
            self._stale = True

    def owner(self, slot: int) -> Optional[Address]:
        """Return the master that owns a slot; None if that is not known."""
        starts, ends, owners, _ = self._table
        index = bisect.bisect_right(starts, slot) - 1
        return owners[index] if index >= 0 and slot <= ends[index] else None

    def masters(self) -> List[Address]:
        """Return all masters that own slots; empty before the first refresh."""
        return sorted(set(self._table[2]))

    def mark_stale(
        self, failed: Optional[Address] = None, preferred: Optional[Address] = None
    ) -> None:
        """Request a refresh before the next use of the table.

        failed: a node that did not reply; it is asked last.
        preferred: a node that owns a slot according to another node; it is asked first.
        """
        with self._lock.lock:
            self._stale = True
            self._failed = failed or self._failed
            self._preferred = preferred or self._preferred

    def refresh(self, limits: Limits) -> None:
        """Refresh the table if it is stale, or wait for the thread that is refreshing it.

        The table stays as it is if no node replies.
        """
        if not self._stale and self._waiters is None:
            return
        done = InterruptibleEvent()
        with self._lock.lock:
            leading = self._waiters is None
            if not leading:
                assert self._waiters is not None
                self._waiters.append(done)
            elif not self._stale or clock.real() - self._refreshed < REFRESH_INTERVAL:
                return
            else:
                self._waiters = []
                self._stale = False
                failed, preferred = self._failed, self._preferred
                self._failed = self._preferred = None
        if leading:
            self._run_refresh(limits, failed, preferred)
            return
        with limits.on_cancel(done.set):
            done.wait(limits.remaining())

    def _run_refresh(
        self, limits: Limits, failed: Optional[Address], preferred: Optional[Address]
    ) -> None:
        refreshed = False
        try:
            refreshed = self._ask_nodes(limits, failed, preferred)
        finally:
            with self._lock.lock:
                waiters, self._waiters = self._waiters, None
                self._refreshed = clock.real()
                if not refreshed:
                    self._stale = True
                    self._failed = self._failed or failed
            for done in waiters or ():
                done.set()

    def _ask_nodes(
        self, limits: Limits, failed: Optional[Address], preferred: Optional[Address]
    ) -> bool:
        nodes = list(self._table[3].union(self._list_nodes()))
        random.shuffle(nodes)
        order = [node for node in nodes if node not in (failed, preferred)]
        if preferred is not None:
            order.insert(0, preferred)
        if failed is not None and failed != preferred:
            order.append(failed)
        for node in order:
            if limits.remaining() <= 0 or limits.cancelled:
                return False
            try:
                reply = self._fetch(node, limits.with_timeout(NODE_SECONDS))
            except self._failures:
                continue
            if reply:
                self._table = self._parse(node, reply)
                return True
        return False

    def _parse(
        self, asked: Address, reply: Any
    ) -> Tuple[List[int], List[int], List[Address], Set[Address]]:
        starts, ends, owners, nodes = [], [], [], set()
        for first, last, *members in sorted(reply, key=lambda group: int(group[0])):
            addresses = [self._parse_address(asked, member) for member in members]
            starts.append(int(first))
            ends.append(int(last))
            owners.append(addresses[0])
            nodes.update(addresses)
        return starts, ends, owners, nodes

    def _parse_address(self, asked: Address, member: Any) -> Address:
        host, port = member[0], int(member[1])
        host = host.decode("utf-8") if isinstance(host, bytes) else host
        # An empty or missing host means the node that was asked; "?" means unknown.
        return self._remap((host if host and host != "?" else asked[0], port))
