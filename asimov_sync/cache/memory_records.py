"""Records in the memory of this process: one for each durable run, lost when the process ends."""

import bisect
import collections
import heapq
import threading
from typing import Callable, Collection, Dict, List, Mapping, Optional, Set, Tuple

from asimov_sync.cache.record_values import to_duration_ms, to_moment_ms
from asimov_sync.cache.record_waiters import RecordWaiters
from asimov_sync.cache.records import (
    MAX_LOG_ENTRIES,
    Claim,
    Committed,
    LogEntry,
    NewRecord,
    RecordChange,
    RecordStore,
    Snapshot,
)
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import reset_after_fork

__all__ = ["MemoryRecords"]


class MemoryRecords(RecordStore):
    """The records of one namespace in dicts, under one lock. A forked child gets its own copy.

    read_clock: returns the milliseconds since the epoch that leases and expiry are measured by.
    """

    def __init__(self, read_clock: Callable[[], int]) -> None:
        self.clock = read_clock
        self._records: Dict[str, _Record] = {}
        # (created, id) of every record, sorted.
        self._order: List[Tuple[int, str]] = []
        # The ids of the records that are due at some time. Finished runs are not.
        self._open: Set[str] = set()
        # A heap. An entry may be outdated by a later write.
        self._expiries: List[Tuple[int, str]] = []
        self._waiters = RecordWaiters()
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Create a new lock, as a forked child needs it."""
        self._lock = threading.RLock()

    # Inside the lock

    def _expire(self) -> int:
        """Remove expired records. Return the present moment."""
        now = self.clock()
        while self._expiries and self._expiries[0][0] <= now:
            _, id = heapq.heappop(self._expiries)
            record = self._records.get(id)
            if record is not None and record.expires is not None and record.expires <= now:
                self._remove(id)
        return now

    def _remove(self, id: str) -> None:
        record = self._records.pop(id)
        del self._order[bisect.bisect_left(self._order, (record.created, id))]
        self._open.discard(id)
        self._waiters.wake(id)

    def _set_due(self, record: "_Record", due: Optional[int]) -> None:
        record.due = due
        if due is None:
            self._open.discard(record.id)
        else:
            self._open.add(record.id)

    # Writing

    def claim(
        self,
        id: str,
        owner: str,
        lease: float,
        status: str,
        claimable: Collection[str],
        new: Optional[NewRecord] = None,
        dead_owner: Optional[str] = None,
    ) -> Optional[Claim]:
        """Take the lease of a record, or create the record and take its lease, in one step."""
        with self._lock:
            now = self._expire()
            record = self._records.get(id)
            if record is None:
                if new is None:
                    return None
                record = self._records[id] = _Record(id, new, now)
                bisect.insort(self._order, (now, id))
            elif record.owner != owner or not record.lease_until:
                free = record.lease_until <= now or record.owner == dead_owner
                if not free or record.status not in claimable:
                    return Claim(False, False, record.snapshot(now))
                record.epoch += 1
                record.untouched = False
            record.owner, record.status = owner, status
            record.lease_until = now + to_duration_ms(lease)
            record.updated, record.expires = now, None
            self._set_due(record, now)
            return Claim(True, record.untouched, record.snapshot(now))

    def commit(self, id: str, owner: str, epoch: int, change: RecordChange) -> Optional[Committed]:
        """Write a change in one step, if this owner's lease with this epoch was not taken."""
        with self._lock:
            now = self._expire()
            record = self._records.get(id)
            if record is None:
                return None
            if record.released == (owner, epoch, change):
                return Committed(True, 0.0, now / 1000, record.news)
            if record.owner != owner or record.epoch != epoch or not record.lease_until:
                return None
            if change.news is not None and record.news > change.news:
                return Committed(False, record.lease_until / 1000, now / 1000, record.news)
            self._write(record, change, now)
            if change.lease is None:
                record.lease_until = 0
                record.released = (owner, epoch, change)
            else:
                record.lease_until = now + to_duration_ms(change.lease)
            if change.log:
                self._waiters.wake(id, log_only=True)
            return Committed(True, record.lease_until / 1000, now / 1000, record.news)

    def _write(self, record: "_Record", change: RecordChange, now: int) -> None:
        for name, data in change.fields.items():
            if data is None:
                record.fields.pop(name, None)
            else:
                record.fields[name] = data
        record.append(change.log)
        record.updated, record.untouched = now, False
        if change.summary is not None:
            record.summary = change.summary
        if change.status is not None:
            record.status = change.status
            self._set_due(record, None if change.due is None else to_moment_ms(change.due))
            record.expires = None
            if change.ttl is not None:
                record.expires = now + to_duration_ms(change.ttl)
                heapq.heappush(self._expiries, (record.expires, record.id))

    def post(
        self, id: str, fields: Mapping[str, bytes], due: Optional[float] = None
    ) -> Optional[bool]:
        """Add fields to a record without its lease, in one step, and wake the threads in `wait`."""
        with self._lock:
            now = self._expire()
            record = self._records.get(id)
            if record is None:
                return None
            if any(name in record.fields for name in fields):
                return False
            record.fields.update(fields)
            record.news += 1
            record.updated = now
            if due is not None:
                moment = to_moment_ms(due)
                self._set_due(record, moment if record.due is None else min(moment, record.due))
            self._waiters.wake(id)
            return True

    def delete(self, id: str) -> bool:
        """Remove a record with its log, even if its lease is held. Return whether it existed."""
        with self._lock:
            self._expire()
            if id not in self._records:
                return False
            self._remove(id)
            return True

    # Reading

    def get(self, id: str, with_fields: bool = True) -> Optional[Snapshot]:
        """Return a record; None if there is none."""
        with self._lock:
            now = self._expire()
            record = self._records.get(id)
            return None if record is None else record.snapshot(now, with_fields)

    def list(
        self,
        statuses: Optional[Collection[str]] = None,
        tags: Optional[Mapping[str, str]] = None,
        since: Optional[float] = None,
        until: Optional[float] = None,
        after: Optional[Tuple[float, str]] = None,
        limit: int = 100,
    ) -> List[Snapshot]:
        """Return the heads of records, the newest first."""
        wanted = set((tags or {}).items())
        found: List[Snapshot] = []
        with self._lock:
            now = self._expire()
            end = len(self._order)
            if until is not None:
                end = bisect.bisect_left(self._order, (to_moment_ms(until), ""))
            if after is not None:
                last = (to_moment_ms(after[0]), after[1])
                end = min(end, bisect.bisect_left(self._order, last))
            start = 0
            if since is not None:
                start = bisect.bisect_left(self._order, (to_moment_ms(since), ""))
            for index in range(end - 1, start - 1, -1):
                if len(found) >= limit:
                    break
                record = self._records[self._order[index][1]]
                if statuses is not None and record.status not in statuses:
                    continue
                if wanted <= record.tags.items():
                    found.append(record.snapshot(now, False))
        return found

    def ready(self, limit: int = 100) -> List[Snapshot]:
        """Return the heads of records that are due and whose lease has ended."""
        with self._lock:
            now = self._expire()
            moments = []
            for id in self._open:
                record = self._records[id]
                assert record.due is not None
                moment = max(record.due, record.lease_until)
                if moment <= now:
                    moments.append((moment, id))
            first = heapq.nsmallest(limit, moments)
            return [self._records[id].snapshot(now, False) for _, id in first]

    def count(self) -> Dict[str, int]:
        """Return the number of records by status."""
        with self._lock:
            self._expire()
            return dict(collections.Counter(record.status for record in self._records.values()))

    def read_log(self, id: str, after: int = 0, limit: int = 1000) -> List[LogEntry]:
        """Return the entries of a log with a number above `after`, in their order."""
        with self._lock:
            self._expire()
            record = self._records.get(id)
            if record is None:
                return []
            first = bisect.bisect_left(record.log, LogEntry(after + 1, b""))
            return record.log[first : first + limit]

    # Waiting

    def wait(
        self,
        id: str,
        news: Optional[int],
        log_number: Optional[int],
        timeout: float,
        cancellation: Cancellation,
    ) -> None:
        """Wait for a post, for a log entry, or for the removal of the record."""
        cancellation.raise_if_cancelled()
        woken = InterruptibleEvent()
        with self._lock:
            now = self._expire()
            record = self._records.get(id)
            if record is None or record.has_more(news, log_number):
                return
            limits = [timeout, cancellation.remaining]
            if record.expires is not None:
                limits.append((record.expires - now) / 1000)
            for_log = log_number is not None
            self._waiters.add(id, for_log, woken)
        try:
            with cancellation.on_cancel(woken.set):
                woken.wait(min(limit for limit in limits if limit is not None), follow_clock=True)
        finally:
            self._waiters.remove(id, for_log, woken)
        cancellation.raise_if_cancelled()

    def now(self) -> float:
        """Return the present moment by the store's clock."""
        return self.clock() / 1000


class _Record:
    """A record. Its moments are milliseconds since the epoch.

    expires: when it is removed; None for never.
    untouched: nothing was written since the claim that created it.
    released: the owner, epoch and change that gave a lease up, to recognize a repeated commit.
    """

    __slots__ = (
        "created",
        "due",
        "epoch",
        "expires",
        "fields",
        "id",
        "last_number",
        "lease_until",
        "log",
        "news",
        "owner",
        "released",
        "status",
        "summary",
        "tags",
        "untouched",
        "updated",
    )

    def __init__(self, id: str, new: NewRecord, now: int) -> None:
        self.id = id
        self.fields = dict(new.fields)
        self.summary = new.summary
        self.tags = dict(new.tags)
        self.created = self.updated = now
        self.owner = ""
        self.status = ""
        self.epoch = 1
        self.lease_until = 0
        self.due: Optional[int] = None
        self.news = 0
        self.log: List[LogEntry] = []
        self.last_number = 0
        self.expires: Optional[int] = None
        self.untouched = True
        self.released: Optional[Tuple[str, int, RecordChange]] = None

    def append(self, entries: Collection[LogEntry]) -> None:
        """Append the entries to the log whose numbers are new."""
        for entry in entries:
            if entry.number > self.last_number:
                self.log.append(entry)
                self.last_number = entry.number
        del self.log[: max(0, len(self.log) - MAX_LOG_ENTRIES)]

    def has_more(self, news: Optional[int], log_number: Optional[int]) -> bool:
        """Return whether there were more posts, or there are more log entries, than these."""
        more_news = news is not None and self.news > news
        return more_news or (log_number is not None and self.last_number > log_number)

    def snapshot(self, now: int, with_fields: bool = True) -> Snapshot:
        """Return the record as it is at this moment."""
        return Snapshot(
            self.id,
            self.status,
            dict(self.tags),
            self.summary,
            self.created / 1000,
            self.updated / 1000,
            self.owner,
            self.epoch,
            self.lease_until / 1000,
            None if self.due is None else self.due / 1000,
            self.news,
            self.last_number,
            now / 1000,
            dict(self.fields) if with_fields else {},
        )
