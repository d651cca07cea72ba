"""The interface of the records that a backend keeps beside its values: one for each durable run.

A record is a set of fields (bytes), a numbered log, an entry in an index, and a lease. The process
that holds the lease writes the record; every write names the epoch of the lease, which only grows,
so a process that lost its lease cannot write any more. Others may only post: add fields that are
absent, which the holder of the lease notices.

Records are addressed by their id inside a namespace. They are not values: `keys()` and `get_all()`
do not show them, and `clear()` leaves them. All moments are seconds since the epoch, by the clock
of the store.
"""

import abc
from typing import Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from asimov_sync.cancellation import Cancellation

__all__ = [
    "MAX_LOG_ENTRIES",
    "Claim",
    "Committed",
    "LogEntry",
    "NewRecord",
    "RecordChange",
    "RecordStore",
    "Snapshot",
]

MAX_LOG_ENTRIES = 10000
"""The number of entries that the log of a record keeps; the oldest ones are removed first."""


class LogEntry(NamedTuple):
    """An entry of a record's log.

    number: grows from one entry to the next. Writing a number again does nothing.
    """

    number: int
    data: bytes


class NewRecord(NamedTuple):
    """The content of a record that is created.

    summary: bytes that a list of records shows of each, such as its title.
    tags: by which lists can be filtered.
    """

    fields: Mapping[str, bytes]
    summary: bytes
    tags: Mapping[str, str]


class RecordChange(NamedTuple):
    """A change that the holder of a lease writes in one step.

    fields: the fields to write, and with None those to remove.
    log: the entries to append.
    lease: seconds from now until the lease ends; None gives the lease up.
    status: the new status; None leaves the status and `due` as they are.
    due: the moment from which `ready` lists the record, if nobody holds its lease then; None for
        never. Used only with a status.
    summary: the new summary; None leaves it.
    ttl: seconds from now until the record is removed; None keeps it. Used only with a status.
    news: the number of posts that the caller has read. If there were more, nothing is written, and
        the lease stays as it is, so that a holder does not give a lease up and miss a post. None
        writes in any case.
    """

    fields: Mapping[str, Optional[bytes]]
    log: Sequence[LogEntry]
    lease: Optional[float]
    status: Optional[str] = None
    due: Optional[float] = None
    summary: Optional[bytes] = None
    ttl: Optional[float] = None
    news: Optional[int] = None


class Snapshot(NamedTuple):
    """A record at one moment.

    created, updated: when it was created, and last written by the holder of its lease or by a post.
    owner, epoch, lease_until: who holds, or held last, its lease; the number of that lease; and its
        end, which is 0 if it was given up.
    due: the moment from which there is something to do; None for never.
    news: the number of posts to the record so far.
    log_number: the number of the last entry of its log; 0 without entries.
    now: the moment of the snapshot.
    fields: empty where only the head of the record was read.
    """

    id: str
    status: str
    tags: Mapping[str, str]
    summary: bytes
    created: float
    updated: float
    owner: str
    epoch: int
    lease_until: float
    due: Optional[float]
    news: int
    log_number: int
    now: float
    fields: Mapping[str, bytes]


class Claim(NamedTuple):
    """The reply to a claim.

    won: whether the caller holds the lease now. Otherwise the snapshot says why: its lease has not
        ended, or its status is not one of those that were asked for.
    created: whether the record was created by this claim.
    """

    won: bool
    created: bool
    snapshot: Snapshot


class Committed(NamedTuple):
    """The reply to a commit of the holder of the lease.

    applied: whether the change was written; False only for a change with `news`.
    lease_until: the end of the lease, and `now` the moment of the commit.
    news: the number of posts to the record so far.
    """

    applied: bool
    lease_until: float
    now: float
    news: int


class RecordStore(abc.ABC):
    """The records of one namespace. Safe to use from every thread and in a forked child.

    Every method raises a CacheError if the backend fails. A call whose reply was lost may be made
    again: it has no further effect, and returns what the lost reply said.
    """

    @abc.abstractmethod
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
        """Take the lease of a record, or create the record and take its lease, in one step.

        owner: names the caller; no other process or thread uses the same name. If it holds the
            lease already, and nobody took it, the claim is won, without a new epoch.
        lease: seconds until the lease ends.
        status: the status of the record if the claim is won. It is due at once then, and is not
            removed after the `ttl` of an earlier change.
        claimable: the statuses in which the record may be claimed.
        new: the record to create if there is none; by default none is created.
        dead_owner: an owner that is known to be dead, whose lease counts as ended.

        Returns None if there is no record and none is created. The snapshot has all fields.
        """

    @abc.abstractmethod
    def commit(self, id: str, owner: str, epoch: int, change: RecordChange) -> Optional[Committed]:
        """Write a change in one step, if no other owner took this lease with this epoch.

        A lease that has ended, but that nobody took, is renewed. Returns None if the caller lost
        the lease, gave it up, or the record is gone.
        """

    @abc.abstractmethod
    def post(
        self, id: str, fields: Mapping[str, bytes], due: Optional[float] = None
    ) -> Optional[bool]:
        """Add fields to a record without its lease, in one step, and wake the threads in `wait`.

        fields: all of them are written, or none if one of them is present already.
        due: when there is something to do; the earlier of this and the record's own moment counts.

        Returns whether they were written; None if there is no record. If it raises, they may have
        been written; the same post then returns False.
        """

    @abc.abstractmethod
    def get(self, id: str, with_fields: bool = True) -> Optional[Snapshot]:
        """Return a record; None if there is none."""

    @abc.abstractmethod
    def delete(self, id: str) -> bool:
        """Remove a record with its log, even if its lease is held. Return whether it existed."""

    @abc.abstractmethod
    def list(
        self,
        statuses: Optional[Collection[str]] = None,
        tags: Optional[Mapping[str, str]] = None,
        since: Optional[float] = None,
        until: Optional[float] = None,
        after: Optional[Tuple[float, str]] = None,
        limit: int = 100,
    ) -> List[Snapshot]:
        """Return the heads of records, the newest first.

        statuses: only those with one of these statuses; by default all.
        tags: only those that have all of these tags.
        since, until: only those created at or after, and before, these moments.
        after: the (created, id) of the last record of the page before.
        limit: the most to return.
        """

    @abc.abstractmethod
    def ready(self, limit: int = 100) -> List[Snapshot]:
        """Return the heads of records that are due and whose lease has ended, longest due first."""

    @abc.abstractmethod
    def count(self) -> Dict[str, int]:
        """Return the number of records by status, from the index."""

    @abc.abstractmethod
    def read_log(self, id: str, after: int = 0, limit: int = 1000) -> List[LogEntry]:
        """Return the entries of a log with a number above `after`, in their order."""

    @abc.abstractmethod
    def wait(
        self,
        id: str,
        news: Optional[int],
        log_number: Optional[int],
        timeout: float,
        cancellation: Cancellation,
    ) -> None:
        """Wait for a post or for a log entry, at most `timeout` seconds.

        news: the number of posts that the caller knows of; None does not wait for posts.
        log_number: the number of the last log entry that the caller knows of; None does not wait
            for log entries.

        Returns within 0.5 seconds of it, or of the removal of the record; it may return earlier.
        Raises Cancelled if the wait is cancelled.
        """

    @abc.abstractmethod
    def now(self) -> float:
        """Return the present moment by the store's clock."""
