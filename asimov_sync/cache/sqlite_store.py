"""The SQLite backend: the statements behind each method of `Store`.

Values are rows of one table, messages are rows of another. The columns `state` and `rank` give the
place of a message in its mailbox. One index serves all states:

============  ==================================================================
state         rank
============  ==================================================================
READY         its place in the order of delivery; redelivered ones get the least
LEASED        the end of its lease (ms)
DEAD          its place among the dead letters
ACKNOWLEDGED  until when its id is remembered (ms); its payload is empty
============  ==================================================================

`mailbox.py` is the model of the mailboxes. Times are milliseconds since 1970, since the processes
of a machine compare them. Fences come from one counter of the database, so they keep growing when a
mailbox is cleared.
"""

import collections
import threading
from typing import Any, Callable, Deque, Dict, Iterator, List, Mapping, Optional, Tuple

from asimov_sync.cache.keys import MAILBOX, is_generated
from asimov_sync.cache.records import RecordStore
from asimov_sync.cache.sqlite_connection import SQLiteConnection, Tables, Watch, shortest
from asimov_sync.cache.store import (
    ACKNOWLEDGED_SECONDS,
    ACKNOWLEDGED_SECONDS_GENERATED,
    LeasedMessage,
    QueuedMessage,
    Store,
)
from asimov_sync.cache.values import add_integers
from asimov_sync.cancellation import Cancellation
from asimov_sync.concurrency.clock import clock
from asimov_sync.concurrency.event import InterruptibleEvent
from asimov_sync.concurrency.fork import reset_after_fork
from asimov_sync.errors import CacheUnavailable

__all__ = ["SQLiteStore"]

READY, LEASED, DEAD, ACKNOWLEDGED = 0, 1, 2, 3

TABLES = Tables(
    "cache",
    1,
    (
        "CREATE TABLE IF NOT EXISTS asimov_sync_values "
        "(key TEXT NOT NULL PRIMARY KEY, data BLOB NOT NULL, expires INTEGER)",
        "CREATE INDEX IF NOT EXISTS asimov_sync_expiry ON asimov_sync_values (expires) "
        "WHERE expires IS NOT NULL",
        "CREATE TABLE IF NOT EXISTS asimov_sync_messages "
        "(number INTEGER PRIMARY KEY, mailbox TEXT NOT NULL, id TEXT NOT NULL, "
        "state INTEGER NOT NULL, rank INTEGER NOT NULL, deliveries INTEGER NOT NULL, "
        "fence INTEGER NOT NULL, payload BLOB NOT NULL)",
        "CREATE UNIQUE INDEX IF NOT EXISTS asimov_sync_ids ON asimov_sync_messages (mailbox, id)",
        "CREATE INDEX IF NOT EXISTS asimov_sync_ranks "
        "ON asimov_sync_messages (mailbox, state, rank)",
        f"CREATE INDEX IF NOT EXISTS asimov_sync_acknowledged ON asimov_sync_messages (rank) "
        f"WHERE state = {ACKNOWLEDGED}",
        "CREATE TABLE IF NOT EXISTS asimov_sync_fences (fence INTEGER NOT NULL)",
        "INSERT INTO asimov_sync_fences "
        "SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM asimov_sync_fences)",
    ),
)

KEYS_PER_STATEMENT = 500
"""Keys in one statement; SQLite before 3.32 permits 999 parameters."""

LEASES_PER_STEP = 1000
"""Ended leases that one step puts back into the mailbox."""

PURGED_ROWS = 4
"""Expired rows that each write removes, and two more for each row that it writes: over time, fewer
rows can expire.
"""

MAX_WAIT_SECONDS = 10.0
"""Longest single wait of a blocked reader, and the cost of a lost wake-up."""

OUTAGE_PAUSE = 0.2
"""Seconds before a blocked reader tries again after the database was not available."""

_VISIBLE = "(expires IS NULL OR expires > ?)"

Database = Any  # an sqlite3.Connection: only sqlite_connection.py imports sqlite3


class SQLiteStore(Store):
    """Values and mailboxes in a SQLite database.

    connection: the database.
    max_deliveries: deliveries before a message is dead.
    clock: returns the milliseconds that leases are measured by; by default those since 1970.
    """

    def __init__(
        self,
        connection: SQLiteConnection,
        max_deliveries: int,
        clock: Callable[[], int] = clock.epoch_ms,
    ) -> None:
        self.connection = connection
        self.max_deliveries = max_deliveries
        self.clock = clock
        connection.add_tables(TABLES)
        # By the head and tail of their namespace.
        self._records: Dict[Tuple[str, str], RecordStore] = {}
        self.reset()
        reset_after_fork(self)

    def reset(self) -> None:
        """Create a new lock, as a forked child needs it, and forget the parent's readers."""
        # Re-entrant, because the garbage collector may call a destructor that uses the cache.
        self._lock = threading.RLock()
        # The events of the readers of each mailbox, in order.
        self._readers: Dict[str, Deque[InterruptibleEvent]] = {}

    # Values

    def get(self, key: str) -> Optional[bytes]:
        """Return the bytes under a key, or None."""
        return self.connection.read(lambda database: _find(database, key), absent=None)

    def get_many(self, keys: List[str]) -> List[Optional[bytes]]:
        """Return the bytes under each key, in the order of the keys; None for an absent key."""

        def read(database: Database) -> Dict[str, bytes]:
            now = clock.epoch_ms()
            found: Dict[str, bytes] = {}
            for some in _chunks(keys):
                marks = ",".join("?" * len(some))
                found.update(
                    database.execute(
                        "SELECT key, data FROM asimov_sync_values "
                        f"WHERE key IN ({marks}) AND {_VISIBLE}",
                        some + [now],
                    )
                )
            return found

        nothing: Dict[str, bytes] = {}
        found = self.connection.read(read, absent=nothing)
        return [found.get(key) for key in keys]

    def set_many(self, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
        """Write all items in one step."""
        self.connection.write(lambda database: _write(database, items, ttl))

    def set_guarded(
        self, guard: str, held: Optional[bytes], items: Mapping[str, bytes], ttl: Optional[float]
    ) -> bool:
        """Write all items if the guard key holds `held`, in one step."""

        def write(database: Database) -> bool:
            if _find(database, guard) != held:
                return False
            _write(database, items, ttl)
            return True

        return self.connection.write(write)

    def compare_and_set(self, key: str, expected: Optional[bytes], data: bytes) -> bool:
        """Write if the key holds `expected`, and keep its expiry."""

        def write(database: Database) -> bool:
            found = _find(database, key)
            if found != expected:
                return False
            _replace(database, key, data, absent=found is None)
            return True

        return self.connection.write(write)

    def increment(self, key: str, by: int) -> int:
        """Add to the integer under a key."""

        def write(database: Database) -> int:
            found = _find(database, key)
            total = add_integers(found, by)
            _replace(database, key, str(total).encode(), absent=found is None)
            return total

        return self.connection.write(write)

    def delete(self, keys: List[str]) -> int:
        """Remove the keys. Return how many existed."""
        mailboxes = [key for key in keys if key.endswith(MAILBOX)]
        names = [key for key in keys if not key.endswith(MAILBOX)]

        def write(database: Database) -> int:
            removed = 0
            now = clock.epoch_ms()
            for some in _chunks(names):
                chosen = f"key IN ({','.join('?' * len(some))})"
                removed += database.execute(
                    f"DELETE FROM asimov_sync_values WHERE {chosen} AND {_VISIBLE}", some + [now]
                ).rowcount
                database.execute(f"DELETE FROM asimov_sync_values WHERE {chosen}", some)
            for mailbox in mailboxes:
                removed += bool(
                    database.execute(
                        "DELETE FROM asimov_sync_messages WHERE mailbox = ?", [mailbox]
                    ).rowcount
                )
            return removed

        return self.connection.write(write)

    def scan(self, head: str, tail: str) -> Iterator[str]:
        """Yield every stored key that starts with `head` and contains `tail` after that."""
        end = _next_prefix(head)
        bound, limits = ("", [head]) if end is None else (" AND {} < ?", [head, end])

        def read(database: Database) -> List[str]:
            found = [
                row[0]
                for row in database.execute(
                    "SELECT key FROM asimov_sync_values "
                    f"WHERE key >= ?{bound.format('key')} AND {_VISIBLE}",
                    limits + [clock.epoch_ms()],
                )
            ]
            # One look into the index for each mailbox, however many messages it has.
            compare, limits_here = ">=", list(limits)
            while True:
                row = database.execute(
                    "SELECT min(mailbox) FROM asimov_sync_messages "
                    f"WHERE mailbox {compare} ?{bound.format('mailbox')}",
                    limits_here,
                ).fetchone()
                if row[0] is None:
                    return found
                found.append(row[0])
                compare, limits_here[0] = ">", row[0]

        nothing: List[str] = []
        keys = self.connection.read(read, absent=nothing)
        return (key for key in keys if tail in key[len(head) :])

    # Mailboxes

    def put(self, mailbox: str, id: str, payload: bytes) -> None:
        """Append a message, unless its id is in the mailbox or was acknowledged recently."""
        now = self.clock()

        def write(database: Database) -> bool:
            row = database.execute(
                "SELECT number, state, rank FROM asimov_sync_messages WHERE mailbox = ? AND id = ?",
                (mailbox, id),
            ).fetchone()
            if row is not None:
                number, state, rank = row
                if state != ACKNOWLEDGED or rank > now:
                    return False
                database.execute("DELETE FROM asimov_sync_messages WHERE number = ?", (number,))
            database.execute(
                "INSERT INTO asimov_sync_messages "
                "(mailbox, id, state, rank, deliveries, fence, payload) VALUES (?,?,?,?,0,0,?)",
                (mailbox, id, READY, _last_rank(database, mailbox, READY) + 1, payload),
            )
            return True

        if self.connection.write(write):
            self._wake_reader(mailbox)

    def take(
        self,
        mailbox: str,
        lease: Optional[float],
        timeout: Optional[float],
        cancellation: Cancellation,
    ) -> Optional[LeasedMessage]:
        """Take the first message, and wait for one until the time-out.

        A reader that has begun to wait keeps waiting while the database is not available.
        """
        end = None if timeout is None else clock.monotonic() + timeout
        waited = False
        while True:
            with self.connection.watch(local=False) as watch:
                retrying = False
                try:
                    # The reader is registered before it looks for a message, so it misses none.
                    self._add_reader(mailbox, watch.changed)
                    outage: Optional[CacheUnavailable] = None
                    leased: Optional[LeasedMessage] = None
                    pause: Optional[float] = OUTAGE_PAUSE
                    try:
                        leased, pause = self._try_take(mailbox, lease, watch)
                    except CacheUnavailable as error:
                        if not waited:
                            raise
                        outage = error
                    remaining = None if end is None else end - clock.monotonic()
                    if leased is not None:
                        return leased
                    if remaining is not None and remaining <= 0:
                        if outage is not None:
                            raise outage
                        return None
                    watch.wait(shortest(remaining, pause, MAX_WAIT_SECONDS), cancellation)
                    waited = retrying = True
                finally:
                    self._remove_reader(mailbox, watch.changed, retrying)

    def _try_take(
        self, mailbox: str, lease: Optional[float], watch: Watch
    ) -> Tuple[Optional[LeasedMessage], Optional[float]]:
        """Return a message; or None, and the seconds until a lease ends if there is one.

        watch: notices what changes in the mailbox from then on.
        """

        def look(database: Database) -> Tuple[Optional[int], Optional[int]]:
            return (
                _first_rank(database, mailbox, READY),
                _first_rank(database, mailbox, LEASED),
            )

        # Reading first: a look at an empty mailbox needs no lock and no commit.
        nothing: Tuple[Optional[int], Optional[int]] = (None, None)
        seen = ready, lease_end = self.connection.read(look, absent=nothing)
        watch.concerns = lambda database: look(database) != seen
        now = self.clock()
        if ready is None and (lease_end is None or lease_end > now):
            return None, None if lease_end is None else max(0.001, (lease_end - now) / 1000)
        milliseconds = None if lease is None else _milliseconds(lease)

        def write(database: Database) -> Optional[LeasedMessage]:
            return _take(database, mailbox, milliseconds, self.max_deliveries, now)

        leased = self.connection.write(write)
        # If there is none, another reader was faster. Look again at once for the end of a lease.
        return leased, None if leased is not None else 0.001

    def _add_reader(self, mailbox: str, woken: InterruptibleEvent) -> None:
        with self._lock:
            self._readers.setdefault(mailbox, collections.deque()).append(woken)

    def _wake_reader(self, mailbox: str) -> None:
        """Wake the reader of a mailbox that has waited longest."""
        with self._lock:
            readers = self._readers.get(mailbox)
            if readers:
                readers.popleft().set()

    def _remove_reader(self, mailbox: str, woken: InterruptibleEvent, retrying: bool) -> None:
        """Remove a reader.

        retrying: the reader will look for a message again. Otherwise the next reader is woken if
            this one was, because it may have been woken for a message that it does not take.
        """
        with self._lock:
            readers = self._readers.get(mailbox)
            if readers is not None and woken in readers:
                readers.remove(woken)
            if woken.is_set() and not retrying:
                self._wake_reader(mailbox)
            if not self._readers.get(mailbox):
                self._readers.pop(mailbox, None)

    def ack(self, mailbox: str, id: str, fence: int) -> bool:
        """Remove a leased message."""
        now = self.clock()

        def write(database: Database) -> bool:
            row = database.execute(
                "SELECT number, state FROM asimov_sync_messages "
                "WHERE mailbox = ? AND id = ? AND fence = ?",
                (mailbox, id, fence),
            ).fetchone()
            if row is None or row[1] not in (LEASED, ACKNOWLEDGED):
                return False
            if row[1] == LEASED:
                _acknowledge(database, row[0], id, fence, now)
            return True

        return self.connection.write(write)

    def release(self, mailbox: str, id: str, fence: int) -> None:
        """Return a leased message to the front of the mailbox, if the fence holds the lease."""

        def write(database: Database) -> bool:
            return bool(
                database.execute(
                    "UPDATE asimov_sync_messages SET state = ?, rank = ? "
                    "WHERE mailbox = ? AND id = ? AND fence = ? AND state = ?",
                    (READY, _rank_before_all(database, mailbox), mailbox, id, fence, LEASED),
                ).rowcount
            )

        if self.connection.write(write):
            self._wake_reader(mailbox)

    def extend(self, mailbox: str, id: str, fence: int, lease: float) -> bool:
        """Set a lease to end `lease` seconds from now."""
        end = self.clock() + _milliseconds(lease)

        def write(database: Database) -> bool:
            return bool(
                database.execute(
                    "UPDATE asimov_sync_messages SET rank = ? "
                    "WHERE mailbox = ? AND id = ? AND fence = ? AND state = ?",
                    (end, mailbox, id, fence, LEASED),
                ).rowcount
            )

        return self.connection.write(write)

    def list_messages(self, mailbox: str, dead: bool, count: Optional[int]) -> List[QueuedMessage]:
        """Return the first messages that are ready, or the dead ones."""
        if count is not None and count < 1:
            return []
        now = self.clock()

        def read(database: Database) -> Optional[List[QueuedMessage]]:
            lease_end = _first_rank(database, mailbox, LEASED)
            if lease_end is not None and lease_end <= now:
                return None
            return [
                QueuedMessage(id, payload, min(deliveries, self.max_deliveries))
                for id, payload, deliveries in database.execute(
                    "SELECT id, payload, deliveries FROM asimov_sync_messages "
                    "WHERE mailbox = ? AND state = ? ORDER BY rank LIMIT ?",
                    (mailbox, DEAD if dead else READY, -1 if count is None else count),
                )
            ]

        nothing: Optional[List[QueuedMessage]] = []
        while True:
            found = self.connection.read(read, absent=nothing)
            if found is not None:
                return found
            self.connection.write(lambda database: _expire_leases(database, mailbox, now))

    def redrive(self, mailbox: str, id: Optional[str]) -> int:
        """Make one dead message, or all of them, ready again."""

        def write(database: Database) -> int:
            chosen, arguments = "", [mailbox, DEAD]
            if id is not None:
                chosen, arguments = " AND id = ?", arguments + [id]
            numbers = database.execute(
                "SELECT number FROM asimov_sync_messages "
                f"WHERE mailbox = ? AND state = ?{chosen} ORDER BY rank",
                arguments,
            ).fetchall()
            last = _last_rank(database, mailbox, READY)
            database.executemany(
                "UPDATE asimov_sync_messages SET state = ?, rank = ?, deliveries = 0 "
                "WHERE number = ?",
                [(READY, last + 1 + place, row[0]) for place, row in enumerate(numbers)],
            )
            return len(numbers)

        moved = self.connection.write(write)
        for _ in range(moved):
            self._wake_reader(mailbox)
        return moved

    def length(self, mailbox: str) -> int:
        """Return how many messages are ready or leased."""
        return self.connection.read(
            lambda database: int(
                database.execute(
                    "SELECT count(*) FROM asimov_sync_messages "
                    "WHERE mailbox = ? AND state IN (?, ?)",
                    (mailbox, READY, LEASED),
                ).fetchone()[0]
            ),
            absent=0,
        )

    # Records

    def records(self, head: str, tail: str) -> RecordStore:
        """Return the records of a namespace."""
        from asimov_sync.cache.sqlite_records import TABLES, SQLiteRecords

        with self._lock:
            if not self._records:
                self.connection.add_tables(TABLES)
            if (head, tail) not in self._records:
                self._records[head, tail] = SQLiteRecords(self.connection, head, tail, self.clock)
            return self._records[head, tail]

    def close(self) -> None:
        """Close the database."""
        self.connection.close()


# Steps of a transaction


def _find(database: Database, key: str) -> Optional[bytes]:
    """Return the bytes under a key that has not expired."""
    row = database.execute(
        f"SELECT data FROM asimov_sync_values WHERE key = ? AND {_VISIBLE}",
        (key, clock.epoch_ms()),
    ).fetchone()
    return None if row is None else row[0]


def _write(database: Database, items: Mapping[str, bytes], ttl: Optional[float]) -> None:
    now = clock.epoch_ms()
    expires = None if ttl is None else now + _milliseconds(ttl)
    updated = 0
    if len(items) == 1:  # writes fewer pages than a replacement, if the key exists
        ((key, data),) = items.items()
        updated = database.execute(
            "UPDATE asimov_sync_values SET data = ?, expires = ? WHERE key = ?",
            (data, expires, key),
        ).rowcount
    if not updated:
        database.executemany(
            "INSERT OR REPLACE INTO asimov_sync_values (key, data, expires) VALUES (?, ?, ?)",
            [(key, data, expires) for key, data in items.items()],
        )
    database.execute(
        "DELETE FROM asimov_sync_values WHERE key IN (SELECT key FROM asimov_sync_values "
        "WHERE expires IS NOT NULL AND expires <= ? ORDER BY expires LIMIT ?)",
        (now, PURGED_ROWS + 2 * len(items)),
    )


def _replace(database: Database, key: str, data: bytes, absent: bool) -> None:
    """Write a value and keep its expiry.

    absent: the key has no value, or an expired one.
    """
    if absent:
        _write(database, {key: data}, None)
    else:
        database.execute("UPDATE asimov_sync_values SET data = ? WHERE key = ?", (data, key))


def _first_rank(database: Database, mailbox: str, state: int) -> Optional[int]:
    """Return the least rank of the messages in a state; None without one."""
    row = database.execute(
        "SELECT min(rank) FROM asimov_sync_messages WHERE mailbox = ? AND state = ?",
        (mailbox, state),
    ).fetchone()
    return row[0]  # type: ignore[no-any-return]


def _last_rank(database: Database, mailbox: str, state: int) -> int:
    """Return the highest rank of the messages in a state; 0 without one."""
    row = database.execute(
        "SELECT max(rank) FROM asimov_sync_messages WHERE mailbox = ? AND state = ?",
        (mailbox, state),
    ).fetchone()
    return row[0] or 0


def _rank_before_all(database: Database, mailbox: str) -> int:
    return (_first_rank(database, mailbox, READY) or 0) - 1


def _expire_leases(database: Database, mailbox: str, now: int) -> None:
    """Put messages whose lease has ended before all others, in the order of their delivery."""
    ended = database.execute(
        "SELECT fence, number FROM asimov_sync_messages "
        "WHERE mailbox = ? AND state = ? AND rank <= ? ORDER BY rank LIMIT ?",
        (mailbox, LEASED, now, LEASES_PER_STEP),
    ).fetchall()
    if ended:
        front = _rank_before_all(database, mailbox)
        ended.sort(reverse=True)
        database.executemany(
            "UPDATE asimov_sync_messages SET state = ?, rank = ? WHERE number = ?",
            [(READY, front - place, row[1]) for place, row in enumerate(ended)],
        )


def _take(
    database: Database, mailbox: str, lease: Optional[int], max_deliveries: int, now: int
) -> Optional[LeasedMessage]:
    """Return the first message, leased for `lease` milliseconds; None removes it at once."""
    _expire_leases(database, mailbox, now)
    while True:
        row = database.execute(
            "SELECT number, id, payload, deliveries FROM asimov_sync_messages "
            "WHERE mailbox = ? AND state = ? ORDER BY rank LIMIT 1",
            (mailbox, READY),
        ).fetchone()
        if row is None:
            return None
        number, id, payload, deliveries = row
        deliveries += 1
        if deliveries > max_deliveries:
            database.execute(
                "UPDATE asimov_sync_messages SET state = ?, rank = ?, deliveries = ? "
                "WHERE number = ?",
                (DEAD, _last_rank(database, mailbox, DEAD) + 1, deliveries, number),
            )
            continue
        database.execute("UPDATE asimov_sync_fences SET fence = fence + 1")
        fence = database.execute("SELECT fence FROM asimov_sync_fences").fetchone()[0]
        if lease is None:
            _acknowledge(database, number, id, fence, now)
        else:
            database.execute(
                "UPDATE asimov_sync_messages SET state = ?, rank = ?, deliveries = ?, fence = ? "
                "WHERE number = ?",
                (LEASED, now + lease, deliveries, fence, number),
            )
        return LeasedMessage(id, payload, deliveries, fence)


def _acknowledge(database: Database, number: int, id: str, fence: int, now: int) -> None:
    """Keep only the id of a message, and forget some older ids."""
    seconds = ACKNOWLEDGED_SECONDS_GENERATED if is_generated(id) else ACKNOWLEDGED_SECONDS
    database.execute(
        "UPDATE asimov_sync_messages SET state = ?, rank = ?, fence = ?, payload = x'' "
        "WHERE number = ?",
        (ACKNOWLEDGED, now + int(seconds * 1000), fence, number),
    )
    database.execute(
        "DELETE FROM asimov_sync_messages WHERE number IN (SELECT number FROM asimov_sync_messages "
        f"WHERE state = {ACKNOWLEDGED} AND rank <= ? ORDER BY rank LIMIT ?)",
        (now, PURGED_ROWS),
    )


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def _chunks(keys: List[str]) -> Iterator[List[str]]:
    for start in range(0, len(keys), KEYS_PER_STATEMENT):
        yield keys[start : start + KEYS_PER_STATEMENT]


def _next_prefix(prefix: str) -> Optional[str]:
    """Return the least text above all texts with this prefix; None if there is none.

    In UTF-8, texts are in the order of their code points.
    """
    while prefix:
        code = ord(prefix[-1]) + 1
        if code == 0xD800:  # surrogates are not text
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:-1] + chr(code)
        prefix = prefix[:-1]
    return None
