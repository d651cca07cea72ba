"""Records in a SQLite database: the statements behind each method of `RecordStore`.

A record is a row of one table; its fields, log entries and tags are rows of three others. `ready`
is the moment from which it is due and its lease has ended. Moments are milliseconds since the
epoch.
"""

import json
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from asimov_sync.cache.record_values import (
    decode_tags,
    encode_tags,
    identify_commit,
    to_duration_ms,
    to_moment_ms,
)
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
from asimov_sync.cache.sqlite_connection import SQLiteConnection, Tables, shortest
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock

__all__ = ["TABLES", "SQLiteRecords"]

TABLES = Tables(
    "records",
    1,
    (
        "CREATE TABLE IF NOT EXISTS asimov_sync_records "
        "(number INTEGER PRIMARY KEY, namespace TEXT NOT NULL, id TEXT NOT NULL, "
        "status TEXT NOT NULL, tags TEXT NOT NULL, summary BLOB NOT NULL, "
        "created INTEGER NOT NULL, updated INTEGER NOT NULL, owner TEXT NOT NULL, "
        "epoch INTEGER NOT NULL, lease_until INTEGER NOT NULL, due INTEGER, ready INTEGER, "
        "news INTEGER NOT NULL, expires INTEGER, last_number INTEGER NOT NULL, "
        "entries INTEGER NOT NULL, "
        "untouched INTEGER NOT NULL, released TEXT NOT NULL)",
        "CREATE UNIQUE INDEX IF NOT EXISTS asimov_sync_record_ids "
        "ON asimov_sync_records (namespace, id)",
        "CREATE INDEX IF NOT EXISTS asimov_sync_record_order "
        "ON asimov_sync_records (namespace, created, id)",
        "CREATE INDEX IF NOT EXISTS asimov_sync_record_statuses "
        "ON asimov_sync_records (namespace, status, created, id, expires)",
        "CREATE INDEX IF NOT EXISTS asimov_sync_record_ready "
        "ON asimov_sync_records (namespace, ready, id) WHERE ready IS NOT NULL",
        "CREATE INDEX IF NOT EXISTS asimov_sync_record_expiry "
        "ON asimov_sync_records (expires) WHERE expires IS NOT NULL",
        "CREATE TABLE IF NOT EXISTS asimov_sync_record_fields "
        "(record INTEGER NOT NULL, name TEXT NOT NULL, data BLOB NOT NULL, "
        "PRIMARY KEY (record, name))",
        "CREATE TABLE IF NOT EXISTS asimov_sync_record_log "
        "(record INTEGER NOT NULL, number INTEGER NOT NULL, data BLOB NOT NULL, "
        "PRIMARY KEY (record, number)) WITHOUT ROWID",
        "CREATE TABLE IF NOT EXISTS asimov_sync_record_tags "
        "(namespace TEXT NOT NULL, tag TEXT NOT NULL, created INTEGER NOT NULL, id TEXT NOT NULL, "
        "record INTEGER NOT NULL, PRIMARY KEY (namespace, tag, created, id)) WITHOUT ROWID",
    ),
)

PURGED_RECORDS = 2
"""Expired records that a write removes: more than one write can let expire."""

UNFRUITFUL_PAUSE = 0.05
"""Seconds that a waiting thread pauses after a commit that was not to its record."""

Database = Any  # an sqlite3.Connection: only sqlite_connection.py imports sqlite3


class _Row(NamedTuple):
    """A record as the database holds it; due, ready and expires are None for never."""

    number: int
    id: str
    status: str
    tags: str
    summary: bytes
    created: int
    updated: int
    owner: str
    epoch: int
    lease_until: int
    due: Optional[int]
    news: int
    expires: Optional[int]
    last_number: int
    entries: int
    untouched: int
    released: str

    def snapshot(self, now: int, fields: Mapping[str, bytes]) -> Snapshot:
        """Return the record as it is at this moment."""
        return Snapshot(
            self.id,
            self.status,
            decode_tags(self.tags),
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
            fields,
        )


_COLUMNS = ", ".join(_Row._fields)
_QUALIFIED_COLUMNS = ", ".join(f"r.{name}" for name in _Row._fields)


class SQLiteRecords(RecordStore):
    """The records of one namespace.

    connection: the database.
    head, tail: the namespace, as text before and after its keys.
    read_clock: returns the milliseconds since the epoch that leases and expiry are measured by.
    """

    def __init__(
        self,
        connection: SQLiteConnection,
        head: str,
        tail: str,
        read_clock: Callable[[], int],
    ) -> None:
        self.connection = connection
        self.clock = read_clock
        self._namespace = json.dumps([head, tail])
        self._waiters = RecordWaiters()

    def _find(self, database: Database, id: str, now: int) -> Optional[_Row]:
        """Return a record that has not expired."""
        row = database.execute(
            f"SELECT {_COLUMNS} FROM asimov_sync_records WHERE namespace = ? AND id = ?",
            (self._namespace, id),
        ).fetchone()
        if row is None:
            return None
        found = _Row(*row)
        return None if found.expires is not None and found.expires <= now else found

    def _remove(self, database: Database, id: str) -> None:
        """Remove a record, also if it has expired."""
        _remove_records(database, "namespace = ? AND id = ?", (self._namespace, id))

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

        def write(database: Database) -> Optional[Claim]:
            now = self.clock()
            row = found = self._find(database, id, now)
            if row is None:
                if new is None:
                    return None
                row = found = self._create(database, id, new, now)
            elif row.owner != owner or not row.lease_until:
                free = row.lease_until <= now or row.owner == dead_owner
                if not free or row.status not in claimable:
                    return Claim(False, False, row.snapshot(now, _read_fields(database, row)))
                row = row._replace(epoch=row.epoch + 1, untouched=0)
            row = row._replace(
                owner=owner,
                status=status,
                lease_until=now + to_duration_ms(lease),
                due=now,
                updated=now,
                expires=None,
            )
            assert found is not None
            _write_row(database, found, row)
            fields = _read_fields(database, row)
            return Claim(True, bool(row.untouched), row.snapshot(now, fields))

        return self.connection.write(write)

    def _create(self, database: Database, id: str, new: NewRecord, now: int) -> _Row:
        self._remove(database, id)
        _remove_expired(database, now)
        row = _Row(0, id, "", encode_tags(new.tags), new.summary, now, now, *_NEW)
        names = ", ".join(_Row._fields[1:])
        marks = ", ".join("?" * (len(row) - 1))
        number = database.execute(
            f"INSERT INTO asimov_sync_records (namespace, {names}) VALUES (?, {marks})",
            (self._namespace, *row[1:]),
        ).lastrowid
        database.executemany(
            "INSERT INTO asimov_sync_record_tags VALUES (?, ?, ?, ?, ?)",
            [(self._namespace, tag, now, id, number) for tag in row.tags.split("\n") if tag],
        )
        _write_fields(database, number, new.fields)
        return row._replace(number=number)

    def commit(self, id: str, owner: str, epoch: int, change: RecordChange) -> Optional[Committed]:
        """Write a change in one step, if no other owner took this lease with this epoch."""
        released = identify_commit(owner, epoch, change) if change.lease is None else ""

        def write(database: Database) -> Optional[Committed]:
            now = self.clock()
            row = self._find(database, id, now)
            if row is None:
                return None
            if released and row.released == released:
                return Committed(True, 0.0, now / 1000, row.news)
            if row.owner != owner or row.epoch != epoch or not row.lease_until:
                return None
            if change.news is not None and row.news > change.news:
                return Committed(False, row.lease_until / 1000, now / 1000, row.news)
            found, row = row, _apply(database, row, change, now)
            if change.lease is None:
                row = row._replace(lease_until=0, released=released)
            else:
                row = row._replace(lease_until=now + to_duration_ms(change.lease))
            _write_row(database, found, row)
            return Committed(True, row.lease_until / 1000, now / 1000, row.news)

        committed = self.connection.write(write)
        if committed is not None and change.log:
            self._waiters.wake(id, log_only=True)
        return committed

    def post(
        self, id: str, fields: Mapping[str, bytes], due: Optional[float] = None
    ) -> Optional[bool]:
        """Add fields to a record without its lease, in one step, and wake those who wait."""
        moment = None if due is None else to_moment_ms(due)

        def write(database: Database) -> Optional[bool]:
            now = self.clock()
            row = self._find(database, id, now)
            if row is None:
                return None
            for name in fields:
                if database.execute(
                    "SELECT 1 FROM asimov_sync_record_fields WHERE record = ? AND name = ?",
                    (row.number, name),
                ).fetchone():
                    return False
            _write_fields(database, row.number, fields)
            moments = [known for known in (row.due, moment) if known is not None]
            earliest = min(moments, default=None)
            posted = row._replace(news=row.news + 1, updated=now, due=earliest)
            _write_row(database, row, posted)
            return True

        written = self.connection.write(write)
        if written:
            self._waiters.wake(id)
        return written

    def delete(self, id: str) -> bool:
        """Remove a record with its log, even if its lease is held. Return whether it existed."""

        def write(database: Database) -> bool:
            existed = self._find(database, id, self.clock()) is not None
            self._remove(database, id)
            return existed

        existed = self.connection.write(write)
        self._waiters.wake(id)
        return existed

    # Reading

    def get(self, id: str, with_fields: bool = True) -> Optional[Snapshot]:
        """Return a record; None if there is none."""

        def read(database: Database) -> Optional[Snapshot]:
            now = self.clock()
            row = self._find(database, id, now)
            if row is None:
                return None
            return row.snapshot(now, _read_fields(database, row) if with_fields else {})

        return self.connection.read(read, absent=None)

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
        # The tables that have the conditions on the order: the tags, so that their index is used.
        first_tag, *more_tags = encode_tags(tags).split("\n") if tags else [""]
        source, order = "asimov_sync_records r", "r"
        conditions = ["r.namespace = ?", "(r.expires IS NULL OR r.expires > ?)"]
        arguments: List[Any] = [self._namespace, self.clock()]
        if first_tag:
            source = f"asimov_sync_record_tags t CROSS JOIN {source} ON r.number = t.record"
            order = "t"
            conditions.append("t.namespace = ? AND t.tag = ?")
            arguments += [self._namespace, first_tag]
        for tag in more_tags:
            conditions.append(
                "EXISTS (SELECT 1 FROM asimov_sync_record_tags o WHERE o.namespace = ? "
                "AND o.tag = ? AND o.created = t.created AND o.id = t.id)"
            )
            arguments += [self._namespace, tag]
        if since is not None:
            conditions.append(f"{order}.created >= ?")
            arguments.append(to_moment_ms(since))
        if until is not None:
            conditions.append(f"{order}.created < ?")
            arguments.append(to_moment_ms(until))
        if after is not None:
            conditions.append(f"({order}.created, {order}.id) < (?, ?)")
            arguments += [to_moment_ms(after[0]), after[1]]

        def select(database: Database, condition: str, chosen: Sequence[str]) -> List[_Row]:
            found = database.execute(
                f"SELECT {_QUALIFIED_COLUMNS} FROM {source} "
                f"WHERE {' AND '.join(conditions + [condition])} "
                f"ORDER BY {order}.created DESC, {order}.id DESC LIMIT ?",
                [*arguments, *chosen, limit],
            )
            return [_Row(*row) for row in found]

        def read(database: Database) -> List[Snapshot]:
            now = self.clock()
            if statuses is None:
                rows = select(database, "1", [])
            elif first_tag:
                marks = ", ".join("?" * len(statuses))
                rows = select(database, f"r.status IN ({marks})", list(statuses))
            else:  # one look into the index of the statuses for each
                rows = [row for one in statuses for row in select(database, "r.status = ?", [one])]
                rows.sort(key=lambda row: (row.created, row.id), reverse=True)
            return [row.snapshot(now, {}) for row in rows[:limit]]

        nothing: List[Snapshot] = []
        return self.connection.read(read, absent=nothing)

    def ready(self, limit: int = 100) -> List[Snapshot]:
        """Return the heads of records that are due and whose lease has ended."""

        def read(database: Database) -> List[Snapshot]:
            now = self.clock()
            rows = database.execute(
                f"SELECT {_COLUMNS} FROM asimov_sync_records "
                "WHERE namespace = ? AND ready IS NOT NULL AND ready <= ? "
                "AND (expires IS NULL OR expires > ?) ORDER BY ready, id LIMIT ?",
                (self._namespace, now, now, limit),
            )
            return [_Row(*row).snapshot(now, {}) for row in rows]

        nothing: List[Snapshot] = []
        return self.connection.read(read, absent=nothing)

    def count(self) -> Dict[str, int]:
        """Return the number of records by status, from the index."""

        def read(database: Database) -> Dict[str, int]:
            return dict(
                database.execute(
                    "SELECT status, count(*) FROM asimov_sync_records "
                    "WHERE namespace = ? AND (expires IS NULL OR expires > ?) GROUP BY status",
                    (self._namespace, self.clock()),
                )
            )

        nothing: Dict[str, int] = {}
        return self.connection.read(read, absent=nothing)

    def read_log(self, id: str, after: int = 0, limit: int = 1000) -> List[LogEntry]:
        """Return the entries of a log with a number above `after`, in their order."""

        def read(database: Database) -> List[LogEntry]:
            row = self._find(database, id, self.clock())
            if row is None:
                return []
            found = database.execute(
                "SELECT number, data FROM asimov_sync_record_log "
                "WHERE record = ? AND number > ? ORDER BY number LIMIT ?",
                (row.number, after, limit),
            )
            return [LogEntry(number, data) for number, data in found]

        nothing: List[LogEntry] = []
        return self.connection.read(read, absent=nothing)

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
        end = clock.monotonic() + timeout
        while True:
            with self.connection.watch(local=False) as watch:
                # Registered before it looks, so that it misses nothing.
                for_log = log_number is not None
                self._waiters.add(id, for_log, watch.changed)
                try:
                    now = self.clock()
                    row = self.connection.read(
                        lambda database: self._find(database, id, now), absent=None
                    )
                    if (
                        row is None
                        or (news is not None and row.news > news)
                        or (log_number is not None and row.last_number > log_number)
                    ):
                        return
                    until_expiry = None if row.expires is None else (row.expires - now) / 1000
                    remaining = end - clock.monotonic()
                    if remaining <= 0:
                        return
                    watch.wait(shortest(remaining, until_expiry), cancellation)
                finally:
                    was_woken = self._waiters.remove(id, for_log, watch.changed)
            if not was_woken:
                cancellation.wait(min(UNFRUITFUL_PAUSE, max(0.0, end - clock.monotonic())))

    def now(self) -> float:
        """Return the present moment by the store's clock."""
        return self.clock() / 1000


# Steps of a transaction

_NEW: Any = ("", 1, 0, None, 0, None, 0, 0, 1, "")
"""The columns of a new record from the owner on."""


def _write_row(database: Database, before: _Row, row: _Row) -> None:
    """Write a row. Columns that stay the same are left out, so that their indexes stay as well."""
    changed = {
        name: value
        for name, old, value in zip(_Row._fields, before, row)
        if value != old and name != "number"
    }
    changed["ready"] = None if row.due is None else max(row.due, row.lease_until)
    assignments = ", ".join(f"{name} = ?" for name in changed)
    database.execute(
        f"UPDATE asimov_sync_records SET {assignments} WHERE number = ?",
        (*changed.values(), row.number),
    )


def _apply(database: Database, row: _Row, change: RecordChange, now: int) -> _Row:
    """Write the fields and the log of a change. Return the row with its other parts."""
    removed = [(row.number, name) for name, data in change.fields.items() if data is None]
    if removed:
        database.executemany(
            "DELETE FROM asimov_sync_record_fields WHERE record = ? AND name = ?", removed
        )
    written = {name: data for name, data in change.fields.items() if data is not None}
    _write_fields(database, row.number, written)
    entries, last_number = row.entries, row.last_number
    for entry in change.log:
        if entry.number > last_number:
            database.execute(
                "INSERT INTO asimov_sync_record_log VALUES (?, ?, ?)", (row.number, *entry)
            )
            last_number, entries = entry.number, entries + 1
    excess = entries - MAX_LOG_ENTRIES
    if excess > 0:
        database.execute(
            "DELETE FROM asimov_sync_record_log WHERE record = ? AND number <= "
            "(SELECT number FROM asimov_sync_record_log WHERE record = ? "
            "ORDER BY number LIMIT 1 OFFSET ?)",
            (row.number, row.number, excess - 1),
        )
        entries = MAX_LOG_ENTRIES
    row = row._replace(
        updated=now,
        untouched=0,
        last_number=last_number,
        entries=entries,
        summary=row.summary if change.summary is None else change.summary,
    )
    if change.status is not None:
        _remove_expired(database, now)
        row = row._replace(
            status=change.status,
            due=None if change.due is None else to_moment_ms(change.due),
            expires=None if change.ttl is None else now + to_duration_ms(change.ttl),
        )
    return row


def _read_fields(database: Database, row: _Row) -> Dict[str, bytes]:
    return dict(
        database.execute(
            "SELECT name, data FROM asimov_sync_record_fields WHERE record = ?", (row.number,)
        )
    )


def _write_fields(database: Database, number: int, fields: Mapping[str, bytes]) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO asimov_sync_record_fields VALUES (?, ?, ?)",
        [(number, name, data) for name, data in fields.items()],
    )


def _remove_expired(database: Database, now: int) -> None:
    _remove_records(
        database,
        "number IN (SELECT number FROM asimov_sync_records "
        "WHERE expires IS NOT NULL AND expires <= ? ORDER BY expires LIMIT ?)",
        (now, PURGED_RECORDS),
    )


def _remove_records(database: Database, condition: str, arguments: Sequence[Any]) -> None:
    """Remove the records that meet a condition, with all that belongs to them."""
    for number, namespace, id, created, tags in database.execute(
        f"SELECT number, namespace, id, created, tags FROM asimov_sync_records WHERE {condition}",
        arguments,
    ).fetchall():
        database.executemany(
            "DELETE FROM asimov_sync_record_tags "
            "WHERE namespace = ? AND tag = ? AND created = ? AND id = ?",
            [(namespace, tag, created, id) for tag in tags.split("\n") if tag],
        )
        for table in ("record_fields", "record_log"):
            database.execute(f"DELETE FROM asimov_sync_{table} WHERE record = ?", (number,))
        database.execute("DELETE FROM asimov_sync_records WHERE number = ?", (number,))
